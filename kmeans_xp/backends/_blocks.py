"""Passes over the rows of a NumPy array in plain NumPy: in blocks that stay in the cache.

The same functions as in `_compiled`, which are faster where they pay. The centers come as -2 c, flat, and ||c||², both
with a center at the end that is never nearest.
"""

import math
import threading

import numpy as np
from scipy.sparse import csc_array

BLOCK = 2**18  # numbers in a block of rows or of their scores
SMALL_BLOCK = 2**15  # the same for small data
CENTERS = 2**10  # in a block of scores, at most
MOST_TESTED = 2**20  # rows whose bounds are looked at in one go
LARGEST = 2**19  # numbers in memory that is kept
MANY_ROWS = 2**15  # in a block of scores of few centers: short calls wait for the interpreter's lock
COLUMNS = 16  # up to how many centers the lowest scores are sought along the rows rather than along the centers


class _Scratch(threading.local):
    """Memory of a thread for what a block needs, kept from pass to pass: the page faults of new memory take longer."""

    def __init__(self):
        self._kept = {}

    def __call__(self, name, shape, dtype):
        size = math.prod(shape)
        if size > LARGEST:
            return np.empty(shape, dtype)
        memory = self._kept.get((name, dtype))
        if memory is None or memory.size < size:
            memory = self._kept[name, dtype] = np.empty(size, dtype)
        return memory[:size].reshape(shape)


scratch = _Scratch()


def assign(part, n_parts, X, origin, centers, sq_norms, labels):
    """`steps.assign` for every `n_parts`-th block of rows."""
    nearest = _Nearest(centers, sq_norms)
    for rows, tile in _blocks(X, origin, 1, part, n_parts):
        labels[rows] = nearest(tile)


def lloyd_step(part, n_parts, X, sample_weight, origin, centers, sq_norms, labels, sums, weights):
    """`steps.lloyd_step` for every `n_parts`-th block of rows; adds to sums and weights."""
    nearest = _Nearest(centers, sq_norms)
    for rows, tile in _blocks(X, origin, 1, part, n_parts):
        labels[rows] = nearest(tile)
        _add(tile, labels[rows], sample_weight[rows], sums, weights)


def relabel(part, n_parts, X, sample_weight, origin, centers, sq_norms, rounding, state, sums, weights):
    """`bounds.bounded_step` for part of the rows; adds to sums and weights. -> rows changed, looked at"""
    labels, slack, path = state
    nearest = _Nearest(centers, sq_norms)
    n_changed = n_active = 0
    for rows, tile in _stale_blocks(X, origin, labels, slack, path, part, n_parts):
        new, gap = nearest(tile, rounding)
        slack[rows] = path[new] + gap
        old = labels[rows]
        labels[rows] = new
        changed = np.flatnonzero(new != old)
        if len(changed):
            _move(tile[changed], old[changed], new[changed], sample_weight[rows[changed]], sums, weights)
        n_changed, n_active = n_changed + len(changed), n_active + len(new)
    return n_changed, n_active


def cluster_sums(part, n_parts, X, origin, labels, sample_weight, sums, weights):
    """`steps.update` for every `n_parts`-th block of rows, added to sums and weights."""
    for rows, tile in _blocks(X, origin, 1, part, n_parts):
        _add(tile, labels[rows], sample_weight[rows], sums, weights)


def sq_distances_to_own(part, n_parts, X, origin, labels, centers, squares):
    """`steps.sq_distances_to_own` for every `n_parts`-th block of rows."""
    for rows, tile in _blocks(X, origin, 2 * X.shape[1], part, n_parts):
        difference = scratch("own", tile.shape, centers.dtype)
        np.take(centers, labels[rows], axis=0, out=difference, mode="clip")
        np.subtract(tile, difference, out=difference)
        np.vecdot(difference, difference, out=squares[rows])


def sq_distances_to(part, n_parts, X, origin, points, squares):
    """`steps.sq_distances_to` for every `n_parts`-th block of rows, each where it belongs in the result."""
    minus_2_points, sq_norms = -2 * points, np.vecdot(points, points)[:, None]
    for rows, tile in _blocks(X, origin, len(points), part, n_parts):
        block = np.matmul(minus_2_points, tile.T, out=squares[:, rows])
        block += sq_norms
        block += np.vecdot(tile, tile)
        np.maximum(block, 0, out=block)


def distances(part, n_parts, X, origin, centers, result):
    """`steps.distances` for every `n_parts`-th block of rows. centers (n_features, n_clusters)"""
    n_clusters = centers.shape[1]
    minus_2_centers, sq_norms = -2 * centers, np.vecdot(centers, centers, axis=0)
    for rows, tile in _blocks(X, origin, n_clusters, part, n_parts):
        squares = np.matmul(tile, minus_2_centers, out=scratch("scores", (len(tile), n_clusters), tile.dtype))
        squares += sq_norms
        squares += np.vecdot(tile, tile)[:, None]
        closest = squares.argmin(axis=1)
        own = tile - centers.T[closest]
        squares[np.arange(len(tile)), closest] = np.vecdot(own, own)
        np.maximum(squares, 0, out=squares)
        np.sqrt(squares, out=result[rows], casting="same_kind")


def _blocks(X, origin, n_columns, part, n_parts):
    """Yield slices of rows, and those rows relative to the origin, for every `n_parts`-th block.

    The blocks are the same for any number of parts, so that the same rows give the same bits.
    """
    n_samples, n_features = X.shape
    shifts = X.dtype != origin.dtype or origin.any()
    n_columns = max(n_columns, n_features) if shifts else n_columns
    # Some 16 blocks for threads to share, if that leaves them large enough
    n_rows = max(16, SMALL_BLOCK // n_columns, min(BLOCK // n_columns, n_samples // 16))
    n_rows = min(n_rows, n_samples)
    if shifts:
        buffer = scratch("tile", (n_rows, n_features), origin.dtype)
        origins = scratch("origins", buffer.shape, origin.dtype)  # of the same shape: short rows broadcast slowly
        origins[:] = origin
    for start in range(part * n_rows, n_samples, n_parts * n_rows):
        rows = slice(start, min(start + n_rows, n_samples))
        count = rows.stop - start
        yield rows, np.subtract(X[rows], origins[:count], out=buffer[:count]) if shifts else X[rows]


def _stale_blocks(X, origin, labels, slack, path, part, n_parts):
    """As `_blocks`, of the rows that must be looked at: yield their numbers instead of slices."""
    n_rows = max(16, BLOCK // X.shape[1])
    n_tested = min(MOST_TESTED, -(-X.shape[0] // n_parts))
    for start in range(part * n_tested, X.shape[0], n_parts * n_tested):
        rows = slice(start, start + n_tested)
        stale = np.flatnonzero(slack[rows] <= path[labels[rows]])
        stale += start
        for first in range(0, len(stale), n_rows):
            active = stale[first : first + n_rows]
            taken = scratch("taken", (len(active), X.shape[1]), X.dtype)
            np.take(X, active, axis=0, out=taken, mode="clip")
            yield active, np.subtract(taken, origin, out=scratch("tile", taken.shape, origin.dtype))


class _Nearest:
    """Finds the nearest center of each row of a tile, and on demand how much farther the second nearest is.

    A few rows are compared at a time, with some of the centers: their scores stay in the cache.
    """

    def __init__(self, centers, sq_norms):
        self._sq_norms = sq_norms[:-1]
        self._centers = centers.reshape(len(sq_norms), -1)[:-1]
        few = len(self._centers) <= COLUMNS
        self._find = self._along_rows if few else self._along_centers
        self._n_rows = MANY_ROWS if few else max(16, BLOCK // min(len(self._centers), CENTERS))
        self._codes = np.ones((2, len(self._centers)), dtype=np.float32)
        self._codes[0] = np.arange(len(self._centers))

    def __call__(self, tile, rounding=None):
        """Labels (n_rows,) int32 and, given `rounding`, the gap as `bounds.sure_gap`."""
        labels = np.empty(len(tile), dtype=np.int32)
        gap = np.empty(len(tile)) if rounding else None
        for start in range(0, len(tile), self._n_rows):
            few = slice(start, start + self._n_rows)
            labels[few], lowest, second = self._find(tile[few], rounding is not None)
            if rounding:
                squares = np.vecdot(tile[few], tile[few])
                error = rounding[0] * squares + rounding[1]
                reach = np.sqrt(np.maximum(lowest + squares, 0) + error)
                gap[few] = np.sqrt(np.maximum(second + squares - error, 0)) - reach
        return (labels, gap) if rounding else labels

    def _along_rows(self, tile, wants_second):
        """With few centers: NumPy finds the minima over a short last axis slowly."""
        shape = len(self._centers), len(tile)
        scores = np.matmul(self._centers, tile.T, out=scratch("scores", shape, tile.dtype))
        scores += self._sq_norms[:, None]
        lowest = scores.min(axis=0)
        is_lowest = np.equal(scores, lowest, out=scratch("is_lowest", shape, np.bool))
        ones = scratch("ones", shape, np.float32)
        np.copyto(ones, is_lowest)
        labels, counts = self._codes @ ones
        tied = counts > 1
        if tied.any():
            labels[tied] = is_lowest[:, tied].argmax(axis=0)
        if not wants_second:
            return labels, lowest, None
        np.copyto(scores, np.inf, where=is_lowest)
        return labels, lowest, np.where(tied, lowest, scores.min(axis=0))

    def _along_centers(self, tile, wants_second):
        everywhere = np.arange(len(tile))
        labels, lowest, second = 0, np.inf, np.inf
        for first in range(0, len(self._centers), CENTERS):
            some = slice(first, first + CENTERS)
            centers = self._centers[some]
            scores = np.matmul(tile, centers.T, out=scratch("scores", (len(tile), len(centers)), tile.dtype))
            scores += self._sq_norms[some]
            closest = scores.argmin(axis=1)
            if len(centers) == len(self._centers) and not wants_second:
                return closest, None, None
            low = scores[everywhere, closest]
            if wants_second:
                scores[everywhere, closest] = np.inf
                second = np.minimum(np.minimum(second, scores.min(axis=1)), np.maximum(low, lowest))
            labels = np.where(low < lowest, first + closest, labels)
            lowest = np.minimum(low, lowest)
        return labels, lowest, second


def _add(tile, clusters, shares, sums, weights):
    """Add rows to clusters: each to one, or by `shares` to several, both (n_rows,) or (n_rows, n_entries).

    This is the product of a sparse membership matrix with the rows: n_rows * n_features operations, instead of
    n_clusters times as many.
    """
    if len(sums) == 1:
        sums += shares @ tile
    else:
        ends = np.arange(0, clusters.size + 1, clusters.size // len(tile), dtype=clusters.dtype)
        sums += csc_array((shares.ravel(), clusters.ravel(), ends), (len(sums), len(tile))) @ tile
    weights += np.bincount(clusters.ravel(), shares.ravel(), minlength=len(sums))


def _move(tile, old, new, sample_weight, sums, weights):
    """Take rows out of their old clusters, if they had one, and add them to the new ones."""
    if old[0] >= 0:  # then all have one: only before the first step none has
        new, sample_weight = np.stack((new, old), axis=1), np.stack((sample_weight, -sample_weight), axis=1)
    _add(tile, new, sample_weight, sums, weights)
