"""Rows of a CSR matrix of SciPy or CuPy, which are never made dense.

`SparseRows` goes through seeding, iterations and criteria in the place of an array. Where a step must look into the
rows (see `backends.replaceable`), it has a method of the step's name; everything else is the code for dense rows.

To subtract an origin would fill the rows. So it is kept beside them, and taken into account in what is computed:
(x - o)·c = x·c - o·c. The numbers are float64, as digits are lost where rows lie far from zero for their spread.
"""

import functools
import importlib

import numpy as np

from kmeans_xp import steps
from kmeans_xp.arrays import OtherRows, collect, namespace
from kmeans_xp.backends import backend_for
from kmeans_xp.bounds import sure_gap

NUMBERS = 2**14  # that are looked at at a time: what some 50 bytes each take stays in the processor's cache
ROUNDING = 100 * np.finfo(np.float64).eps  # of squares summed by difference, beside what they are part of


class SparseRows(OtherRows):
    """Abstract: rows of a CSR matrix in canonical format, relative to an origin, (n_features,), or None for 0.

    What both libraries do alike. They differ in products of rows (relative to zero) with arrays and with other rows,
    in sums within rows and over clusters, and in what it takes to have some of the rows only.
    """

    def __init__(self, shape, dtype, beside, origin):
        super().__init__(shape, dtype, beside)
        self._origin = origin

    def __matmul__(self, dense):
        product = self._product(dense)
        return product if self._origin is None else product - self._origin @ dense

    def dense(self):
        """The rows as an array: of few rows."""
        rows = self._dense()
        return rows if self._origin is None else rows - self._origin

    def sq_norms(self):
        xp = namespace(self)
        return self.sq_distances_of_tile(xp.zeros(self.shape[0], dtype=xp.int32), xp.zeros((1, self.shape[1])))

    def sq_distances(self, others):
        """The others, dense or sparse, are relative to the same origin."""
        xp = namespace(self)
        if isinstance(others, SparseRows):
            norms = [rows._absolute_sq_norms() for rows in (self, others)]
            squares = norms[0][:, None] - 2 * self._product_with_rows(others) + norms[1]
        else:
            squares = self.sq_norms()[:, None] - 2 * (self @ others.T) + xp.vecdot(others, others)
        return xp.maximum(squares, 0, out=squares)

    def sq_distances_to(self, rows, frame):
        points = frame.shift(self.take_rows(rows), np.float64)
        blocks = frame.map_tiles(lambda _, tile: tile.sq_distances(points).T, self, len(rows), np.float64)
        return collect(blocks, self.shape[0], axis=1)

    def projections(self, direction):
        """Less what the origin adds to all of them."""
        return self._product(direction[:, None])[:, 0]

    def assign(self, centers, frame):
        minus_2_centers, sq_norms = _coefficients(centers, frame)

        def labels_of(rows, tile):
            return (tile @ minus_2_centers + sq_norms).argmin(axis=1).astype(namespace(self).int32)

        return collect(frame.map_tiles(labels_of, self, len(centers)), self.shape[0])

    def lloyd_step(self, sample_weight, centers, frame):
        labels = self.assign(centers, frame)
        return labels, *self.update(sample_weight, labels, len(centers), frame)

    def update(self, sample_weight, labels, n_clusters, frame):
        sums, weights = self.cluster_sums(labels, sample_weight, n_clusters)
        return sums if frame.shifted else sums - weights[:, None] * frame.origin, weights

    def share_that_pays(self, n_clusters, frame):
        """Always: the sums of clusters cost little beside comparing a row with all centers."""
        return 1.0

    def bounded_step(self, sample_weight, centers, labels, slack, path, sums, weights, frame):
        """Writes into labels, slack and, of SciPy's rows, once there are some, sums and weights."""
        xp = namespace(self)
        (active,) = xp.nonzero(slack <= path[xp.maximum(labels, 0)])  # synchronises: how many is a shape
        rows = self.some_rows(active)
        nearest_two = self._nearest_two(centers, frame)
        new, gap = xp.empty(len(active), dtype=xp.int32), xp.empty(len(active))
        for part, found in frame.map_tiles(nearest_two, rows, len(centers)) if len(active) else ():
            new[part], gap[part] = found
        old = labels[active]
        labels[active], slack[active] = new, gap + path[new]
        moves = active, old, new
        sums, weights = self._moved(sums, weights, moves, sample_weight, labels, len(centers), frame)
        return labels, slack, sums, weights, xp.count_nonzero(new != old), xp.asarray(len(active))

    def _nearest_two(self, centers, frame):
        """Function of rows and their tile: the nearest center, and how much farther the second is at least."""
        xp = namespace(self)
        minus_2_centers, sq_norms = _coefficients(centers, frame)
        largest = sq_norms + 4 * xp.vecdot(frame.origin, frame.origin)  # products are of rows relative to zero

        def of_tile(rows, tile):
            scores = tile @ minus_2_centers + sq_norms
            each, new = xp.arange(len(scores)), scores.argmin(axis=1)
            lowest = scores[each, new]
            scores[each, new] = xp.inf
            return new, sure_gap(tile, lowest, scores.min(axis=1), largest, frame.rounding, xp.float64)

        return of_tile

    def unit_rows(self, largest):
        """The rows divided by their norms, with new numbers. `largest` is the largest absolute value in each."""
        scaled = self.divided(largest)
        return scaled.divided(namespace(self).sqrt(scaled.sq_norms()))

    def _zero_or_origin(self):
        return namespace(self).zeros(self.shape[1]) if self._origin is None else self._origin


class ScipyRows(SparseRows):
    """Rows of SciPy, (n_samples, n_features)."""

    def __init__(self, matrix, origin=None):
        super().__init__(matrix.shape, matrix.dtype, matrix.data, origin)
        self.matrix = matrix

    def __getitem__(self, rows_and_all):
        """X[begin:end, :], without a copy of the numbers."""
        begin, end, _ = rows_and_all[0].indices(self.shape[0])
        places = self.matrix.indptr[begin : end + 1]
        stored = slice(places[0], places[-1])
        return self._of(self.matrix.data[stored], self.matrix.indices[stored], places - places[0])

    def as_given(self):
        return self.matrix

    def row_size(self):
        return _row_size(self.matrix.indptr)

    def map_slices(self, function, slices):
        return map(function, _even(self.matrix.indptr, slices))

    def take_rows(self, rows):
        return ScipyRows(self.matrix[rows], self._origin)

    def some_rows(self, numbers):
        """Rows by ascending numbers, for passes over them."""
        return self if len(numbers) == self.shape[0] else _SomeRows(self, numbers)

    def relative(self, origin, dtype):
        if self.dtype == np.float64:
            return self._at(origin, self.matrix)
        wide = self._of(self.matrix.data.astype(np.float64), self.matrix.indices, self.matrix.indptr)
        return wide._at(origin, wide.matrix)

    def sq_distances_to_own(self, labels, centers, frame):
        """At once: what takes memory goes piece by piece, and squares of the centers are summed once."""
        return self._at(None if frame.shifted else frame.origin, self.matrix).sq_distances_of_tile(labels, centers)

    def sq_distances_of_tile(self, labels, centers):
        """Feature by feature where a row has a number; where it has none, what is left of the center's squares."""
        origin, squares = self._zero_or_origin(), np.empty(self.shape[0])
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers too large, which the fit finds by their sum
            of_center = ((centers + origin) ** 2).sum(axis=1)
            for rows, data, indices, sizes in self._pieces():
                center, shift = centers.take(self._places(labels[rows], indices, sizes)), origin[indices]
                all_of_center = of_center[labels[rows]]
                left = all_of_center - _row_sums((center + shift) ** 2, sizes)
                is_left = (sizes < self.shape[1]) & (left > ROUNDING * all_of_center)
                squares[rows] = _row_sums((data - shift - center) ** 2, sizes) + np.where(is_left, left, 0.0)
        return squares

    def cluster_sums(self, labels, sample_weight, n_clusters):
        sums, weights = np.zeros((n_clusters, self.shape[1])), np.zeros(n_clusters)
        self.add_to(sums, weights, labels, sample_weight)
        return sums if self._origin is None else sums - weights[:, None] * self._origin, weights

    def add_to(self, sums, weights, labels, sample_weight):
        """Add weighted rows, relative to zero, to the sums of clusters."""
        flat = sums.reshape(-1)  # for which alone `add.at` is fast
        for rows, data, indices, sizes in self._pieces():
            np.add.at(flat, self._places(labels[rows], indices, sizes), data * np.repeat(sample_weight[rows], sizes))
        weights += np.bincount(labels, sample_weight, len(sums))

    def _moved(self, sums, weights, moves, sample_weight, labels, n_clusters, frame):
        """Sums after rows have changed cluster: those of these rows cost less than those of all."""
        active, old, new = moves
        if isinstance(sums, int):
            sums, weights = np.zeros((n_clusters, self.shape[1])), np.zeros(n_clusters)
        changed, moved_weights = new != old, np.zeros(n_clusters)
        for which, label, sign in ((changed, new, 1.0), (changed & (old >= 0), old, -1.0)):
            moved = np.flatnonzero(which)
            if len(moved):
                job = label[moved], sign * sample_weight[active[moved]]
                rows = self.some_rows(active[moved])
                for part, tile in frame.map_rows(lambda part, tile: tile, rows, 1):
                    tile.add_to(sums, moved_weights, *(values[part] for values in job))
        sums -= moved_weights[:, None] * (self._origin if frame.shifted else frame.origin)
        weights += moved_weights
        return sums, weights

    def largest(self):
        """Largest absolute value in each row."""
        found = np.zeros(self.shape[0], self.dtype)
        for rows, data, _, sizes in self._pieces():
            (some,) = np.nonzero(sizes)
            found[rows][some] = np.maximum.reduceat(np.abs(data), (np.cumsum(sizes) - sizes)[some])
        return found

    def unit_rows(self, largest):
        scaled = np.empty_like(self.matrix.data)
        for (rows, data, _, sizes), (_, out, _, _) in zip(self._pieces(), self._pieces(scaled), strict=True):
            data = data / np.repeat(largest[rows], sizes)
            norms = np.sqrt(_row_sums(data.astype(np.float64) ** 2, sizes)).astype(self.dtype)
            np.divide(data, np.repeat(norms, sizes), out=out)
        return self._of(scaled, self.matrix.indices, self.matrix.indptr)

    def _product(self, dense):
        return self.matrix @ dense

    def _product_with_rows(self, others):
        return (self.matrix @ others.matrix.T).toarray()

    def _dense(self):
        return self.matrix.toarray()

    def _pieces(self, data=None):
        """Yield slices of rows that together have few numbers, their numbers, the columns of these, how many a row has.

        The numbers are those of the matrix, or `data` in the same places.
        """
        data, indices, indptr = self.matrix.data if data is None else data, self.matrix.indices, self.matrix.indptr
        for rows in _cut(indptr, slice(0, self.shape[0]), NUMBERS):
            stored = slice(indptr[rows.start], indptr[rows.stop])
            yield rows, data[stored], indices[stored], np.diff(indptr[rows.start : rows.stop + 1])

    def _places(self, labels, indices, sizes):
        """Where in an array (n_clusters, n_features) that is read along its rows each number of some rows belongs."""
        return np.repeat(labels.astype(np.int64) * self.shape[1], sizes) + indices

    def _absolute_sq_norms(self):
        """Squared norms of the rows relative to zero."""
        squares = [_row_sums(data.astype(np.float64) ** 2, sizes) for _, data, _, sizes in self._pieces()]
        return np.concatenate(squares)

    def _at(self, origin, matrix):
        """These rows of a matrix, relative to an origin; None if they are already."""
        return ScipyRows(matrix, self._origin if origin is None else origin)

    def _of(self, data, indices, indptr):
        shape = len(indptr) - 1, self.shape[1]
        return ScipyRows(type(self.matrix)((data, indices, indptr), shape=shape), self._origin)


class _SomeRows(OtherRows):
    """Rows of `ScipyRows` by their numbers: a pass copies those of one tile."""

    def __init__(self, rows, numbers):
        super().__init__((len(numbers), rows.shape[1]), rows.dtype, rows.beside)
        self._rows, self._numbers = rows, numbers
        self._indptr = np.concatenate(([0], np.cumsum(np.diff(rows.matrix.indptr)[numbers])))

    def __getitem__(self, rows_and_all):
        return self._rows.take_rows(self._numbers[rows_and_all[0]])

    def row_size(self):
        return _row_size(self._indptr)

    def map_slices(self, function, slices):
        return map(function, _even(self._indptr, slices))


def _row_size(indptr):
    """Mean of the numbers a row."""
    return max(1, int(indptr[-1]) // (len(indptr) - 1))


def _even(indptr, slices):
    """Slices of rows, those cut that have clearly more numbers than as many rows have elsewhere."""
    for rows in slices:
        yield from _cut(indptr, rows, max(1, 5 * _row_size(indptr) * (rows.stop - rows.start) // 4))


def _cut(indptr, rows, most):
    """A slice of rows in slices that have at most `most` numbers, but for those of the last row."""
    begins = indptr[rows]
    cuts = np.flatnonzero(np.diff((begins - begins[0]) // most)) + 1 + rows.start
    return map(slice, [rows.start, *cuts.tolist()], [*cuts.tolist(), rows.stop])


def _row_sums(values, sizes):
    """Sums of values that stand row after row, of which there are so many in each."""
    return np.bincount(np.repeat(np.arange(len(sizes)), sizes), values, len(sizes))


class CupyRows(SparseRows):
    """Rows of CuPy, (n_samples, n_features), on their device.

    `stored` are numbers, their columns, and where the numbers of each row begin and end in these. So some of the rows
    are had without a copy of numbers and without waiting for the device, and numbers may stay float32.

    For the sums of clusters, the numbers are sorted by column once, and kept so beside those of the rows.
    """

    def __init__(self, stored, n_features, row_size, origin=None):
        super().__init__((len(stored[2]), n_features), stored[0].dtype, stored[0], origin)
        self._stored, self._row_size = stored, row_size

    @classmethod
    def of(cls, matrix):
        """The rows of a CSR matrix."""
        xp, n_rows = namespace(matrix.data), matrix.shape[0]
        stored = xp.ascontiguousarray(matrix.data), xp.ascontiguousarray(matrix.indices)  # kernels see no strides
        if matrix.has_canonical_format and not bool((matrix.data == 0).any()):
            indptr = matrix.indptr.astype(np.int64)
            stored = *stored, indptr[:-1], indptr[1:]
        else:
            stored = _cupy().canonical(*stored, matrix.indptr.astype(np.int64))
        return cls(stored, matrix.shape[1], max(1, len(stored[0]) // n_rows))

    def share_that_pays(self, n_clusters, frame):
        """Never: with bounds, the first twelve iterations took twice as long on an H100 (200,000 rows, k = 20)."""
        return 0.0

    def __getitem__(self, rows_and_all):
        """X[begin:end, :]."""
        return self.take_rows(rows_and_all[0])

    def as_given(self):
        return _cupy().matrix(self._stored, self.shape[1])

    def row_size(self):
        """Of all rows that these are some of."""
        return self._row_size

    def map_slices(self, function, slices):
        return backend_for("cupy").map_slices(self, function, slices)

    def take_rows(self, rows):
        data, indices, begin, end = self._stored
        return self._of((data, indices, begin[rows], end[rows]), self._origin)

    def some_rows(self, numbers):
        """Rows by ascending numbers, for passes over them."""
        return self if len(numbers) == self.shape[0] else self.take_rows(numbers)

    def relative(self, origin, dtype):
        return self._of(self._stored, self._origin if origin is None else origin)

    def sq_distances_of_tile(self, labels, centers):
        return _cupy().sq_distances_to_own(self._stored, self._zero_or_origin(), labels, centers, ROUNDING)

    def cluster_sums(self, labels, sample_weight, n_clusters):
        totals = namespace(self).zeros((n_clusters, self.shape[1] + 1))
        for rows, numbers in self._by_column:
            _cupy().add_sums(numbers, labels[rows], sample_weight[rows], totals)
        sums, weights = totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps
        return sums if self._origin is None else sums - weights[:, None] * self._origin, weights

    def _moved(self, sums, weights, moves, sample_weight, labels, n_clusters, frame):
        """Sums after rows have changed cluster: of all rows, whose numbers are sorted."""
        return self.update(sample_weight, labels, n_clusters, frame)

    def largest(self):
        """Largest absolute value in each row."""
        return _cupy().largest(self._stored)

    def divided(self, by):
        """The rows divided by a number each."""
        return self._of((_cupy().divided(self._stored, by), *self._stored[1:]), self._origin)

    @functools.cached_property
    def _by_column(self):
        """Slices of rows, and their numbers sorted by column; synchronises. In parts, for the memory of the sort."""
        n_rows = max(1, _cupy().MOST_NUMBERS // self._row_size)
        slices = [slice(begin, begin + n_rows) for begin in range(0, self.shape[0], n_rows)]
        return [(rows, _cupy().sorted_by_column(self[rows, :]._stored, self.shape[1])) for rows in slices]

    def _product(self, dense):
        return _cupy().multiply(self._stored, dense)

    def _product_with_rows(self, others):
        return _cupy().multiply_sparse(self._stored, others._stored, self.shape[1])

    def _dense(self):
        return _cupy().dense(self._stored, self.shape[1]).astype(self.dtype)

    def _absolute_sq_norms(self):
        """Squared norms of the rows relative to zero."""
        return self._of(self._stored, None).sq_norms()

    def _of(self, stored, origin):
        return CupyRows(stored, self.shape[1], self._row_size, origin)


def _cupy():
    """The passes over rows of CuPy. Loaded late, as they import CuPy."""
    return importlib.import_module("kmeans_xp.backends._cupy_sparse")


def _coefficients(centers, frame):
    """`steps.coefficients`, contiguous and float64: they would be copied in each product."""
    minus_2_centers, sq_norms = steps.coefficients(centers, frame)
    return namespace(centers).ascontiguousarray(minus_2_centers, dtype=np.float64), sq_norms


def as_given(X):
    """Validated rows as a user has them: an array, or a CSR matrix."""
    return X.as_given() if isinstance(X, SparseRows) else X
