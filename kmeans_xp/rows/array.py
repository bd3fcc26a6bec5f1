"""Rows that are stored in an array: what is asked of them, in the pure Array API (see `rows.primitive`)."""

from kmeans_xp.arrays import collect, device, namespace, result_dtype, widened
from kmeans_xp.backends import replaceable
from kmeans_xp.rows import primitive

PIECE_BYTES = 2**22  # of rows, as float64, that are copied at a time


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


@replaceable
@primitive
def take_rows(X, rows):
    """Rows of X by their numbers."""
    return namespace(X).take(X, rows, axis=0)


@primitive
def joined(X, *others):
    """Rows and others of the same form, one after the other."""
    return namespace(X).concat((X, *others), axis=0) if others else X


def pieces(X):
    """Slices of few rows, for what needs a copy of them."""
    n_rows = max(1, PIECE_BYTES // (8 * X.shape[1]))
    return [slice(start, min(start + n_rows, X.shape[0])) for start in range(0, X.shape[0], n_rows)]


@primitive
def largest(X):
    """Largest absolute value in each row, in the dtype of results: -128 has none in int8."""
    xp, dtype = namespace(X), result_dtype(X)
    tiles = ((rows, xp.astype(X[rows, :], dtype, copy=False)) for rows in pieces(X))
    return collect(((rows, xp.max(xp.abs(tile), axis=1)) for rows, tile in tiles), X.shape[0])


@primitive
def scaled(X, most):
    """Rows scaled to norm 1, in the dtype of `most`, the largest absolute values in them; those of zeros stay."""
    xp = namespace(X)

    def or_1(values):
        return xp.where(values > 0, values, xp.ones_like(values))

    def scale(rows):
        tile = xp.astype(X[rows, :], most.dtype, copy=False)
        tile = tile / or_1(most[rows])[:, None]  # squares of float32 numbers leave its range beyond about 1e±19
        return rows, tile / or_1(xp.linalg.vector_norm(tile, axis=1))[:, None]

    return collect(map_slices(X, scale, pieces(X)), X.shape[0])


@primitive
def as_given(X):
    """Validated rows as a user has them: an array, in which integers don't overflow, or a CSR matrix."""
    return widened(X)


@primitive
def sq_norms(tile):
    """Squared norm of each row."""
    return namespace(tile).vecdot(tile, tile)


@primitive
def sq_distances(tile, centers):
    """Squared distances between rows and centers, (n_rows, n_clusters), never negative."""
    xp = namespace(tile)
    squares = sq_norms(tile)[:, None] - 2 * (tile @ centers.T) + xp.vecdot(centers, centers)[None, :]
    return xp.maximum(squares, xp.zeros_like(squares[0, 0]))


@primitive
def sq_distances_of_tile(tile, labels, centers):
    """`sq_distances_to_own` for one tile."""
    xp = namespace(tile)
    difference = tile - xp.take(centers, labels, axis=0)
    return xp.vecdot(difference, difference)


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
