"""KMeans: parameters, the best of several runs, fitted attributes."""

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from kmeans_xp import arrays, seeding
from kmeans_xp._sklearn_private import Interval, StrOptions
from kmeans_xp.algorithms import ALGORITHMS, OPTIMAL
from kmeans_xp.data import Purpose, open_data
from kmeans_xp.estimators.centers import OF_SIZES, NearestCenters, attributes, checking_parameters, sizes_like
from kmeans_xp.estimators.runs import best_run, sizes_of, trouble_of_zeros
from kmeans_xp.lloyd import Iteration
from kmeans_xp.sizes import Sized
from kmeans_xp.validation import check_n_samples, check_sizes, check_weighs_alike


@seeding.describing_seedings
class KMeans(NearestCenters):
    """K-means clustering of arrays of any Array API library, where they are.

    Same as :class:`sklearn.cluster.KMeans`, except that

    - results live in the library, dtype and device of the input (NumPy, CuPy, torch, JAX, array-api-strict);
      a model fitted on one predicts on any other: the centers move, the data stays;
    - a seed picks the same starting points on every library; of up to `max(20_000, 50 * n_clusters)` rows, also
      whatever their order, and a weight of 2 is the same as the row standing there twice;
    - reaching `max_iter` gives a warning; `history_` and `converged_` say what happened;
    - data larger than memory are read block by block: a NumPy memory map larger than `working_memory` of scikit-learn's
      configuration, and anything else with shape, dtype and row slicing (data sets of h5py or zarr); an array or data
      frame of Dask is clustered where its partitions are, and `labels_`, `predict` and `transform` are lazy then. The
      labels are those of a fit in memory, from the same start;
    - sparse matrices of SciPy and CuPy are computed with where they are, and not made dense; results are arrays;
    - negative weights are refused.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    init : {seedings}, array-like or callable, default='k-means++'
        How to choose the first centers.

        {each seeding}

        array-like : the centers themselves, (n_clusters, n_features), of any library.

        callable : `init(X, n_clusters, random_state=random_state)` returns the centers. It is given X as it is
        (scikit-learn passes it centered data).

    n_init : 'auto' or int, default='auto'
        Number of runs with different seeds, of which the one with the lowest inertia is kept. 'auto' is
        {runs}, otherwise 1.

    max_iter : int, default=300
        Most iterations of one run.

    tol : float, default=1e-4
        A run has converged when the squared distances that the centers moved sum to at most `tol` times the mean
        variance of the columns (weighted), or when no label changed.

    verbose : int, default=0
        Print what a fit does: the seeding of each run, and a line an iteration, with seconds and the rows that changed.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers for `init`. They are drawn on the host.

    algorithm : {'auto', 'lloyd', 'elkan', 'optimal'}, default='auto'
        Which distances an iteration computes. The results are the same but for the last bits of the means, which may
        decide where a row is as far from two centers.

        'lloyd' : all of them.

        'elkan' : those of rows whose nearest center may have changed, by the triangle inequality. Each row keeps one
        bound: how much farther its second nearest center was than its own (Hamerly's [6]_ rather than Elkan's, which
        take `n_clusters` numbers a row).

        'auto' : as 'elkan' while few enough rows must be looked at, otherwise as 'lloyd'.

        'optimal' : for rows of one feature, the centers of lowest inertia that there are, up to rounding to the dtype
        of X, instead of those that a start happens to lead to [11]_: there are no random numbers, and one run. Time
        grows as `n_clusters * n_samples * log(n_samples)`, of different numbers; X is fetched to the host.

    metric : {'euclidean', 'cosine'}, default='euclidean'
        'cosine' is spherical k-means [7]_: only the directions of the rows count, centers are scaled to norm 1 in each
        iteration, and the distance of a row from a center is 1 - cos of the angle between them, also for seeding,
        `inertia_`, `transform` and `score`. See `zero_rows`. A fit in memory keeps a copy of X with rows of
        norm 1; NumPy arrays larger than `working_memory` are scaled block by block instead.

    zero_rows : {'warn', 'raise'}, default='warn'
        What becomes of rows of zeros if `metric='cosine'`, as they have no direction. 'warn': they get the first label
        and the distance 1 from all centers; a fit leaves them out of the means, and a warning says how many there are.
        'raise': an error names them.

    refine : bool, default=False
        Whether to look for better clusters than those that the iterations end with: by breathing k-means [10]_, in
        which centers are added where the inertia is largest, and others taken away where they are missed least, as long
        as that lowers the inertia. It looks at a weighted sample of at most `max(40_000, 100 * n_clusters)` rows (at
        all of fewer), and then iterates over all rows, to a hundredth of `tol`. It takes some 2 to 4 times as long; the
        inertia is often lower than that of the best of 10 runs. `on_iteration`, `verbose` and `history_` speak of the
        iterations over all rows.

    size_min, size_max : int, array-like of shape (n_clusters,) or None, default=None
        Least and largest numbers of rows of a cluster, the same for all or one for each. If either is given, rows go
        to the centers at the least sum of squared distances with which all sizes are within these bounds [9]_, exactly:
        not each to its nearest center, as `predict` has it; where several assignments cost the same, as of equal rows,
        the order of the rows decides. None: 1 as the least, and no largest. With bounds, rows are in memory and weigh
        the same, and with `metric='cosine'` none is of zeros.

    copy_x : bool, default=True
        For callers of scikit-learn's class: X is never written to, either way.

    device : None, 'auto', 'cpu', 'cuda', 'cuda:i' or 'cuda:all', default=None
        Where to compute. None: where the array is. 'cpu' and 'cuda' move it (NumPy arrays to CuPy, CuPy arrays to
        NumPy, arrays of torch and JAX within their library), and the results back. 'auto' sends NumPy arrays to
        CuPy if there is a GPU and n_samples * n_features * n_clusters is at least 1e8. Where CuPy is installed, arrays
        of torch and JAX on CUDA are computed with by its kernels, on their memory. 'cuda:all' deals the rows of NumPy
        arrays out to all GPUs, and has them read in turns what is in files or too large; sums are added up in a fixed
        order.

    on_iteration : callable, default=None
        Called after each iteration with an object that has `number` (from 1), `centers`, `inertia` (of the centers that
        the iteration started from), `center_shift`, `n_changed` and `seconds`. If it returns True, the run ends there.
        A fitted model is pickled without it.

    keep_interrupted : bool, default=False
        What an interruption (Ctrl-C, `KeyboardInterrupt`) leaves behind once the first iteration is done. True: the
        fit ends with the best centers so far, their labels, and a warning. False: the estimator is as it was before.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, n_features)
        Centers, in the dtype of X: float32 or float64.

    labels_ : array of shape (n_samples,), int32
        Cluster of each row: its nearest center in `cluster_centers_`, the same as `predict(X)`; or, with `size_min` or
        `size_max`, the center that it has within these bounds.

    cluster_sizes_ : array of shape (n_clusters,), int64 or float64
        Total weight of the rows of each cluster: their number, without `sample_weight`.
        Integers, if the weights are.

    inertia_ : float
        Weighted sum of the squared distances of the rows from their centers, or of their cosine distances, summed in
        float64.

    n_iter_ : int
        Number of iterations.

    converged_ : bool
        False if `max_iter` ended the run.

    history_ : dict of lists
        For each iteration 'inertia' (of the centers that it started from), 'center_shift' (sum of the squared
        distances that the centers moved), 'n_changed' (rows whose label changed) and 'seconds'.

    prices_ : array of shape (n_clusters,), float64
        Only with `size_min` or `size_max`: each row is in the cluster where its squared distance (for the metric
        'cosine', its cosine distance) plus the price is least. Above 0 only for clusters of the largest size, below 0
        only for those of the least; where all sizes are fixed, the first is 0.

    duality_gap_ : float
        Only with `size_min` or `size_max`: by how much the inertia of other labels within the bounds may be less at
        most, for `cluster_centers_`, as the prices prove. 0 but for rounding.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    See Also
    --------
    kmeans_plusplus : The first centers alone.

    Notes
    -----
    Lloyd's algorithm [3]_. Rows are compared with the centers relative to the mean of the data, so that data far from
    zero clusters as well as centered data. A cluster that loses all its rows moves to the row farthest from its
    center, and so do all rows equal to that; of equally far rows the last. Where none is left, it gets the place of the
    first cluster that has rows. X is never written to nor copied, but to make a sparse matrix
    CSR with sorted columns and without zeros; the temporaries of a pass stay within `working_memory` of scikit-learn's
    configuration, beside a few numbers per row and some arrays of the size of the centers.

    References
    ----------
    .. [1] D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", 2007
    .. [2] B. Bahmani et al., "Scalable k-means++", 2012
    .. [3] S. Lloyd, "Least squares quantization in PCM", 1982
    .. [4] O. Bachem et al., "Scalable k-means clustering via lightweight coresets", 2018
    .. [5] P. Bradley, U. Fayyad, "Refining initial points for k-means clustering", 1998
    .. [6] G. Hamerly, "Making k-means even faster", 2010
    .. [7] I. Dhillon, D. Modha, "Concept decompositions for large sparse text data using clustering", 2001
    .. [8] O. Bachem et al., "Fast and provably good seedings for k-means", 2016
    .. [9] Q. Mérigot, "A multiscale approach to optimal transport", 2011
    .. [10] B. Fritzke, "The breathing k-means algorithm", 2020
    .. [11] A. Grønlund et al., "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", 2017

    Examples
    --------
    >>> from kmeans_xp import KMeans
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> kmeans = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> kmeans.cluster_centers_
    array([[10.,  2.],
           [ 1.,  2.]])
    >>> kmeans.predict([[0, 0], [12, 3]])
    array([1, 0], dtype=int32)
    >>> kmeans.inertia_
    16.0
    """

    cluster_sizes_: Any
    labels_: Any
    inertia_: float
    n_iter_: int
    converged_: bool
    history_: dict[str, list[float]]
    prices_: Any
    duality_gap_: float

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(seeding.METHODS.keys()), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "algorithm": [StrOptions({*ALGORITHMS, OPTIMAL})],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "zero_rows": [StrOptions({"warn", "raise"})],
        "refine": ["boolean"],
        "size_min": [Interval(Integral, 0, None, closed="left"), "array-like", None],
        "size_max": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "copy_x": ["boolean"],
        "device": [None, str],
        "on_iteration": [None, callable],
        "keep_interrupted": ["boolean"],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        algorithm: Literal["auto", "lloyd", "elkan", "optimal"] = "auto",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        zero_rows: Literal["warn", "raise"] = "warn",
        refine: bool = False,
        size_min: Any = None,
        size_max: Any = None,
        copy_x: bool = True,
        device: str | None = None,
        on_iteration: Callable[[Iteration], object] | None = None,
        keep_interrupted: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.algorithm = algorithm
        self.metric = metric
        self.zero_rows = zero_rows
        self.refine = refine
        self.size_min = size_min
        self.size_max = size_max
        self.copy_x = copy_x
        self.device = device
        self.on_iteration = on_iteration
        self.keep_interrupted = keep_interrupted

    @checking_parameters
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the cluster centers of X.

        Parameters
        ----------
        X : array-like, source, or array or data frame of Dask, of shape (n_samples, n_features)
            Rows to cluster. float32 and float64 are kept. So are bool, integers of 8 and 16 bits, and float16 of NumPy,
            which are widened to float64, the dtype of the results, where they are computed with; and such integers of
            torch and JAX on the CPU. float16 and bfloat16 of other libraries are kept too, and computed with in
            float32, the dtype of the results. Other real dtypes become float64.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative; 1 each if None. They follow X to its library and device.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        before = attributes(self)
        try:
            with self._opened_to_fit(X, sample_weight) as data:
                check_n_samples(data, self.n_clusters)
                bounds = self._bounds(data)
                if self.algorithm == OPTIMAL:
                    self._check_optimal(data)
                if bounds is not None:
                    check_weighs_alike(data)
                frame, result = best_run(self, data, bounds)
                sizes = sizes_like(sizes_of(result, data), sample_weight, data.home)

            self._keep(result.centers, frame, data.home)
            n_lost, weight = data.lost
            self.cluster_sizes_ = sizes
            self._keep_proof(result.proof, data)
            self.inertia_ = (result.inertia + weight) * data.weight_unit
            self.n_iter_ = result.n_iter
            self.converged_ = result.converged
            self.history_ = result.history
            self.history_["inertia"] = [(value + weight) * data.weight_unit for value in result.history["inertia"]]
            if n_lost:
                warnings.warn(trouble_of_zeros(n_lost), UserWarning, stacklevel=3)
            self.labels_ = self.predict(X) if n_lost or result.labels is None else result.labels
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _n_parts(self, X):
        """Number of runs, of which callbacks are told."""
        return 1 if self.algorithm == OPTIMAL else seeding.n_runs(self.init, self.n_init)

    def _opened_to_fit(self, X, sample_weight):
        """Context in which X is a source, for a fit."""
        given = {"metric": self._metric, "device": self.device, "estimator": self}
        return open_data(X, sample_weight, Purpose(self.n_clusters, **given, fitting=True, learns=True))

    def _bounds(self, data):
        """What keeps the sizes of clusters within bounds, if there are any."""
        if self.size_min is None and self.size_max is None:
            return None
        if self.algorithm == "elkan":
            raise ValueError(
                "algorithm='elkan' leaves out rows that keep their nearest center, and size_min and size_max look at "
                "all of them: use algorithm='auto'."
            )
        if self.refine:
            raise ValueError(
                "refine=True moves centers where rows are free to go to the nearest, and size_min and size_max bind "
                "them: leave out one of the two."
            )
        if data.in_blocks:
            raise ValueError(
                "size_min and size_max need all rows in memory, and X is read block by block or lies on a cluster of "
                "Dask: load it, or leave them out."
            )
        return Sized(*check_sizes(self.size_min, self.size_max, data.shape[0], self.n_clusters))

    _best_centers = None  # of `optimal.optimal_centers`, where a sweep has them already

    def _check_optimal(self, data):
        """Rows in memory of one feature, and no parameter that says how centers are found otherwise."""
        n_features = data.shape[1]
        if n_features != 1:
            raise ValueError(f"algorithm='optimal' is for rows of one feature, and X has {n_features}: use 'auto'.")
        if data.in_blocks:
            raise ValueError(
                "algorithm='optimal' needs all rows in memory, and X is read block by block or lies on a cluster of "
                "Dask: load it, or use 'auto'."
            )
        others = {
            "init": not (isinstance(self.init, str) and self.init == "k-means++"),
            "refine": self.refine,
            "size_min": self.size_min is not None,
            "size_max": self.size_max is not None,
            "metric": self.metric != "euclidean",
        }
        for name, is_set in others.items():
            if is_set:
                raise ValueError(f"algorithm='optimal' finds the best centers by itself: leave out {name}.")

    def _keep_proof(self, proof, data):
        """Keep the prices of a fit with bounds; of another, forget those of one before."""
        for name in OF_SIZES:
            vars(self).pop(name, None)
        if proof is not None:
            weight = arrays.to_floats(arrays.namespace(self.cluster_sizes_).sum(self.cluster_sizes_))[0] / data.shape[0]
            self.prices_ = arrays.asarray_like(self._metric.cost(proof.prices), data.home)
            self.duality_gap_ = weight * float(self._metric.cost(proof.gap))

    def to_sklearn(self) -> Any:
        """A fitted :class:`sklearn.cluster.KMeans` with these centers, on NumPy.

        Returns
        -------
        model : sklearn.cluster.KMeans
            Among its parameters, an `init` that scikit-learn does not have becomes 'k-means++', and 'auto' 'lloyd'.
        """
        check_is_fitted(self)
        from kmeans_xp.estimators import conversion  # loads all clusterers of scikit-learn

        return conversion.kmeans_to_sklearn(self)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """A fitted estimator with the centers of a fitted `sklearn.cluster.KMeans` or `MiniBatchKMeans`.

        Parameters
        ----------
        model : sklearn.cluster.KMeans or sklearn.cluster.MiniBatchKMeans
            Its parameters are taken over where they exist here. It has no `converged_` and `history_` to take.

        Returns
        -------
        model : KMeans
            Predicts for arrays of any library.
        """
        from kmeans_xp.estimators import conversion  # loads all clusterers of scikit-learn

        return conversion.from_sklearn(cls(), model)

    @classmethod
    def from_centers(cls, centers: Any, **params: Any) -> Self:
        """A model with given centers, which predicts without a fit.

        Parameters
        ----------
        centers : array-like of shape (n_clusters, n_features)
            Centers, of any library: those of a model that was saved as numbers, say. With `metric='cosine'` they are
            scaled to norm 1.

        **params : dict
            Other parameters of the estimator than `n_clusters`.

        Returns
        -------
        model : KMeans
            It has no `labels_`, `inertia_` and what else belongs to the rows of a fit.

        Examples
        --------
        >>> from kmeans_xp import KMeans
        >>> KMeans.from_centers([[1.0, 2.0], [10.0, 2.0]]).predict([[0, 0], [12, 3]])
        array([0, 1], dtype=int32)
        """
        model = cls(**params)
        model._validate_params()
        model.cluster_centers_ = centers
        model.n_clusters = model.cluster_centers_.shape[0]
        validate_data(model, centers, skip_check_array=True)  # names of the features
        return model
