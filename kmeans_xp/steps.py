"""The steps of Lloyd's iteration in the pure Array API: the specification that every backend is held to.

All of them look at the rows through a `Frame`, and take and return centers relative to its origin.
"""

import math
from contextlib import contextmanager, nullcontext

from kmeans_xp.arrays import collect, device, namespace, to_floats, undisturbed
from kmeans_xp.backends import replaceable
from kmeans_xp.nearest import nearest
from kmeans_xp.rows import primitive
from kmeans_xp.rows.array import cluster_sums, sq_distances, sq_distances_of_tile, take_rows

FAINT = 1e-9  # share of the weight up to which a cluster may be empty but for rounding


@contextmanager
def computing(X, n_clusters=1, *, gradients=False, lender=None):
    """Context of a whole job on X: on its device, undisturbed by the caller's settings, with threads to itself."""
    with undisturbed(X, gradients=gradients, lender=lender), own_threads(X, n_clusters):
        yield


@replaceable
def own_threads(X, n_clusters):
    """Context in which the passes over X have the threads of the processor to themselves."""
    return nullcontext()


@replaceable
def side_by_side(X, n_clusters, function, items):
    """`function(item)`, a run over the rows of X, for one item after the other."""
    return map(function, items)


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


@replaceable
@primitive
def assign(X, centers, frame):
    """Index of the nearest center of each row, (n_samples,) int32; of equally near ones the first."""
    labels_of = nearest(centers, frame)
    tiles = frame.map_rows(lambda rows, X: labels_of(X), X, centers.shape[0])
    return collect(tiles, X.shape[0])


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
def sum_of_rows(X, sample_weight, frame):
    """Weighted sum of the rows, (n_features,), and their weight."""
    sums, weights = update(X, sample_weight, one_cluster(X), 1, frame)
    return sums[0, :], weights[0]


@replaceable
def spread_of_rows(X, sample_weight, frame):
    """Weighted sum of the squared distances of the rows from the origin, and their weight, as floats; synchronises."""
    xp = namespace(X)
    squares = sq_distances_to_own(X, one_cluster(X), xp.zeros_like(frame.origin)[None, :], frame)
    return tuple(to_floats(xp.sum(sample_weight * squares), xp.sum(sample_weight)))


@replaceable
def inertia_of_clusters(X, sample_weight, labels, centers, frame):
    """Weighted sum of the squared distances of the rows from the centers of their clusters, 0-d."""
    return namespace(sample_weight).sum(sample_weight * sq_distances_to_own(X, labels, centers, frame))


@replaceable
@primitive
def sq_distances_to_own(X, labels, centers, frame):
    """Squared distance of each row from the center of its cluster, (n_samples,) float64, summed directly."""

    def to_own(rows, tile):
        return sq_distances_of_tile(tile, labels[rows], centers)

    return collect(frame.map_tiles(to_own, X, 1, centers.dtype), X.shape[0])


@replaceable
@primitive
def sq_distances_to(X, rows, frame):
    """Squared distances of every row of X from a few of them, (n_rows, n_samples) float64, never negative."""
    points = frame.shift(take_rows(X, rows), frame.origin.dtype)
    blocks = frame.map_tiles(lambda _, tile: sq_distances(points, tile), X, points.shape[0], points.dtype)
    return collect(blocks, X.shape[0], axis=1)


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
def distinct(labels):
    """The different labels."""
    return namespace(labels).unique_values(labels)


@replaceable
def move(sums, weights, centers_old, n_changed, n_active, frame, metric):
    """New centers, and what the loop must know as floats: the only synchronisation of an iteration.

    That is how many labels changed and rows were looked at, how far the centers moved (squared), the inertia of the old
    ones, and how many clusters may be empty: weights that are kept up to date may differ from 0 by rounding.
    """
    xp = namespace(sums)
    centers = means(sums, weights, centers_old, frame, metric)
    shift, inertia = xp.sum((centers - centers_old) ** 2), inertia_of(centers_old, sums, weights, frame, metric)
    return centers, to_floats(n_changed, n_active, shift, inertia, xp.count_nonzero(weights <= FAINT * xp.sum(weights)))


def means(sums, weights, centers_old, frame, metric):
    """Centers of the clusters; an empty cluster keeps its old one."""
    xp = namespace(sums)
    empty = weights == 0
    centers = sums / xp.where(empty, xp.ones_like(weights), weights)[:, None]
    return metric.settle(xp.where(empty[:, None], centers_old, centers), centers_old, frame)


def inertia_of(centers, sums, weights, frame, metric):
    """Sum of squared distances by Σ||x - c||² = Σ||x||² - 2 Σ c·sum + Σ weight ||c||², which needs no pass.

    Loses digits where clusters are tiny beside the spread of the data: good for watching, not for the result.
    """
    xp = namespace(centers)
    explained = 2 * xp.sum(centers * sums) - xp.sum(weights * xp.vecdot(centers, centers))
    inertia = xp.sum(weights) * frame.spread - explained
    return metric.cost(xp.maximum(inertia, xp.zeros_like(inertia)))
