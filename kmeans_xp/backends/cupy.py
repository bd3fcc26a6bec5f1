"""Steps for CuPy arrays: launches of the kernels in cuda/, which _cuda.py compiles.

A pass takes the rows in tiles that keep its scratch memory within the frame's `tile_bytes`; a tile for which the device
has no memory is halved. Sums per cluster are float64, added in an order that depends on the labels alone, and what rows
that change cluster bring as integers, in any order: the same from run to run. Only `move`, `choose` and `iterations`,
once for several of them, wait for the device. Rows of float16 and bfloat16 are computed with in float32.

Labels are exact, and tensor cores find most of them: where rounding to TF32, or float16 (`cuda.PRODUCTS`), leaves no
doubt. The rest, which is little, is compared in the dtype of distances.
"""

import functools
import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from kmeans_xp import cuda as _cuda
from kmeans_xp.backends import _cuda_check, _cupy_problems
from kmeans_xp.cuda import BLOCK, blocks, launch, power_of_2

# Bounds pay where comparing a row with all centers takes longer than reading it, and for at most this share of the rows
PRUNING_SIZE = 8000  # n_features * n_clusters
SHARE_THAT_PAYS = 0.85
# Rows that change cluster are added to sums and taken away, if they are at most this share of many numbers (of rows)
FEW_CHANGED = 1 / 32
MANY_NUMBERS = 2**22
FAINT = 1e-9  # as in steps.py
MOST_TOGETHER = 8  # iterations between two looks at what they found: those after the last one are for nothing
# Multiplications between two looks, by the bytes of a number: 100 ms on slow devices, so that Ctrl-C is answered
WORK_TOGETHER = {4: 2**37, 8: 2**34}
SUMMING = 64  # multiplications that take as long as it takes to read a number of a row, and to sum it


def map_slices(X, function, slices):
    """`array.map_slices`: a slice for which the device has no memory is halved."""
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
    totals = _totals(kernels, X, sample_weight, labels, n_clusters, frame)
    return totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps


def _totals(kernels, X, sample_weight, labels, n_clusters, frame):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters."""
    totals = []
    sample_weight = cupy.ascontiguousarray(sample_weight)  # kernels see no strides
    origin = frame.origin

    def add(rows, tile):
        of_tile = _sums(kernels, tile, origin, labels[rows], sample_weight[rows], n_clusters)
        totals[:] = [of_tile if not totals else totals[0] + of_tile]

    _for_tiles(X, frame, frame.distance_dtype, add)
    return totals[0]


def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    labels, slack, path = bounds
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    n_changed, n_active = _compare(kernels, X, centers, frame, labels, slack, path)
    return labels, slack, *update(X, sample_weight, labels, centers.shape[0], frame), n_changed, n_active


def iterations(X, sample_weight, centers, state, frame, metric, limits):
    """`algorithms.iterations`: several are launched before the host looks at what they found.

    The device notes when the run ends, so that what has been launched beyond that does nothing.
    """
    kernels = _kernels(X, frame.distance_dtype)
    memory = None if kernels is None else state.memory(centers)
    if memory is None:
        return NotImplemented
    n_launched = _n_together(state, X, len(centers), frame, limits.most)
    bounded = memory.slack is not None and state.dense_left == 0
    path = _path_to(kernels, centers, memory.centers_old, memory.path) if bounded else None
    bounds = (memory.slack, path) if bounded else (None, None)
    most_rows = cupy.full(1, X.shape[0], dtype=cupy.uint64)
    counts, numbers = cupy.zeros((n_launched, 2), dtype=cupy.uint64), cupy.full((n_launched, 5), -1.0)
    origin, parts = frame.origin.astype(frame.distance_dtype), cupy.empty((len(centers), 2))
    kept = _kept_to_start(kernels, X, sample_weight, state, frame)
    places = [cupy.ascontiguousarray(centers), cupy.empty(centers.shape), cupy.empty(centers.shape)]
    for i in range(n_launched):
        old, new = places[_cuda.place(i)], places[_cuda.place(i + 1)]
        if bounded and i > 0:
            launch(kernels["advance_paths"], 1, 32, parts, len(centers), most_rows, path)
        _compare(kernels, X, old, frame, state.labels, *bounds, _Look(origin, counts[i], most_rows))
        if kept is None:
            totals = _totals(kernels, X, sample_weight, state.labels, len(centers), frame)
        else:
            totals = _brought_up_to_date(kernels, X, sample_weight, state.labels, kept, frame)
        found = (counts[i, :1], counts[i, 1:]), frame, metric.spherical, (new, parts, numbers[i])
        ends = limits.tol, 0.0 if kept is None else FAINT, most_rows
        _move_to(kernels, totals[:, :-1], totals[:, -1], old, *found, *ends)
    numbers = [row for row in numbers.get().tolist() if row[0] >= 0]
    old, new = places[_cuda.place(len(numbers) - 1)], places[_cuda.place(len(numbers))]
    sums, weights = totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps
    state.n_done += len(numbers)
    state.kept = (_Kept(totals) if kept is None else kept)._replace(n_changed=numbers[-1][0])
    if bounded:
        state.went_on(memory._replace(path=path, sums=sums, weights=weights, centers_old=old))
        if len(numbers) > 1 or memory.centers_old is not None:
            state.looked_at(numbers[-1][1])
    elif memory.slack is not None:
        state.compared_all(len(numbers))
    return old, new, sums, weights, numbers, kept is None


def fits_at_once(X, sample_weight, begins, how, uniforms):
    """`fitting.fits_at_once`: of small problems."""
    kernels = (
        _kernels(X, X.dtype) if X.dtype.name in _cuda.SHAPES and how.greedy.n_trials <= _cuda.MOST_TRIALS else None
    )
    if kernels is None:
        return NotImplemented
    try:
        return _fits(kernels, X, sample_weight, begins, how, uniforms)
    except cupy.cuda.memory.OutOfMemoryError:  # one after the other they need less
        return None


def _fits(kernels, X, sample_weight, begins, how, uniforms):
    """The same, by kernels."""

    def n_together(done, size):
        affordable = WORK_TOGETHER[X.dtype.itemsize] // (size * (how.greedy.n_clusters + SUMMING))
        return max(1, min(_next_look(done) - done, affordable))

    return _cupy_problems.fits(kernels, X, sample_weight, begins, how, uniforms, n_together)


def _n_together(state, X, n_clusters, frame, most):
    """How many iterations to launch before the next look: few at first, so that bounds that don't pay are left soon."""
    done, work = state.n_done, X.size * (n_clusters + SUMMING)
    affordable = WORK_TOGETHER[np.dtype(frame.distance_dtype).itemsize] // work
    return max(1, min(_next_look(done) - done, affordable, most, state.dense_left or most))


def _next_look(done):
    """Looks are after 2, 4, 8, 16, 24, ... iterations of a run, whatever else makes it stop in between."""
    return min(max(2, 1 << done.bit_length()), done - done % MOST_TOGETHER + MOST_TOGETHER)


class _Kept(NamedTuple):
    """What iterations keep of the sums of clusters."""

    totals: Any  # (n_clusters, n_features + 1), of all rows
    n_changed: float = math.inf  # labels in the last iteration
    labels: Any = None  # (n_samples,) int32 that totals and what moved belong to; None where all rows are to be summed
    moved: Any = None  # (2, n_clusters, n_features + 1) uint64, see cuda/moved.cu
    scales: Any = None  # (n_features + 1,)


def _kept_to_start(kernels, X, sample_weight, state, frame):
    """`_Kept` by which the next iterations sum rows that change cluster, or None where they sum all.

    It is looked at after the iterations at which there is a look anyway, so that it does not matter what else makes a
    run stop.
    """
    kept, done = state.kept, state.n_done
    if kept is None:
        return None
    if done > 0 and _next_look(done - 1) == done:
        if X.size < MANY_NUMBERS or kept.n_changed > FEW_CHANGED * X.shape[0]:
            return None
        if kept.labels is None:
            try:
                return _kept_from(kernels, X, sample_weight, state.labels, kept, frame)
            except cupy.cuda.memory.OutOfMemoryError:
                return None
    return None if kept.labels is None else kept


def _kept_from(kernels, X, sample_weight, labels, kept, frame):
    """The same where nothing has moved yet."""
    moved, scales = cupy.zeros((2, *kept.totals.shape), dtype=cupy.uint64), _scales(kernels, X, sample_weight, frame)
    return kept._replace(labels=labels.copy(), moved=moved, scales=scales)


def _scales(kernels, X, sample_weight, frame):
    """What numbers of each column, and weights, are multiplied by to be added as integers."""
    n_columns = X.shape[1] + 1
    largest, scales = cupy.zeros(n_columns), cupy.empty(n_columns)
    columns, sample_weight, origin = power_of_2(n_columns, BLOCK), cupy.ascontiguousarray(sample_weight), frame.origin

    def measure(rows, tile):
        grid = _device().going_on(len(tile), BLOCK // columns), blocks(n_columns, columns)
        job = tile, origin, sample_weight[rows], *tile.shape, largest
        launch(kernels["largest_terms"], grid, (columns, BLOCK // columns), *job)

    _for_tiles(X, frame, frame.distance_dtype, measure)
    launch(kernels["scale_columns"], blocks(n_columns, BLOCK), BLOCK, largest, n_columns, _bits(len(X)), scales)
    return scales


def _bits(n_samples):
    """Bits of the integers that so many of can be added."""
    return 62 - n_samples.bit_length()


def _brought_up_to_date(kernels, X, sample_weight, labels, kept, frame):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters, from those kept."""
    (n_clusters, n_columns), bits = kept.totals.shape, _bits(len(X))
    sample_weight, origin = cupy.ascontiguousarray(sample_weight), frame.origin

    def move_rows(rows, tile):
        job = tile, origin, sample_weight[rows], labels[rows], *tile.shape, n_clusters, bits, kept.scales
        grid = _device().going_on(len(tile), BLOCK)
        launch(kernels["move_rows"], grid, BLOCK, *job, kept.labels[rows], kept.totals, kept.moved)

    _for_tiles(X, frame, frame.distance_dtype, move_rows)
    totals = cupy.empty(kept.totals.shape)
    job = kept.totals, kept.moved, kept.scales, n_clusters, n_columns, bits, totals
    launch(kernels["add_moved"], blocks(totals.size, BLOCK), BLOCK, *job)
    return totals


def _path_to(kernels, centers, centers_old, path):
    """The path after centers moved from `centers_old`, in the place of `path`; zeros if these are not known."""
    if centers_old is None:
        return cupy.zeros(len(centers))
    parts = cupy.empty((len(centers), 2))
    job = cupy.ascontiguousarray(centers), cupy.ascontiguousarray(centers_old), *centers.shape, parts
    launch(kernels["shifts"], blocks(len(centers), 8), (32, 8), *job)
    launch(kernels["advance_paths"], 1, 32, parts, len(centers), None, path)
    return path


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
    origin = frame.origin
    points = X[rows].astype(np.float64) - origin
    squares = cupy.empty((len(points), X.shape[0]))

    def measure(rows, tile):
        grid = blocks(len(tile), 64), blocks(len(points), 32)
        job = tile, origin, points, *tile.shape, len(points), np.uintp(X.shape[0]), squares[:, rows]
        launch(kernels["sq_distances_to"], grid, 128, *job)

    _for_tiles(X, frame, X.dtype, measure)
    return squares


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: rows need not be gathered."""
    if _kernels(X, frame.distance_dtype) is None:
        return NotImplemented
    return SHARE_THAT_PAYS if X.shape[1] * n_clusters >= PRUNING_SIZE else 0.0


def move(sums, weights, centers_old, n_changed, n_active, frame, metric):
    """`steps.move`."""
    kernels = _plain_kernels(_device_id())
    if kernels is None:
        return NotImplemented
    return _move(kernels, sums, weights, centers_old, n_changed, n_active, frame, metric.spherical)


def choose(closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """`seeding.choose`."""
    kernels = _plain_kernels(_device_id())
    if kernels is None or n_trials > _cuda.MOST_TRIALS:
        return NotImplemented
    return _choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most)


def _move(kernels, sums, weights, centers_old, n_changed, n_active, frame, spherical=False):
    """New centers, and the numbers that the loop must know."""
    centers, numbers = cupy.empty(centers_old.shape), cupy.empty(5)
    counts = (cupy.asarray(count, dtype=cupy.uint64) for count in (n_changed, n_active))  # those of blocks are mixed
    parts = cupy.empty((len(centers), 2))
    given = sums, weights, cupy.ascontiguousarray(centers_old), counts, frame, spherical
    _move_to(kernels, *given, (centers, parts, numbers))
    return centers, numbers.get().tolist()


def _move_to(kernels, sums, weights, centers_old, counts, frame, spherical, found, tol=0.0, faint=0.0, most_rows=None):
    """The same, written to centers, parts as `move_centers` has them, and numbers."""
    (n_clusters, n_features), (centers, parts, numbers) = centers_old.shape, found
    *strides, weight_stride = (np.uintp(stride // 8) for stride in (*sums.strides, *weights.strides))
    given = sums, weights, centers_old, frame.origin, n_clusters, n_features, *strides, weight_stride
    kernel = kernels[f"move_centers_{np.dtype(frame.dtype).name}"]
    launch(kernel, blocks(n_clusters, 8), (32, 8), *given, int(spherical), most_rows, centers, parts)
    ends = np.float64(frame.spread), n_clusters, np.float64(tol), np.float64(faint), np.float64(0.5 if spherical else 1)
    launch(kernels["sum_up"], 1, 32, parts, weights, weight_stride, *counts, *ends, most_rows, numbers)


def _choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """One choice after the other, without waiting for the device to know how many were possible."""
    n_samples, n_blocks = len(closest), min(blocks(len(closest), BLOCK), 2 * _device().multiprocessors)
    n_most = min(n_most, len(candidates) // n_trials)
    thresholds = cupy.asarray(uniforms) * closest[candidates]
    choice = cupy.asarray(np.array([-1] + [0] * (3 + _cuda.MOST_TRIALS), dtype=np.int32))
    chosen, parts = cupy.empty(n_most, dtype=np.int64), cupy.empty((n_blocks, n_trials))
    closest, squares, sample_weight = closest.copy(), *map(cupy.ascontiguousarray, (squares, sample_weight))

    def list_trials(parts):
        given = squares, closest, parts, candidates, thresholds, n_samples, len(candidates), n_trials, n_blocks
        launch(kernels["choose_trial"], 1, 32, *given, choice, chosen)

    def weigh():
        given = squares, sample_weight, n_samples, n_trials, choice
        launch(kernels["weigh_trials"], n_blocks, BLOCK, *given, closest, parts)

    list_trials(None)
    for _ in range(n_most):
        weigh()
        list_trials(parts)
    weigh()  # lowers `closest` to the last choice
    return closest, chosen[: int(choice[1])]


def _sq_distances_to_own(kernels, X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster."""
    squares = cupy.empty(X.shape[0])
    centers, origin = cupy.ascontiguousarray(centers), frame.origin
    lanes = power_of_2(X.shape[1], 32)

    def measure(rows, tile):
        job = tile, origin, labels[rows], centers, *tile.shape, squares[rows]
        grid = blocks(len(tile), BLOCK // lanes)
        launch(kernels["sq_distances_to_own"], grid, (lanes, BLOCK // lanes), *job)

    _for_tiles(X, frame, X.dtype, measure)
    return squares


def _coefficients(kernels, centers, dtype):
    """-2 c, (n_clusters, n_features), ||c||², (n_clusters,), and the largest of these."""
    minus_2_centers, sq_norms = cupy.empty(centers.shape, dtype=dtype), cupy.empty(len(centers), dtype=dtype)
    largest = cupy.zeros(1, dtype=dtype)
    job = cupy.ascontiguousarray(centers), *centers.shape, minus_2_centers, sq_norms, largest
    launch(kernels[f"coefficients_{np.dtype(dtype).name}"], blocks(len(centers), 8), (32, 8), *job)
    return minus_2_centers, sq_norms, largest


def _tiled_centers(kernels, centers, width):
    """The centers for `relabel_certain`, as `tile_centers` has them, and the largest ||c||²."""
    n_clusters, n_features = centers.shape
    tiles = cupy.empty((blocks(n_clusters, width), blocks(n_features, 16), width * 17), dtype=np.float32)
    largest = cupy.zeros(1, dtype=np.float32)
    job = cupy.ascontiguousarray(centers), n_clusters, n_features, tiles, largest
    launch(kernels[f"tile_centers_{width}"], len(tiles) * width // 8, (32, 8), *job)
    return tiles, largest


def _tiled_halves(kernels, centers, plan, scale):
    """The centers for products of float16, and the largest of their norms, as `tile_halves` has them."""
    n_clusters, n_features = centers.shape
    n_tiles = blocks(n_clusters, plan.width)
    tiles = cupy.empty((n_tiles, plan.width * (16 * plan.n_groups + 2)), dtype=np.uint16)
    largest = cupy.zeros(3, dtype=np.float32)
    job = cupy.ascontiguousarray(centers), n_clusters, n_features, plan.n_groups, plan.width, scale, tiles, largest
    launch(kernels["tile_halves"], n_tiles * plan.width // 8, (32, 8), *job)
    return tiles, largest


def _rounding_in(dtype, frame):
    """Frame.rounding, if distances had that dtype."""
    dtype = np.dtype(dtype)
    return dtype.type(frame.rounding * float(np.finfo(dtype).eps / np.finfo(frame.distance_dtype).eps))


def _certain_in_tf32(kernels, centers, frame, path):
    """A function that labels the rows of a tile that are certain in spite of TF32, and lists the others; or None."""
    n_clusters, n_features = centers.shape
    plan = _cuda.plan_certain(_device(), n_features, n_clusters, np.dtype(frame.distance_dtype))
    if plan is None:
        return None
    width, room, shared = plan
    tiles, largest = _tiled_centers(kernels, centers, width)
    rounding = _rounding_in(np.float32, frame), largest

    def label(tile, active, state, counts, uncertain):
        given = tile, frame.origin, tiles, path, *active, *tile.shape, n_clusters, *rounding
        job = *given, *state, counts, *room, *uncertain
        grid = _device().going_on(len(tile), BLOCK)
        launch(kernels[f"relabel_certain_{width}"], grid, BLOCK, *job, shared_mem=shared)

    return label


def _certain_in_half(kernels, centers, frame, path):
    """The same in spite of float16."""
    n_clusters, n_features = centers.shape
    plan = _cuda.plan_half(_device(), n_features, n_clusters)
    if plan is None:
        return None
    scale, *bounds = _cuda.half_precision(frame.spread, n_features)
    tiles, largest = _tiled_halves(kernels, centers, plan, scale)
    certificate = _rounding_in(np.float32, frame), scale, *bounds, largest

    def label(tile, active, state, counts, uncertain):
        given = tile, frame.origin, tiles, path, *active, *tile.shape, n_clusters, *certificate
        job = *given, *state, counts, plan.room, _cuda.KEYS, *uncertain
        grid = _device().going_on(len(tile), plan.rows)
        launch(kernels[plan.kernel], grid, plan.threads, *job, shared_mem=plan.shared)

    return label


CERTAIN = {"tf32": _certain_in_tf32, "float16": _certain_in_half}


class _Look(NamedTuple):
    """What an iteration of a run shares with the others, on the device, or None, and what it counts."""

    origin: Any  # in the dtype of distances
    counts: Any  # (2,) uint64 of rows whose label changed, and that bounds had looked at
    most_rows: Any = None  # (1,) uint64, 0 once the run has ended


def _compare(kernels, X, centers, frame, labels, slack=None, path=None, look=None):
    """Label rows by all centers: all of them, or with `slack` those that need it. -> rows changed, looked at, 0-d"""
    dtype, n_clusters = np.dtype(frame.distance_dtype), len(centers)
    path = cupy.zeros(n_clusters) if path is None else path
    is_few = n_clusters <= _cuda.FEW
    name, shape = ("relabel_few", "relabel")[not is_few], _cuda.SHAPES[dtype.name][is_few]
    look = _Look(frame.origin.astype(dtype), cupy.zeros(2, dtype=cupy.uint64)) if look is None else look
    counts = look.counts
    minus_2_centers, sq_norms, largest = _coefficients(kernels, centers, dtype)
    exact = (look.origin, minus_2_centers, sq_norms, path), (_rounding_in(dtype, frame), largest)
    label_certain = CERTAIN[_cuda.PRODUCTS](kernels, centers, frame, path)

    def compare(rows, tile):
        count = len(tile)
        state = labels[rows], None if slack is None else slack[rows]
        listed = cupy.zeros(2, dtype=cupy.uint64)
        active, uncertain = (
            (cupy.empty(count, dtype=cupy.int32), listed[i : i + 1]) if needed else (None, look.most_rows)
            for i, needed in enumerate((slack is not None, label_certain is not None))
        )
        if slack is not None:
            job = *state, path, count, look.most_rows, *active, counts[1:]
            launch(kernels["stale_rows"], blocks(count, BLOCK), BLOCK, *job)
        if label_certain is not None:
            label_certain(tile, active, state, counts, uncertain)
            active = uncertain
        job = tile, *exact[0], *active, *tile.shape, n_clusters, *exact[1], *state, counts
        launch(kernels[name], _device().going_on(count, shape[0]), BLOCK, *job)

    _for_tiles(X, frame, dtype, compare)
    return counts[0], counts[1]


def _sums(kernels, tile, origin, labels, sample_weight, n_clusters):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters of a tile."""
    shared = _cuda.sums_bytes(tile.shape[1], n_clusters)
    if shared <= _device().block_shared:
        return _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared)
    n_samples, n_features = tile.shape
    # As few bytes as possible: it is a radix sort, stable
    order = cupy.argsort(labels.astype(cupy.min_scalar_type(n_clusters - 1)))
    labels = labels[order]
    starts = cupy.searchsorted(labels, cupy.arange(n_clusters + 1, dtype=cupy.int32))
    columns = power_of_2(n_features, BLOCK)
    chunk = _cuda.chunk_of_runs(_device(), n_samples, n_features)
    n_chunks = blocks(n_samples, chunk)
    runs = cupy.empty((n_chunks + n_clusters, n_features + 1))
    totals = cupy.empty((n_clusters, n_features + 1))
    grid = blocks(n_chunks, BLOCK // columns), blocks(n_features, columns)
    job = tile, origin, order, labels, sample_weight, n_samples, n_features, chunk, runs
    launch(kernels["sum_runs"], grid, (columns, BLOCK // columns), *job)
    grid = n_clusters, blocks(n_features + 1, 32)
    launch(kernels["add_runs"], grid, (32, 8), runs, starts, n_features + 1, chunk, totals)
    return totals


def _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared):
    """`_sums` without sorting, for clusters whose sums fit into shared memory."""
    n_samples, n_features = tile.shape
    columns = power_of_2(n_features, _cuda.SUMS_BLOCK)
    chunk = _cuda.chunk_of_few(_device(), n_samples, n_features, shared)
    parts = cupy.empty((blocks(n_samples, chunk), n_clusters, n_features + 1))
    job = tile, origin, labels, sample_weight, n_samples, n_features, n_clusters, chunk, parts
    grid, block = (len(parts), blocks(n_features, columns)), (columns, _cuda.SUMS_BLOCK // columns)
    launch(kernels["sum_few"], grid, block, *job, shared_mem=shared)
    return parts.sum(axis=0)


def _for_tiles(X, frame, dtype, function):
    """Call `function(rows, tile)` for slices of rows and those rows, contiguous.

    The rows are of `dtype`, or of a half precision that is computed with in float32.
    """
    dtype = _cuda.row_dtype(X.dtype, dtype)
    copied = 0 if X.flags.c_contiguous and X.dtype == dtype else X.shape[1] * dtype.itemsize

    def take(rows):
        function(rows, cupy.ascontiguousarray(X[rows], dtype=dtype))

    failure, free_and_total = cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.memGetInfo
    _cuda.for_tiles(take, X.shape[0], copied, frame.tile_bytes, failure, free_and_total)


def _moved_sums(kernels, X, labels_before, labels, sample_weight, n_clusters, frame):
    """Sums and weights, (n_clusters, n_features + 1), from those of the labels before."""
    kept = _Kept(_totals(kernels, X, sample_weight, labels_before, n_clusters, frame))
    kept = _kept_from(kernels, X, sample_weight, labels_before, kept, frame)
    return _brought_up_to_date(kernels, X, sample_weight, labels, kept, frame)


def scratch_bytes(n_samples, n_features, n_clusters, tile_bytes):
    """Device memory of an iteration, as `_cuda.scratch_bytes`."""
    return _cuda.scratch_bytes(_device(), n_samples, n_features, n_clusters, tile_bytes)


def _kernels(X, dtype):
    """The kernels by name that compute in `dtype`, for the current device; None if they don't work there."""
    return _kernels_on(_device_id(), _cuda.row_dtype(X.dtype, dtype), _cuda.PRODUCTS)


@functools.cache
def _kernels_on(device_id, dtype, products):
    """Compile and check the kernels for a type of rows, once a device."""
    plain = _plain_kernels(device_id)
    if plain is None:
        return None
    return _cuda_check.working(
        lambda: {**plain, **_cuda.compiled(cupy.RawModule, _cuda.DENSE, _cuda.instances(dtype.name, products))},
        lambda kernels: _cuda_check.difference(PASSES, kernels, dtype),
        FAILURES,
    )


@functools.cache
def _plain_kernels(device_id):
    """The same for the others."""
    return _cuda_check.working(
        lambda: _cuda.compiled(cupy.RawModule, _cuda.DENSE, _cuda.plain_instances()),
        lambda kernels: _cuda_check.plain_difference(PASSES, kernels),
        FAILURES,
    )


FAILURES = cupy.cuda.compiler.CompileException, cupy.cuda.runtime.CUDARuntimeError, RuntimeError
PASSES = _cuda_check.Passes(
    to_device=cupy.asarray,
    to_host=cupy.asnumpy,
    compare=_compare,
    sums=_sums,
    moved_sums=_moved_sums,
    sq_distances_to_own=_sq_distances_to_own,
    sq_distances_to=_sq_distances_to,
    move=_move,
    choose=_choose,
    coefficients=_coefficients,
    path_to=_path_to,
    fits=_fits,
)


def _device_id():
    """Number of the current device."""
    return cupy.cuda.Device().id


def _device():
    """What launches depend on, of the current device."""
    return _device_of(_device_id())


@functools.cache
def _device_of(device_id):
    found = cupy.cuda.runtime.getDeviceProperties(device_id)
    return _cuda.Device(
        multiprocessors=found["multiProcessorCount"],
        threads=found["maxThreadsPerMultiProcessor"],
        block_shared=found["sharedMemPerBlockOptin"],
        shared=found["sharedMemPerMultiprocessor"],
        capability=10 * found["major"] + found["minor"],
    )
