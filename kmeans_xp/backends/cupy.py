"""Steps for CuPy arrays: launches of the kernels in cupy.cu.

A pass takes the rows in tiles that keep its scratch memory within the frame's `tile_bytes`; a tile for which the device
has no memory is halved. Sums per cluster are float64, added in an order that depends on the labels alone: the same from
run to run. Only `move` and `choose` wait for the device. Rows of float16 and bfloat16 are computed with in float32.

Labels are exact, and tensor cores find most of them: where rounding to TF32 leaves no doubt. The rest, which is little,
is compared in the dtype of distances.
"""

import functools
import types
import warnings
from pathlib import Path

import cupy
import numpy as np

BLOCK = 256  # threads
TYPES = {"float16": "Half", "bfloat16": "Bfloat16", "float32": "float", "float64": "double"}  # of rows, in cupy.cu
# Rows and centers that a block of `relabel` takes at a time, and one of its threads: for many centers, and up to FEW
SHAPES = {"float32": ((128, 128, 8, 8), (256, 32, 8, 4)), "float64": ((64, 64, 4, 4), (128, 32, 4, 4))}
FEW = 32
NARROW, WIDE = {"float32": 40, "float64": 32}, 80  # centers that a warp of `relabel_certain` takes at a time
BLOCKS_A_PROCESSOR = 4  # at most, of those that go on to the next rows: enough to keep it busy to the end
TENSOR_CORES = 80  # compute capability that has them for TF32
SUMS_BLOCK = 128  # threads of `sum_few`, each of which has sums of all clusters in shared memory: it limits how many
MIN_TILE = 2**12  # rows below which a tile is not halved any more
MOST_ROWS = 2**30  # of a tile: kernels number them by 32 bits
MIN_CHUNK = 32  # rows that are summed by one thread
# Scratch bytes a row: the rows to look at and the uncertain ones (8); or labels as sort keys (4), their order (8), what
# sorting needs (16), sorted labels (4), and a few partial sums
ROW_BYTES = 48
# Bounds pay where comparing a row with all centers takes longer than reading it, and for at most this share of the rows
PRUNING_SIZE = 8000  # n_features * n_clusters
SHARE_THAT_PAYS = 0.85
MOST_TRIALS = 16  # of greedy k-means++, as in `choose_trial`


def instances(dtype):
    """The kernels for rows of a type: name, instance in cupy.cu."""
    computed = "float64" if dtype == "float64" else "float32"
    row, number = TYPES[dtype], TYPES[computed]
    many, few = (f"relabel<{row}, {number}, {', '.join(map(str, shape))}>" for shape in SHAPES[computed])
    certain = {f"relabel_certain_{n}": f"relabel_certain<{row}, {n}>" for n in (NARROW[computed], WIDE)}
    others = "sum_runs", "sum_few", "sq_distances_to", "sq_distances_to_own"
    return {"relabel": many, "relabel_few": few, **certain, **{name: f"{name}<{row}>" for name in others}}


def plain_instances():
    """The other kernels."""
    plain = {name: name for name in ("stale_rows", "add_runs", "sum_up", "weigh_trials", "choose_trial")}
    moves = {f"move_centers_{of}": f"move_centers<{TYPES[of]}>" for of in ("float32", "float64")}
    coefficients = {f"coefficients_{of}": f"coefficients<{TYPES[of]}>" for of in ("float32", "float64")}
    tiles = {f"tile_centers_{n}": f"tile_centers<{n}>" for n in (*NARROW.values(), WIDE)}
    return {**plain, **moves, **coefficients, **tiles}


def map_slices(X, function, slices):
    """`steps.map_slices`: a slice for which the device has no memory is halved."""
    waiting = list(slices)[::-1]
    while waiting:
        rows = waiting.pop()
        try:
            result = function(rows)
        except cupy.cuda.memory.OutOfMemoryError as error:
            n_rows = rows.stop - rows.start
            if n_rows == 1:
                raise MemoryError(f"No memory on the GPU for a single row of {X.shape[1]} features.") from error
            middle = rows.start + n_rows // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
            continue
        yield result
        del result  # before the next needs memory


def assign(X, centers, frame):
    """`steps.assign`."""
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    labels = cupy.full(X.shape[0], -1, dtype=cupy.int32)
    _compare(kernels, X, centers, frame, labels)
    return labels


def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    labels = assign(X, centers, frame)
    if labels is NotImplemented:
        return NotImplemented
    return labels, *update(X, sample_weight, labels, centers.shape[0], frame)


def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    totals = []
    sample_weight = cupy.ascontiguousarray(sample_weight)  # kernels see no strides
    origin = _origin(frame)

    def add(rows, tile):
        of_tile = _sums(kernels, tile, origin, labels[rows], sample_weight[rows], n_clusters)
        totals[:] = [of_tile if not totals else totals[0] + of_tile]

    _for_tiles(X, frame, frame.distance_dtype, add)
    return totals[0][:, :-1], totals[0][:, -1].copy()  # which a fitted model keeps


def bounded_step(X, sample_weight, centers, labels, slack, path, sums, weights, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    n_changed, n_active = _compare(kernels, X, centers, frame, labels, slack, path)
    return labels, slack, *update(X, sample_weight, labels, centers.shape[0], frame), n_changed, n_active


def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    kernels = _kernels(X, X.dtype)
    if kernels is None:
        return NotImplemented
    return _sq_distances_to_own(kernels, X, labels, centers, frame)


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`, summed directly."""
    kernels = _kernels(X, X.dtype)
    return NotImplemented if kernels is None else _sq_distances_to(kernels, X, rows, frame)


def _sq_distances_to(kernels, X, rows, frame):
    """Squared distances of every row from some of them."""
    origin = _origin(frame)
    points = X[rows].astype(np.float64) - origin
    squares = cupy.empty((len(points), X.shape[0]))

    def measure(rows, tile):
        grid = _blocks(len(tile), 64), _blocks(len(points), 32)
        job = tile, origin, points, *tile.shape, len(points), np.uintp(X.shape[0]), squares[:, rows]
        _launch(kernels["sq_distances_to"], grid, 128, *job)

    _for_tiles(X, frame, X.dtype, measure)
    return squares


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: rows need not be gathered."""
    if _kernels(X, frame.distance_dtype) is None:
        return NotImplemented
    return SHARE_THAT_PAYS if X.shape[1] * n_clusters >= PRUNING_SIZE else 0.0


def move(sums, weights, centers_old, n_changed, n_active, frame, metric):
    """`steps.move`."""
    kernels = _plain_kernels(_device())
    if kernels is None or metric.spherical:
        return NotImplemented
    return _move(kernels, sums, weights, centers_old, n_changed, n_active, frame)


def choose(closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """`seeding.choose`."""
    kernels = _plain_kernels(_device())
    if kernels is None or n_trials > MOST_TRIALS:
        return NotImplemented
    return _choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most)


def _move(kernels, sums, weights, centers_old, n_changed, n_active, frame):
    """New centers, and the numbers that the loop must know."""
    n_clusters, n_features = centers_old.shape
    centers, parts, numbers = cupy.empty((n_clusters, n_features)), cupy.empty((n_clusters, 2)), cupy.empty(5)
    weights, centers_old = cupy.ascontiguousarray(weights), cupy.ascontiguousarray(centers_old)
    strides = (np.uintp(stride // sums.itemsize) for stride in sums.strides)
    given = sums, weights, centers_old, frame.origin, n_clusters, n_features, *strides
    kernel = kernels[f"move_centers_{np.dtype(frame.dtype).name}"]
    _launch(kernel, _blocks(n_clusters, 8), (32, 8), *given, centers, parts)
    counts = (cupy.asarray(count, dtype=cupy.float64) for count in (n_changed, n_active))  # those of blocks are mixed
    _launch(kernels["sum_up"], 1, 32, parts, weights, *counts, np.float64(frame.spread), n_clusters, numbers)
    return centers, numbers.get().tolist()


def _choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """One choice after the other, without waiting for the device to know how many were possible."""
    n_samples, n_blocks = len(closest), min(_blocks(len(closest), BLOCK), 2 * _multiprocessors(_device()))
    n_most = min(n_most, len(candidates) // n_trials)
    thresholds = cupy.asarray(uniforms) * closest[candidates]
    choice = cupy.asarray(np.array([-1] + [0] * (3 + MOST_TRIALS), dtype=np.int32))
    chosen, parts = cupy.empty(n_most, dtype=np.int64), cupy.empty((n_blocks, n_trials))
    closest, squares, sample_weight = closest.copy(), *map(cupy.ascontiguousarray, (squares, sample_weight))

    def list_trials(parts):
        given = squares, closest, parts, candidates, thresholds, n_samples, len(candidates), n_trials, n_blocks
        _launch(kernels["choose_trial"], 1, 32, *given, choice, chosen)

    def weigh():
        given = squares, sample_weight, n_samples, n_trials, choice
        _launch(kernels["weigh_trials"], n_blocks, BLOCK, *given, closest, parts)

    list_trials(None)
    for _ in range(n_most):
        weigh()
        list_trials(parts)
    weigh()  # lowers `closest` to the last choice
    return closest, chosen[: int(choice[1])]


def _sq_distances_to_own(kernels, X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster."""
    squares = cupy.empty(X.shape[0])
    centers, origin = cupy.ascontiguousarray(centers), _origin(frame)
    lanes = _power_of_2(X.shape[1], 32)

    def measure(rows, tile):
        job = tile, origin, labels[rows], centers, *tile.shape, squares[rows]
        grid = _blocks(len(tile), BLOCK // lanes)
        _launch(kernels["sq_distances_to_own"], grid, (lanes, BLOCK // lanes), *job)

    _for_tiles(X, frame, X.dtype, measure)
    return squares


def _coefficients(kernels, centers, dtype):
    """-2 c, (n_clusters, n_features), ||c||², (n_clusters,), and the largest of these."""
    minus_2_centers, sq_norms = cupy.empty(centers.shape, dtype=dtype), cupy.empty(len(centers), dtype=dtype)
    job = cupy.ascontiguousarray(centers), *centers.shape, minus_2_centers, sq_norms
    _launch(kernels[f"coefficients_{np.dtype(dtype).name}"], _blocks(len(centers), 8), (32, 8), *job)
    return minus_2_centers, sq_norms, sq_norms.max()


def _tiled_centers(kernels, centers, width):
    """The centers for `relabel_certain`, as `tile_centers` has them, and the largest ||c||²."""
    n_clusters, n_features = centers.shape
    tiles = cupy.empty((_blocks(n_clusters, width), _blocks(n_features, 16), width * 17), dtype=np.float32)
    sq_norms = cupy.empty(n_clusters, dtype=np.float32)
    job = cupy.ascontiguousarray(centers), n_clusters, n_features, tiles, sq_norms
    _launch(kernels[f"tile_centers_{width}"], len(tiles) * width // 8, (32, 8), *job)
    return tiles, sq_norms.max()


def _compare(kernels, X, centers, frame, labels, slack=None, path=None):
    """Label rows by all centers: all of them, or with `slack` those that need it. -> rows changed, looked at, 0-d"""
    dtype, n_clusters = np.dtype(frame.distance_dtype), len(centers)
    path = cupy.zeros(n_clusters) if path is None else path
    is_few = n_clusters <= FEW
    name, shape = ("relabel_few", "relabel")[not is_few], SHAPES[dtype.name][is_few]
    counts = cupy.zeros(2, dtype=cupy.uint64)

    def rounding_in(dtype):
        return dtype.type(frame.rounding * float(np.finfo(dtype).eps / np.finfo(frame.distance_dtype).eps))

    minus_2_centers, sq_norms, largest = _coefficients(kernels, centers, dtype)
    origin = _origin(frame)
    exact = (origin.astype(dtype), minus_2_centers, sq_norms, path), (rounding_in(dtype), largest)
    plan = _plan(_device(), X.shape[1], n_clusters, dtype)
    if plan is not None:
        width, room, shared = plan
        tiles, largest_single = _tiled_centers(kernels, centers, width)
        certain = (origin, tiles, path), (rounding_in(np.dtype(np.float32)), largest_single)

    def compare(rows, tile):
        count = len(tile)
        state = labels[rows], None if slack is None else slack[rows]
        active, uncertain = (
            (cupy.empty(count, dtype=cupy.int32), cupy.zeros(1, dtype=cupy.uint64)) if needed else (None, None)
            for needed in (slack is not None, plan is not None)
        )
        if slack is not None:
            _launch(kernels["stale_rows"], _blocks(count, BLOCK), BLOCK, *state, path, count, *active)
            counts[1:] += active[1]
        sizes = *tile.shape, n_clusters
        if plan is not None:
            job = tile, *certain[0], *active, *sizes, *certain[1], *state, counts, *room, *uncertain
            grid = min(_blocks(count, BLOCK), BLOCKS_A_PROCESSOR * _multiprocessors(_device()))
            _launch(kernels[f"relabel_certain_{width}"], grid, BLOCK, *job, shared_mem=shared)
            active = uncertain
        job = tile, *exact[0], *active, *sizes, *exact[1], *state, counts
        grid = min(_blocks(count, shape[0]), BLOCKS_A_PROCESSOR * _multiprocessors(_device()))
        _launch(kernels[name], grid, BLOCK, *job)

    _for_tiles(X, frame, dtype, compare)
    return counts[0], counts[1]


@functools.cache
def _plan(device_id, n_features, n_clusters, dtype):
    """How `relabel_certain` is to run, or None if it had better not.

    Its width; tiles that it has room for, and whether rows stay; bytes of shared memory. Narrow, there are two blocks
    on a multiprocessor; wide, one, which reads rows of many features less often.
    """
    few_features = n_features < 8 and n_clusters > FEW  # most of the work is not in products
    if _capability(device_id) < TENSOR_CORES or few_features:
        return None
    narrow = n_clusters <= NARROW[dtype.name] or n_features <= 128
    most = min(_most_shared(device_id), _properties(device_id)["sharedMemPerMultiprocessor"] // (1 + narrow) - 1024)
    width, n_groups = NARROW[dtype.name] if narrow else WIDE, _blocks(n_features, 16)
    tile, rows, origin = 4 * 17 * width, 64 * BLOCK * n_groups, 16 * dtype.itemsize * n_groups
    n_tiles = n_groups * _blocks(n_clusters, width)
    free = most - origin
    stay = narrow and n_clusters > width and rows + min(4, n_tiles) * tile <= free
    room = min(n_tiles, (free - stay * rows) // tile)
    return (width, (room, int(stay)), room * tile + origin + stay * rows) if room > 0 else None


def _sums(kernels, tile, origin, labels, sample_weight, n_clusters):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters of a tile."""
    shared = _sums_bytes(tile.shape[1], n_clusters)
    if shared <= _most_shared(_device()):
        return _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared)
    n_samples, n_features = tile.shape
    # As few bytes as possible: it is a radix sort, stable
    order = cupy.argsort(labels.astype(cupy.min_scalar_type(n_clusters - 1)))
    labels = labels[order]
    starts = cupy.searchsorted(labels, cupy.arange(n_clusters + 1, dtype=cupy.int32))
    columns = _power_of_2(n_features, BLOCK)
    chunk = _chunk(n_samples, n_features)
    n_chunks = _blocks(n_samples, chunk)
    runs = cupy.empty((n_chunks + n_clusters, n_features + 1))
    totals = cupy.empty((n_clusters, n_features + 1))
    grid = _blocks(n_chunks, BLOCK // columns), _blocks(n_features, columns)
    job = tile, origin, order, labels, sample_weight, n_samples, n_features, chunk, runs
    _launch(kernels["sum_runs"], grid, (columns, BLOCK // columns), *job)
    grid = n_clusters, _blocks(n_features + 1, 32)
    _launch(kernels["add_runs"], grid, (32, 8), runs, starts, n_features + 1, chunk, totals)
    return totals


def _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared):
    """`_sums` without sorting, for clusters whose sums fit into shared memory."""
    n_samples, n_features = tile.shape
    columns = _power_of_2(n_features, SUMS_BLOCK)
    across = _blocks(n_features, columns)
    n_blocks = max(1, _multiprocessors(_device()) * min(16, _most_shared(_device()) // shared) // across)
    chunk = max(MIN_CHUNK * SUMS_BLOCK // columns, _blocks(n_samples, n_blocks))
    parts = cupy.empty((_blocks(n_samples, chunk), n_clusters, n_features + 1))
    job = tile, origin, labels, sample_weight, n_samples, n_features, n_clusters, chunk, parts
    kernel, block = kernels["sum_few"], (columns, SUMS_BLOCK // columns)
    _launch(kernel, (len(parts), across), block, *job, shared_mem=shared)
    return parts.sum(axis=0)


def _sums_bytes(n_features, n_clusters):
    """Shared memory of a block of `sum_few`: sums of each of its threads, and weights of each of its rows."""
    return 8 * n_clusters * (SUMS_BLOCK + SUMS_BLOCK // _power_of_2(n_features, SUMS_BLOCK))


def _origin(frame):
    """What is to be subtracted from the rows, float64."""
    return cupy.zeros_like(frame.origin) if frame.shifted else frame.origin


def _for_tiles(X, frame, dtype, function):
    """Call `function(rows, tile)` for slices of rows and those rows, contiguous.

    The rows are of `dtype`, or of a half precision that is computed with in float32.
    """
    dtype = _row_dtype(X, dtype)
    copied = 0 if X.flags.c_contiguous and X.dtype == dtype else X.shape[1] * dtype.itemsize
    n_rows = min(X.shape[0], MOST_ROWS, max(MIN_TILE, frame.tile_bytes // (ROW_BYTES + copied)))
    start = 0
    while start < X.shape[0]:
        rows = slice(start, min(start + n_rows, X.shape[0]))
        try:
            function(rows, cupy.ascontiguousarray(X[rows], dtype=dtype))
        except cupy.cuda.memory.OutOfMemoryError as error:
            if n_rows <= MIN_TILE:
                free, total = cupy.cuda.runtime.memGetInfo()
                raise MemoryError(
                    f"No memory on the GPU for {n_rows} rows at a time: some {n_rows * (ROW_BYTES + copied)} bytes are "
                    f"needed, {free} of {total} are free. Use fewer clusters or features, or free memory."
                ) from error
            n_rows = max(MIN_TILE, n_rows // 2)
            continue
        start = rows.stop


def scratch_bytes(n_samples, n_features, n_clusters, tile_bytes):
    """Device memory of an iteration beyond X, labels and slack (12 bytes a row), and copies of rows not contiguous."""
    n_rows = min(n_samples, max(MIN_TILE, tile_bytes // ROW_BYTES))
    if _sums_bytes(n_features, n_clusters) <= _most_shared(_device()):
        n_runs = 16 * _multiprocessors(_device()) * n_clusters
    else:
        n_runs = _blocks(n_rows, _chunk(n_rows, n_features)) + n_clusters
    # Of the size of the centers: -2 c, totals of a tile and of all, and what the loop makes of them
    return ROW_BYTES * n_rows + 8 * (n_features + 1) * (n_runs + 8 * n_clusters)


def _chunk(n_samples, n_features):
    """Sorted rows that a thread sums, for about as many threads as the device runs at a time, one for each column."""
    columns = _power_of_2(n_features, BLOCK)
    return max(MIN_CHUNK, _blocks(n_samples * columns * _blocks(n_features, columns), _resident_threads(_device())))


def _row_dtype(X, dtype):
    """The type of rows that a kernel is to read if it is to compute in `dtype`."""
    keeps = X.dtype.itemsize == 2 and np.dtype(dtype) == np.float32
    return X.dtype if keeps else np.dtype(dtype)


def _kernels(X, dtype):
    """The kernels by name that compute in `dtype`, for the current device; None if they don't work there."""
    return _kernels_on(_device(), _row_dtype(X, dtype))


@functools.cache
def _kernels_on(device_id, dtype):
    """Compile and check the kernels for a type of rows, once a device."""
    plain = _plain_kernels(device_id)
    return plain and _checked(instances(dtype.name), lambda kernels: _difference({**plain, **kernels}, dtype), plain)


@functools.cache
def _plain_kernels(device_id):
    """The same for the others."""
    return _checked(plain_instances(), _plain_difference, {})


def _checked(names, difference, others):
    """Kernels by name, and others, or None after a warning."""
    source = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    try:
        module = cupy.RawModule(code=source, options=("-std=c++17",), name_expressions=list(names.values()))
        kernels = {name: module.get_function(instance) for name, instance in names.items()}
        problem = difference(kernels)
    except (cupy.cuda.compiler.CompileException, cupy.cuda.runtime.CUDARuntimeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return {**others, **kernels}
    warnings.warn(
        f"kmeans_xp: its CUDA kernels don't work on this device, slower CuPy functions take their place. Please report "
        f"this with the output of kmeans_xp.show_versions(): {problem}",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def _difference(kernels, dtype):
    """What differs from NumPy in small jobs, or None. Not from CuPy: it would have to compile functions for that."""
    rng = np.random.default_rng(0)
    tolerance = 1e-9 if dtype == np.float64 else 1e-2
    wrong = set()
    for n_clusters, n_features in ((7, 19), (250, 140)):  # of each strategy
        offset = 1e8 if dtype == np.float64 else 0.0
        # Exact in any of the types
        X = cupy.asarray(offset + rng.integers(-99, 99, size=(1000, n_features)) / 64, dtype=dtype)
        origin = cupy.full(n_features, offset + 0.5)
        frame = types.SimpleNamespace(origin=origin, shifted=False, tile_bytes=MIN_TILE * ROW_BYTES)
        frame.distance_dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        frame.rounding = 1e-3 * tolerance
        centers, clusters = rng.normal(size=(n_clusters, n_features)), rng.integers(n_clusters, size=1000)
        labels, slack = cupy.full(1000, -1, dtype=cupy.int32), cupy.full(1000, -np.inf)
        on_device = cupy.asarray(centers)
        _compare(kernels, X, on_device, frame, labels, slack, cupy.zeros(n_clusters))
        found = labels.get().clip(0, n_clusters - 1)
        squares = _sq_distances_to_own(kernels, X, cupy.asarray(found), on_device, frame).get()
        to_some = _sq_distances_to(kernels, X, cupy.arange(n_clusters), frame).get()
        job = X, frame.origin, cupy.asarray(clusters, dtype=cupy.int32), cupy.ones(1000), n_clusters
        sums = _sums(kernels, *job).get()

        rows, numbers = X.astype(np.float64).get() - origin.get(), np.arange(1000)
        distances = np.sqrt(_sq_distances(rows, centers))
        own = distances[numbers, found]
        distances.sort(axis=1)
        gap = distances[:, 1] - own
        members = (clusters == np.arange(n_clusters)[:, None]).astype(float)
        comparisons = {
            "labels": (labels.get() != found) | (own - distances[:, 0] > tolerance),
            # A slack that tensor cores found falls short by their rounding
            "bounds": (slack.get() > gap + tolerance) | (slack.get() < gap - 0.1),
            "squared distances": abs(squares - own**2) > 1e-9,
            "distances from rows": abs(to_some - _sq_distances(rows[:n_clusters], rows)) > 1e-9,
            "sums": abs(sums[:, :-1] - members @ rows) > 1e-9,
            "weights": sums[:, -1] != members.sum(axis=1),
        }
        wrong |= {name for name, differs in comparisons.items() if differs.any()}
    return f"wrong {', '.join(sorted(wrong))} in {dtype.name}" if wrong else None


def _sq_distances(X, centers):
    """Squared distances between rows on the host."""
    return (X**2).sum(axis=1)[:, None] - 2 * X @ centers.T + (centers**2).sum(axis=1)


def _plain_difference(kernels):
    """What differs from NumPy in small jobs of the kernels that don't depend on the type of rows, or None."""
    rng = np.random.default_rng(0)
    sums, weights, old = rng.normal(size=(40, 19)), rng.integers(0, 3, size=40).astype(float), rng.normal(size=(40, 19))
    frame = types.SimpleNamespace(origin=cupy.zeros(19), dtype=np.dtype(np.float64), spherical=False, spread=1e4)
    on_device = (cupy.asarray(array) for array in (sums, weights, old, np.int64(3), np.int64(4)))
    centers, numbers = _move(kernels, *on_device, frame)
    means = np.where(weights[:, None] > 0, sums / np.maximum(weights, 1)[:, None], old)
    inertia = 1e4 * weights.sum() - (2 * old * sums - weights[:, None] * old**2).sum()
    expected = 3, 4, ((means - old) ** 2).sum(), inertia, np.count_nonzero(weights == 0)
    wrong = set()
    if not (np.allclose(centers.get(), means, rtol=1e-12) and np.allclose(numbers, expected, rtol=1e-12)):
        wrong.add("centers")

    squares, draws, mass = rng.uniform(size=(40, 3000)), rng.integers(3000, size=40), rng.uniform(size=3000)
    on_device = (cupy.asarray(array) for array in (np.full(3000, 0.5), squares, mass, draws))
    closest, chosen = _choose(kernels, *on_device, np.zeros(40), 4, 10)
    lowest, rows = np.full(3000, 0.5), []
    for trial in range(0, 40, 4):  # all are accepted
        lowered = np.minimum(squares[trial : trial + 4], lowest)
        best = np.argmin(lowered @ mass)
        lowest = lowered[best]
        rows.append(draws[trial + best])
    if not (np.array_equal(closest.get(), lowest) and np.array_equal(chosen.get(), rows)):
        wrong.add("choices")
    for dtype in ("float32", "float64"):
        minus_2_centers, sq_norms, largest = (found.get() for found in _coefficients(kernels, cupy.asarray(old), dtype))
        norms = (old**2).sum(axis=1)
        if not (np.allclose(minus_2_centers, -2 * old) and np.allclose(sq_norms, norms) and largest == sq_norms.max()):
            wrong.add("coefficients")
    return f"wrong {', '.join(sorted(wrong))}" if wrong else None


def _device():
    """Number of the current device."""
    return cupy.cuda.Device().id


@functools.cache
def _properties(device_id):
    return cupy.cuda.runtime.getDeviceProperties(device_id)


def _resident_threads(device_id):
    """Threads that a device runs at a time."""
    return _multiprocessors(device_id) * _properties(device_id)["maxThreadsPerMultiProcessor"]


def _multiprocessors(device_id):
    return _properties(device_id)["multiProcessorCount"]


def _most_shared(device_id):
    """Bytes of shared memory that a block can have."""
    return _properties(device_id)["sharedMemPerBlockOptin"]


def _capability(device_id):
    """Compute capability, such as 80."""
    return 10 * _properties(device_id)["major"] + _properties(device_id)["minor"]


def _launch(kernel, grid, block, *arguments, shared_mem=0):
    """Launch: Python's int for parameters of type int, None for NULL."""
    grid, block = (shape if isinstance(shape, tuple) else (shape,) for shape in (grid, block))
    arguments = (np.int32(x) if isinstance(x, int) else np.uintp(0) if x is None else x for x in arguments)
    if shared_mem > 48 * 1024 and shared_mem > kernel.max_dynamic_shared_size_bytes:  # more must be asked for
        kernel.max_dynamic_shared_size_bytes = shared_mem
    kernel(grid, block, tuple(arguments), shared_mem=shared_mem)


def _blocks(count, size):
    """How many blocks of a size hold `count`."""
    return -(-count // size)


def _power_of_2(count, most):
    """The smallest power of 2 that is at least `count`, or `most`."""
    return min(most, 1 << (count - 1).bit_length())
