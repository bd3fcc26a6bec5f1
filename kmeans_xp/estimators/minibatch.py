"""Mini-batch k-means: centers move towards the means of small random samples of the rows.

D. Sculley, "Web-scale k-means clustering", 2010. Learning rates, reassignment of small clusters and early stopping are
scikit-learn's.
"""

import math
import time
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays, passes, seeding
from kmeans_xp._sklearn_private import Interval, StrOptions
from kmeans_xp.data import Purpose, frame_of, open_data
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators.batches import Batch, Batches, Monitor, State
from kmeans_xp.estimators.callbacks import UNWATCHED, task_of
from kmeans_xp.estimators.centers import NearestCenters, attributes, checking_parameters, sizes_like
from kmeans_xp.estimators.runs import seedings_of
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.prediction import inertia, inertia_and_sizes
from kmeans_xp.validation import check_n_samples, check_not_lazy


@seeding.describing_seedings
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

    init : {seedings}, array-like or callable, default='k-means++'
        How to choose the first centers among `init_size` random rows; see :class:`KMeans`.

    max_iter : int, default=100
        Most rows to look at, as a multiple of all rows.

    batch_size : int, default=1024
        Rows in a batch. They are drawn with replacement, with probability proportional to weight.

    verbose : int, default=0
        Print what a fit does: the seedings, and a line a batch.

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
        Number of seedings, of which the one with the lowest inertia is used. 'auto' is
        {runs}, otherwise 1.

    reassignment_ratio : float, default=0.01
        A cluster with a smaller share of the largest cluster's weight moves to a random row of the batch.

    device : None, 'auto', 'cpu', 'cuda', 'cuda:i' or 'cuda:all', default=None
        Where to compute; see :class:`KMeans`.

    on_iteration : callable, default=None
        Called after each batch of `fit` with an object that has `number` (from 1), `centers`, `inertia` (mean of the
        rows of the batch, of the centers that it started from), `smoothed_inertia`, `center_shift` and `seconds`. If it
        returns True, the fit ends there. A fitted model is pickled without it.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, n_features)
        Centers, in the dtype of X: float32 or float64.

    labels_ : array of shape (n_samples,), int32
        Cluster of each row, if `compute_labels`; after `partial_fit`, of the rows of that call.

    cluster_sizes_ : array of shape (n_clusters,), int64 or float64
        Total weight of the rows of each cluster, if `compute_labels`; after `partial_fit`, of the rows of that call.
        Integers, if the weights are.

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

    cluster_sizes_: Any
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
        "on_iteration": [None, callable],
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
        on_iteration: Callable[[Batch], object] | None = None,
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
        self.on_iteration = on_iteration

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
            with self._opened_to_fit(X, sample_weight, learns=True) as data:
                check_n_samples(data, self.n_clusters)
                self._random_state = rng = check_random_state(self.random_state)
                (n_samples, n_features), batches = data.shape, Batches(data)
                batch_size = min(self.batch_size, n_samples)
                state = self._first_state(*batches.sample(self._init_size(n_samples), rng), rng)
                monitor = Monitor(self.max_no_improvement, self.tol * state.frame.spread / n_features)
                n_steps = max(1, self.max_iter * n_samples // batch_size)
                smoothing = min(1.0, 2 * batch_size / (n_samples + 1))
                for step in range(n_steps):
                    began = time.perf_counter()
                    batch_inertia, shift = state.step(*batches.draw(batch_size, rng), self.reassignment_ratio, rng)
                    stop = monitor.stops(batch_inertia / batch_size, shift, smoothing)
                    seconds = time.perf_counter() - began
                    if self.verbose:
                        print(f"Minibatch step {step + 1}/{n_steps}: {monitor}, {seconds:.3g} s", flush=True)
                    if stop and self.verbose:
                        print(f"Converged ({monitor.reason}) at step {step + 1}/{n_steps}")
                    if self._tell(step + 1, state, monitor, shift, seconds, data) or stop:
                        break
                self._learn(state, data.home)

            self.n_steps_ = step + 1
            self.n_iter_ = math.ceil(self.n_steps_ * batch_size / n_samples)
            if self.compute_labels:
                self._label(X, sample_weight)
            else:
                self.inertia_ = monitor.smoothed * batches.total_weight
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
        before = attributes(self, drawn_from=True)
        try:
            check_not_lazy(X)
            first = not hasattr(self, "cluster_centers_")
            with self._opened_to_fit(X, sample_weight, learns=first) as data:
                batch, weights = data.all_rows()
                if not hasattr(self, "_random_state"):
                    self._random_state = check_random_state(self.random_state)
                if first:
                    check_n_samples(data, self.n_clusters)
                    state = self._first_state(batch, weights, self._random_state)
                else:
                    state = self._state_for(data)
                state.step(batch, weights, self.reassignment_ratio, self._random_state)
                self._learn(state, data.home)
            self.n_steps_ = getattr(self, "n_steps_", 0) + 1
            if self.compute_labels:
                self._label(X, sample_weight)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def to_sklearn(self) -> Any:
        """A fitted :class:`sklearn.cluster.MiniBatchKMeans` with these centers, on NumPy.

        Returns
        -------
        model : sklearn.cluster.MiniBatchKMeans
            Its `partial_fit` goes on with what the centers have seen here. An `init` that scikit-learn does not have
            becomes 'k-means++'.
        """
        check_is_fitted(self)
        from kmeans_xp.estimators import conversion  # loads all clusterers of scikit-learn

        return conversion.minibatch_to_sklearn(self)

    def _n_parts(self, X):
        """Most batches, of which callbacks are told; None where that is not known."""
        n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
        if not isinstance(n_samples, Integral):
            return None
        return max(1, self.max_iter * n_samples // min(self.batch_size, n_samples))

    def _tell(self, number, state, monitor, shift, seconds, data):
        """Tell callbacks of a batch; whether they want no more."""
        task = task_of(self)
        if task is UNWATCHED and self.on_iteration is None:
            return False
        centers = arrays.asarray_like(state.frame.leave(state.centers), data.shown)
        is_over = task.tell("batch", centers)
        numbers = monitor.latest, monitor.smoothed, shift, seconds
        return (
            self.on_iteration is not None and self.on_iteration(Batch(number, centers, *numbers)) is True
        ) or is_over

    def _opened_to_fit(self, X, sample_weight, learns):
        """Context in which X is a source, to draw batches of or as a batch."""
        return open_data(X, sample_weight, Purpose(self.n_clusters, device=self.device, estimator=self, learns=learns))

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
                stacklevel=4,
            )
            init_size = 3 * self.n_clusters
        return min(init_size, n_samples)

    def _first_state(self, X, sample_weight, rng):
        """The state before the first batch, from rows and their weights."""
        data = InMemory(X, sample_weight, EUCLIDEAN, fitting=False)
        frame = frame_of(data)
        n_runs = seedings_of(self, in_batches=True, stacklevel=5)
        candidates, inertias = [], []
        for run in range(n_runs):
            if self.verbose:
                how = self.init if isinstance(self.init, str) else type(self.init).__name__
                print(f"Init {run + 1}/{n_runs} with method {how}", flush=True)
            candidates.append(self._first_centers(data, frame, rng))
            inertias.append(inertia(X, sample_weight, candidates[-1], frame, EUCLIDEAN))
            if self.verbose:
                print(f"Inertia for init {run + 1}/{n_runs}: {inertias[-1]}", flush=True)
        return State.unseen(candidates[inertias.index(min(inertias))], frame)

    def _first_centers(self, data, frame, rng):
        """Centers relative to the origin."""
        if isinstance(self.init, str):
            return seeding.first_centers(self.init, data, self.n_clusters, frame, rng)
        return frame.enter(seeding.given_centers(self.init, data, self.n_clusters, rng))

    def _state_for(self, data):
        """The state before another batch: centers that were set by hand have seen no rows."""
        centers, frame = self._model().seen_from(data.like)
        if not hasattr(self, "_counts"):
            return State.unseen(centers, frame)
        return State(centers, frame, arrays.asarray_like(self._counts, data.like), self._n_since)

    def _learn(self, state, home):
        """Keep a state, in the library of `home`: all that the next batch needs."""
        self._keep(state.frame.leave(state.centers), state.frame, home)
        self._counts = arrays.asarray_like(state.counts, home)
        self._n_since = state.n_since

    def _label(self, X, sample_weight):
        """Set what is known of the rows of X."""
        began = time.perf_counter()
        self.labels_ = self.predict(X)
        with self._opened(X, "score", sample_weight) as data:
            self.inertia_, sizes = data.reduce(inertia_and_sizes, passes.add, self._model())
            self.cluster_sizes_ = sizes_like(sizes, sample_weight, data.home)
        if self.verbose:
            print(f"Labels of all rows, {time.perf_counter() - began:.3g} s", flush=True)
