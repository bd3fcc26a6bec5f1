"""The steps of Lloyd's iteration in the pure Array API: the specification that every backend is held to.

All of them look at the rows through a `Frame`, and take and return centers relative to its origin.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from kmeans_xp.arrays import accumulator, collect, device, namespace, result_dtype
from kmeans_xp.backends import replaceable


@replaceable
def own_threads(X, n_clusters):
    """Context of a whole job on X, in which the passes have the threads of the processor to themselves."""
    return nullcontext()


@replaceable
def dense(X):
    """Rows as an array: itself, if it is one."""
    return X


@replaceable
def row_size(X):
    """How many numbers a row takes."""
    return X.shape[1]


@replaceable
def relative(X, origin, dtype):
    """Rows, in `dtype`, relative to an origin; None if they are already."""
    xp = namespace(X)
    X = xp.astype(X, dtype, copy=False)
    return X if origin is None else X - xp.astype(origin, dtype)


@replaceable
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

    def shift(self, X, dtype):
        """Rows relative to the origin."""
        return relative(X, None if self.shifted else self.origin, dtype)

    def shift_once(self, X, dtype):
        """X and its frame for many passes: a small X is shifted now instead of in each of them."""
        if 8 * X.shape[0] * X.shape[1] > self.tile_bytes:
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

    The score is the squared distance less ||x||², so that the nearest center has the lowest.
    """
    xp = namespace(centers)
    sq_norms = xp.vecdot(centers, centers)
    return xp.astype(-2 * centers.T, frame.distance_dtype), xp.astype(sq_norms, frame.distance_dtype)


def nearest(centers, frame):
    """A function of rows and their tile: the index of the nearest center of each, ties to the lowest index."""
    minus_2_centers, sq_norms = coefficients(centers, frame)
    return lambda rows, tile: lowest_score(tile, minus_2_centers, sq_norms)


def lowest_score(X, minus_2_centers, sq_norms):
    """Index of the lowest score of each row, (n_rows,) int32."""
    xp = namespace(X)
    return xp.astype(xp.argmin(X @ minus_2_centers + sq_norms, axis=1), xp.int32)


@replaceable
def assign(X, centers, frame):
    """Index of the nearest center of each row, (n_samples,) int32."""
    labels_of = nearest(centers, frame)
    return collect(frame.map_tiles(labels_of, X, centers.shape[0]), X.shape[0])


@replaceable
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
def lloyd_step(X, sample_weight, centers, frame):
    """Assign the rows to `centers` and sum them per cluster, in one pass: labels, sums, weights."""
    return _sum_clusters(X, sample_weight, nearest(centers, frame), centers.shape[0], frame)


@replaceable
def update(X, sample_weight, labels, n_clusters, frame):
    """Sums and weights of given clusters: the second half of `lloyd_step`."""
    return _sum_clusters(X, sample_weight, lambda rows, tile: labels[rows], n_clusters, frame)[1:]


def _sum_clusters(X, sample_weight, labels_of, n_clusters, frame):
    """Label each tile by `labels_of(rows, tile)` and sum its clusters: labels, sums, weights."""

    def sum_tile(rows, tile):
        labels = labels_of(rows, tile)
        return labels, *cluster_sums(tile, labels, sample_weight[rows], n_clusters)

    labels, sums, weights = [], 0, 0
    for _, (tile_labels, tile_sums, tile_weights) in frame.map_tiles(sum_tile, X, n_clusters):
        labels.append(tile_labels)
        sums = sums + tile_sums
        weights = weights + tile_weights
    return namespace(X).concat(labels), sums, weights


@replaceable
def sq_distances_to_own(X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster, (n_samples,) float64, summed directly."""

    def to_own(rows, tile):
        return sq_distances_of_tile(tile, labels[rows], centers)

    return collect(frame.map_tiles(to_own, X, 1, centers.dtype), X.shape[0])


@replaceable
def sq_distances_of_tile(tile, labels, centers):
    """`sq_distances_to_own` for one tile."""
    xp = namespace(tile)
    difference = tile - xp.take(centers, labels, axis=0)
    return xp.vecdot(difference, difference)


@replaceable
def sq_norms(tile):
    """Squared norm of each row."""
    return namespace(tile).vecdot(tile, tile)


@replaceable
def take_rows(X, rows):
    """Rows of X by their numbers."""
    return namespace(X).take(X, rows, axis=0)


@replaceable
def sq_distances_to(X, rows, frame):
    """Squared distances of every row of X from a few of them, (n_rows, n_samples) float64, never negative."""
    points = frame.shift(take_rows(X, rows), frame.origin.dtype)
    blocks = frame.map_tiles(lambda _, tile: sq_distances(points, tile), X, points.shape[0], points.dtype)
    return collect(blocks, X.shape[0], axis=1)


@replaceable
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
