"""The frame of reference in which rows are seen: coordinates, rounding, and tiles of rows."""

from dataclasses import dataclass, replace
from typing import Any

from kmeans_xp.arrays import accumulator, collect, namespace, result_dtype
from kmeans_xp.nearest import nearest, nearest_by_differences
from kmeans_xp.rows import StoredRows
from kmeans_xp.rows.array import dense, map_slices, relative, row_size


@dataclass(frozen=True)
class Frame:
    """The frame of reference in which a pass sees the rows.

    Distances are computed as ||x||² - 2 x·c + ||c||², which loses digits where the rows lie far from zero. So
    everything is relative to an origin amid the rows, and the difference is taken tile by tile: X is never copied.
    """

    origin: Any  # (n_features,) float64, representable in `dtype`
    spread: float  # weighted mean of the squared distance of a row from the origin
    dtype: Any  # of the centers that are returned: `result_dtype` of the rows
    distance_dtype: Any  # in which rows and centers are compared
    tile_bytes: int
    shifted: bool = False  # the rows that it is used for are relative to the origin already

    @property
    def exact(self):
        """The same, in which distances are compared in float64."""
        return replace(self, distance_dtype=self.origin.dtype)

    @property
    def is_ordinary(self):
        """Whether distances may be compared in float32."""
        return is_ordinary(self.spread)

    def map_tiles(self, function, X, n_clusters, dtype=None):
        """Yield slices of rows and `function(rows, tile)` for them, in order; tiles are relative to the origin."""
        dtype = dtype or self.distance_dtype
        return self.map_rows(lambda rows, X: function(rows, self.shift(X, dtype)), X, n_clusters)

    @property
    def rounding(self):
        """Bounds the rounding error of a squared distance: at most this times ||x||² + ||c||².

        That of a score is below (n_features + 8) eps (||x||² + ||c||²), see `doubt`. 20 times that keeps the lead of
        the own center larger than the errors of two scores for as long as a slack lasts, when norms may have doubled.
        """
        return 20 * (self.origin.shape[0] + 8) * float(namespace(self.origin).finfo(self.distance_dtype).eps)

    @property
    def doubt(self):
        """Which of two scores is lower is sure if they differ by more than this times ||x||² + ||c||².

        c is the center of the lower one, and the other one is a lower bound, see `coefficients`. The error of a score
        is at most (n_features / 2 + 4) eps (||x||² + ||c||²): that of products is n_features / 2, as |x·c| is at most
        half of the squares; the rest of rounding rows, centers, ||c||² and the sum. Twice that for two scores, and 2
        for the comparison itself.
        """
        return doubt_in(self.distance_dtype, self.origin)

    def nearest(self, X, centers):
        """Index of the nearest center of each row, for which scores in `distance_dtype` leave doubts, int32."""
        if self.distance_dtype == self.origin.dtype:
            return nearest_by_differences(X, centers, self)
        labels_of = nearest(centers, self.exact)
        return collect(self.map_rows(lambda rows, X: labels_of(X), X, centers.shape[0]), X.shape[0])

    def shift(self, X, dtype):
        """Rows relative to the origin."""
        return relative(X, None if self.shifted else self.origin, dtype)

    def shift_once(self, X, dtype):
        """X and its frame for many passes: a small X that is no array is shifted now instead of in each of them.

        Not if that rounds, as rows that are compared exactly must be those of X.
        """
        if not isinstance(X, StoredRows) or 8 * X.shape[0] * X.shape[1] > self.tile_bytes or dtype != self.origin.dtype:
            return X, self
        return self.shift(X, dtype), replace(self, shifted=True)

    def map_rows(self, function, X, n_clusters):
        """Yield slices of rows and `function(rows, X[rows])` for them, in their order.

        The rows are few enough that temporaries fit in `tile_bytes`. The slices depend on nothing but the shapes, so
        that the same rows give the same bits in every pass.
        """
        n_samples = X.shape[0]
        bytes_per_row = 8 * (4 * n_clusters + 3 * row_size(X))  # of lloyd_step, the hungriest, in float64
        # Some 16 tiles for threads to share, if that leaves them large enough
        tile_bytes = min(self.tile_bytes, max(self.tile_bytes // 4, n_samples * bytes_per_row // 16))
        n_rows = max(1, tile_bytes // bytes_per_row)
        slices = [slice(start, min(start + n_rows, n_samples)) for start in range(0, n_samples, n_rows)]

        return map_slices(X, lambda rows: (rows, function(rows, X[rows, :])), slices)

    def enter(self, centers):
        """Centers relative to the origin, (n_clusters, n_features) float64."""
        return relative(dense(centers), self.origin, self.origin.dtype)

    def sq_rounding(self, centers):
        """Squared distance up to which a row may lie on each of the centers, which are rounded: (n_clusters,)."""
        xp, absolute = namespace(centers), centers + self.origin
        eps = float(xp.finfo(self.dtype).eps)
        return (4 * eps) ** 2 * (xp.vecdot(centers, centers) + xp.vecdot(absolute, absolute))

    def leave(self, centers):
        """Centers relative to zero, in `dtype`."""
        xp = namespace(centers)
        return xp.astype(centers + self.origin, self.dtype)

    def rounded(self, centers):
        """Centers as `leave` returns them, so that labels and distances are exactly those of what is returned."""
        return self.enter(self.leave(centers))


def doubt_in(dtype, origin):
    """`Frame.doubt` where distances are compared in `dtype`, for as many features as an origin has."""
    return (origin.shape[0] + 10) * float(namespace(origin).finfo(dtype).eps)


def frame_at(origin, spread, like, tile_bytes):
    """The frame around `origin` for rows like those of the array `like`. The other arguments are those of `Frame`."""
    xp, dtype = namespace(like), result_dtype(like)
    if origin.dtype != dtype:
        origin = xp.astype(xp.astype(origin, dtype), accumulator(like))
    return Frame(origin, spread, dtype, dtype if is_ordinary(spread) else origin.dtype, tile_bytes)


def is_ordinary(spread):
    """Whether squared distances may be float32: squares of its numbers leave its range beyond about 1e±19."""
    return spread == 0 or 1e-18 < spread < 1e18
