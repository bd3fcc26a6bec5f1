"""Rows as points of a picture: by their principal components."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis

from kmeans_xp.arrays import is_cupy_sparse, is_sparse, to_numpy
from kmeans_xp.rows.csr import SparseRows
from kmeans_xp.validation import check_rows

MOST_NUMBERS = 2**24  # of sparse rows that are made dense


def in_two_dimensions(X):
    """A function of rows that gives their points, (n_rows, 2), as suits the rows X, and the names of the axes."""
    if X.shape[1] <= 2:
        return lambda rows: _padded(_dense(rows)), ("feature 0", "feature 1" if X.shape[1] == 2 else "")
    if min(X.shape) <= 2 or X.shape[0] * X.shape[1] <= MOST_NUMBERS:
        X = _dense(X)
    # Rows that lie far from zero would lose their digits in squares
    mean, variances = mean_variance_axis(X, axis=0) if is_sparse(X) else (X.mean(axis=0), X.var(axis=0))
    if variances.sum() > 0:
        # By the smaller side, or iteratively: n_features² numbers may be many
        found = PCA(2, random_state=0).fit(X if is_sparse(X) else X - mean)
        shares, axes = found.explained_variance_ratio_, found.components_.T
    else:
        shares, axes = np.zeros(2), np.zeros((X.shape[1], 2))
    names = tuple(f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares))
    return lambda rows: rows @ axes - mean @ axes, names


def _padded(points):
    """Points with a second coordinate."""
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _dense(X):
    return X.toarray() if is_sparse(X) else X


def host_rows(X):
    """Rows as a NumPy array of float64, or a CSR matrix of SciPy."""
    X = check_rows(X)
    if isinstance(X, SparseRows):
        X = X.as_given()
        X = X.get() if is_cupy_sparse(X) else X
    else:
        X = to_numpy(X)
    return X.astype(float)
