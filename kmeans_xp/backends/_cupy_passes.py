"""Passes over CuPy arrays by the kernels of cuda/, which are given: their launches, and the memory that they take.

A pass takes the rows in tiles that keep its scratch memory within the frame's `tile_bytes`; a tile for which the device
has no memory is halved. Sums per cluster are float64, added in an order that depends on the labels alone, and what rows
that change cluster bring as integers, in any order: the same from run to run. Rows of float16 and bfloat16 are computed
with in float32. Only `move` and `choose` wait for the device.

Labels are exact, and tensor cores find most of them: where rounding to TF32, or float16 (`cuda.PRODUCTS`), leaves no
doubt. The rest, which is little, is compared in the dtype of distances.
"""

import functools
from typing import Any, NamedTuple

import cupy
import numpy as np

from kmeans_xp import cuda as _cuda
from kmeans_xp.cuda import BLOCK, blocks, launch, power_of_2


def totals(kernels, X, sample_weight, labels, n_clusters, frame):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters."""
    totals = []
    sample_weight = cupy.ascontiguousarray(sample_weight)  # kernels see no strides
    origin = frame.origin

    def add(rows, tile):
        of_tile = sums(kernels, tile, origin, labels[rows], sample_weight[rows], n_clusters)
        totals[:] = [of_tile if not totals else totals[0] + of_tile]

    for_tiles(X, frame, frame.distance_dtype, add)
    return totals[0]


class Since(NamedTuple):
    """Sums of clusters at some labels, and what was added to them and taken away since."""

    totals: Any  # (n_clusters, n_features + 1), of all rows
    labels: Any  # (n_samples,) int32 that totals and what moved belong to
    moved: Any  # (2, n_clusters, n_features + 1) uint64, see cuda/moved.cu
    scales: Any  # (n_features + 1,)


def since_now(kernels, X, sample_weight, labels, totals, frame):
    """`Since` at these labels, to which the totals belong."""
    moved = cupy.zeros((2, *totals.shape), dtype=cupy.uint64)
    return Since(totals, labels.copy(), moved, scales(kernels, X, sample_weight, frame))


def scales(kernels, X, sample_weight, frame):
    """What numbers of each column, and weights, are multiplied by to be added as integers."""
    n_columns = X.shape[1] + 1
    largest, scales = cupy.zeros(n_columns), cupy.empty(n_columns)
    columns, sample_weight, origin = power_of_2(n_columns, BLOCK), cupy.ascontiguousarray(sample_weight), frame.origin

    def measure(rows, tile):
        grid = device().going_on(len(tile), BLOCK // columns), blocks(n_columns, columns)
        job = tile, origin, sample_weight[rows], *tile.shape, largest
        launch(kernels["largest_terms"], grid, (columns, BLOCK // columns), *job)

    for_tiles(X, frame, frame.distance_dtype, measure)
    launch(kernels["scale_columns"], blocks(n_columns, BLOCK), BLOCK, largest, n_columns, _bits(len(X)), scales)
    return scales


def _bits(n_samples):
    """Bits of the integers that so many of can be added."""
    return 62 - n_samples.bit_length()


def brought_up_to_date(kernels, X, sample_weight, labels, since, frame):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters, from those of earlier labels."""
    (n_clusters, n_columns), bits = since.totals.shape, _bits(len(X))
    sample_weight, origin = cupy.ascontiguousarray(sample_weight), frame.origin

    def move_rows(rows, tile):
        job = tile, origin, sample_weight[rows], labels[rows], *tile.shape, n_clusters, bits, since.scales
        grid = device().going_on(len(tile), BLOCK)
        launch(kernels["move_rows"], grid, BLOCK, *job, since.labels[rows], since.totals, since.moved)

    for_tiles(X, frame, frame.distance_dtype, move_rows)
    totals = cupy.empty(since.totals.shape)
    job = since.totals, since.moved, since.scales, n_clusters, n_columns, bits, totals
    launch(kernels["add_moved"], blocks(totals.size, BLOCK), BLOCK, *job)
    return totals


def shifts(kernels, centers, centers_old, parts):
    """How far centers moved, squared, in the first column of parts."""
    job = centers, cupy.ascontiguousarray(centers_old), *centers.shape, parts
    launch(kernels["shifts"], blocks(len(centers), 8), (32, 8), *job)


def advance(kernels, parts, path, most_rows=None):
    """Bring a path up to date with what moved, see `bounds.advance`."""
    launch(kernels["advance_paths"], 1, 32, parts, len(path), most_rows, path)


def sq_distances_to(kernels, X, rows, frame):
    """Squared distances of every row from some of them."""
    origin = frame.origin
    points = X[rows].astype(np.float64) - origin
    squares = cupy.empty((len(points), X.shape[0]))

    def measure(rows, tile):
        grid = blocks(len(tile), 64), blocks(len(points), 32)
        job = tile, origin, points, *tile.shape, len(points), np.uintp(X.shape[0]), squares[:, rows]
        launch(kernels["sq_distances_to"], grid, 128, *job)

    for_tiles(X, frame, X.dtype, measure)
    return squares


def move(kernels, sums, weights, centers_old, n_changed, n_active, frame, spherical=False):
    """New centers, and the numbers that the loop must know."""
    centers, numbers = cupy.empty(centers_old.shape), cupy.empty(5)
    counts = (cupy.asarray(count, dtype=cupy.uint64) for count in (n_changed, n_active))  # those of blocks are mixed
    parts = cupy.empty((len(centers), 2))
    given = sums, weights, cupy.ascontiguousarray(centers_old), counts, frame, spherical
    move_to(kernels, *given, (centers, parts, numbers))
    return centers, numbers.get().tolist()


def move_to(kernels, sums, weights, centers_old, counts, frame, spherical, found, tol=0.0, faint=0.0, most_rows=None):
    """The same, written to centers, parts as `move_centers` has them, and numbers."""
    (n_clusters, n_features), (centers, parts, numbers) = centers_old.shape, found
    *strides, weight_stride = (np.uintp(stride // 8) for stride in (*sums.strides, *weights.strides))
    given = sums, weights, centers_old, frame.origin, n_clusters, n_features, *strides, weight_stride
    kernel = kernels[f"move_centers_{np.dtype(frame.dtype).name}"]
    launch(kernel, blocks(n_clusters, 8), (32, 8), *given, int(spherical), most_rows, centers, parts)
    ends = np.float64(frame.spread), n_clusters, np.float64(tol), np.float64(faint), np.float64(0.5 if spherical else 1)
    launch(kernels["sum_up"], 1, 32, parts, weights, weight_stride, *counts, *ends, most_rows, numbers)


def choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """One choice after the other, without waiting for the device to know how many were possible."""
    n_most = min(n_most, len(candidates) // n_trials)
    choice, chosen = cupy.zeros(_cuda.CHOICE, dtype=np.int32), cupy.empty(n_most, dtype=np.int64)
    thresholds = cupy.asarray(uniforms) * closest[candidates]
    closest, squares, sample_weight = closest.copy(), *map(cupy.ascontiguousarray, (squares, sample_weight))
    make_choices(kernels, closest, squares, sample_weight, candidates, thresholds, n_trials, choice, chosen, n_most)
    return closest, chosen[: int(choice[1])]


def make_choices(kernels, closest, squares, sample_weight, candidates, thresholds, n_trials, choice, chosen, n_most):
    """Choose at most so many rows among candidates, as long as there are, and lower `closest` to them.

    The rows are those of `chosen` from number choice[1] on, which becomes that of all.
    """
    n_samples, n_blocks = len(closest), min(blocks(len(closest), BLOCK), 2 * device().multiprocessors)
    parts = cupy.empty((n_blocks, n_trials))

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


def sq_distances_to_own(kernels, X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster."""
    squares = cupy.empty(X.shape[0])
    centers, origin = cupy.ascontiguousarray(centers), frame.origin
    lanes = power_of_2(X.shape[1], 32)

    def measure(rows, tile):
        job = tile, origin, labels[rows], centers, *tile.shape, squares[rows]
        grid = blocks(len(tile), BLOCK // lanes)
        launch(kernels["sq_distances_to_own"], grid, (lanes, BLOCK // lanes), *job)

    for_tiles(X, frame, X.dtype, measure)
    return squares


def coefficients(kernels, centers, dtype):
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
    plan = _cuda.plan_certain(device(), n_features, n_clusters, np.dtype(frame.distance_dtype))
    if plan is None:
        return None
    width, room, shared = plan
    tiles, largest = _tiled_centers(kernels, centers, width)
    rounding = _rounding_in(np.float32, frame), largest

    def label(tile, active, state, counts, uncertain):
        given = tile, frame.origin, tiles, path, *active, *tile.shape, n_clusters, *rounding
        job = *given, *state, counts, *room, *uncertain
        grid = device().going_on(len(tile), BLOCK)
        launch(kernels[f"relabel_certain_{width}"], grid, BLOCK, *job, shared_mem=shared)

    return label


def _certain_in_half(kernels, centers, frame, path):
    """The same in spite of float16."""
    n_clusters, n_features = centers.shape
    plan = _cuda.plan_half(device(), n_features, n_clusters)
    if plan is None:
        return None
    scale, *bounds = _cuda.half_precision(frame.spread, n_features)
    tiles, largest = _tiled_halves(kernels, centers, plan, scale)
    certificate = _rounding_in(np.float32, frame), scale, *bounds, largest

    def label(tile, active, state, counts, uncertain):
        given = tile, frame.origin, tiles, path, *active, *tile.shape, n_clusters, *certificate
        job = *given, *state, counts, plan.room, _cuda.KEYS, *uncertain
        grid = device().going_on(len(tile), plan.rows)
        launch(kernels[plan.kernel], grid, plan.threads, *job, shared_mem=plan.shared)

    return label


CERTAIN = {"tf32": _certain_in_tf32, "float16": _certain_in_half}


class Look(NamedTuple):
    """What an iteration of a run shares with the others, on the device, or None, and what it counts."""

    origin: Any  # in the dtype of distances
    counts: Any  # (2,) uint64 of rows whose label changed, and that bounds had looked at
    most_rows: Any = None  # (1,) uint64, 0 once the run has ended


def compare(kernels, X, centers, frame, labels, slack=None, path=None, look=None):
    """Label rows by all centers: all of them, or with `slack` those that need it. -> rows changed, looked at, 0-d"""
    dtype, n_clusters = np.dtype(frame.distance_dtype), len(centers)
    path = cupy.zeros(n_clusters) if path is None else path
    is_few = n_clusters <= _cuda.FEW
    name, shape = ("relabel_few", "relabel")[not is_few], _cuda.SHAPES[dtype.name][is_few]
    look = Look(frame.origin.astype(dtype), cupy.zeros(2, dtype=cupy.uint64)) if look is None else look
    counts = look.counts
    minus_2_centers, sq_norms, largest = coefficients(kernels, centers, dtype)
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
        launch(kernels[name], device().going_on(count, shape[0]), BLOCK, *job)

    for_tiles(X, frame, dtype, compare)
    return counts[0], counts[1]


def sums(kernels, tile, origin, labels, sample_weight, n_clusters):
    """Sums and weights, (n_clusters, n_features + 1), of the clusters of a tile."""
    n_samples, n_features = tile.shape
    shared = _cuda.sums_bytes(n_features, n_clusters)
    if shared <= device().block_shared:
        return _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared)
    order, labels, starts = by_label(kernels, labels, n_clusters)
    columns = power_of_2(n_features, BLOCK)
    chunk = _cuda.chunk_of_runs(device(), n_samples, n_features)
    n_chunks = blocks(n_samples, chunk)
    runs = cupy.empty((n_chunks + n_clusters, n_features + 1))
    totals = cupy.empty((n_clusters, n_features + 1))
    grid = blocks(n_chunks, BLOCK // columns), blocks(n_features, columns)
    job = tile, origin, order, labels, sample_weight, n_samples, n_features, chunk, runs
    launch(kernels["sum_runs"], grid, (columns, BLOCK // columns), *job)
    grid = n_clusters, blocks(n_features + 1, 32)
    launch(kernels["add_runs"], grid, (32, 8), runs, starts, n_features + 1, chunk, totals)
    return totals


def by_label(kernels, labels, n_clusters):
    """Rows sorted by their labels, in their order; the labels of these; where each label begins, (n_clusters + 1,).

    Not by CuPy's `argsort`, which waits for the device.
    """
    n, grid = len(labels), (blocks(n_clusters + 1, 8), (32, 8))
    size = _cuda.size_of_parts(device(), n, n_clusters)
    n_parts = blocks(n, size)
    counts, starts = cupy.zeros((n_clusters, n_parts), dtype=np.int32), cupy.empty(n_clusters + 1, dtype=np.int64)
    order, found = cupy.empty(n, dtype=np.int32), cupy.empty(n, dtype=np.int32)
    launch(kernels["count_labels"], n_parts, BLOCK, labels, n, size, counts)
    launch(kernels["scan_parts"], *grid, n_clusters, n_parts, counts, starts)
    launch(kernels["scan_labels"], 1, BLOCK, n_clusters + 1, starts)
    launch(kernels["place_rows"], blocks(n_parts, 8), (32, 8), labels, starts, n, size, n_parts, counts, order, found)
    return order, found, starts


def _sums_of_few(kernels, tile, origin, labels, sample_weight, n_clusters, shared):
    """`sums` without sorting."""
    n_samples, n_features = tile.shape
    columns = power_of_2(n_features, _cuda.SUMS_BLOCK)
    chunk = _cuda.chunk_of_few(device(), n_samples, n_features, shared)
    parts = cupy.empty((blocks(n_samples, chunk), n_clusters, n_features + 1))
    job = tile, origin, labels, sample_weight, n_samples, n_features, n_clusters, chunk, parts
    grid, block = (len(parts), blocks(n_features, columns)), (columns, _cuda.SUMS_BLOCK // columns)
    launch(kernels["sum_few"], grid, block, *job, shared_mem=shared)
    return parts.sum(axis=0)


def for_tiles(X, frame, dtype, function):
    """Call `function(rows, tile)` for slices of rows and those rows, contiguous.

    The rows are of `dtype`, or of a half precision that is computed with in float32.
    """
    dtype = _cuda.row_dtype(X.dtype, dtype)
    copied = 0 if X.flags.c_contiguous and X.dtype == dtype else X.shape[1] * dtype.itemsize

    def take(rows):
        function(rows, cupy.ascontiguousarray(X[rows], dtype=dtype))

    failure, free_and_total = cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.memGetInfo
    _cuda.for_tiles(take, X.shape[0], copied, frame.tile_bytes, failure, free_and_total)


def device_id():
    """Number of the current device."""
    return cupy.cuda.Device().id


def device():
    """What launches depend on, of the current device."""
    return _device_of(device_id())


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
