"""Rows of a CSR matrix, which are never made dense: what the libraries do alike.

To subtract an origin would fill the rows. So it is kept beside them, and taken into account in what is computed:
(x - o)·c = x·c - o·c. The numbers are float64, as digits are lost where rows lie far from zero for their spread.
"""

import numpy as np

from kmeans_xp.arrays import collect, namespace
from kmeans_xp.bounds import sure_gap
from kmeans_xp.nearest import coefficients
from kmeans_xp.rows import StoredRows

ROUNDING = 100 * np.finfo(np.float64).eps  # of squares summed by difference, beside what they are part of


class SparseRows(StoredRows):
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

    def bounded_step(self, sample_weight, centers, bounds, totals, frame):
        """Writes into labels, slack and, of SciPy's rows, once there are some, sums and weights."""
        xp, (labels, slack, path) = namespace(self), bounds
        (active,) = xp.nonzero(slack <= path[xp.maximum(labels, 0)])  # synchronises: how many is a shape
        rows = self.some_rows(active)
        nearest_two = self._nearest_two(centers, frame)
        new, gap = xp.empty(len(active), dtype=xp.int32), xp.empty(len(active))
        for part, found in frame.map_tiles(nearest_two, rows, len(centers)) if len(active) else ():
            new[part], gap[part] = found
        old = labels[active]
        labels[active], slack[active] = new, gap + path[new]
        moves = active, old, new
        sums, weights = self._moved(totals, moves, sample_weight, labels, len(centers), frame)
        return labels, slack, sums, weights, xp.count_nonzero(new != old), xp.asarray(len(active))

    def _nearest_two(self, centers, frame):
        """Function of rows and their tile: the nearest center, and how much farther the second is at least."""
        xp = namespace(self)
        minus_2_centers, sq_norms = _coefficients(centers, frame)
        largest = sq_norms + 4 * xp.vecdot(frame.origin, frame.origin)  # products are of rows relative to zero
        rounding = frame.exact.rounding  # scores are float64, whatever the rows are

        def of_tile(rows, tile):
            scores = tile @ minus_2_centers + sq_norms
            each, new = xp.arange(len(scores)), scores.argmin(axis=1)
            lowest = scores[each, new]
            scores[each, new] = xp.inf
            return new, sure_gap(tile, lowest, scores.min(axis=1), largest, rounding, xp.float64)

        return of_tile

    def scaled(self, most):
        """The rows divided by their norms, with new numbers."""
        scaled = self.divided(most)
        return scaled.divided(namespace(self).sqrt(scaled.sq_norms()))

    def _moved_origin(self, origin):
        """The origin, relative to zero, of these rows less an origin or None."""
        return self._origin if origin is None else origin if self._origin is None else self._origin + origin

    def _zero_or_origin(self):
        return namespace(self).zeros(self.shape[1]) if self._origin is None else self._origin


def _coefficients(centers, frame):
    """`nearest.coefficients`, contiguous and float64: they would be copied in each product."""
    minus_2_centers, sq_norms = coefficients(centers, frame.exact)
    return namespace(centers).ascontiguousarray(minus_2_centers, dtype=np.float64), sq_norms
