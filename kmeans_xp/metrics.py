"""How good a clustering is, on arrays of any library: tile by tile, weighted.

Everything but the exact silhouette follows from sums over the clusters: O(n_samples * n_features * n_clusters) at most.
Weights are counts: a weight of 2 is the row standing there twice. X may be anything with shape, dtype and row slicing,
and is read tile by tile then; only the exact silhouette of all rows takes them into memory. Of a Dask array, whose
rows should stay where they are, there is the silhouette of a sample.
"""

import math
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from kmeans_xp import arrays
from kmeans_xp._sklearn_private import rows_at
from kmeans_xp.centers import lies_in_a_file, working_memory
from kmeans_xp.rows.csr import as_given
from kmeans_xp.steps import frame_at, moments, own_threads, sq_distances, sq_distances_to_own, take_rows, update
from kmeans_xp.streaming import SlicedRows
from kmeans_xp.validation import check_labels, check_rows, check_sample_weight, check_source, check_spread


class UndefinedCriterionError(ValueError):
    """The criterion says nothing about these labels."""


class Clusters:
    """Rows with labels, and the sums over clusters that the criteria are made of."""

    def __init__(self, X, labels, sample_weight=None):
        self.X = rows_of(X)
        with arrays.computing(self.X):
            self.n_clusters, self.labels = check_labels(labels, self.X)
            self.sample_weight = check_sample_weight(sample_weight, self.X)
            self.frame = moments(
                self.X, self.sample_weight, self.n_clusters, arrays.tile_bytes(self.X, working_memory())
            )
            check_spread(self.frame.spread)
            self.xp = arrays.namespace(self.X)
            sums, self.weights = update(self.X, self.sample_weight, self.labels, self.n_clusters, self.frame)
            if self.float(self.xp.min(self.weights)) == 0:
                raise ValueError("A cluster has no weight: leave its rows out.")
            self.centers = sums / self.weights[:, None]  # relative to the mean of all rows
            squares = sq_distances_to_own(self.X, self.labels, self.centers, self.frame)
            self.inertias = self._sum(squares)
            self.distances = self._sum(self.xp.sqrt(squares)) / self.weights  # mean distance from the center

    def _sum(self, values):
        """Weighted sum of a value of the rows in each cluster, (n_clusters,)."""
        xp = self.xp
        column = xp.reshape(values, (-1, 1))
        frame = frame_at(xp.zeros_like(column[0, :]), 0.0, column, column.shape[0], self.frame.tile_bytes)
        return update(column, self.sample_weight, self.labels, self.n_clusters, frame)[0][:, 0]

    def require(self, fewest=2):
        """At least so many clusters, and fewer than rows: their weights count as so many."""
        if not fewest <= self.n_clusters < self.float(self.xp.sum(self.weights)):
            raise UndefinedCriterionError(
                f"Number of labels is {self.n_clusters}. Valid values are {fewest} to n_samples - 1 (inclusive); with "
                "sample_weight, n_samples is the sum of the weights, as a weight says how often a row stands there."
            )
        return self

    def float(self, value):
        """A 0-d array as a Python float."""
        return arrays.to_floats(value)[0]

    def of_rows(self, function, n_columns):
        """`function(rows, tile)` of all rows, one after the other."""
        tiles = self.frame.map_tiles(function, self.X, n_columns, self.frame.origin.dtype)
        return arrays.collect(tiles, self.X.shape[0])

    def own_and_others(self, labels, means):
        """Of mean distances from all clusters those from the own and the nearest other, (n_rows, 2)."""
        xp = self.xp
        numbers = xp.arange(self.n_clusters, dtype=labels.dtype, device=arrays.device(labels))
        is_own = labels[:, None] == numbers[None, :]
        own = xp.sum(xp.where(is_own, means, xp.zeros_like(means)), axis=1)
        others = xp.min(xp.where(is_own, xp.full_like(means, xp.inf), means), axis=1)
        return xp.stack((own, others), axis=1)

    def silhouettes(self, own_and_others, *, exclude_self):
        """(b - a) / max(a, b) of each row. Its own mean distance may count the row itself, which is to be left out."""
        xp = self.xp
        own, others = own_and_others[:, 0], own_and_others[:, 1]
        weights = xp.take(self.weights, self.labels)
        alone = weights <= 1
        if exclude_self:
            own = own * weights / xp.where(alone, xp.ones_like(weights), weights - 1)
        larger = xp.maximum(own, others)
        score = (others - own) / xp.where(larger > 0, larger, xp.ones_like(larger))
        return xp.where(alone, xp.zeros_like(score), score)


def criterion(function, X, labels, sample_weight):
    """`function` of the clusters that the labels say."""
    clusters = Clusters(X, labels, sample_weight)
    with arrays.computing(clusters.X), own_threads(clusters.X, clusters.n_clusters):
        return function(clusters)


def rows_of(X):
    """X as a pass takes it: an array, sparse rows, or a source that is read tile by tile."""
    return SlicedRows(check_source(X)) if lies_in_a_file(X) else check_rows(X)


def random_rows(X, most, random_state):
    """At most so many rows of X, drawn without replacement: numbers, ascending, the rows, and n_samples.

    X is whatever a user has for it; all but those rows is not read, moved or checked. `most` is None for all rows.
    """
    X = arrays.as_dask_array(X, "X") if arrays.is_dask(X) else X
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    if n_samples != n_samples:
        raise ValueError(
            "X has partitions of unknown size, needed to choose rows. Use 'X.compute_chunk_sizes()' first, "
            "or 'X.to_dask_array(lengths=True)' of a data frame."
        )
    numbers = np.arange(n_samples)
    if most is not None and most < n_samples:
        numbers = np.sort(check_random_state(random_state).permutation(n_samples)[:most])
    return numbers, some_rows(X, numbers), n_samples


def some_rows(X, numbers):
    """Rows of X by their numbers, ascending, as X has them but in memory."""
    if arrays.is_dask(X):
        return X[numbers].compute()
    if lies_in_a_file(X):
        return SlicedRows(check_source(X)).take_rows(numbers)
    if arrays.is_cupy_sparse(X):
        rows = check_rows(X)
        with arrays.computing(rows):
            return as_given(take_rows(rows, arrays.asarray_like(numbers, rows, np.int64)))
    if hasattr(X, "tocsr"):
        return X.tocsr()[numbers]
    if arrays.is_foreign(X):
        with arrays.computing(X):
            return take_rows(X, arrays.asarray_like(numbers, X, arrays.namespace(X).int64))
    return rows_at(X, numbers)


def cluster_inertias(X: Any, labels: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """Sum of the squared distances of the rows of each cluster from their mean.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row: integers.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    Returns
    -------
    inertias : array of shape (n_clusters,), float64
        In the order of the labels, sorted, in the library of X.

    weights : array of shape (n_clusters,), float64
        Sizes of the clusters: their total weights.
    """
    clusters = Clusters(X, labels, sample_weight)
    return clusters.inertias, clusters.weights


def calinski_harabasz_score(X: Any, labels: Any, sample_weight: Any = None) -> float:
    """Variance between clusters over variance within them: higher is better.

    Same as :func:`sklearn.metrics.calinski_harabasz_score`, on arrays of any library and weighted.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    Returns
    -------
    score : float
        Not negative. 1 if all rows sit on the means of their clusters, as scikit-learn has it.

    References
    ----------
    T. Calinski, J. Harabasz, "A dendrite method for cluster analysis", 1974
    """
    return criterion(_calinski_harabasz, X, labels, sample_weight)


def _calinski_harabasz(clusters):
    clusters.require()
    xp, k = clusters.xp, clusters.n_clusters
    within = clusters.float(xp.sum(clusters.inertias))
    between = clusters.float(xp.sum(clusters.weights * xp.vecdot(clusters.centers, clusters.centers)))
    total = clusters.float(xp.sum(clusters.weights))
    return 1.0 if within == 0 else between / within * (total - k) / (k - 1)


def davies_bouldin_score(X: Any, labels: Any, sample_weight: Any = None) -> float:
    """Mean over clusters of how much each overlaps with its worst neighbour: lower is better.

    Same as :func:`sklearn.metrics.davies_bouldin_score`, on arrays of any library and weighted.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    Returns
    -------
    score : float
        Not negative.

    References
    ----------
    D. Davies, D. Bouldin, "A cluster separation measure", 1979
    """
    return criterion(_davies_bouldin, X, labels, sample_weight)


def _davies_bouldin(clusters):
    clusters.require()
    xp, spread = clusters.xp, clusters.distances
    worst = []
    for i in range(clusters.n_clusters):  # one after the other: n_clusters² numbers may be many
        between = xp.linalg.vector_norm(clusters.centers - clusters.centers[i, :][None, :], axis=1)
        apart = between > 0  # two clusters at one place say nothing, as in scikit-learn
        ratios = (spread + spread[i]) / xp.where(apart, between, xp.ones_like(between))
        worst.append(xp.max(xp.where(apart, ratios, xp.zeros_like(ratios))))
    return clusters.float(xp.mean(xp.stack(worst)))


def simplified_silhouette_samples(X: Any, labels: Any, sample_weight: Any = None) -> Any:
    """Silhouette of each row with distances from the means of clusters in place of mean distances from their rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, for the means; 1 each if None.

    Returns
    -------
    scores : array of shape (n_samples,), float64
        -1 to 1, in the library of X.

    References
    ----------
    E. Hruschka et al., "Evolving clusters in gene-expression data", 2006
    """
    return criterion(_simplified_silhouettes, X, labels, sample_weight)


def _simplified_silhouettes(clusters):
    clusters.require()
    return _from_centers(clusters, 0 * clusters.weights, clusters.xp.sqrt, exclude_self=False)


def silhouette_samples(X: Any, labels: Any, *, metric: str = "euclidean", sample_weight: Any = None) -> Any:
    """Silhouette of each row: how much nearer its own cluster is than the next.

    Same as :func:`sklearn.metrics.silhouette_samples`, on arrays of any library and weighted.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row.

    metric : {'euclidean', 'sqeuclidean'}, default='euclidean'
        'euclidean' compares all rows with all rows, O(n_samples² n_features), tile by tile. 'sqeuclidean' follows
        from the sums of the clusters, O(n_samples n_features n_clusters): what Spark computes by default.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    Returns
    -------
    scores : array of shape (n_samples,), float64
        -1 to 1, and 0 for a row that is alone in its cluster; in the library of X.

    References
    ----------
    P. Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", 1987
    """
    return criterion(_silhouettes_by(metric), X, labels, sample_weight)


def _silhouettes_by(metric):
    """Function of clusters: the silhouettes of their rows."""
    if metric not in ("euclidean", "sqeuclidean"):
        raise ValueError(f"metric={metric!r} is not known: use 'euclidean' or 'sqeuclidean'.")
    return _silhouettes if metric == "euclidean" else _sq_silhouettes


def _sq_silhouettes(clusters):
    clusters.require()
    return _from_centers(clusters, clusters.inertias / clusters.weights, lambda squares: squares)


def silhouette_score(
    X: Any,
    labels: Any,
    *,
    metric: str = "euclidean",
    sample_weight: Any = None,
    sample_size: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> float:
    """Mean silhouette of the rows: higher is better.

    Same as :func:`sklearn.metrics.silhouette_score`, on arrays of any library and weighted.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row.

    metric : {'euclidean', 'sqeuclidean'}, default='euclidean'
        See :func:`silhouette_samples`.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    sample_size : int, default=None
        Look at so many random rows only, drawn without replacement. Of a Dask array or a file, only these are read.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers for `sample_size`.

    Returns
    -------
    score : float
        -1 to 1.
    """
    if sample_size is not None:
        if not isinstance(sample_size, Integral) or sample_size < 1:
            raise ValueError(f"sample_size={sample_size!r} must be an integer from 1 on, or None for all rows.")
        rows, X, n_samples = random_rows(X, sample_size, random_state)
        on_host = np.empty((n_samples, 0))
        labels = check_labels(labels, on_host)[1][rows]
        sample_weight = check_sample_weight(sample_weight, on_host)[rows]
    return criterion(_mean_of(_silhouettes_by(metric)), X, labels, sample_weight)


def bic_score(X: Any, labels: Any, sample_weight: Any = None) -> float:
    """Bayesian information criterion of round Gaussian clusters of one variance: lower is better.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any library.

    labels : array-like of shape (n_samples,)
        Cluster of each row. One cluster only is fine.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows; 1 each if None.

    Returns
    -------
    score : float
        -2 log-likelihood + log(n_samples) * (n_clusters * (n_features + 1)): of each cluster its center and share,
        less 1 as the shares sum to 1, plus 1 for the variance.

    References
    ----------
    D. Pelleg, A. Moore, "X-means: extending k-means with efficient estimation of the number of clusters", 2000
    """
    return criterion(_bic, X, labels, sample_weight)


def _bic(clusters):
    clusters.require(fewest=1)
    xp, k, d = clusters.xp, clusters.n_clusters, clusters.X.shape[1]
    within, n = arrays.to_floats(xp.sum(clusters.inertias), xp.sum(clusters.weights))
    if n <= k or within == 0:
        raise UndefinedCriterionError(
            "BIC needs rows that differ from the means of their clusters, and more rows than clusters."
        )
    variance = within / (d * (n - k))
    shares = clusters.float(xp.sum(clusters.weights * xp.log(clusters.weights / n)))
    log_likelihood = shares - n * d / 2 * math.log(2 * math.pi * variance) - within / (2 * variance)
    return -2 * log_likelihood + math.log(n) * k * (d + 1)


def _from_centers(clusters, extra, root, *, exclude_self=True):
    """Silhouettes from `root(squared distance from the center + extra)` as the mean distance from a cluster."""

    def of_tile(rows, tile):
        means = root(sq_distances(tile, clusters.centers) + extra[None, :])
        return clusters.own_and_others(clusters.labels[rows], means)

    return clusters.silhouettes(clusters.of_rows(of_tile, clusters.n_clusters), exclude_self=exclude_self)


def _silhouettes(clusters):
    """From the distances between all rows."""
    clusters.require()
    xp, frame, n_clusters = clusters.xp, clusters.frame, clusters.n_clusters
    order = xp.argsort(clusters.labels, stable=True)  # the rows of a cluster one after the other
    X = frame.shift(take_rows(clusters.X, order), frame.origin.dtype)
    weights = xp.take(clusters.sample_weight, order)
    labels = xp.take(clusters.labels, order)
    sizes = np.bincount(arrays.to_numpy(labels), minlength=n_clusters)
    ends = np.concatenate(([0], np.cumsum(sizes)))
    numbers = xp.arange(X.shape[0], device=arrays.device(X))
    height = max(1, min(X.shape[0], 1024))  # rows in a tile, and as many columns as fit beside them
    width = max(1, int(frame.tile_bytes // (8 * 4 * height)))
    own_and_others = []
    for start in range(0, X.shape[0], height):
        rows = slice(start, min(start + height, X.shape[0]))
        sums = []
        for cluster in range(n_clusters):
            total = xp.zeros_like(weights[rows])
            for first in range(ends[cluster], ends[cluster + 1], width):
                columns = slice(first, min(first + width, int(ends[cluster + 1])))
                squares = sq_distances(X[rows, :], X[columns, :])
                itself = numbers[rows][:, None] == numbers[columns][None, :]
                total = total + xp.sqrt(xp.where(itself, xp.zeros_like(squares), squares)) @ weights[columns]
            sums.append(total)
        means = xp.stack(sums, axis=1) / clusters.weights[None, :]
        own_and_others.append(clusters.own_and_others(labels[rows], means))
    return clusters.silhouettes(xp.take(xp.concat(own_and_others), xp.argsort(order), axis=0), exclude_self=True)


def _mean_of(silhouettes):
    """Function of clusters: the weighted mean of the silhouettes of their rows."""

    def mean(clusters):
        total = clusters.xp.vecdot(silhouettes(clusters), clusters.sample_weight)
        return clusters.float(total / clusters.xp.sum(clusters.weights))

    return mean


# What a sweep over the number of clusters may go by: name, function of the clusters, sign of a better value
CRITERIA = {
    "calinski_harabasz": (_calinski_harabasz, 1),
    "davies_bouldin": (_davies_bouldin, -1),
    "simplified_silhouette": (_mean_of(_simplified_silhouettes), 1),
    "sq_silhouette": (_mean_of(_sq_silhouettes), 1),
    "silhouette": (_mean_of(_silhouettes), 1),
    "bic": (_bic, -1),
}
