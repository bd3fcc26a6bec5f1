"""Steps for NumPy arrays in plain NumPy, on threads: where the native ones are not installed.

What happens to the rows stands in `_blocks`.
"""

import numpy as np

from kmeans_xp.backends import _blocks
from kmeans_xp.backends._threads import count_parts, in_parallel

FEW_PARTS = 16  # of a pass that sums few rows of many clusters


def assign(X, centers, frame):
    """`steps.assign`."""
    labels = np.empty(X.shape[0], dtype=np.int32)
    doubtful = _run(_blocks.assign, X.size * len(centers), X, *_coefficients(centers, frame), labels)
    rows = np.concatenate([rows for of_part in doubtful for rows in of_part])
    if len(rows):
        labels[rows] = frame.nearest(X[rows], centers)
    return labels


def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    labels = np.full(X.shape[0], -1, dtype=np.int32)
    job = (X, sample_weight, *_coefficients(centers, frame), labels)
    *totals, doubtful = _sums(_blocks.lloyd_step, X.size * len(centers), centers.shape, *job)
    _settle(np.concatenate(doubtful), X, sample_weight, centers, labels, totals, frame)
    return labels, *totals


def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    labels, slack, _ = bounds
    origin, minus_2_centers, sq_norms, doubt = _coefficients(centers, frame)
    # Of ||x||², of ||c||² at most, and what leaves a label in doubt
    rounding = frame.rounding, frame.rounding * float(sq_norms.max()), doubt
    job = (X, sample_weight, origin, minus_2_centers, sq_norms, rounding, bounds)
    *more, n_changed, n_active, doubtful = _sums(_blocks.relabel, 8 * X.size, centers.shape, *job)
    rows = np.concatenate([np.empty(0, dtype=np.intp), *doubtful])
    n_changed += _settle(rows, X, sample_weight, centers, labels, more, frame)
    slack[rows] = -np.inf
    sums, weights = (total + part for total, part in zip(totals, more, strict=True))
    return labels, slack, sums, weights, n_changed, n_active


def _settle(rows, X, sample_weight, centers, labels, totals, frame):
    """Give the rows whose label is in doubt the right one, in labels and totals. -> how many labels changed"""
    if len(rows) == 0:
        return 0
    rows.sort()  # whichever thread found them
    right = frame.nearest(X[rows], centers)
    (wrong,) = np.nonzero(labels[rows] != right)
    if len(wrong):
        rows, right = rows[wrong], right[wrong]
        tile = frame.shift(X[rows], np.float64)
        _blocks.move(tile, labels[rows], right, sample_weight[rows], *totals)
        labels[rows] = right
    return len(wrong)


def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    job = X, frame.origin, labels, sample_weight
    return _sums(_blocks.cluster_sums, 8 * X.size, (n_clusters, X.shape[1]), *job)


def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    squares = np.empty(X.shape[0])
    _run(_blocks.sq_distances_to_own, 8 * X.size, X, frame.origin, labels, centers, squares)
    return squares


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`."""
    squares = np.empty((len(rows), X.shape[0]))
    job = (X, frame.origin, frame.shift(X[rows], np.float64), squares)
    _run(_blocks.sq_distances_to, X.size * len(rows), *job)
    return squares


def distances(X, centers, frame):
    """`steps.distances`."""
    result = np.empty((X.shape[0], len(centers)), dtype=frame.dtype)
    job = X, frame.origin, np.ascontiguousarray(centers.T), result
    _run(_blocks.distances, X.size * len(centers), *job)
    return result


def _run(function, work, *job):
    """A pass whose parts write into what they are given: what they return, in the order of the parts."""
    return in_parallel(count_parts(work), lambda *part: function(*part, *job))


def _sums(function, work, shape, *job):
    """A pass whose parts add to sums and weights, and may return counts and lists: the totals, as the parts come."""

    def add_up(*part):
        sums, weights = np.zeros(shape), np.zeros(shape[0])
        counts = function(*part, *job, sums, weights)
        return sums, weights, *(counts or ())

    # Each part adds to sums of its own: few rows of many clusters are cut into few
    n_parts = count_parts(work, max(FEW_PARTS, len(job[0]) // (16 * shape[0])))
    results = in_parallel(n_parts, add_up)
    return tuple(sum(values[1:], start=values[0]) for values in zip(*results, strict=True))


def _coefficients(centers, frame):
    """`nearest.coefficients` with the origin: that, -2 c, ||c||², and `Frame.doubt`, in the dtype of distances."""
    dtype = frame.distance_dtype
    minus_2_centers, sq_norms = -2 * centers, np.vecdot(centers, centers) * (1 - frame.doubt / 2)
    minus_2_centers, sq_norms = minus_2_centers.astype(dtype), sq_norms.astype(dtype)
    doubt = frame.doubt if np.isfinite(sq_norms).all() else np.inf  # too large for the dtype: nothing is sure
    return frame.origin.astype(dtype), minus_2_centers, sq_norms, doubt
