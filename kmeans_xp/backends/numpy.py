"""Steps for NumPy arrays: on threads, in blocks of rows that stay in the cache, and compiled where Numba is installed.

Each step stands here twice at most: a few lines of NumPy, and the call of its twin in `_compiled`.
"""

import functools
import importlib.util
from contextlib import nullcontext

import numpy as np
from scipy.sparse import csc_array

from kmeans_xp.backends._threads import PARALLEL_WORK, blas, in_parallel, map_in_order

# n_samples * n_features * n_clusters of a job that repays loading Numba and the passes from the cache on disk, which
# takes half a second. A property of the data alone, so that the same fit takes the same way again.
COMPILED_WORK = 1e7
BLOCK = 2**17  # numbers in a block of rows or of their scores
SMALL_BLOCK = 2**15  # for small data: the C library keeps buffers of half a megabyte, larger ones cost page faults
DIRECT_FEATURES = 24  # up to which to sum squared differences is faster than a matrix product and what surrounds it
CENTERS = 2**10  # in a block of scores, at most
MAX_BETWEEN = 2**11  # centers whose distances from each other are kept, 32 MiB
SAVED_PRODUCTS = 500  # multiplications a row that repay the search for its candidates
NOTHING = np.empty((0, 0)), np.empty(0)  # distances between centers that nobody asks for


@functools.cache
def _has_numba():
    return importlib.util.find_spec("numba") is not None


def _compiled(name, X, frame):
    """The compiled pass called `name`, or None where it does not pay."""
    if frame.work < COMPILED_WORK or not X.flags.c_contiguous or not _has_numba():
        return None
    from kmeans_xp.backends import _compiled

    return getattr(_compiled, name)


def own_threads(X, n_clusters):
    """`steps.own_threads`: the BLAS gets one thread, as its other threads would wait for work at full speed."""
    return blas.one_thread() if X.size * max(8, n_clusters) > PARALLEL_WORK else nullcontext()


def map_slices(X, function, slices):
    """`steps.map_slices` on threads."""
    pays = 8 * X.size > PARALLEL_WORK and len(slices) > 1 and blas.n_threads() > 1
    return map_in_order(function, slices) if pays else NotImplemented


def assign(X, centers, frame):
    """`steps.assign`."""
    labels = np.empty(X.shape[0], dtype=np.int32)
    compiled = _compiled("assign", X, frame)
    if compiled:
        origin, minus_2_centers, sq_norms = _coefficients(centers, frame)
        job = (_read_only(X), origin, minus_2_centers.ravel(), sq_norms, labels)
        in_parallel(X.size * len(centers), lambda *part: compiled(*part, *job))
    else:
        in_parallel(X.size * len(centers), lambda *part: list(_label(X, centers, frame, labels, part)))
    return labels


def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    if _compiled("relabel", X, frame):
        labels, slack = np.full(X.shape[0], -1, dtype=np.int32), np.empty(X.shape[0])
        return labels, *bounded_step(X, sample_weight, centers, labels, slack, np.zeros(len(centers)), frame)[2:4]
    labels = np.empty(X.shape[0], dtype=np.int32)

    def label_and_sum(*part):
        return _sum_clusters(_label(X, centers, frame, labels, part), labels, sample_weight, centers.shape)

    return labels, *_add(in_parallel(X.size * len(centers), label_and_sum))


def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    compiled = _compiled("cluster_sums", X, frame)

    def sums_of(*part):
        if not compiled:
            blocks = _blocks(X, frame, frame.distance_dtype, 1, part)
            return _sum_clusters(blocks, labels, sample_weight, shape)
        sums, weights = np.zeros(shape), np.zeros(n_clusters)
        compiled(*part, _read_only(X), origin, labels, sample_weight, sums, weights)
        return sums, weights

    shape, origin = (n_clusters, X.shape[1]), _origin(frame, frame.distance_dtype)
    return _add(in_parallel(8 * X.size, sums_of))


def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    squares = np.empty(X.shape[0])
    compiled = _compiled("sq_distances_to_own", X, frame)
    if compiled:
        job = (_read_only(X), _origin(frame, np.float64), labels, centers, squares)
        in_parallel(8 * X.size, lambda *part: compiled(*part, *job))
        return squares

    def square(*part):
        own = np.empty((0, 0))
        for rows, tile in _blocks(X, frame, np.float64, 2 * X.shape[1], part):
            own = own if len(own) else np.empty_like(tile)
            difference = np.take(centers, labels[rows], axis=0, out=own[: len(tile)], mode="clip")
            np.subtract(tile, difference, out=difference)
            np.vecdot(difference, difference, out=squares[rows])

    in_parallel(8 * X.size, square)
    return squares


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`, each block where it belongs in the result."""
    squares = np.empty((len(rows), X.shape[0]))
    points = frame.shift(X[rows], np.float64)
    minus_2_points, sq_norms = -2 * points, np.vecdot(points, points)[:, None]

    def measure(*part):
        for rows, tile in _blocks(X, frame, np.float64, len(points), part):
            block = np.matmul(minus_2_points, tile.T, out=squares[:, rows])
            block += sq_norms
            block += np.vecdot(tile, tile)
            np.maximum(block, 0, out=block)

    in_parallel(X.size * len(rows), measure)
    return squares


def distances(X, centers, frame):
    """`steps.distances`."""
    result = np.empty((X.shape[0], len(centers)), dtype=X.dtype)
    compiled = _compiled("distances", X, frame) if X.shape[1] <= DIRECT_FEATURES else None
    if compiled:
        job = (_read_only(X), _origin(frame, np.float64), np.ascontiguousarray(centers.T), result)
        in_parallel(X.size * len(centers), lambda *part: compiled(*part, *job))
        return result
    minus_2_centers, sq_norms = -2 * centers.T, np.vecdot(centers, centers)

    def measure(*part):
        buffer = np.empty((0, 0))
        for rows, tile in _blocks(X, frame, np.float64, len(centers), part):
            buffer = buffer if len(buffer) else np.empty((len(tile), len(centers)))
            squares = np.matmul(tile, minus_2_centers, out=buffer[: len(tile)])
            squares += sq_norms
            squares += np.vecdot(tile, tile)[:, None]
            closest = squares.argmin(axis=1)
            own = tile - centers[closest]
            squares[np.arange(len(tile)), closest] = np.vecdot(own, own)
            np.maximum(squares, 0, out=squares)
            np.sqrt(squares, out=result[rows], casting="same_kind")

    in_parallel(X.size * len(centers), measure)
    return result


def bounded_step(X, sample_weight, centers, labels, slack, path, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    origin, minus_2_centers, sq_norms = _coefficients(centers, frame)
    rounding = _rounding(sq_norms[:-1], X.shape[1])
    state = labels, slack, path
    compiled = _compiled("relabel", X, frame)
    if compiled:
        between = NOTHING
        if labels[0] >= 0 and 16 * len(centers) <= X.shape[0] and len(centers) <= MAX_BETWEEN:
            between = _between(centers, rounding)
            if not _few_candidates(X, origin, labels, centers, *between):
                between = NOTHING
        job = (_read_only(X), sample_weight, origin, minus_2_centers.ravel(), sq_norms, between, rounding, state)
    else:
        job = (X, sample_weight, origin, minus_2_centers[:-1].T, sq_norms[:-1], rounding, state)

    def relabel(*part):
        sums, weights = np.zeros_like(centers), np.zeros(len(centers))
        counts = compiled(*part, *job, sums, weights) if compiled else _relabel(*job, sums, weights, part)
        return sums, weights, *counts

    sums, weights, n_changed, n_active = _add(in_parallel(8 * X.size, relabel))
    return labels, slack, sums, weights, np.int64(n_changed), n_active


def _relabel(X, sample_weight, origin, minus_2_centers, sq_norms, rounding, state, sums, weights, part):
    """`bounds.bounded_step` for a part of the rows; adds to sums and weights. -> rows changed, looked at"""
    labels, slack, path = state
    coefficient, offset = rounding
    n_features, n_clusters = minus_2_centers.shape
    part, n_parts = part
    begin, end = X.shape[0] * part // n_parts, X.shape[0] * (part + 1) // n_parts
    stale = begin + np.flatnonzero(slack[begin:end] <= path[labels[begin:end]])
    n_rows = max(16, BLOCK // max(n_clusters, n_features))
    n_changed = 0
    for start in range(0, len(stale), n_rows):
        active = stale[start : start + n_rows]
        tile = X[active].astype(origin.dtype, copy=False)
        tile -= origin
        scores = tile @ minus_2_centers
        scores += sq_norms
        new = scores.argmin(axis=1).astype(np.int32)
        everywhere = np.arange(len(new))
        squares = np.vecdot(tile, tile)
        error = coefficient * squares + offset  # as in bounds.sure_gap
        nearest = np.sqrt(np.maximum(scores[everywhere, new] + squares, 0) + error)
        scores[everywhere, new] = np.inf
        second = np.sqrt(np.maximum(scores.min(axis=1) + squares - error, 0))
        old = labels[active]
        labels[active] = new
        slack[active] = path[new] + second - nearest
        changed = np.flatnonzero(new != old)
        n_changed += len(changed)
        moved, weight = tile[changed], sample_weight[active[changed]]
        known = old[changed] >= 0
        for sign, cluster, of in ((1, new[changed], slice(None)), (-1, old[changed][known], known)):
            changes = cluster_sums(moved[of], cluster, sign * weight[of], n_clusters)
            sums += changes[0]
            weights += changes[1]
    return n_changed, len(stale)


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: the compiled pass costs no more with bounds than without."""
    return 1.0 if _compiled("relabel", X, frame) else NotImplemented


def cluster_sums(X, labels, sample_weight, n_clusters):
    """`steps.cluster_sums` as the product of a sparse membership matrix, one entry a row of X, with X.

    Costs n_samples * n_features operations instead of n_clusters times as many.
    """
    n_rows = X.shape[0]
    membership = csc_array(
        (sample_weight, labels, np.arange(n_rows + 1, dtype=labels.dtype)), shape=(n_clusters, n_rows)
    )
    return membership @ X, np.bincount(labels, sample_weight, minlength=n_clusters)


def count_distinct(labels):
    """`steps.count_distinct` without sorting."""
    return np.count_nonzero(np.bincount(labels))


def _blocks(X, frame, dtype, n_columns, part):
    """Yield slices of rows, and those rows relative to the origin, for every `n_parts`-th block.

    The blocks are the same for any number of parts, so that the same rows give the same bits.
    """
    part, n_parts = part
    n_samples, n_features = X.shape
    n_columns = n_columns if frame.shifted else max(n_columns, n_features)
    # Some 16 blocks for threads to share, if that leaves them large enough
    n_rows = max(16, SMALL_BLOCK // n_columns, min(BLOCK // n_columns, n_samples // 16))
    n_rows = min(n_rows, n_samples)
    if not frame.shifted:
        origin = np.empty((n_rows, n_features), dtype=dtype)  # of the same shape: short rows broadcast slowly
        origin[:] = frame.origin
        buffer = np.empty_like(origin)
    for start in range(part * n_rows, n_samples, n_parts * n_rows):
        rows = slice(start, min(start + n_rows, n_samples))
        if frame.shifted:
            yield rows, X[rows].astype(dtype, copy=False)
        else:
            count = rows.stop - start
            yield rows, np.subtract(X[rows], origin[:count], out=buffer[:count], dtype=dtype)


def _label(X, centers, frame, labels, part):
    """Fill in the labels of a part of the rows; yield its blocks."""
    dtype, n_columns = frame.distance_dtype, min(len(centers), CENTERS)
    minus_2_centers, sq_norms = (-2 * centers.T).astype(dtype), np.vecdot(centers, centers).astype(dtype)
    n_rows = BLOCK // n_columns
    buffer = np.empty((min(n_rows, X.shape[0]), n_columns), dtype=dtype)
    for rows, tile in _blocks(X, frame, dtype, 1, part):
        for start in range(0, len(tile), n_rows):
            few = tile[start : start + n_rows]
            labels[rows][start : start + n_rows] = _lowest_score(few, minus_2_centers, sq_norms, buffer)
        yield rows, tile


def _lowest_score(tile, minus_2_centers, sq_norms, buffer):
    """Index of the nearest center of each row. Centers by blocks too: with very many, few rows would fit in a block."""
    n_clusters, labels, lowest = len(sq_norms), 0, np.inf
    for first in range(0, n_clusters, CENTERS):
        some = slice(first, min(first + CENTERS, n_clusters))
        scores = np.matmul(tile, minus_2_centers[:, some], out=buffer[: len(tile), : some.stop - first])
        scores += sq_norms[some]
        closest = scores.argmin(axis=1)
        if n_clusters <= CENTERS:
            return closest
        score = scores[np.arange(len(tile)), closest]
        labels = np.where(score < lowest, first + closest, labels)
        lowest = np.minimum(score, lowest)
    return labels


def _sum_clusters(blocks, labels, sample_weight, shape):
    """Sums and weights of the clusters in some blocks of rows."""
    sums, weights = np.zeros(shape), np.zeros(shape[0])
    for rows, tile in blocks:
        tile_sums, tile_weights = cluster_sums(tile, labels[rows], sample_weight[rows], shape[0])
        sums += tile_sums
        weights += tile_weights
    return sums, weights


def _add(results):
    """Sums over the parts, in their order."""
    return tuple(sum(values[1:], start=values[0]) for values in zip(*results, strict=True))


def _read_only(X):
    """The same for all arrays of a dtype, so that Numba compiles once."""
    X = X.view()
    X.flags.writeable = False
    return X


def _origin(frame, dtype):
    """What a compiled pass is to subtract from the rows."""
    return np.zeros_like(frame.origin, dtype=dtype) if frame.shifted else frame.origin.astype(dtype)


def _coefficients(centers, frame):
    """Origin, -2 c and ||c||² in the dtype of distances, with a center that is never nearest at the end."""
    dtype = frame.distance_dtype
    minus_2_centers = np.zeros((len(centers) + 1, centers.shape[1]), dtype=dtype)
    minus_2_centers[:-1] = -2 * centers
    sq_norms = np.full(len(centers) + 1, np.inf, dtype=dtype)
    sq_norms[:-1] = np.vecdot(centers, centers)
    return _origin(frame, dtype), minus_2_centers, sq_norms


def _rounding(sq_norms, n_features):
    """As `bounds.error_bound`."""
    coefficient = 20 * (n_features + 8) * float(np.finfo(sq_norms.dtype).eps)
    return coefficient, coefficient * float(sq_norms.max())


def _between(centers, rounding):
    """Distances between centers, a little too small, and that of each from the nearest other."""
    sq_norms = np.vecdot(centers, centers)
    squares = sq_norms[:, None] - 2 * (centers @ centers.T) + sq_norms - 2 * rounding[1]
    distances = np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
    np.fill_diagonal(distances, np.inf)
    nearest_other = distances.min(axis=1)
    np.fill_diagonal(distances, 0)
    return distances, nearest_other


def _few_candidates(X, origin, labels, centers, between, nearest_other):
    """Whether it repays to look for the centers that a row must be compared with, judged by 64 rows."""
    rows = slice(None, None, -(-X.shape[0] // 64))
    own = labels[rows]
    reach = 2 * np.linalg.vector_norm(X[rows] - origin - centers[own], axis=1)
    within = between[own] <= (reach + nearest_other[own])[:, None]
    share = np.mean(within & (reach > nearest_other[own])[:, None])
    return (1 - share) * between.shape[0] * (X.shape[1] + 8) > SAVED_PRODUCTS
