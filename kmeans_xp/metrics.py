"""How good a clustering is, on arrays of any library: tile by tile, weighted.

Everything but the exact silhouette follows from sums over the clusters: O(n_samples * n_features * n_clusters) at most.
Weights are counts: a weight of 2 is the row standing there twice. X may be anything with shape, dtype and row slicing,
and is read tile by tile then; only the exact silhouette of all rows takes them into memory. Of a Dask array, whose
rows should stay where they are, there is the silhouette of a sample.
"""

from numbers import Integral
from typing import Any

import numpy as np

from kmeans_xp import arrays
from kmeans_xp.criteria import CRITERIA, Clusters, exact_silhouettes, simplified_silhouettes, sq_silhouettes
from kmeans_xp.data import open_data, random_rows
from kmeans_xp.validation import check_labels, check_sample_weight


def criterion(name, X, labels, sample_weight):
    """Value of one of the criteria."""
    with open_data(X, sample_weight) as data:
        return CRITERIA[name][0](Clusters(data, labels))


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
    with open_data(X, sample_weight) as data:
        sums = Clusters(data, labels).sums
        return arrays.asarray_like(sums.inertias, data.home), arrays.asarray_like(sums.weights, data.home)


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
    return criterion("calinski_harabasz", X, labels, sample_weight)


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
    return criterion("davies_bouldin", X, labels, sample_weight)


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
    with open_data(X, sample_weight) as data:
        clusters = Clusters(data, labels).require()
        return data.write(None, simplified_silhouettes, clusters.labels, clusters.sums, dtype=np.float64)


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
    check_metric(metric)
    with open_data(X, sample_weight) as data:
        clusters = Clusters(data, labels).require()
        if metric == "euclidean":
            return arrays.asarray_like(exact_silhouettes(clusters), data.home)
        return data.write(None, sq_silhouettes, clusters.labels, clusters.sums, dtype=np.float64)


def check_metric(metric):
    """One of those that silhouettes are computed in."""
    if metric not in ("euclidean", "sqeuclidean"):
        raise ValueError(f"metric={metric!r} is not known: use 'euclidean' or 'sqeuclidean'.")


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
    check_metric(metric)
    if sample_size is not None:
        if not isinstance(sample_size, Integral) or sample_size < 1:
            raise ValueError(f"sample_size={sample_size!r} must be an integer from 1 on, or None for all rows.")
        rows, X, n_samples = random_rows(X, sample_size, random_state)
        on_host = np.empty((n_samples, 0))
        labels = check_labels(labels, on_host, n_samples)[1][rows]
        sample_weight = check_sample_weight(sample_weight, on_host)[rows]
    return criterion("silhouette" if metric == "euclidean" else "sq_silhouette", X, labels, sample_weight)


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
    return criterion("bic", X, labels, sample_weight)
