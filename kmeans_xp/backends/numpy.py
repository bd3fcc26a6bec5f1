"""Steps for NumPy arrays."""

import numpy as np
from scipy.sparse import csc_array


def cluster_sums(X, labels, sample_weight, n_clusters):
    """`steps.cluster_sums` as the product of a sparse membership matrix, one entry a row of X, with X.

    Costs n_samples * n_features operations instead of n_clusters times as many.
    """
    n_samples = X.shape[0]
    membership = csc_array(
        (sample_weight, labels, np.arange(n_samples + 1, dtype=labels.dtype)), shape=(n_clusters, n_samples)
    )
    return membership @ X, np.bincount(labels, sample_weight, minlength=n_clusters)
