"""What estimators with centers share: prediction on the data's library, placing, pickling."""

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays
from kmeans_xp._sklearn_private import fit_context
from kmeans_xp.metric import Cosine, Euclidean, settle_zeros, unit_rows
from kmeans_xp.neighbors import nearer_rows, nearest_centers, nearest_rows
from kmeans_xp.partitions import join
from kmeans_xp.saving import Saved
from kmeans_xp.steps import TOO_LARGE, assign, distances, frame_at, in_unit, own_threads, sq_distances_to_own
from kmeans_xp.streaming import Stream
from kmeans_xp.validation import (
    check_count,
    check_device_of_dask,
    check_given_centers,
    check_not_lazy,
    check_out,
    check_rows,
    check_same_library,
    check_sample_weight,
    check_source,
    check_weight_of_source,
)

# Multiplications of one pass from which on device="auto" sends NumPy arrays to a GPU: an H100, copying X included, is
# as fast as 16 cores at 3e7 and twice as fast at 3e8. Before that, importing CuPy and loading kernels take seconds.
AUTO_GPU_WORK = 10**8


Fit = TypeVar("Fit", bound=Callable[..., Any])


def checking_parameters(fit: Fit) -> Fit:
    """scikit-learn's check of an estimator's parameters before a fit, for which its type is not lost."""
    checked: Fit = fit_context(prefer_skip_nested_validation=False)(fit)
    return checked


def attributes(estimator):
    """What a fit that fails puts back: `self.__dict__ = before`, at once, as an interruption may follow another.

    The random state is a copy, as a fit draws from the estimator's own.
    """
    before = dict(vars(estimator))
    if "_random_state" in before:
        before["_random_state"] = copy.deepcopy(before["_random_state"])
    return before


# What a fit says of its rows, which is not true of other centers
OF_ROWS = "labels_", "inertia_", "cluster_sizes_", "n_iter_", "n_steps_", "converged_", "history_"


class NearestCenters(Saved, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Abstract: an estimator that has `cluster_centers_` and, if they are of a fit, knows how that saw the rows.

    A subclass has the parameters `n_clusters` and `device`.
    """

    _needed_when_fitted = ("cluster_centers_",)
    _known_of_fit: tuple[str, ...] = ("_origin", "_spread")  # of its frame

    n_features_in_: int
    feature_names_in_: Any
    metric = "euclidean"  # of those that have no such parameter
    zero_rows = "warn"

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
        with arrays.computing(given):
            rows = unit_rows(given) if self._metric.spherical else given
            centers = arrays.namespace(given).astype(rows, given.dtype, copy=True)
        for name in (*self._known_of_fit, *OF_ROWS):
            vars(self).pop(name, None)
        if getattr(self, "n_features_in_", None) != centers.shape[1]:
            vars(self).pop("feature_names_in_", None)
            self.n_features_in_ = centers.shape[1]
        vars(self)["cluster_centers_"] = centers

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
        if arrays.is_dask(X):
            return self._lazily(self.predict, X, out, np.int32)
        return self._map(X, labels_by, "predict", out, ())

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
        if arrays.is_dask(X):
            return self._lazily(self.transform, X, out, None, *self._clusters())
        return self._map(X, to_centers, "transform", out, self._clusters())

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
        if arrays.is_dask(X):
            from kmeans_xp import dask

            check_is_fitted(self)
            return dask.score(self, check_source(X, self, reset=False), sample_weight)

        def of_rows(X, sample_weight, first, centers, frame):
            return inertia(X, sample_weight, centers, frame)

        total, _ = self._reduce(X, of_rows, operator.add, "score", sample_weight)
        return -total

    def nearest_centers(self, X: Any, n_centers: int = 1, *, return_distance: bool = True) -> Any:
        """The nearest centers of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library; may be read block by block, but not a dask array.

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

        def of_rows(X, sample_weight, first, centers, frame):
            return [nearest_centers(X, centers, frame, n_centers)]

        parts, like = self._reduce(X, of_rows, operator.add, "nearest_centers")
        with arrays.computing(parts[0][0]):
            found = [join(list(values)) for values in zip(*parts, strict=True)]
        return self._neighbors(*found, like, return_distance)

    def nearest_rows(self, X: Any, n_rows: int = 1, *, return_distance: bool = True) -> Any:
        """The rows that are nearest to each center: examples of what is in a cluster.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of any library; may be read block by block, but not a dask array.

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
        check_not_lazy(X)
        n_rows = check_count("n_rows", n_rows, len(X) if not hasattr(X, "shape") else X.shape[0], "n_samples")

        def of_rows(X, sample_weight, first, centers, frame):
            return nearest_rows(X, first, centers, frame, n_rows)

        combine = partial(nearer_rows, n_rows=n_rows)
        found, like = self._reduce(X, of_rows, combine, "nearest_rows")
        return self._neighbors(*found, like, return_distance)

    def _lazily(self, method, X, out, dtype, n_columns=None):
        """A lazy dask array of `method` for each partition of X, or `out` with its values. dtype None: that of X."""
        from kmeans_xp import dask

        check_is_fitted(self)
        check_device_of_dask(self.device)
        X = check_source(X, self, reset=False)
        result = dask.map_rows(method, X, arrays.float_dtype(X) if dtype is None else dtype, n_columns)
        if out is None:
            return result
        dask.check_sizes(X, "to write into out")
        self._check_out(out, result.shape)
        dask.write(out, result)
        return out

    def _map(self, X, function, method, out, more_shape):
        """`function(X, centers, frame)` where it is to be computed: `out`, or an array in the library of X.

        A row of the result has the shape `more_shape`.
        """
        check_is_fitted(self)
        if self._streams(X):
            X = check_source(X, self, reset=False)
            stream, seen = self._seen_by_stream(X, None)
            if out is not None:
                self._check_out(out, (X.shape[0], *more_shape))
            else:
                dtype = np.int32 if more_shape == () else arrays.to_numpy(stream.like).dtype
                out = np.empty((X.shape[0], *more_shape), dtype)
            return stream.write(out, lambda block: function(block.X, *seen))
        check_same_library(X, self, method)
        X_in = check_rows(X, self, reset=False)
        if out is not None:
            self._check_out(out, (X_in.shape[0], *more_shape))
        X = self._place(X_in)
        with arrays.computing(X, gradients=method == "transform"), own_threads(X, *self._clusters()):
            X = self._metric.prepare(X)
            result = arrays.asarray_like(function(X, *self._seen_from(X, X.shape[0])), X_in)
        if out is None:
            return result
        arrays.write_rows(out, slice(None), result)
        return out

    def _check_out(self, out, shape):
        """`out` has room for labels or, if it has columns, distances."""
        check_out(out, shape, self._clusters()[0] - 1 if len(shape) == 1 else None)

    def _reduce(self, X, function, combine, method, sample_weight=None):
        """`function(X, sample_weight, first, centers, frame)`, and an array of the library for results.

        If X is read in blocks, `combine` of it for all blocks, the number of their first rows being `first`.
        """
        check_is_fitted(self)
        if self._streams(X):
            X = check_source(X, self, reset=False)
            stream, seen = self._seen_by_stream(X, sample_weight)

            def of_block(block):
                return function(block.X, block.given_weight * stream.weight_unit, block.start, *seen)

            return stream.reduce(of_block, combine), np.empty(0)
        check_same_library(X, self, method)
        X_in = check_rows(X, self, reset=False)
        X = self._place(X_in)
        with arrays.computing(X), own_threads(X, *self._clusters()):
            X = self._metric.prepare(X)
            sample_weight = check_sample_weight(sample_weight, X)
            return function(X, sample_weight, 0, *self._seen_from(X, X.shape[0])), X_in

    def _seen_by_stream(self, X, sample_weight):
        """X, block by block, and what `_seen_from` gives for its blocks."""
        stream = self._stream(X, sample_weight)
        with arrays.computing(stream.like):
            return stream, self._seen_from(stream.like, X.shape[0])

    def _neighbors(self, distances, numbers, like, return_distance):
        """What `nearest_centers` and `nearest_rows` return, in the library of `like`."""
        with arrays.computing(like):
            numbers = arrays.asarray_like(numbers, like)
            distances = arrays.asarray_like(distances, like, arrays.result_dtype(like))
        return (distances, numbers) if return_distance else numbers

    def _clusters(self):
        """Number of centers, as a shape: the parameter may have been set anew."""
        check_is_fitted(self)
        return (self.cluster_centers_.shape[0],)

    def _seen_from(self, X, n_samples):
        """Centers and the frame for `n_samples` rows like X, as fit saw them."""
        work = n_samples * self.cluster_centers_.shape[0] * self.cluster_centers_.shape[1]
        origin, spread = self._origin_and_spread()
        origin = arrays.asarray_like(origin, X)
        frame = frame_at(origin, spread, X, work, arrays.tile_bytes(X, working_memory()))
        frame = replace(frame, spherical=self._metric.spherical)
        return frame.enter(arrays.asarray_like(self.cluster_centers_, X)), frame

    def _origin_and_spread(self):
        """Those of the frame that `fit` had or, of centers that were given, those of the centers."""
        if hasattr(self, "_origin") and hasattr(self, "_spread"):
            return self._origin, self._spread
        centers = arrays.to_numpy(self.cluster_centers_).astype(np.float64)
        origin = np.median(centers, axis=0)  # amid them, also if one is far away
        return origin, float(((centers - origin) ** 2).sum(axis=1).mean())

    @property
    def _metric(self):
        """How rows are compared with the centers."""
        return Cosine(self.zero_rows == "raise") if self.metric == "cosine" else Euclidean()

    def _streams(self, X):
        """Whether X is to be read block by block."""
        if type(X) is np.ndarray and X.ndim == 2:
            target = self._target(X)
            is_cuda = target is not None and arrays.parse_device(target)[0] == "cuda"
            if is_cuda:  # that is too small for it
                return not arrays.fits_on_device(X, target)
            return self.metric == "cosine" and X.nbytes > working_memory()  # scaled block by block
        return lies_in_a_file(X)

    def _stream(self, X, sample_weight):
        """X, block by block, where `device` wants it."""
        target, sample_weight = self._target(X), check_weight_of_source(sample_weight, X)
        device = None if target == "cpu" else target
        return Stream(X, sample_weight, self.n_clusters, working_memory(), device, self._metric)

    def _place(self, X):
        """X where `device` wants the work to be done."""
        target = self._target(X)
        return X if target is None else arrays.to_device(X, target)

    def _target(self, X):
        """Name of the device to compute on; None for where X is."""
        if self.device != "auto":
            return self.device
        pays = X.shape[0] * X.shape[1] * self.n_clusters >= AUTO_GPU_WORK
        return "cuda" if pays and not arrays.is_foreign(X) and arrays.cuda_problem() is None else None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def labels_by(X, centers, frame):
    """Labels of prepared rows, (n_samples,) int32."""
    return settle_zeros(assign(X, centers, frame), X, frame, 0)


def inertia(X, sample_weight, centers, frame):
    """Weighted sum of the squared distances, or cosine distances, from the nearest centers, as a float."""
    sample_weight, unit = in_unit(sample_weight)
    squares = settle_zeros(sq_distances_to_own(X, assign(X, centers, frame), centers, frame), X, frame, 2.0)
    (total,) = arrays.to_floats(frame.cost(arrays.namespace(squares).sum(sample_weight * squares)))
    if not math.isfinite(total):
        raise ValueError(TOO_LARGE)
    return unit * total


def to_centers(X, centers, frame):
    """Distances of rows from centers in the metric of the frame, (n_samples, n_clusters)."""
    found = distances(X, centers, frame)
    return settle_zeros(frame.cost(found * found), X, frame, 1.0) if frame.spherical else found


def lies_in_a_file(X):
    """Whether X is a source, or a memory map that is too large to be taken for an array."""
    return arrays.is_source(X) or (isinstance(X, np.memmap) and X.nbytes > working_memory())


def working_memory():
    """Bytes that temporaries may take, by scikit-learn's configuration."""
    return int(get_config()["working_memory"] * 2**20)
