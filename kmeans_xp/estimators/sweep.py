"""How many clusters? One k-means for each number, each from the centers of the one before, judged by criteria."""

import copy
import time
import warnings
from collections.abc import Iterable
from functools import partial
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays
from kmeans_xp._sklearn_private import Interval, StrOptions
from kmeans_xp.criteria import CRITERIA, Clusters, UndefinedCriterionError
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators.callbacks import Watched, task_of
from kmeans_xp.estimators.centers import attributes, checking_parameters
from kmeans_xp.estimators.fits import Fits, gaps, untold
from kmeans_xp.estimators.kmeans import KMeans
from kmeans_xp.estimators.minibatch import MiniBatchKMeans
from kmeans_xp.estimators.saving import Saved
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.rows.array import take_rows
from kmeans_xp.rows.csr import SparseRows
from kmeans_xp.steps import computing

LARGEST_UNIT = 2.0**100  # of weights as counts


class Results(dict[str, list[Any]]):
    """Columns of a table, which prints as one."""

    def __repr__(self) -> str:
        columns = [[name, *map(_shown, values)] for name, values in self.items()]
        widths = [max(map(len, column)) for column in columns]
        rows = zip(*columns, strict=True)
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _shown(value):
    """A number, in few digits if it is not whole."""
    return str(value) if isinstance(value, Integral) else f"{value:.6g}"


class KMeansSweep(Saved, Watched, MetaEstimatorMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """K-means for a range of numbers of clusters, and a recommendation.

    Each number starts from the centers of the one before and as many more, which greedy k-means++ adds on a weighted
    sample of the rows that all share, and from fresh ones; the better of the two on that sample goes on to all rows.

    Parameters
    ----------
    n_clusters : int or sequence of int, default=range(2, 11)
        Numbers of clusters to try; 10 means 2 to 10. Those above the number of rows are left out, with a warning.

    criterion : {'elbow', 'calinski_harabasz', 'davies_bouldin', 'simplified_silhouette', 'sq_silhouette', \
'silhouette', 'bic', 'gap'}, default='simplified_silhouette'
        What the recommendation goes by. None of them knows what you want the clusters for:

        'elbow' : where the curve of the inertia bends most (Satopää et al., "Finding a kneedle in a haystack", 2011,
        as in the package kneed, extra `sweep`). There is a bend in data without clusters too.

        'calinski_harabasz', 'davies_bouldin' : variance between and within, and the worst overlap. Both expect round
        clusters of similar size, the first favours few.

        'simplified_silhouette', 'sq_silhouette', 'silhouette' : how much nearer the own cluster is than the next, by
        distances from centers; by mean squared distances from rows; by mean distances from rows, which takes time that
        grows with the square of n_samples. They favour few clusters that lie far apart, and cannot say "one".

        'bic' : how well round Gaussians of one variance describe the rows. Grows with rows that don't fit that.

        'gap' : how much smaller the logarithm of the inertia is than for rows without clusters, spread evenly over the
        box along the principal axes of the data (Tibshirani et al., "Estimating the number of clusters in a data set
        via the gap statistic", 2001). The recommendation is the first number whose gap is at most one standard error
        below the largest; the paper compares each with the next, and stops early where clusters form groups. It can
        say "one". Takes `n_references` more sweeps, over as many rows as the sample has; dense data only.

    criteria : iterable of str, default=('calinski_harabasz', 'davies_bouldin')
        More criteria for `results_`.

    n_references : int, default=10
        Sets of rows without clusters for 'gap'.

    estimator : KMeans or MiniBatchKMeans, default=None
        What is fitted to all rows, and its other parameters (`max_iter`, `tol`, `algorithm`, `device` and so on); None
        for KMeans and the defaults. With `refine=True`, the fit of each number is refined, from which the next starts,
        and so are those for 'gap'. `init`, `n_init`, `compute_labels` and `random_state` are not looked at; `size_min`
        and `size_max` are refused.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers, which are drawn on the host.

    verbose : int, default=0
        Print a line for each fit, of the references for 'gap' too, and one for its criteria. The estimator has a
        `verbose` of its own, for its iterations.

    Attributes
    ----------
    results_ : dict of lists
        A table, and printed as one: 'n_clusters', 'inertia', 'n_iter', 'seconds' and each of the criteria but 'elbow';
        beside 'gap' its standard error 'gap_error'. `pandas.DataFrame(results_)` takes it.

    best_n_clusters_ : int
        The recommended number.

    best_estimator_ : KMeans or MiniBatchKMeans
        The fitted model with that number.

    reason_ : str
        Why that number, in a sentence.

    labels_ : array of shape (n_samples,), int32
        Of the best estimator, as are `cluster_centers_`, `cluster_sizes_` and `inertia_`.

    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> from kmeans_xp import KMeansSweep
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) + 20 * np.repeat(np.eye(2)[[0, 1, 0]] * [[1], [1], [-1]], 100, axis=0)
    >>> KMeansSweep(range(2, 7), random_state=0).fit(X).best_n_clusters_
    3
    """

    results_: dict[str, list[Any]]
    best_n_clusters_: int
    best_estimator_: Any
    reason_: str
    n_features_in_: int

    _needed_when_fitted = ("best_estimator_", "results_")

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 2, None, closed="left"), "array-like", range],
        "criterion": [StrOptions(dict.fromkeys(["elbow", "gap", *CRITERIA]).keys())],
        "criteria": ["array-like", tuple, set],
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "estimator": [KMeans, MiniBatchKMeans, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_clusters: int | Iterable[int] = range(2, 11),
        *,
        criterion: str = "simplified_silhouette",
        criteria: Iterable[str] = ("calinski_harabasz", "davies_bouldin"),
        n_references: int = 10,
        estimator: KMeans | MiniBatchKMeans | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.criterion = criterion
        self.criteria = criteria
        self.n_references = n_references
        self.estimator = estimator
        self.random_state = random_state
        self.verbose = verbose

    @checking_parameters
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit a model for each number of clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, wherever :class:`KMeans` takes them from. The criteria of data in blocks (files, Dask) are those of
            the weighted sample.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; 1 each if None.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        numbers = self._numbers()
        names = list(dict.fromkeys([*self.criteria, *({self.criterion} - {"elbow"})]))
        unknown = [name for name in names if name not in {"gap", *CRITERIA}]
        if unknown:
            raise ValueError(f"criteria {unknown} are not known: use {[*CRITERIA, 'gap']}.")
        model = clone(self.estimator or KMeans()).set_params(n_clusters=numbers[-1])
        if isinstance(model, KMeans) and (model.size_min is not None or model.size_max is not None):
            raise ValueError(
                "size_min and size_max are for one number of clusters, and KMeansSweep tries several: leave them out "
                "of its estimator, and fit KMeans with the number that it recommends."
            )
        rng = check_random_state(self.random_state)
        tell = partial(print, flush=True) if self.verbose else untold
        fits = Fits(model, numbers, X, sample_weight, rng, task=task_of(self), tell=tell)
        if fits.numbers != numbers:
            warnings.warn(
                f"X has {fits.data.shape[0]} rows, and n_clusters goes up to {numbers[-1]}: no more than "
                f"{fits.numbers[-1]} clusters are tried.",
                UserWarning,
                stacklevel=3,
            )
            numbers = fits.numbers
        if "gap" in names and isinstance(fits.sample[0], SparseRows):
            raise ValueError("criterion 'gap' needs dense data: rows without clusters fill the box of the data.")
        ordinary = [name for name in names if name != "gap"]
        results = Results({name: [] for name in ("n_clusters", "inertia", "n_iter", "seconds", *ordinary)})
        models = []
        for fitted, seconds in fits:
            row = {"n_clusters": fitted.n_clusters, "inertia": fitted.inertia_, "n_iter": fitted.n_iter_}
            began = time.perf_counter()
            with computing(fits.data.like, lender=fits.data.shown):
                row |= {"seconds": seconds, **self._judge(ordinary, fitted, fits.data, fits.sample)}
            if ordinary:
                found = ", ".join(f"{name} {row[name]:.6g}" for name in ordinary)
                tell(f"n_clusters={fitted.n_clusters}: {found}, {time.perf_counter() - began:.3g} s")
            for name, value in row.items():
                results[name].append(value)
            del fitted.labels_  # those of all models would take n_samples * len(n_clusters) numbers
            models.append(fitted)

        if "gap" in names:
            results["gap"], results["gap_error"] = gaps(fits, results["inertia"], self.n_references, tell)
        place, reason = recommend(results, self.criterion)
        before = attributes(self)
        try:
            self.results_ = results
            self.best_n_clusters_, self.best_estimator_, self.reason_ = numbers[place], models[place], reason
            self.best_estimator_.labels_ = self.best_estimator_.predict(X)
            self.n_features_in_ = self.best_estimator_.n_features_in_
            vars(self).pop("feature_names_in_", None)
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self._is_fitted(state) and "on_iteration" in vars(self.estimator or self):
            state["estimator"] = clone(self.estimator).set_params(on_iteration=None)
        return state

    @property
    def labels_(self) -> Any:
        """Cluster of each row by the best estimator."""
        return self.best_estimator_.labels_

    @property
    def cluster_centers_(self) -> Any:
        """Centers of the best estimator."""
        return self.best_estimator_.cluster_centers_

    @property
    def inertia_(self) -> float:
        """Inertia of the best estimator."""
        return self.best_estimator_.inertia_

    @property
    def cluster_sizes_(self) -> Any:
        """Total weight of the rows of each cluster of the best estimator."""
        return self.best_estimator_.cluster_sizes_

    def recommend(self, criterion: str) -> tuple[int, str]:
        """What another criterion recommends.

        Parameters
        ----------
        criterion : str
            'elbow', or one that stands in `results_`.

        Returns
        -------
        n_clusters : int
            The recommended number.

        reason : str
            Why that number, in a sentence.
        """
        check_is_fitted(self)
        if criterion not in {"elbow", *self.results_} - {"n_clusters", "inertia", "n_iter", "seconds", "gap_error"}:
            raise ValueError(f"criterion={criterion!r} is not in results_: name it in `criteria` before the fit.")
        place, reason = recommend(self.results_, criterion)
        return self.results_["n_clusters"][place], reason

    def _n_parts(self, X):
        """Number of fits, of which callbacks are told."""
        return len(self._numbers())

    def _numbers(self):
        """The numbers of clusters, ascending."""
        if isinstance(self.n_clusters, Integral):
            return list(range(2, self.n_clusters + 1))
        numbers = sorted({int(k) for k in self.n_clusters if isinstance(k, Integral)})
        if len(numbers) != len(list(self.n_clusters)) or not numbers or numbers[0] < 1:
            raise ValueError(f"n_clusters={self.n_clusters!r} must be different integers from 1 on.")
        return numbers

    def _judge(self, names, fitted, data, sample):
        """Values of the criteria; NaN where one is not defined: of one cluster, of as many clusters as rows."""
        X, sample_weight = sample if data.in_blocks else data.all_rows()
        labels = arrays.asarray_like(nameless(fitted).predict(X) if data.in_blocks else fitted.labels_, X)
        xp = arrays.namespace(X)
        present = sample_weight > 0
        if not arrays.to_floats(xp.min(sample_weight))[0] > 0:  # else Clusters would find clusters without weight
            (rows,) = xp.nonzero(present)
            X, labels, sample_weight = take_rows(X, rows), xp.take(labels, rows), xp.take(sample_weight, rows)
        # As counts: weights of any scale that mean as much as there are rows at least, and can be multiplied
        total = arrays.to_floats(xp.sum(sample_weight))[0]
        counts = sample_weight * min(max(data.weight_unit, X.shape[0] / total), LARGEST_UNIT)
        clusters = Clusters(InMemory(X, counts, EUCLIDEAN, fitting=False), labels)
        values = {}
        for name in names:
            try:
                values[name] = CRITERIA[name][0](clusters)
            except UndefinedCriterionError:
                values[name] = np.nan
        return values

    def predict(self, X: Any) -> Any:
        """Index of the nearest center of the best estimator; see :meth:`KMeans.predict`."""
        check_is_fitted(self)
        return self.best_estimator_.predict(X)

    def transform(self, X: Any) -> Any:
        """Distances from the centers of the best estimator; see :meth:`KMeans.transform`."""
        check_is_fitted(self)
        return self.best_estimator_.transform(X)

    def nearest_rows(self, X: Any, n_rows: int = 1, *, return_distance: bool = True) -> Any:
        """The rows nearest to each center of the best estimator; see :meth:`KMeans.nearest_rows`."""
        check_is_fitted(self)
        return self.best_estimator_.nearest_rows(X, n_rows, return_distance=return_distance)

    def nearest_centers(self, X: Any, n_centers: int = 1, *, return_distance: bool = True) -> Any:
        """The nearest centers of the best estimator; see :meth:`KMeans.nearest_centers`."""
        check_is_fitted(self)
        return self.best_estimator_.nearest_centers(X, n_centers, return_distance=return_distance)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X by the best estimator; see :meth:`KMeans.score`."""
        check_is_fitted(self)
        return self.best_estimator_.score(X, sample_weight=sample_weight)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the columns that `transform` returns."""
        check_is_fitted(self)
        return self.best_estimator_.get_feature_names_out(input_features)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        return tags


def nameless(model):
    """The model for rows whose columns have no names, as those of a sample."""
    model = copy.copy(model)
    vars(model).pop("feature_names_in_", None)
    return model


def recommend(results, criterion):
    """Place in `results` of the number to recommend, and the reason."""
    numbers = results["n_clusters"]
    if criterion == "elbow":
        try:
            from kneed import KneeLocator
        except ImportError as error:
            raise ImportError("criterion='elbow' needs kneed: pip install 'kmeans_xp[sweep]'") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no knee: said below
            found = KneeLocator(numbers, results["inertia"], curve="convex", direction="decreasing").elbow
        if found is None:
            return len(numbers) - 1, f"The inertia bends nowhere between {numbers[0]} and {numbers[-1]} clusters."
        return numbers.index(int(found)), f"The inertia bends most at {int(found)} clusters."
    if criterion == "gap":
        gap, error = np.asarray(results["gap"]), np.asarray(results["gap_error"])
        highest = int(np.argmax(gap))
        place = int(np.argmax(gap >= gap[highest] - error[highest]))
        return place, (
            f"gap is highest at {numbers[highest]} clusters, {gap[highest]:.4g} with a standard error of "
            f"{error[highest]:.2g}; the first within that is {numbers[place]} clusters: {gap[place]:.4g}."
        )
    values = np.asarray(results[criterion], dtype=float) * CRITERIA[criterion][1]
    if np.isnan(values).all():
        raise ValueError(
            f"criterion={criterion!r} compares clusters: n_clusters must have a number above 1 and below that of the "
            "different rows."
        )
    place = int(np.nanargmax(values))
    which = "highest" if CRITERIA[criterion][1] > 0 else "lowest"
    return place, f"{criterion} is {which} at {numbers[place]} clusters: {results[criterion][place]:.4g}."
