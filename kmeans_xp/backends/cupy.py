"""Steps for CuPy arrays: launches of the kernels in cupy.cu.

A pass takes the rows in tiles that keep its scratch memory within the frame's `tile_bytes`; a tile for which the device
has no memory is halved. Sums per cluster are float64, added in an order that depends on the labels alone: the same from
run to run. Nothing here waits for the device. Rows of float16 and bfloat16 are computed with in float32.
"""

import functools
import os
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
FEW_SUMS = 24  # clusters up to which rows are summed without sorting: the sums of 256 threads fit into shared memory
# Features and clusters from which on cuBLAS computes the scores of a dense pass, and bytes of rows and of scores at a
# time. An estimate that no GPU has seen: cuBLAS reaches more of the arithmetic peak, but the scores go through memory.
PRODUCT_SIZES = 256, 256
SCORES_BYTES = 2**24
MIN_TILE = 2**12  # rows below which a tile is not halved any more
MIN_CHUNK = 32  # rows that are summed by one thread
# Scratch bytes a row: the rows to look at (4) or the labels as sort keys (4), their order (8), what sorting needs (16),
# sorted labels (4), and a few partial sums
ROW_BYTES = 48
SHARE_THAT_PAYS = 0.85


def instances(dtype):
    """The kernels for rows of a type: name, instance in cupy.cu."""
    computed = "float64" if dtype == "float64" else "float32"
    row, number = TYPES[dtype], TYPES[computed]
    many, few = (f"relabel<{row}, {number}, {', '.join(map(str, shape))}>" for shape in SHAPES[computed])
    own = {name: f"{name}<{row}>" for name in ("sum_runs", "sum_few", "sq_distances_to_own")}
    plain = {name: name for name in ("stale_rows", "add_runs")}
    return {**plain, **own, "label_by_scores": f"label_by_scores<{number}>", "relabel": many, "relabel_few": few}


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
    dtype = np.dtype(frame.distance_dtype)
    kernels = _kernels(X, dtype)
    if kernels is None:
        return NotImplemented
    labels = cupy.full(X.shape[0], -1, dtype=cupy.int32)
    large = X.shape[1] >= PRODUCT_SIZES[0] and centers.shape[0] >= PRODUCT_SIZES[1]
    if large and (dtype.char == "d" or os.environ.get("CUPY_TF32", "0") != "1"):
        _label_by_products(kernels, X, centers, frame, labels)
    else:
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
    totals = cupy.zeros((n_clusters, X.shape[1] + 1))
    sample_weight = cupy.ascontiguousarray(sample_weight)  # kernels see no strides

    def add(rows, tile, origin):
        cupy.add(totals, _sums(kernels, tile, origin, labels[rows], sample_weight[rows], n_clusters), out=totals)

    _for_tiles(X, frame, frame.distance_dtype, add)
    return totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps


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


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: rows need not be gathered."""
    return NotImplemented if _kernels(X, frame.distance_dtype) is None else SHARE_THAT_PAYS


def _sq_distances_to_own(kernels, X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster."""
    squares = cupy.empty(X.shape[0])
    centers = cupy.ascontiguousarray(centers)
    lanes = _power_of_2(X.shape[1], 32)

    def measure(rows, tile, origin):
        job = tile, origin, labels[rows], centers, *tile.shape, squares[rows]
        grid = _blocks(len(tile), BLOCK // lanes)
        _launch(kernels["sq_distances_to_own"], grid, (lanes, BLOCK // lanes), *job)

    _for_tiles(X, frame, X.dtype, measure)
    return squares


def _label_by_products(kernels, X, centers, frame, labels):
    """Label all rows by scores that cuBLAS computes, of few enough rows at a time to stay in the device's cache."""
    minus_2_centers, sq_norms = _coefficients(centers, frame)
    n_clusters, dtype = len(centers), sq_norms.dtype
    n_rows = max(1, SCORES_BYTES // (max(centers.shape) * dtype.itemsize))

    def label(rows, tile, origin):
        origin = origin.astype(dtype)
        scores, tile_labels = cupy.empty((min(n_rows, len(tile)), n_clusters), dtype=dtype), labels[rows]
        for start in range(0, len(tile), n_rows):
            few = tile[start : start + n_rows].astype(dtype, copy=False) - origin
            cupy.matmul(few, minus_2_centers.T, out=scores[: len(few)])
            job = scores, sq_norms, len(few), n_clusters, tile_labels[start : start + n_rows]
            _launch(kernels["label_by_scores"], _blocks(len(few), BLOCK // 32), (32, BLOCK // 32), *job)

    _for_tiles(X, frame, dtype, label)


def _coefficients(centers, frame):
    """-2 c, (n_clusters, n_features), and ||c||², (n_clusters,), in the dtype of distances."""
    dtype = frame.distance_dtype
    return cupy.ascontiguousarray(-2 * centers, dtype=dtype), cupy.sum(centers * centers, axis=1).astype(dtype)


def _compare(kernels, X, centers, frame, labels, slack=None, path=None):
    """Label rows by all centers: all of them, or with `slack` those that need it. -> rows changed, looked at, 0-d"""
    minus_2_centers, sq_norms = _coefficients(centers, frame)
    (n_clusters, n_features), dtype = centers.shape, sq_norms.dtype
    coefficient = dtype.type(frame.rounding)
    offset = coefficient * sq_norms.max()
    path = cupy.zeros(n_clusters) if path is None else path
    is_few = n_clusters <= FEW
    kernel, shape = kernels["relabel_few" if is_few else "relabel"], SHAPES[dtype.name][is_few]
    counts = cupy.zeros(2, dtype=cupy.uint64)

    def compare(rows, tile, origin):
        count, origin = len(tile), origin.astype(dtype)
        state = labels[rows], None if slack is None else slack[rows]
        active = n_active = None
        if slack is not None:
            active, n_active = cupy.empty(count, dtype=cupy.int32), cupy.zeros(1, dtype=cupy.uint64)
            _launch(kernels["stale_rows"], _blocks(count, BLOCK), BLOCK, *state, path, count, active, n_active)
            counts[1:] += n_active
        given = tile, origin, minus_2_centers, sq_norms, path
        job = *given, active, n_active, count, n_features, n_clusters
        grid = _blocks(count, shape[0])
        _launch(kernel, grid, BLOCK, *job, coefficient, offset, *state, counts)

    _for_tiles(X, frame, dtype, compare)
    return counts[0], counts[1]


def _sums(kernels, tile, origin, labels, sample_weight, n_clusters):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters of a tile."""
    if n_clusters <= FEW_SUMS:
        return _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters)
    n_samples, n_features = tile.shape
    # As few bytes as possible: it is a radix sort, stable
    order = cupy.argsort(labels.astype(cupy.min_scalar_type(n_clusters - 1)))
    starts = cupy.searchsorted(labels[order], cupy.arange(n_clusters + 1, dtype=cupy.int32))
    columns = _power_of_2(n_features + 1, BLOCK)
    chunk = _chunk(n_samples, n_features, columns)
    n_chunks = _blocks(n_samples, chunk)
    runs = cupy.empty((n_chunks + n_clusters, n_features + 1))
    totals = cupy.empty((n_clusters, n_features + 1))
    grid = _blocks(n_chunks, BLOCK // columns), _blocks(n_features + 1, columns)
    job = tile, origin, order, labels, sample_weight, n_samples, n_features, chunk, runs
    _launch(kernels["sum_runs"], grid, (columns, BLOCK // columns), *job)
    grid = n_clusters, _blocks(n_features + 1, 32)
    _launch(kernels["add_runs"], grid, (32, 8), runs, starts, n_features + 1, chunk, totals)
    return totals


def _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters):
    """`_sums` without sorting, for at most FEW_SUMS clusters."""
    n_samples, n_features = tile.shape
    columns = _power_of_2(n_features + 1, BLOCK)
    chunk = BLOCK // columns * _chunk(n_samples, n_features, columns)
    n_chunks = _blocks(n_samples, chunk)
    parts = cupy.empty((n_chunks, n_clusters, n_features + 1))
    grid, block = (n_chunks, _blocks(n_features + 1, columns)), (columns, BLOCK // columns)
    job = tile, origin, labels, sample_weight, n_samples, n_features, n_clusters, chunk, parts
    _launch(kernels["sum_few"], grid, block, *job, shared_mem=8 * BLOCK * n_clusters)
    return parts.sum(axis=0)


def _for_tiles(X, frame, dtype, function):
    """Call `function(rows, tile, origin)` for slices of rows, those rows contiguous, and what to subtract from them.

    The rows are of `dtype`, or of a half precision that is computed with in float32; the origin is float64.
    """
    dtype = _row_dtype(X, dtype)
    origin = cupy.zeros_like(frame.origin) if frame.shifted else frame.origin
    copied = 0 if X.flags.c_contiguous and X.dtype == dtype else X.shape[1] * dtype.itemsize
    n_rows = min(X.shape[0], max(MIN_TILE, frame.tile_bytes // (ROW_BYTES + copied)))
    start = 0
    while start < X.shape[0]:
        rows = slice(start, min(start + n_rows, X.shape[0]))
        try:
            tile = cupy.ascontiguousarray(X[rows], dtype=dtype)
            function(rows, tile, origin)
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
    columns = _power_of_2(n_features + 1, BLOCK)
    chunk = _chunk(n_rows, n_features, columns)
    if n_clusters <= FEW_SUMS:
        n_runs = _blocks(n_rows, BLOCK // columns * chunk) * n_clusters
    else:
        n_runs = _blocks(n_rows, chunk) + n_clusters
    # Of the size of the centers: -2 c, totals of a tile and of all, and what the loop makes of them
    return ROW_BYTES * n_rows + 8 * (n_features + 1) * (n_runs + 8 * n_clusters) + 2 * SCORES_BYTES


def _chunk(n_samples, n_features, columns):
    """Rows that a thread sums, for about as many threads as the device runs at a time: `columns` of a block each."""
    n_columns = columns * _blocks(n_features + 1, columns)
    return max(MIN_CHUNK, _blocks(n_samples * n_columns, _resident_threads(_device())))


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
    source = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    names = instances(dtype.name)
    try:
        module = cupy.RawModule(code=source, options=("-std=c++17",), name_expressions=list(names.values()))
        kernels = {name: module.get_function(instance) for name, instance in names.items()}
        problem = _difference(kernels, dtype)
    except (cupy.cuda.compiler.CompileException, cupy.cuda.runtime.CUDARuntimeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return kernels
    warnings.warn(
        f"kmeans_xp: its CUDA kernels don't work on this device, slower CuPy functions take their place. Please report "
        f"this with the output of kmeans_xp.show_versions(): {problem}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _difference(kernels, dtype):
    """What differs from CuPy's own functions in small jobs, or None."""
    rng = np.random.default_rng(0)
    X = cupy.asarray(rng.normal(size=(3000, 19))).astype(dtype)
    ones = cupy.ones(3000)
    frame = types.SimpleNamespace(origin=cupy.full(19, 0.5), shifted=False, tile_bytes=1500 * ROW_BYTES)
    frame.distance_dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    tolerance = 1e-9 if dtype == np.float64 else 1e-2
    frame.rounding = 1e-3 * tolerance
    shifted = X.astype(np.float64) - frame.origin
    wrong = set()
    for n_clusters in (50, 7):  # of each strategy
        centers = cupy.asarray(rng.normal(size=(n_clusters, 19)))
        labels, products = (cupy.full(3000, -1, dtype=cupy.int32) for _ in range(2))
        slack = cupy.full(3000, -cupy.inf)
        _compare(kernels, X, centers, frame, labels, slack, cupy.zeros(n_clusters))
        _label_by_products(kernels, X, centers, frame, products)
        squares = _sq_distances_to_own(kernels, X, labels, centers, frame)
        clusters = cupy.asarray(rng.integers(n_clusters, size=3000), dtype=cupy.int32)
        sums = _sums(kernels, X, frame.origin, clusters, ones, n_clusters)

        distances = cupy.sqrt(cupy.sum((shifted[:, None, :] - centers[None, :, :]) ** 2, axis=2))
        numbers = cupy.arange(3000)
        own, other = distances[numbers, labels], distances[numbers, products]
        distances.sort(axis=1)
        members = (clusters == cupy.arange(n_clusters)[:, None]).astype(cupy.float64)
        comparisons = {
            "labels": own - distances[:, 0] > tolerance,
            "labels by products": other - distances[:, 0] > tolerance,
            "bounds": cupy.abs(distances[:, 1] - own - slack) > tolerance * 10,
            "squared distances": cupy.abs(squares - own**2) > 1e-9,
            "sums": cupy.abs(sums[:, :-1] - members @ shifted) > 1e-9,
            "weights": sums[:, -1] != cupy.sum(members, axis=1),
        }
        wrong |= {name for name, differs in comparisons.items() if cupy.any(differs)}
    return f"wrong {', '.join(sorted(wrong))} in {dtype.name}" if wrong else None


def _device():
    """Number of the current device."""
    return cupy.cuda.Device().id


@functools.cache
def _resident_threads(device_id):
    """Threads that a device runs at a time."""
    properties = cupy.cuda.runtime.getDeviceProperties(device_id)
    return properties["multiProcessorCount"] * properties["maxThreadsPerMultiProcessor"]


def _launch(kernel, grid, block, *arguments, shared_mem=0):
    """Launch: Python's int for parameters of type int, None for NULL."""
    grid, block = (shape if isinstance(shape, tuple) else (shape,) for shape in (grid, block))
    arguments = (np.int32(x) if isinstance(x, int) else np.uintp(0) if x is None else x for x in arguments)
    kernel(grid, block, tuple(arguments), shared_mem=shared_mem)


def _blocks(count, size):
    """How many blocks of a size hold `count`."""
    return -(-count // size)


def _power_of_2(count, most):
    """The smallest power of 2 that is at least `count`, or `most`."""
    return min(most, 1 << (count - 1).bit_length())
