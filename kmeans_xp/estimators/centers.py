"""What estimators with centers share: prediction on the data's library, placing, pickling."""

import copy
import functools
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays, neighbors, passes, prediction
from kmeans_xp._sklearn_private import fit_context
from kmeans_xp.data import Purpose, open_data, working_memory
from kmeans_xp.estimators.callbacks import Watched, watched_fit
from kmeans_xp.estimators.saving import Saved
from kmeans_xp.metric import EUCLIDEAN, Cosine, unit_rows
from kmeans_xp.prediction import Model
from kmeans_xp.steps import computing
from kmeans_xp.validation import check_count, check_given_centers, check_out, is_plain, seen_by_numpy

Fit = TypeVar("Fit", bound=Callable[..., Any])


PLAIN = {int, float, bool, str, type(None)}  # types whose values cannot change
MOST_VALID = 1000  # sets of parameters that are remembered
_valid: set[tuple[Any, ...]] = set()  # those that scikit-learn has found valid


def plain_parameters(estimator):
    """Class, types and values of an estimator's parameters, if these are plain or random states; None otherwise.

    All seeds are valid alike.
    """
    given, found = vars(estimator), [type(estimator)]
    for name in estimator._parameter_constraints:
        value = given.get(name, given)  # a dictionary is not plain
        kind = type(value)
        if kind is np.random.RandomState or (name == "random_state" and kind is int and 0 <= value < 2**32):
            value = None
        elif kind not in PLAIN:
            return None
        found += kind, value
    return tuple(found)


def checking_parameters(fit: Fit) -> Fit:
    """scikit-learn's check of an estimator's parameters before a fit, but for those that it has found valid before."""

    @fit_context(prefer_skip_nested_validation=False)
    @functools.wraps(fit)  # by the name it knows `partial_fit`
    def check(self):
        pass

    @functools.wraps(fit)
    def checked(self, *args, **kwargs):
        is_known = plain_parameters(self) in _valid
        if not is_known:
            check(self)
        # Warnings count the calls up to the user's: no more functions around the fit
        with nullcontext() if is_known else with_python_integers(self):
            if self._has_callbacks and fit.__name__ == "fit":
                return watched_fit(fit, self, *args, **kwargs)
            return fit(self, *args, **kwargs)

    return cast(Fit, checked)


def python_integers_of(estimator):
    """Parameters that are integers of NumPy, as Python's: a product of uint8 may have no room."""
    given = {name: vars(estimator).get(name) for name in estimator._parameter_constraints}
    return {name: int(value) for name, value in given.items() if isinstance(value, np.integer)}


@contextmanager
def with_python_integers(estimator):
    """Within it, an estimator has them; then it has again what it was given, but for what was set in between."""
    integers = python_integers_of(estimator)
    given = {name: vars(estimator)[name] for name in integers}
    vars(estimator).update(integers)
    try:
        yield
    finally:
        now = vars(estimator)
        now.update({name: value for name, value in given.items() if now.get(name) is integers[name]})


def attributes(estimator, *, drawn_from=False):
    """What a fit that fails puts back: `self.__dict__ = before`, at once, as an interruption may follow another.

    The random state is a copy, which takes a while, if it is drawn from.
    """
    before = dict(vars(estimator))
    kept = before.get("_random_state")
    if kept is not None and (drawn_from or kept is estimator.random_state):
        before["_random_state"] = copy.deepcopy(kept)
    return before


# What a fit says of its rows, which is not true of other centers
OF_SIZES = "prices_", "duality_gap_"  # if those are bounded
OF_ROWS = ("labels_", "inertia_", "cluster_sizes_", "n_iter_", "n_steps_", "converged_", "history_", *OF_SIZES)


def sizes_like(sizes, sample_weight, home):
    """Weights of clusters in the library of `home`: int64, if the rows were counted or their weights are integers."""
    return arrays.asarray_like(
        sizes, home, arrays.namespace(home).int64 if _are_integers(sizes, sample_weight) else None
    )


def _are_integers(sizes, sample_weight):
    """Whether sums of weights, as the user gave these, are integers that int64 has."""
    if sample_weight is None:
        return True
    dtype = sample_weight.dtype if hasattr(sample_weight, "dtype") else np.asarray(sample_weight).dtype
    if not any(kind in str(dtype).lower() for kind in ("int", "bool")):  # of any library, and of data frames
        return False
    return arrays.to_floats(arrays.namespace(sizes).sum(sizes))[0] < 2**63


class NearestCenters(Saved, Watched, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Abstract: an estimator that has `cluster_centers_` and, if they are of a fit, knows how that saw the rows.

    A subclass has the parameters `n_clusters` and `device`.
    """

    _needed_when_fitted = ("cluster_centers_",)
    _known_of_fit: tuple[str, ...] = ("_origin", "_spread")  # of its frame
    _known_of_rows: tuple[str, ...] = OF_ROWS

    n_features_in_: int
    feature_names_in_: Any
    metric = "euclidean"  # of those that have no such parameter
    zero_rows = "warn"
    refine = False
    _tells_unfinished = True  # whether a fit warns that `max_iter` ended it

    @property
    def cluster_centers_(self) -> Any:
        """Centers. If they are set by hand, they are checked and copied, and nothing is known of rows."""
        try:
            return vars(self)["cluster_centers_"]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'cluster_centers_'") from None

    @cluster_centers_.setter
    def cluster_centers_(self, centers: Any) -> None:
        given = check_given_centers(centers, "cluster_centers_")
        with computing(given):
            rows = unit_rows(given) if self._metric.spherical else given
            centers = arrays.namespace(given).astype(rows, given.dtype, copy=True)
        for name in (*self._known_of_fit, *self._known_of_rows):
            vars(self).pop(name, None)
        if getattr(self, "n_features_in_", None) != centers.shape[1]:
            vars(self).pop("feature_names_in_", None)
            self.n_features_in_ = centers.shape[1]
        vars(self)["cluster_centers_"] = centers

    def _require_fit(self):
        """scikit-learn's `check_is_fitted`, which looks at all attributes."""
        if "cluster_centers_" not in vars(self):
            check_is_fitted(self)

    def _validate_params(self):
        """scikit-learn's check of the parameters, which remembers those that are valid."""
        parameters = plain_parameters(self)
        if parameters in _valid:
            return
        super()._validate_params()
        if parameters is not None:
            if len(_valid) >= MOST_VALID:
                _valid.clear()
            _valid.add(parameters)

    @property
    def _n_features_out(self):
        """Number of columns that `transform` returns, for their names."""
        return self._clusters()[0]

    def _keep(self, centers, frame, home):
        """Keep the centers of a fit and its frame, for predict to see rows just as it did, in the library of `home`."""
        vars(self)["cluster_centers_"] = arrays.asarray_like(centers, home)
        self._origin = arrays.asarray_like(frame.origin, home)
        self._spread = frame.spread

    def predict(self, X: Any, *, out: Any = None) -> Any:
        """Index of the nearest center of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library: the centers move to them.

        out : array-like of shape (n_samples,), default=None
            Where to write the result: a memory map, say. Of a dtype that has the largest label.

        Returns
        -------
        labels : array of shape (n_samples,), int32
            In the library and on the device of X; `out` if it is given. Of equally near centers the first. For dense
            rows on a CPU exact: CuPy's kernels compare in the dtype of X, and sparse rows are compared in float64.
        """
        passes_of_labels = prediction.labels_at_once, prediction.labels
        return self._write(X, passes_of_labels, "predict", out, dtype=np.int32)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit and return `labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to cluster.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; 1 each if None.

        Returns
        -------
        labels : array of shape (n_samples,), int32
            Cluster of each row.
        """
        return self.fit(X, sample_weight=sample_weight).labels_

    def transform(self, X: Any, *, out: Any = None) -> Any:
        """Distances of the rows from the centers: Euclidean ones, or 1 - cos if the metric is 'cosine'.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library: the centers move to them.

        out : array-like of shape (n_samples, n_clusters), default=None
            Where to write the result: a memory map, say, of floating-point numbers. X that is read by blocks needs
            memory for one block then.

        Returns
        -------
        X_new : array of shape (n_samples, n_clusters)
            In the library, dtype and on the device of X, computed in float64; `out` if it is given.
        """
        passes_of_distances = prediction.distances_at_once, prediction.distances
        return self._write(X, passes_of_distances, "transform", out, more_shape=self._clusters())

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit and return the distances of the rows from the centers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to cluster.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; 1 each if None.

        Returns
        -------
        X_new : array of shape (n_samples, n_clusters)
            Distances, see :meth:`transform`.
        """
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X, so that higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; 1 each if None.

        Returns
        -------
        score : float
            Minus the weighted sum of squared distances from the nearest centers, summed in float64. For the metric
            'cosine', of the distances 1 - cos.
        """
        with self._opened(X, "score", sample_weight) as data:
            total, weight = data.reduce(prediction.inertia_and_weight, passes.add, self._model())
        if weight == 0:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return -total

    def nearest_centers(self, X: Any, n_centers: int = 1, *, return_distance: bool = True) -> Any:
        """The nearest centers of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library; may be read block by block, or an array or data frame of Dask.

        n_centers : int, default=1
            How many centers for each row.

        return_distance : bool, default=True
            Whether to return distances too.

        Returns
        -------
        distances : array of shape (n_samples, n_centers)
            As those of :meth:`transform`, ascending. Only if `return_distance`.

        labels : array of shape (n_samples, n_centers), int32
            Numbers of the centers, nearest first. The first column is `predict(X)`, but for ties that rounding decides.
        """
        n_centers = check_count("n_centers", n_centers, *self._clusters(), "n_clusters")
        with self._opened(X, "nearest_centers") as data:
            given = self._model(), n_centers
            found = data.write(None, neighbors.nearest_centers, *given, dtype=np.float64, more_shape=(2 * n_centers,))
        with computing(data.home):
            xp, like = arrays.namespace(found), arrays.result_dtype(data.home)
            distances, labels = xp.astype(found[:, :n_centers], like), xp.astype(found[:, n_centers:], xp.int32)
        return (distances, labels) if return_distance else labels

    def nearest_rows(self, X: Any, n_rows: int = 1, *, return_distance: bool = True) -> Any:
        """The rows that are nearest to each center: examples of what is in a cluster.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library; may be read block by block, or an array or data frame of Dask.

        n_rows : int, default=1
            How many rows for each center.

        return_distance : bool, default=True
            Whether to return distances too.

        Returns
        -------
        distances : array of shape (n_clusters, n_rows)
            As those of :meth:`transform`, ascending. Only if `return_distance`.

        rows : array of shape (n_clusters, n_rows), int64
            Numbers of rows of X, nearest first; of equally near ones the first, unless rounding decides. They need not
            belong to the cluster, if another center is nearer still.
        """
        with self._opened(X, "nearest_rows") as data:
            n_rows = check_count("n_rows", n_rows, data.n_rows("to number rows"), "n_samples")
            combine = functools.partial(neighbors.nearer_rows, n_rows=n_rows)
            distances, rows = data.reduce(neighbors.nearest_rows, combine, self._model(), n_rows)
        with computing(data.home):
            distances = arrays.asarray_like(distances, data.home, arrays.result_dtype(data.home))
            rows = arrays.asarray_like(rows, data.home)
        return (distances, rows) if return_distance else rows

    def _opened(self, X, method, sample_weight=None):
        """Context in which X is a source, for a method of the fitted estimator."""
        self._require_fit()
        job = {"estimator": self, "method": method, "weighs": method == "score", "gradients": method == "transform"}
        purpose = Purpose(self.cluster_centers_.shape[0], self._metric, self.device, **job)
        return open_data(X, sample_weight, purpose)

    def _at_once(self, step, X):
        """What a step finds for rows that are as they must be, which most are; None for others, and for faulty ones."""
        centers = vars(self).get("cluster_centers_")
        if self.device is not None or self.metric != "euclidean":
            return None
        rows, names = seen_by_numpy(X)
        if type(X if names is None else rows) is not type(centers) or not is_plain(rows, names, self):
            return None
        if arrays.is_differentiated(X) or arrays.is_differentiated(centers):
            return None
        origin, spread = self._origin_and_spread()
        centers, origin = arrays.shared(centers), arrays.shared(origin)
        if type(centers) is not np.ndarray:  # of the library of X, but on another device
            return None
        with computing(rows, centers.shape[0]):
            found = step(rows, Model(centers, origin, spread, EUCLIDEAN, working_memory()))
        return found if found is None or rows is X or names is not None else arrays.asarray_like(found, X)

    def _model(self):
        """What passes must know of the centers."""
        return Model(self.cluster_centers_, *self._origin_and_spread(), self._metric, working_memory())

    def _write(self, X, functions, method, out, *, dtype=None, more_shape=()):
        """What a step, if any, finds for each row at once, or a pass: `out`, or an array in the library of X."""
        at_once, function = functions
        found = self._at_once(at_once, X) if out is None and at_once is not None else None
        if found is not None:
            return found
        with self._opened(X, method) as data:
            if out is not None:
                largest = None if more_shape else self.cluster_centers_.shape[0] - 1
                check_out(out, (data.n_rows("to write into out"), *more_shape), largest)
            return data.write(out, function, self._model(), dtype=dtype, more_shape=more_shape)

    def _clusters(self):
        """Number of centers, as a shape: the parameter may have been set anew."""
        self._require_fit()
        return (self.cluster_centers_.shape[0],)

    def _origin_and_spread(self):
        """Those of the frame that `fit` had or, of centers that were given, those of the centers."""
        if hasattr(self, "_origin") and hasattr(self, "_spread"):
            return self._origin, self._spread
        centers = arrays.to_numpy(self.cluster_centers_).astype(np.float64)
        origin = np.median(centers, axis=0)  # amid them, also if one is far away
        return origin, float(((centers - origin) ** 2).sum(axis=1).mean())

    @property
    def _algorithm(self):
        """By which the runs of a fit label the rows."""
        return self.algorithm

    @property
    def _metric(self):
        """How rows are compared with the centers."""
        return Cosine(self.zero_rows == "raise") if self.metric == "cosine" else EUCLIDEAN

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
