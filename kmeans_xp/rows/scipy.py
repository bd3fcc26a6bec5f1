"""Rows of SciPy's CSR matrices."""

import functools

import numpy as np
from scipy.sparse import vstack

from kmeans_xp.backends import backend_for
from kmeans_xp.rows import StoredRows
from kmeans_xp.rows.csr import ROUNDING, SparseRows

NUMBERS = 2**14  # that are looked at at a time: what some 50 bytes each take stays in the processor's cache


def _in_backend(step):
    """The native step of that name for rows of SciPy, in place of `step`, where NumPy's backend has one."""
    name = step.__name__

    @functools.wraps(step)
    def method(rows, *args):
        native = getattr(backend_for("numpy"), "for_scipy", None)
        return step(rows, *args) if native is None else getattr(native, name)(rows, *args)

    return method


class ScipyRows(SparseRows):
    """Rows of SciPy, (n_samples, n_features)."""

    assign, lloyd_step, bounded_step, update = map(
        _in_backend, (SparseRows.assign, SparseRows.lloyd_step, SparseRows.bounded_step, SparseRows.update)
    )

    def __init__(self, matrix, origin=None):
        super().__init__(matrix.shape, matrix.dtype, matrix.data, origin)
        self.matrix = matrix

    def __getitem__(self, rows_and_all):
        """X[begin:end, :], without a copy of the numbers."""
        begin, end, _ = rows_and_all[0].indices(self.shape[0])
        places = self.matrix.indptr[begin : end + 1]
        stored = slice(places[0], places[-1])
        return self._of(self.matrix.data[stored], self.matrix.indices[stored], places - places[0])

    @property
    def size(self):
        """How many numbers are stored."""
        return len(self.matrix.data)

    def stored(self, frame):
        """Numbers, their columns and where each row begins among them; the origin that a frame sees the rows from."""
        numbers = self.matrix.data, self.matrix.indices, self.matrix.indptr.astype(np.int64, copy=False)
        return numbers, self._zero_or_origin() if frame.shifted else self._moved_origin(frame.origin)

    def as_given(self):
        return self.matrix

    def row_size(self):
        return _row_size(self.matrix.indptr)

    def map_slices(self, function, slices):
        return map(function, _even(self.matrix.indptr, slices))

    def take_rows(self, rows):
        return ScipyRows(self.matrix[rows], self._origin)

    def joined(self, *others):
        return ScipyRows(vstack([rows.matrix for rows in (self, *others)], format="csr"), self._origin)

    def some_rows(self, numbers):
        """Rows by ascending numbers, for passes over them."""
        return self if len(numbers) == self.shape[0] else _SomeRows(self, numbers)

    def relative(self, origin, dtype):
        matrix = self.matrix
        if self.dtype != np.float64:
            matrix = self._matrix(matrix.data.astype(np.float64), matrix.indices, matrix.indptr)
        return ScipyRows(matrix, self._moved_origin(origin))

    @_in_backend
    def iterations(self, *_):
        return NotImplemented

    @_in_backend
    def sq_distances_to_own(self, labels, centers, frame):
        """At once: what takes memory goes piece by piece, and squares of the centers are summed once."""
        rows = self if frame.shifted else ScipyRows(self.matrix, self._moved_origin(frame.origin))
        return rows.sq_distances_of_tile(labels, centers)

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

    def _moved(self, totals, moves, sample_weight, labels, n_clusters, frame):
        """Sums after rows have changed cluster: those of these rows cost less than those of all."""
        (sums, weights), (active, old, new) = totals, moves
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
        sums -= moved_weights[:, None] * (self._origin if frame.shifted else self._moved_origin(frame.origin))
        weights += moved_weights
        return sums, weights

    def largest(self):
        """Largest absolute value in each row."""
        found = np.zeros(self.shape[0], self.dtype)
        for rows, data, _, sizes in self._pieces():
            (some,) = np.nonzero(sizes)
            found[rows][some] = np.maximum.reduceat(np.abs(data), (np.cumsum(sizes) - sizes)[some])
        return found

    def scaled(self, most):
        scaled = np.empty_like(self.matrix.data)
        for (rows, data, _, sizes), (_, out, _, _) in zip(self._pieces(), self._pieces(scaled), strict=True):
            data = data / np.repeat(most[rows], sizes)
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

    def _of(self, *numbers):
        """Rows of other numbers, relative to the same origin."""
        return ScipyRows(self._matrix(*numbers), self._origin)

    def _matrix(self, data, indices, indptr):
        return type(self.matrix)((data, indices, indptr), shape=(len(indptr) - 1, self.shape[1]))


class _SomeRows(StoredRows):
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
