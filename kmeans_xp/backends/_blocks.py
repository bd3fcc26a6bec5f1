"""Passes over the rows of a NumPy array in plain NumPy: in blocks that stay in the cache.

The centers come as -2 c and ||c||².
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


def assign(part, n_parts, X, origin, centers, sq_norms, doubt, labels):
    """`steps.assign` for every `n_parts`-th block of rows. -> list of the numbers of rows whose label is in doubt"""
    nearest, doubtful = _Nearest(centers, sq_norms, doubt), []
    for rows, tile in _blocks(X, origin, 1, part, n_parts):
        labels[rows], in_doubt = nearest(tile)
        doubtful.append(in_doubt + rows.start)
    return doubtful


def lloyd_step(part, n_parts, X, sample_weight, origin, centers, sq_norms, doubt, labels, sums, weights):
    """`steps.lloyd_step` for every `n_parts`-th block of rows; adds to sums and weights. -> as `assign`, in a tuple"""
    nearest, doubtful = _Nearest(centers, sq_norms, doubt), []
    for rows, tile in _blocks(X, origin, 1, part, n_parts):
        labels[rows], in_doubt = nearest(tile)
        doubtful.append(in_doubt + rows.start)
        _add(_unrounded(X[rows], tile), labels[rows], sample_weight[rows], sums, weights)
    _shift(sums, weights, origin)
    return (doubtful,)


def relabel(part, n_parts, X, sample_weight, origin, centers, sq_norms, rounding, state, sums, weights):
    """`bounds.bounded_step` for part of the rows; adds to sums and weights. -> rows changed, looked at, and as `assign`

    Rows whose label is in doubt are left as they are.
    """
    labels, slack, path = state
    nearest, doubtful = _Nearest(centers, sq_norms, rounding[2]), []
    n_changed = n_active = 0
    for rows, tile in _stale_blocks(X, origin, labels, slack, path, part, n_parts):
        new, in_doubt, gap = nearest.with_gap(tile, rounding)
        old = labels[rows]
        new[in_doubt] = old[in_doubt]
        slack[rows] = path[new] + gap
        labels[rows] = new
        doubtful.append(rows[in_doubt])
        changed = np.flatnonzero(new != old)
        if len(changed):
            moved = _unrounded(X[rows[changed]], tile[changed])
            move(moved, old[changed], new[changed], sample_weight[rows[changed]], sums, weights)
        n_changed, n_active = n_changed + len(changed), n_active + len(new)
    _shift(sums, weights, origin)
    return n_changed, n_active, doubtful


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

    A few rows are compared at a time, with some of the centers: their scores stay in the cache. A label is in doubt if
    another score is nearer than `doubt` (see `frame.Frame.doubt`) times ||x||² + ||c||².
    """

    def __init__(self, centers, sq_norms, doubt):
        self._sq_norms, self._doubt, self._centers = sq_norms, doubt, centers
        self._few = len(self._centers) <= COLUMNS
        self._n_rows = MANY_ROWS if self._few else max(16, BLOCK // min(len(self._centers), CENTERS))
        self._codes = np.ones((2, len(self._centers)), dtype=np.float32)
        self._codes[0] = np.arange(len(self._centers))

    def __call__(self, tile):
        """Labels (n_rows,) int32, and row numbers of those in doubt."""
        labels, doubtful = np.empty(len(tile), dtype=np.int32), []
        for start in range(0, len(tile), self._n_rows):
            few = slice(start, start + self._n_rows)
            labels[few], in_doubt = self._labels(tile[few])
            doubtful.append(in_doubt + start)
        return labels, np.concatenate(doubtful)

    def with_gap(self, tile, rounding):
        """The same, and the gap as `bounds.sure_gap`."""
        labels, gap, doubtful = np.empty(len(tile), dtype=np.int32), np.empty(len(tile)), []
        for start in range(0, len(tile), self._n_rows):
            few = slice(start, start + self._n_rows)
            labels[few], lowest, second = self._lowest_two(tile[few])
            squares = np.vecdot(tile[few], tile[few])
            doubtful.append(start + np.flatnonzero(~(second > self._limit(lowest, squares))))
            error = rounding[0] * squares + rounding[1]
            reach = np.sqrt(np.maximum(lowest + squares, 0) + error)
            gap[few] = np.sqrt(np.maximum(second + squares - error, 0)) - reach
        gap[np.isnan(gap)] = -np.inf  # of numbers that left the range of the dtype nothing is sure
        return labels, np.concatenate(doubtful), gap

    def _limit(self, lowest, squares):
        """Up to where another score leaves a doubt: ||c||² is at most twice ||x||² + ||x - c||²."""
        return lowest + self._doubt * (5 * squares + 2 * lowest)

    def _labels(self, tile):
        """Labels, and row numbers of those in doubt."""
        # A product: vecdot takes longer for short rows
        ones = np.ones(tile.shape[1], dtype=tile.dtype)
        squares = np.multiply(tile, tile, out=scratch("squares", tile.shape, tile.dtype)) @ ones
        if len(self._centers) > CENTERS:
            labels, lowest, second = self._lowest_two(tile)
            return labels, np.flatnonzero(~(second > self._limit(lowest, squares)))
        scores = self._scores(tile)
        near = scratch("near", scores.shape, np.bool)
        if self._few:
            np.less_equal(scores, self._limit(scores.min(axis=0), squares), out=near)
            labels, counts = self._one_of(near)
            in_doubt = np.flatnonzero(counts != 1)
            labels[in_doubt] = scores[:, in_doubt].argmin(axis=0)
            return labels, in_doubt
        labels = scores.argmin(axis=1)
        lowest = scores[np.arange(len(tile)), labels]
        np.less_equal(scores, self._limit(lowest, squares)[:, None], out=near)
        if np.count_nonzero(near) == len(tile):
            return labels, np.empty(0, dtype=np.intp)
        counts = np.bincount(np.flatnonzero(near) // len(self._centers), minlength=len(tile))
        return labels, np.flatnonzero(counts != 1)

    def _scores(self, tile, some=slice(None)):
        """-2 x·c + ||c||² of rows and some centers; of few centers transposed, as minima over a short axis are slow."""
        centers, sq_norms = self._centers[some], self._sq_norms[some]
        if self._few:
            shape, factors, sq_norms = (len(centers), len(tile)), (centers, tile.T), sq_norms[:, None]
        else:
            shape, factors = (len(tile), len(centers)), (tile, centers.T)
        scores = np.matmul(*factors, out=scratch("scores", shape, tile.dtype))
        scores += sq_norms
        return scores

    def _one_of(self, mask):
        """Of a mask (n_clusters, n_rows) which cluster it is true for, if it is one, and how many there are."""
        ones = scratch("ones", mask.shape, np.float32)
        np.copyto(ones, mask)
        return self._codes @ ones

    def _lowest_two(self, tile):
        """Labels, lowest and second lowest score."""
        everywhere = np.arange(len(tile))
        if self._few:
            scores = self._scores(tile)
            lowest = scores.min(axis=0)
            is_lowest = np.equal(scores, lowest, out=scratch("near", scores.shape, np.bool))
            labels, counts = self._one_of(is_lowest)
            tied = counts != 1
            if tied.any():
                labels[tied] = scores[:, tied].argmin(axis=0)
            np.copyto(scores, np.inf, where=is_lowest)
            return labels, lowest, np.where(tied, lowest, scores.min(axis=0))
        labels, lowest, second = 0, np.inf, np.inf
        for first in range(0, len(self._centers), CENTERS):
            scores = self._scores(tile, slice(first, first + CENTERS))
            closest = scores.argmin(axis=1)
            low = scores[everywhere, closest]
            scores[everywhere, closest] = np.inf
            second = np.minimum(np.minimum(second, scores.min(axis=1)), np.maximum(low, lowest))
            labels = np.where(low < lowest, first + closest, labels)
            lowest = np.minimum(low, lowest)
        return labels, lowest, second


def _unrounded(rows, tile):
    """What is added up of rows: relative to the origin float32 is rounded, which is too much far from zero."""
    return tile if tile.dtype == np.float64 else rows


def _shift(sums, weights, origin):
    """Have sums of rows that were added as they are relative to the origin."""
    if origin.dtype != np.float64:
        sums -= weights[:, None] * origin.astype(np.float64)


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


def move(tile, old, new, sample_weight, sums, weights):
    """Take rows out of their old clusters, if they had one, and add them to the new ones."""
    if old[0] >= 0:  # then all have one: only before the first step none has
        new, sample_weight = np.stack((new, old), axis=1), np.stack((sample_weight, -sample_weight), axis=1)
    _add(tile, new, sample_weight, sums, weights)
