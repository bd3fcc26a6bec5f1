"""kmeans_plusplus: the first centers alone."""

from numbers import Integral
from typing import Any

import numpy as np

from kmeans_xp import arrays
from kmeans_xp._sklearn_private import Interval, validate_params
from kmeans_xp.data import Purpose, frame_of, open_data
from kmeans_xp.estimators.random_numbers import generator
from kmeans_xp.rows.array import as_given, dense, take_rows
from kmeans_xp.seeding.greedy import added, choose_rows, sample_of
from kmeans_xp.validation import check_first_centers, check_n_samples


@validate_params(
    {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def kmeans_plusplus(
    X: Any,
    n_clusters: int,
    *,
    sample_weight: Any = None,
    x_squared_norms: Any = None,
    centers: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Choose first centers by greedy k-means++.

    Same as :func:`sklearn.cluster.kmeans_plusplus`, on arrays of any library. A seed picks the same points on each, and
    whatever the order of the rows. Of more than `max(20_000, 50 * n_clusters)` rows, it looks at a weighted sample of
    that size, which depends on their order.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows to choose from.

    n_clusters : int
        Number of centers.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, not negative; 1 each if None.

    x_squared_norms : Ignored
        For callers of scikit-learn's function: they are not needed here.

    centers : array-like of shape (n_centers, n_features), default=None
        Centers that there are already, at most `n_clusters`: the first of the result. The others are chosen where these
        are far.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers, which are drawn on the host.

    Returns
    -------
    centers : array of shape (n_clusters, n_features)
        Rows of X, in its dtype, library and device; integers, and float16 of NumPy, become float64. After `centers`, if
        they are given.

    indices : array of shape (n_clusters,), int64
        Their row numbers; -1 for `centers`.

    Examples
    --------
    >>> from kmeans_xp import kmeans_plusplus
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> centers, indices = kmeans_plusplus(X, n_clusters=2, random_state=0)
    >>> centers
    array([[10.,  0.],
           [ 1.,  4.]])
    >>> indices
    array([5, 1])
    """
    n_clusters = int(n_clusters)  # a product of uint8 may have no room
    with open_data(X, sample_weight, Purpose(n_clusters, fitting=True)) as data:
        check_n_samples(data, n_clusters)
        frame = frame_of(data)
        with generator(random_state) as rng:
            if centers is None:
                sample, rows = choose_rows(data, n_clusters, frame, rng)
                centers, n_given = as_given(dense(take_rows(sample.X, rows))), 0
            else:
                centers = as_given(check_first_centers(centers, data.like, n_clusters))
                sample, n_given = sample_of(data, n_clusters, frame, rng), centers.shape[0]
                centers, rows = added(sample.X, sample.weights, centers, n_clusters, frame, rng)
        rows = arrays.to_numpy(rows) if sample.numbers is None else sample.numbers[arrays.to_numpy(rows)]
        rows = np.concatenate((np.full(n_given, -1), rows))
        xp = arrays.namespace(data.home)
        return arrays.asarray_like(centers, data.home), arrays.asarray_like(rows, data.home, xp.int64)
