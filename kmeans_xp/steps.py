"""The steps of Lloyd's iteration in the pure Array API: the specification that every backend is held to.

All of them look at the rows through a `Frame`, and take and return centers relative to its origin.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from kmeans_xp.arrays import accumulator, collect, data_decide_shapes, device, namespace, result_dtype, to_floats
from kmeans_xp.backends import replaceable
from kmeans_xp.rows import primitive

TOO_LARGE = "X spans values whose squared distances are too large for float64. Divide it by a constant."


@replaceable
def own_threads(X, n_clusters):
    """Context of a whole job on X, in which the passes have the threads of the processor to themselves."""
    return nullcontext()


@primitive
def dense(X):
    """Rows as an array: itself, if it is one."""
    return X


@primitive
def row_size(X):
    """How many numbers a row takes."""
    return X.shape[1]


@primitive
def relative(X, origin, dtype):
    """Rows less an origin, in `dtype`; None for 0, as of rows that are relative to it already."""
    xp = namespace(X)
    X = xp.astype(X, dtype, copy=False)
    return X if origin is None else X - xp.astype(origin, dtype)


@replaceable
@primitive
def map_slices(X, function, slices):
    """Yield `function(rows)` for each of the slices of the rows of X, in order."""
    return map(function, slices)


@dataclass(frozen=True)
class Frame:
    """The frame of reference in which a pass sees the rows.

    Distances are computed as ||x||² - 2 x·c + ||c||², which loses digits where the rows lie far from zero. So
    everything is relative to an origin amid the rows, and the difference is taken tile by tile: X is never copied.
    """

    origin: Any  # (n_features,) float64, representable in `dtype`
    spread: float  # weighted mean of the squared distance of a row from the origin
    dtype: Any  # of the centers that are returned: that of the rows, or float32 for half precision
    distance_dtype: Any  # in which rows and centers are compared
    tile_bytes: int
    work: int  # n_samples * n_features * n_clusters of the whole job: passes over a sample of it use the same methods
    shifted: bool = False  # the rows that it is used for are relative to the origin already
    spherical: bool = False  # rows and centers have norm 1, and half a squared distance is 1 - cos

    def map_tiles(self, function, X, n_clusters, dtype=None):
        """A pass: yield slices of rows and `function(rows, tile)` for them, in the order of the rows.

        A tile is those rows relative to the origin.
        """
        dtype = dtype or self.distance_dtype
        return self.map_rows(lambda rows, X: function(rows, self.shift(X, dtype)), X, n_clusters)

    @property
    def rounding(self):
        """Bounds the rounding error of a squared distance: at most this times ||x||² + ||c||².

        The error of a score is at most about (n_features + 8) eps (||x||² + ||c||²). 20 times that keeps the lead of
        the own center larger than the errors of two scores for as long as a slack lasts, when norms may have doubled.
        """
        return 20 * (self.origin.shape[0] + 8) * float(namespace(self.origin).finfo(self.distance_dtype).eps)

    @property
    def doubt(self):
        """Which of two scores is lower is sure if they differ by more than this times ||x||² + ||c||².

        c is the center of the lower one, and the other one is a lower bound, see `coefficients`. The error of a score
        is at most (n_features / 2 + 4) eps (||x||² + ||c||²): that of products is n_features / 2, as |x·c| is at most
        half of the squares; the rest of rounding rows, centers, ||c||² and the sum. 1 more for the comparison itself.
        """
        return (self.origin.shape[0] + 10) * float(namespace(self.origin).finfo(self.distance_dtype).eps)

    def nearest(self, X, centers):
        """Index of the nearest center of each row, for which scores in `distance_dtype` leave doubts, int32."""
        if self.distance_dtype == self.origin.dtype:
            return nearest_by_differences(X, centers, self)
        return assign.portable(X, centers, replace(self, distance_dtype=self.origin.dtype))

    def shift(self, X, dtype):
        """Rows relative to the origin."""
        return relative(X, None if self.shifted else self.origin, dtype)

    def shift_once(self, X, dtype):
        """X and its frame for many passes: a small X is shifted now instead of in each of them.

        Not if that rounds, as rows that are compared exactly must be those of X.
        """
        if 8 * X.shape[0] * X.shape[1] > self.tile_bytes or dtype != self.origin.dtype:
            return X, self
        return self.shift(X, dtype), replace(self, shifted=True)

    def map_rows(self, function, X, n_clusters):
        """The same with the rows as they stand: yield slices and `function(rows, X[rows])`.

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

    def settle(self, centers, centers_old):
        """Centers as `leave` returns them: rounded, so that labels and distances are exactly those of what is returned.

        In a spherical frame they are scaled to norm 1; one in the middle of the sphere has no direction and stays.
        """
        if self.spherical:
            xp = namespace(centers)
            centers = centers + self.origin
            norms = xp.linalg.vector_norm(centers, axis=1)[:, None]
            scaled = centers / xp.where(norms > 0, norms, xp.ones_like(norms)) - self.origin
            centers = xp.where(norms > 0, scaled, centers_old)
        return self.enter(self.leave(centers))

    def cost(self, sq_distances):
        """What is minimised: squared distances, or the cosine distances 1 - cos that belong to them."""
        return sq_distances / 2 if self.spherical else sq_distances

    def distance(self, sq_distances):
        """Distances in the metric: Euclidean or cosine ones."""
        return self.cost(sq_distances) if self.spherical else namespace(sq_distances).sqrt(sq_distances)

    def sq_rounding(self, centers):
        """Squared distance up to which a row may lie on each of the centers, which are rounded: (n_clusters,)."""
        xp, absolute = namespace(centers), centers + self.origin
        eps = float(xp.finfo(self.dtype).eps)
        return (4 * eps) ** 2 * (xp.vecdot(centers, centers) + xp.vecdot(absolute, absolute))

    def leave(self, centers):
        """Centers relative to zero, in `dtype`."""
        xp = namespace(centers)
        return xp.astype(centers + self.origin, self.dtype)


def frame_at(origin, spread, like, work, tile_bytes):
    """The frame around `origin` for rows like those of the array `like`. The other arguments are those of `Frame`."""
    xp, dtype = namespace(like), result_dtype(like)
    origin = xp.astype(xp.astype(origin, dtype), accumulator(like))
    # Squares of float32 numbers leave its range beyond about 1e±19.
    ordinary = spread == 0 or 1e-18 < spread < 1e18
    return Frame(origin, spread, dtype, dtype if ordinary else origin.dtype, tile_bytes, work)


def one_cluster(X):
    """Labels that say that all rows belong together, (n_samples,) int32."""
    xp = namespace(X)
    return xp.zeros(X.shape[0], dtype=xp.int32, device=device(X))


def in_unit(sample_weight):
    """Weights in their unit, so that products with squares stay in the range of floats, and the unit; synchronises."""
    unit = weight_unit(*to_floats(namespace(sample_weight).max(sample_weight)))
    return sample_weight if unit == 1 else sample_weight / unit, unit


def weight_unit(largest):
    """The power of two that is nearest below the largest weight: to divide by it and to multiply again is exact."""
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0


def moments(X, sample_weight, n_clusters, tile_bytes):
    """The frame around the weighted mean of the rows, its spread the total variance of the columns."""
    xp = namespace(X)
    labels = one_cluster(X)
    zero = xp.zeros((1, X.shape[1]), dtype=sample_weight.dtype, device=device(X))
    job = X, X.shape[0] * X.shape[1] * n_clusters, tile_bytes
    sums, weights = update(X, sample_weight, labels, 1, frame_at(zero[0, :], 0.0, *job))
    mean = sums[0, :] / weights[0]
    squares = sq_distances_to_own(X, labels, zero, frame_at(mean, 0.0, *job))
    return frame_at(mean, float(xp.sum(sample_weight * squares) / weights[0]), *job)


def coefficients(centers, frame):
    """-2 c, (n_features, n_clusters), and ||c||², (n_clusters,), which give the score -2 x·c + ||c||² of a row.

    The score is the squared distance less ||x||², so that the nearest center has the lowest. ||c||² is too small by
    what rounding may add to it: a score is then a lower bound, but for what rounding does to ||x||².
    """
    xp = namespace(centers)
    sq_centers = xp.astype(xp.vecdot(centers, centers) * (1 - frame.doubt / 2), frame.distance_dtype)
    # Too large for the dtype: no score is sure then
    sq_centers = xp.where(sq_centers < xp.inf, sq_centers, xp.full_like(sq_centers, xp.nan))
    return xp.astype(-2 * centers.T, frame.distance_dtype), sq_centers


def nearest(centers, frame):
    """A function of rows, not relative to the origin: the index of the nearest center of each, (n_rows,) int32.

    Of equally near centers the first. Scores decide where rounding leaves no doubt.
    """
    given = *coefficients(centers, frame), centers, frame
    return lambda X: nearest_two(X, frame.shift(X, frame.distance_dtype), *given)[0]


def nearest_two(X, tile, minus_2_centers, sq_centers, centers, frame):
    """Index of the nearest center of each row, and the lowest and second lowest score, (n_rows,) each.

    `tile` are the rows relative to the origin.
    """
    xp = namespace(tile)
    scores = tile @ minus_2_centers + sq_centers
    labels = xp.astype(xp.argmin(scores, axis=1), xp.int32)
    own = xp.arange(sq_centers.shape[0], dtype=xp.int32, device=device(tile))[None, :] == labels[:, None]
    lowest = xp.min(scores, axis=1)
    second = xp.min(xp.where(own, xp.full_like(scores, xp.inf), scores), axis=1)
    # Not a number, where rows are too large for the dtype, leaves a doubt too
    doubtful = ~(second - lowest > frame.doubt * (sq_norms(tile) + xp.take(sq_centers, labels)))
    if bool(xp.any(doubtful)):  # synchronises
        if data_decide_shapes(X):
            labels = put(labels, doubtful, frame.nearest(take_rows(X, xp.nonzero(doubtful)[0]), centers))
        else:
            labels = xp.where(doubtful, frame.nearest(X, centers), labels)
    return labels, lowest, second


def put(values, mask, new):
    """`values` with the `new` ones, in their order, where the mask is true: the standard has no way to write there."""
    xp = namespace(values)
    places = xp.maximum(xp.cumulative_sum(xp.astype(mask, xp.int32)) - 1, xp.zeros_like(mask, dtype=xp.int32))
    return xp.where(mask, xp.take(new, places), values)


def nearest_by_differences(X, centers, frame):
    """The same as `nearest`, from differences in float64, added in the same order on every library.

    The rivals a of the center b that has the lowest sum of squared differences are compared with it by
    ||x - a||² - ||x - b||² = (a - b)·((a - x) + (b - x)), which keeps its digits for rows far away from both.
    """
    xp, labels = namespace(X), []
    n_rows = max(1, int(frame.tile_bytes // (32 * centers.shape[0] * centers.shape[1])))
    for start in range(0, X.shape[0], n_rows):
        rows = frame.shift(X[start : min(start + n_rows, X.shape[0]), :], centers.dtype)
        apart = centers[None, :, :] - rows[:, None, :]  # (n_rows, n_clusters, n_features)
        lowest = xp.argmin(row_sums(apart * apart), axis=1)
        best = xp.take(centers, lowest, axis=0)
        rivals = row_sums((centers[None, :, :] - best[:, None, :]) * (apart + (best - rows)[:, None, :]))
        # What is no number itself is found by the inertia
        if bool(xp.any(xp.isfinite(largest(rows)) & ~xp.all(xp.isfinite(rivals), axis=1))):
            raise ValueError(TOO_LARGE)
        labels.append(xp.astype(xp.argmin(rivals, axis=1), xp.int32))
    return xp.concat(labels)


def row_sums(values):
    """Sums along the last axis, of halves with halves: the same bits on every library and in any layout."""
    odd = namespace(values).zeros_like(values[..., 0])
    while (n_columns := values.shape[-1]) > 1:
        if n_columns % 2:
            odd = odd + values[..., -1]
        values = values[..., : n_columns // 2] + values[..., n_columns // 2 : n_columns // 2 * 2]
    return values[..., 0] + odd


@replaceable
@primitive
def assign(X, centers, frame):
    """Index of the nearest center of each row, (n_samples,) int32; of equally near ones the first."""
    labels_of = nearest(centers, frame)
    tiles = frame.map_rows(lambda rows, X: labels_of(X), X, centers.shape[0])
    return collect(tiles, X.shape[0])


@primitive
def cluster_sums(X, labels, sample_weight, n_clusters):
    """Weighted sum of the rows of each cluster, and its weight.

    X (n_samples, n_features), labels (n_samples,) int32, sample_weight (n_samples,) float64
    -> sums (n_clusters, n_features), weights (n_clusters,), both float64
    """
    xp = namespace(X)
    clusters = xp.arange(n_clusters, dtype=labels.dtype, device=device(X))
    dtype = sample_weight.dtype
    membership = xp.astype(clusters[:, None] == labels[None, :], dtype) * sample_weight[None, :]
    return membership @ xp.astype(X, dtype), xp.sum(membership, axis=1)


@replaceable
@primitive
def lloyd_step(X, sample_weight, centers, frame):
    """Assign the rows to `centers` and sum them per cluster, in one pass: labels, sums, weights."""
    labels_of = nearest(centers, frame)
    return _sum_clusters(X, sample_weight, lambda rows, X: labels_of(X), centers.shape[0], frame)


@replaceable
@primitive
def update(X, sample_weight, labels, n_clusters, frame):
    """Sums and weights of given clusters: the second half of `lloyd_step`."""
    return _sum_clusters(X, sample_weight, lambda rows, X: labels[rows], n_clusters, frame)[1:]


def _sum_clusters(X, sample_weight, labels_of, n_clusters, frame):
    """Label some rows after the other by `labels_of(slice, rows)` and sum their clusters: labels, sums, weights."""

    def sum_tile(rows, X):
        labels, tile = labels_of(rows, X), frame.shift(X, frame.origin.dtype)  # float32 would round far from zero
        return labels, *cluster_sums(tile, labels, sample_weight[rows], n_clusters)

    labels, sums, weights = [], 0, 0
    for _, (tile_labels, tile_sums, tile_weights) in frame.map_rows(sum_tile, X, n_clusters):
        labels.append(tile_labels)
        sums = sums + tile_sums
        weights = weights + tile_weights
    return namespace(X).concat(labels), sums, weights


@replaceable
@primitive
def sq_distances_to_own(X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster, (n_samples,) float64, summed directly."""

    def to_own(rows, tile):
        return sq_distances_of_tile(tile, labels[rows], centers)

    return collect(frame.map_tiles(to_own, X, 1, centers.dtype), X.shape[0])


@primitive
def sq_distances_of_tile(tile, labels, centers):
    """`sq_distances_to_own` for one tile."""
    xp = namespace(tile)
    difference = tile - xp.take(centers, labels, axis=0)
    return xp.vecdot(difference, difference)


@primitive
def sq_norms(tile):
    """Squared norm of each row."""
    return namespace(tile).vecdot(tile, tile)


@primitive
def largest(X):
    """Largest absolute value in each row."""
    xp = namespace(X)
    return xp.max(xp.abs(X), axis=1)


@primitive
def take_rows(X, rows):
    """Rows of X by their numbers."""
    return namespace(X).take(X, rows, axis=0)


@replaceable
@primitive
def sq_distances_to(X, rows, frame):
    """Squared distances of every row of X from a few of them, (n_rows, n_samples) float64, never negative."""
    points = frame.shift(take_rows(X, rows), frame.origin.dtype)
    blocks = frame.map_tiles(lambda _, tile: sq_distances(points, tile), X, points.shape[0], points.dtype)
    return collect(blocks, X.shape[0], axis=1)


@primitive
def sq_distances(tile, centers):
    """Squared distances between rows and centers, (n_rows, n_clusters), never negative."""
    xp = namespace(tile)
    squares = sq_norms(tile)[:, None] - 2 * (tile @ centers.T) + xp.vecdot(centers, centers)[None, :]
    return xp.maximum(squares, xp.zeros_like(squares[0, 0]))


@replaceable
def distances(X, centers, frame):
    """Euclidean distances between rows and centers, (n_samples, n_clusters), in `frame.dtype`.

    That from the nearest center is summed directly, so that a row on its center is at distance 0.
    """
    xp = namespace(X)
    clusters = xp.arange(centers.shape[0], device=device(X))

    def to_all(rows, tile):
        squares = sq_distances(tile, centers)
        closest = xp.argmin(squares, axis=1)
        own = sq_distances_of_tile(tile, closest, centers)[:, None]
        squares = xp.where(clusters[None, :] == closest[:, None], own, squares)
        return xp.astype(xp.sqrt(squares), frame.dtype)

    return collect(frame.map_tiles(to_all, X, centers.shape[0], centers.dtype), X.shape[0])


@replaceable
def count_distinct(labels):
    """How many different labels there are."""
    xp = namespace(labels)
    labels = xp.sort(labels)
    return 1 + int(xp.count_nonzero(labels[1:] != labels[:-1]))
