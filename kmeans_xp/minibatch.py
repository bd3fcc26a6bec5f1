"""Mini-batch k-means: centers move towards the means of small random samples of the rows.

D. Sculley, "Web-scale k-means clustering", 2010. Learning rates, reassignment of small clusters and early stopping are
scikit-learn's.
"""

import math
import warnings
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from sklearn.utils import check_random_state

from kmeans_xp import arrays, seeding
from kmeans_xp._sklearn_private import Interval, StrOptions
from kmeans_xp.centers import NearestCenters, attributes, checking_parameters, inertia, working_memory
from kmeans_xp.lloyd import means
from kmeans_xp.rows.csr import as_given
from kmeans_xp.steps import in_unit, lloyd_step, moments, own_threads, sq_distances_to_own, take_rows
from kmeans_xp.streaming import Reader
from kmeans_xp.validation import (
    check_centers,
    check_n_samples,
    check_rows,
    check_sample_weight,
    check_source,
    check_spread,
    check_weight_of_source,
)


class MiniBatchKMeans(NearestCenters):
    """K-means on small random batches: faster than :class:`KMeans` on many rows, with a slightly higher inertia.

    Same as :class:`sklearn.cluster.MiniBatchKMeans`, except that results live in the library, dtype and device of the
    input, that `fit` takes data that are read from a file too (see :class:`KMeans`), and that a batch costs no time
    that grows with the number of rows. Between two calls of `partial_fit` the estimator may be pickled, and goes on
    with the same bits.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    init : {'k-means++', 'k-means||', 'random'}, array-like of shape (n_clusters, n_features) or callable, \
default='k-means++'
        How to choose the first centers among `init_size` random rows; see :class:`KMeans`.

    max_iter : int, default=100
        Most rows to look at, as a multiple of all rows.

    batch_size : int, default=1024
        Rows in a batch. They are drawn with replacement, with probability proportional to weight.

    verbose : int, default=0
        Print a line a batch.

    compute_labels : bool, default=True
        Whether to label all rows at the end, and to sum the inertia.

    random_state : int, RandomState instance or None, default=None
        Source of the random numbers. They are drawn on the host.

    tol : float, default=0.0
        Stop when the squared distances that the centers moved in a batch sum to at most `tol` times the mean variance
        of the columns (of the rows that `init` looked at); 0 for never.

    max_no_improvement : int or None, default=10
        Stop after so many batches without a new minimum of the smoothed inertia; None for never.

    init_size : int, default=None
        Random rows that `init` chooses from. None: `3 * batch_size`, or `20 * n_clusters` if that is more (3 times in
        scikit-learn).

    n_init : 'auto' or int, default='auto'
        Number of seedings, of which the one with the lowest inertia is used. 'auto' is 3 for 'random' and callables,
        otherwise 1.

    reassignment_ratio : float, default=0.01
        A cluster with a smaller share of the largest cluster's weight moves to a random row of the batch.

    device : None, 'auto', 'cpu', 'cuda' or 'cuda:i', default=None
        Where to compute; see :class:`KMeans`.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, n_features)
        Centers, in the dtype of X: float32 or float64.

    labels_ : array of shape (n_samples,), int32
        Cluster of each row, if `compute_labels`; after `partial_fit`, of the rows of that call.

    inertia_ : float
        Weighted sum of the squared distances of the rows from their centers; without `compute_labels`, an estimate from
        the batches.

    n_iter_ : int
        Rows looked at, as a multiple of all rows, rounded up.

    n_steps_ : int
        Number of batches.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had names that are all strings.

    See Also
    --------
    KMeans : Looks at all rows in each iteration.

    Examples
    --------
    >>> from kmeans_xp import MiniBatchKMeans
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = MiniBatchKMeans(n_clusters=2, random_state=0)
    >>> for batch in (X[:3], X[3:]) * 3:
    ...     model = model.partial_fit(batch)
    >>> model.predict([[0, 0], [12, 3]]).tolist() in ([0, 1], [1, 0])
    True
    """

    _known_of_fit = (*NearestCenters._known_of_fit, "_counts", "_n_since")

    labels_: Any
    inertia_: float
    n_iter_: int
    n_steps_: int

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(seeding.METHODS.keys()), callable, "array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
        "compute_labels": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_no_improvement": [Interval(Integral, 0, None, closed="left"), None],
        "init_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "reassignment_ratio": [Interval(Real, 0, None, closed="left")],
        "device": [None, str],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: int | Literal["auto"] = "auto",
        reassignment_ratio: float = 0.01,
        device: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.device = device

    @checking_parameters
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the cluster centers of X in random batches of its rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to cluster.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative; 1 each if None.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        before = attributes(self)
        try:
            rows = self._rows_of(X, sample_weight)
            self._random_state = rng = check_random_state(self.random_state)
            batch_size = min(self.batch_size, rows.n_samples)
            with arrays.computing(rows.like), own_threads(rows.like, self.n_clusters):
                state = self._first_state(rows.sample(self._init_size(rows.n_samples), rng), rng)
                monitor = Monitor(self.max_no_improvement, self.tol * state.frame.spread / rows.n_features)
                n_steps = max(1, self.max_iter * rows.n_samples // batch_size)
                smoothing = min(1.0, 2 * batch_size / (rows.n_samples + 1))
                for step in range(n_steps):
                    batch_inertia, shift = state.step(*rows.draw(batch_size, rng), self.reassignment_ratio, rng)
                    stop = monitor.stops(batch_inertia / batch_size, shift, smoothing)
                    if self.verbose:
                        print(f"Minibatch step {step + 1}/{n_steps}: {monitor}")
                    if stop:
                        break
                self._learn(state, rows.home)

            self.n_steps_ = step + 1
            self.n_iter_ = math.ceil(self.n_steps_ * batch_size / rows.n_samples)
            if self.compute_labels:
                self._label(X, sample_weight)
            else:
                self.inertia_ = monitor.smoothed * rows.total_weight
        except BaseException:
            self.__dict__ = before
            raise
        return self

    @checking_parameters
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Move the centers by one batch: the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The batch. The first one must have `n_clusters` rows at least: the first centers are chosen among them.

        y : Ignored
            Not used, present here for API consistency by convention.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative; 1 each if None.

        Returns
        -------
        self : object
            Updated estimator.
        """
        before = attributes(self)
        try:
            first = not hasattr(self, "cluster_centers_")
            X_in = check_rows(X, self, reset=first)
            batch = self._place(X_in)
            with arrays.computing(batch), own_threads(batch, self.n_clusters):
                weights = check_sample_weight(sample_weight, batch)
                if not hasattr(self, "_random_state"):
                    self._random_state = check_random_state(self.random_state)
                if first:
                    check_n_samples(X_in, self.n_clusters)
                    state = self._first_state((batch, weights), self._random_state)
                else:
                    state = self._state_for(batch)
                state.step(batch, weights, self.reassignment_ratio, self._random_state)
                self._learn(state, X_in)
            self.n_steps_ = getattr(self, "n_steps_", 0) + 1
            if self.compute_labels:
                self._label(X, sample_weight)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _rows_of(self, X, sample_weight):
        """Where `fit` draws its batches."""
        if self._streams(X):
            check_n_samples(check_source(X, self), self.n_clusters)
            return RowsOfSource(X, check_weight_of_source(sample_weight, X), self._place)
        X_in = check_rows(X, self)
        check_n_samples(X_in, self.n_clusters)
        X = self._place(X_in)
        if sample_weight is not None:
            with arrays.computing(X):
                sample_weight = check_sample_weight(sample_weight, X)
        return RowsInMemory(X, sample_weight, X_in)

    def _init_size(self, n_samples):
        """Rows to choose the first centers from."""
        init_size = self.init_size
        if init_size is None:
            init_size = max(3 * min(self.batch_size, n_samples), 20 * self.n_clusters)
        elif init_size < self.n_clusters:
            warnings.warn(
                f"init_size={init_size} should be larger than n_clusters={self.n_clusters}. Setting it to "
                "min(3*n_clusters, n_samples)",
                RuntimeWarning,
                stacklevel=5,
            )
            init_size = 3 * self.n_clusters
        return min(init_size, n_samples)

    def _first_state(self, sample, rng):
        """The state before the first batch, from rows and their weights."""
        X, weights = sample
        frame = moments(X, weights, self.n_clusters, arrays.tile_bytes(X, working_memory()))
        check_spread(frame.spread)
        candidates = []
        for _ in range(self._n_runs()):
            if isinstance(self.init, str):
                centers = take_rows(X, seeding.METHODS[self.init](X, weights, self.n_clusters, frame, rng))
            else:
                given = self.init
                if callable(given):
                    given = given(as_given(X), self.n_clusters, random_state=rng)
                centers = check_centers(given, X, self.n_clusters)
            candidates.append(frame.enter(centers))
        best = min(candidates, key=lambda centers: inertia(X, weights, centers, frame))
        return State.unseen(best, frame)

    def _state_for(self, batch):
        """The state before another batch: centers that were set by hand have seen no rows."""
        centers, frame = self._seen_from(batch, batch.shape[0])
        if not hasattr(self, "_counts"):
            return State.unseen(centers, frame)
        return State(centers, frame, arrays.asarray_like(self._counts, batch), self._n_since)

    def _n_runs(self):
        """Number of seedings that `n_init` asks for."""
        if not isinstance(self.init, str) and not callable(self.init):
            return 1
        if self.n_init == "auto":
            return 1 if self.init in ("k-means++", "k-means||") else 3
        return self.n_init

    def _learn(self, state, home):
        """Keep a state, in the library of `home`: all that the next batch needs."""
        self._keep(state.frame.leave(state.centers), state.frame, home)
        self._counts = arrays.asarray_like(state.counts, home)
        self._n_since = state.n_since

    def _label(self, X, sample_weight):
        """Set `labels_` and `inertia_` for X."""
        self.labels_ = self.predict(X)
        self.inertia_ = -self.score(X, sample_weight=sample_weight)


class State:
    """Centers, relative to the origin of the frame, and the weight that each has seen."""

    def __init__(self, centers, frame, counts, n_since):
        self.centers, self.frame, self.counts = centers, frame, counts
        self.n_since = n_since  # rows since clusters were reassigned

    @classmethod
    def unseen(cls, centers, frame):
        """The state before the first batch."""
        return cls(centers, frame, arrays.namespace(centers).zeros_like(centers[:, 0]), 0)

    def step(self, X, sample_weight, reassignment_ratio, rng):
        """Move the centers by a batch: its inertia before that, and the squared distances that the centers moved."""
        xp = arrays.namespace(X)
        labels, sums, weights = lloyd_step(X, sample_weight, self.centers, self.frame)
        squares = sq_distances_to_own(X, labels, self.centers, self.frame)
        least = xp.min(self.counts)
        counts = self.counts + weights
        # Each center is the mean of all rows that it was ever given
        centers = means(sums + self.counts[:, None] * self.centers, counts, self.centers, self.frame)
        inertia, shift, least = arrays.to_floats(
            xp.sum(sample_weight * squares), xp.sum((centers - self.centers) ** 2), least
        )
        self.centers, self.counts = centers, counts
        self.n_since += X.shape[0]
        if reassignment_ratio > 0 and (least == 0 or self.n_since >= 10 * centers.shape[0]):
            self.n_since = 0
            self._reassign(X, reassignment_ratio, rng)
        return inertia, shift

    def _reassign(self, X, ratio, rng):
        """Move clusters that have little weight to random rows of the batch."""
        counts = arrays.to_numpy(self.counts).copy()
        small = np.flatnonzero((counts < ratio * counts.max()) & (counts < counts.max()))
        small = small[np.argsort(counts[small], kind="stable")][: X.shape[0] // 2]
        if len(small) == 0:
            return
        rows = rng.choice(X.shape[0], size=len(small), replace=False)
        others = np.delete(counts, small)
        counts[small] = others.min()  # else they would be reassigned again at once
        centers = arrays.to_numpy(self.centers).copy()
        taken = take_rows(X, arrays.asarray_like(rows, X, arrays.namespace(X).int64))
        centers[small] = arrays.to_numpy(self.frame.enter(taken))
        self.centers = arrays.asarray_like(centers, self.centers)
        self.counts = arrays.asarray_like(counts, self.counts)


class Monitor:
    """Decides when batches no longer help."""

    def __init__(self, max_no_improvement, tol):
        self._max_no_improvement, self._tol = max_no_improvement, tol
        self._n_steps = self._n_worse = 0
        self._lowest = math.inf
        self.smoothed = None  # mean inertia of a row
        self._latest = None

    def stops(self, inertia, shift, smoothing):
        """Take note of a batch; whether to stop. The first one shows what the seeding was worth."""
        self._n_steps += 1
        self._latest = inertia
        if self.smoothed is None or self._n_steps == 2:
            self.smoothed = inertia
        else:
            self.smoothed += smoothing * (inertia - self.smoothed)
        if self._n_steps == 1:
            return False
        if self._tol > 0 and shift <= self._tol:
            return True
        self._n_worse = 0 if self.smoothed < self._lowest else self._n_worse + 1
        self._lowest = min(self._lowest, self.smoothed)
        return self._max_no_improvement is not None and self._n_worse >= self._max_no_improvement

    def __str__(self):
        return f"mean batch inertia: {self._latest}, ewa inertia: {self.smoothed}"


def unit_weights(X):
    """1 for each row: a draw has taken account of the weights. Not checked, as that would wait for the device."""
    return arrays.namespace(X).ones(X.shape[0], dtype=arrays.accumulator(X), device=arrays.device(X))


class RowsInMemory:
    """Draws batches of an array."""

    def __init__(self, X, sample_weight, home):
        self.like, self.home, self._sample_weight = X, home, sample_weight
        self.n_samples, self.n_features = X.shape
        self._draw = Draw(self.n_samples, sample_weight)
        self.total_weight = self._draw.total_weight

    def draw(self, n_rows, rng):
        """Rows and their weights, all 1."""
        rows = arrays.asarray_like(self._draw(n_rows, rng), self.like, arrays.namespace(self.like).int64)
        X = take_rows(self.like, rows)
        return X, unit_weights(X)

    def sample(self, n_rows, rng):
        """Rows to choose centers from and their weights: all, if that is not more."""
        if n_rows < self.n_samples:
            return self.draw(n_rows, rng)
        return self.like, in_unit(check_sample_weight(self._sample_weight, self.like))[0]


class RowsOfSource:
    """Draws batches of data that are read from a file."""

    def __init__(self, X, sample_weight, place):
        self._reader, self._sample_weight, self._place = Reader(X), sample_weight, place
        self.home = np.empty(0)
        self.n_samples, self.n_features = X.shape
        self._draw = Draw(self.n_samples, sample_weight)
        self.total_weight = self._draw.total_weight
        self.like = self.draw(1, np.random.RandomState(0))[0]

    def draw(self, n_rows, rng):
        """Rows and their weights, all 1."""
        X = self._place(self._reader.take(self._draw(n_rows, rng)))
        return X, unit_weights(X)

    def sample(self, n_rows, rng):
        """Rows to choose centers from and their weights: all, if that is not more."""
        if n_rows < self.n_samples:
            return self.draw(n_rows, rng)
        X = self._place(self._reader.read(slice(0, self.n_samples)))
        return X, in_unit(check_sample_weight(self._sample_weight, X))[0]


class Draw:
    """Draws row numbers with replacement, with probability proportional to weight, without looking at all weights.

    sample_weight (n_samples,) or None for equal weights.
    """

    def __init__(self, n_samples, sample_weight):
        self._n_samples = n_samples
        self._cumulative = None if sample_weight is None else np.cumsum(arrays.to_numpy(sample_weight))
        self.total_weight = float(n_samples)
        if sample_weight is not None:
            self.total_weight = float(self._cumulative[-1])
            # Rounding may carry a target up to the total: the last row that has weight
            self._last = np.searchsorted(self._cumulative, self.total_weight)

    def __call__(self, n_rows, rng):
        if self._cumulative is None:
            return rng.randint(0, self._n_samples, n_rows)
        places = np.searchsorted(self._cumulative, rng.uniform(size=n_rows) * self.total_weight, side="right")
        return np.minimum(places, self._last)
