"""BisectingKMeans: clusters that are split in two, one after the other."""

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays, seeding, tree
from kmeans_xp._sklearn_private import Interval, StrOptions
from kmeans_xp.algorithms import ALGORITHMS
from kmeans_xp.data import Purpose, frame_of, open_data
from kmeans_xp.estimators.callbacks import task_of
from kmeans_xp.estimators.centers import NearestCenters, attributes, checking_parameters, sizes_like
from kmeans_xp.estimators.kmeans import KMeans
from kmeans_xp.estimators.random_numbers import generator
from kmeans_xp.estimators.runs import trouble_of_few, trouble_of_zeros
from kmeans_xp.estimators.splits import Splitter, grow
from kmeans_xp.validation import check_n_samples


@seeding.describing_seedings
class BisectingKMeans(NearestCenters):
    """Bisecting k-means: start with all rows in one cluster, split one in two until there are `n_clusters` [1]_.

    Each split is a k-means with two clusters of the rows of one cluster. So rows are compared with two centers at some
    log2(`n_clusters`) levels, not with `n_clusters` centers, and the clusters are those of a tree: one with fewer
    clusters is the beginning of it. What is split is not mended later: :class:`KMeans` ends with a lower inertia.

    Same as :class:`sklearn.cluster.BisectingKMeans`, except that

    - results live in the library, dtype and device of the input (NumPy, CuPy, torch, JAX, array-api-strict), sparse
      rows of SciPy and CuPy included, and a seed picks the same splits on every library;
    - `init` is 'k-means++', where scikit-learn has 'random': of two random rows both may lie in one of two clear
      clusters, and a bad split stays;
    - `tol` is relative to the variance of the rows that are split;
    - a cluster that cannot be split, as its rows are equal, is passed over;
    - weights count for `bisecting_strategy='largest_cluster'` too; negative ones are refused.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    init : {seedings} or callable, default='k-means++'
        How to choose the two first centers of a split, see :class:`KMeans`. A callable, `init(X, n_clusters,
        random_state=random_state)`, is given the rows of the cluster and `n_clusters=2`, and returns two centers.

    n_init : int, default=1
        Number of runs with different seeds for each split, of which the one with the lowest inertia is kept.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers for `init`. They are drawn on the host.

    max_iter : int, default=300
        Most iterations of one run.

    verbose : int, default=0
        Print a line an iteration, and one a split.

    tol : float, default=1e-4
        A run has converged when the squared distances that its two centers moved sum to at most `tol` times the mean
        variance of the columns (of the rows that are split, weighted), or when no label changed.

    copy_x : bool, default=True
        For callers of scikit-learn's class: X is never written to, either way.

    algorithm : {'auto', 'lloyd', 'elkan'}, default='auto'
        Which distances an iteration computes, see :class:`KMeans`. scikit-learn's default is 'lloyd'. The results are
        the same but for the last bits of the means.

    bisecting_strategy : {'biggest_inertia', 'largest_cluster'}, default='biggest_inertia'
        Which cluster is split next: that of the largest weighted sum of squared distances from its center, or that of
        the largest weight. Of equal ones the first.

    metric : {'euclidean', 'cosine'}, default='euclidean'
        'cosine' compares directions, see :class:`KMeans`.

    zero_rows : {'warn', 'raise'}, default='warn'
        What becomes of rows of zeros if `metric='cosine'`, see :class:`KMeans`.

    device : None, 'auto', 'cpu', 'cuda' or 'cuda:i', default=None
        Where to compute, see :class:`KMeans`.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, n_features)
        Centers, in the dtype of X: float32 or float64; in the order of the tree, so that clusters which were split
        late stand side by side. If fewer clusters can be told apart, the first center again for those missing.

    labels_ : array of shape (n_samples,), int32
        Cluster of each row, the same as `predict(X)`. Its center need not be the nearest: rows go down the tree.

    cluster_sizes_ : array of shape (n_clusters,), int64 or float64
        Total weight of the rows of each cluster: their number, without `sample_weight`.
        Integers, if the weights are.

    inertia_ : float
        Weighted sum of the squared distances of the rows from the centers of their clusters, or of their cosine
        distances, summed in float64.

    n_iter_ : int
        Number of iterations of all splits, those of runs that were not kept left out.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    See Also
    --------
    KMeans : Lower inertia, and data larger than memory.

    Notes
    -----
    `fit` takes rows in memory; `predict` and the other methods also files and Dask arrays, block by block. X is never
    written to. The rows of a cluster are copied while it is split: in one piece they are iterated over faster than
    picked out of X, and the copy costs as much as a few iterations. So beside X there is room for one cluster at a
    time, the largest after the first split, and for a number a row.

    `transform`, `score` and `nearest_centers` are about the centers, not the tree, as in scikit-learn: the nearest
    center of a row may be another than that of its cluster, and `-score(X)` at most `inertia_`.

    References
    ----------
    .. [1] M. Steinbach, G. Karypis, V. Kumar, "A comparison of document clustering techniques", 2000

    Examples
    --------
    >>> from kmeans_xp import BisectingKMeans
    >>> import numpy as np
    >>> X = np.array([[1, 1], [10, 1], [3, 1], [10, 0], [2, 1], [10, 2], [10, 8], [10, 9], [10, 10]])
    >>> model = BisectingKMeans(n_clusters=3, random_state=0).fit(X)
    >>> model.cluster_centers_
    array([[10.,  1.],
           [ 2.,  1.],
           [10.,  9.]])
    >>> model.predict([[0, 0], [12, 3]])
    array([1, 0], dtype=int32)
    """

    cluster_sizes_: Any
    labels_: Any
    inertia_: float
    n_iter_: int

    _known_of_fit = (*NearestCenters._known_of_fit, "_tree")

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(seeding.METHODS.keys()), callable],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions(ALGORITHMS.keys())],
        "bisecting_strategy": [StrOptions({"biggest_inertia", "largest_cluster"})],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "zero_rows": [StrOptions({"warn", "raise"})],
        "device": [None, str],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Callable[..., Any] = "k-means++",
        n_init: int = 1,
        random_state: int | np.random.RandomState | None = None,
        max_iter: int = 300,
        verbose: int = 0,
        tol: float = 1e-4,
        copy_x: bool = True,
        algorithm: Literal["auto", "lloyd", "elkan"] = "auto",
        bisecting_strategy: Literal["biggest_inertia", "largest_cluster"] = "biggest_inertia",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        zero_rows: Literal["warn", "raise"] = "warn",
        device: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.random_state = random_state
        self.max_iter = max_iter
        self.verbose = verbose
        self.tol = tol
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.bisecting_strategy = bisecting_strategy
        self.metric = metric
        self.zero_rows = zero_rows
        self.device = device

    @checking_parameters
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Split the rows of X into clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to cluster, in memory. Dtypes are kept, and results have one, as in :meth:`KMeans.fit`.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative; 1 each if None. They follow X to its library and device.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        refuse_blocks(arrays.is_dask(X))
        before = attributes(self)
        try:
            purpose = Purpose(self.n_clusters, self._metric, self.device, fitting=True, estimator=self, learns=True)
            with (
                open_data(X, sample_weight, purpose) as data,
                generator(self.random_state, escapes=callable(self.init)) as rng,
            ):
                refuse_blocks(data.in_blocks)
                check_n_samples(data, self.n_clusters)
                frame = frame_of(data)
                splitter = Splitter(self._runs(), data, frame, rng)
                grown = grow(splitter, self.n_clusters, self._score, self.verbose, task_of(self))

                self._keep(grown.centers(self.n_clusters), frame, data.home)
                self._tree = grown.tree(data.home)
                self._tell_of_rows(grown, data, sample_weight)
            self._warn(grown, data.lost[0])
            if data.lost[0]:
                self.labels_ = self.predict(X)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _n_parts(self, X):
        """Number of splits, of which callbacks are told."""
        return self.n_clusters - 1

    def to_sklearn(self) -> Any:
        """A fitted :class:`sklearn.cluster.BisectingKMeans` with these centers and this tree, on NumPy.

        Returns
        -------
        model : sklearn.cluster.BisectingKMeans
            Among its parameters, an `init` that scikit-learn does not have becomes 'k-means++', and 'auto' 'lloyd'.
        """
        check_is_fitted(self)
        from kmeans_xp.estimators import conversion  # loads all clusterers of scikit-learn

        return conversion.bisecting_to_sklearn(self)

    def _runs(self):
        """What a split is: an estimator with two clusters."""
        names = "init", "n_init", "max_iter", "verbose", "tol", "metric", "zero_rows"
        return KMeans(2, algorithm=self._algorithm, **{name: getattr(self, name) for name in names})

    def _score(self, leaf):
        """By which a cluster is chosen to be split."""
        return leaf.squares if self.bisecting_strategy == "biggest_inertia" else leaf.weight

    def _tell_of_rows(self, grown, data, sample_weight):
        """Set what a fit says of its rows. Those that the metric left out get the first label and the distance 1."""
        _, lost = data.lost
        self.labels_ = arrays.asarray_like(grown.labels(data.like), data.home)
        sizes = np.asarray(grown.weights(self.n_clusters))
        sizes[0] += lost
        self.cluster_sizes_ = sizes_like(sizes * data.weight_unit, sample_weight, data.home)
        self.inertia_ = (self._metric.cost(grown.squares()) + lost) * data.weight_unit
        self.n_iter_ = grown.n_iter

    def _warn(self, grown, n_lost):
        """Of clusters that are missing, of splits that did not converge, and of rows that have no direction."""
        n_found, n_unfinished = len(grown.leaves), grown.n_unfinished
        if n_lost:
            warnings.warn(trouble_of_zeros(n_lost), UserWarning, stacklevel=4)
        if n_found < self.n_clusters:
            warnings.warn(trouble_of_few(n_found, self), ConvergenceWarning, stacklevel=4)
        elif n_unfinished and self._tells_unfinished:
            warnings.warn(
                f"{n_unfinished} of {n_found - 1} splits did not converge in max_iter={self.max_iter} iterations. "
                "Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def predict(self, X: Any, *, out: Any = None) -> Any:
        """Cluster of each row: down the tree, at each split to the side whose center is nearer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library: the centers move to them. May be read block by block, or an array of Dask.

        out : array-like of shape (n_samples,), default=None
            Where to write the result: a memory map, say. Of a dtype that has the largest label.

        Returns
        -------
        labels : array of shape (n_samples,), int32
            In the library and on the device of X; `out` if it is given. The nearest centers, if `cluster_centers_` was
            set by hand.
        """
        if "_tree" not in vars(self):
            return super().predict(X, out=out)
        return self._write(X, (None, tree.labels), "predict", out, dtype=np.int32)

    def _model(self):
        model = super()._model()
        return tree.TreeModel(**vars(model), tree=self._tree) if "_tree" in vars(self) else model


def refuse_blocks(in_blocks):
    """Rows that are not in memory as a whole."""
    if in_blocks:
        raise ValueError(
            "BisectingKMeans.fit needs the rows of X in memory, and these are in blocks (in a file, on a Dask cluster "
            "or several GPUs, or because they exceed working_memory): fit a sample of them, after which predict takes "
            "all, or use KMeans."
        )
