"""Rows of CuPy's CSR matrices, by kernels of our own: cuSPARSE makes no promise that results are the same bits."""

import functools
import importlib

import numpy as np

from kmeans_xp.arrays import namespace
from kmeans_xp.backends import backend_for
from kmeans_xp.rows.csr import ROUNDING, SparseRows


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
        """As for arrays: where there is a backend, it halves a slice for which the device has no memory."""
        backend = backend_for("cupy")
        return map(function, slices) if backend is None else backend.map_slices(self, function, slices)

    def take_rows(self, rows):
        data, indices, begin, end = self._stored
        return self._of((data, indices, begin[rows], end[rows]), self._origin)

    def joined(self, *others):
        data, indices, *_ = self._stored
        begin, end = (namespace(self).concat([rows._stored[i] for rows in (self, *others)]) for i in (2, 3))
        return self._of((data, indices, begin, end), self._origin)

    def some_rows(self, numbers):
        """Rows by ascending numbers, for passes over them."""
        return self if len(numbers) == self.shape[0] else self.take_rows(numbers)

    def relative(self, origin, dtype):
        return self._of(self._stored, self._moved_origin(origin))

    def sq_distances_of_tile(self, labels, centers):
        return _cupy().sq_distances_to_own(self._stored, self._zero_or_origin(), labels, centers, ROUNDING)

    def cluster_sums(self, labels, sample_weight, n_clusters):
        totals = namespace(self).zeros((n_clusters, self.shape[1] + 1))
        for rows, numbers in self._by_column:
            _cupy().add_sums(numbers, labels[rows], sample_weight[rows], totals)
        sums, weights = totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps
        return sums if self._origin is None else sums - weights[:, None] * self._origin, weights

    def _moved(self, totals, moves, sample_weight, labels, n_clusters, frame):
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
    return importlib.import_module("kmeans_xp.rows._cupy_kernels")
