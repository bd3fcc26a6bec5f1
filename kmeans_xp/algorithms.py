"""What an iteration does with the rows: compare all of them with all centers, or only those whose label may change.

An algorithm is a value; what the rows of a block remember of a run that goes by it is the state that `start` gives. A
new one is a class with its state, here or in a file of its own, and a row of `ALGORITHMS`.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kmeans_xp.arrays import device, namespace
from kmeans_xp.backends import replaceable
from kmeans_xp.bounds import advance, bounded_step, share_that_pays
from kmeans_xp.rows import primitive
from kmeans_xp.steps import lloyd_step, move, update


class Memory(NamedTuple):
    """What iterations of a backend's own go on from, and write into; all but the first is None before the first one."""

    slack: Any  # (n_samples,), see `bounds`; None to compare all rows in each iteration
    path: Any = None  # (n_clusters,)
    sums: Any = None  # (n_clusters, n_features)
    weights: Any = None  # (n_clusters,)
    centers_old: Any = None  # (n_clusters, n_features) of the last iteration


class State(Protocol):
    """What the rows of a block remember of a run."""

    labels: Any  # (n_samples,) int32
    doubtful: bool  # whether comparisons in float32 left many doubts, as a backend has found
    keeps_sums: bool  # whether a step brings sums up to date, in the place of adding them up anew
    n_done: int  # iterations of the run that a backend has made
    kept: Any  # what it keeps between them; None once the sums were added up anew
    dense_left: int  # iterations for which bounds don't pay

    def step(self, X: Any, sample_weight: Any, centers: Any, frame: Any, active: Any = None) -> tuple[Any, ...]:
        """Label the rows: sums and weights of the clusters; how many labels changed and, if that was for bounds
        to say, how many rows were looked at, 0-d.

        If only the stale rows are at hand, on a library whose arrays can be written to, `active` are their numbers.
        """

    def looked_at(self, n_active: float) -> None:
        """Take note of how many rows the last step looked at, once the caller has read it from the device."""

    def renew(self, sums: Any, weights: Any) -> tuple[Any, Any]:
        """Go on from these sums and weights of the clusters, which are those of the labels."""

    def stale(self, centers: Any) -> Any:
        """Numbers of the rows that the next step must look at, or None for all of them."""

    def memory(self, centers: Any) -> Memory | None:
        """What iterations from these centers write into, beside `labels`; given to `went_on` after them.

        None where only `step` knows how rows are labeled.
        """

    def went_on(self, memory: Memory) -> None:
        """Take note of iterations that wrote into it."""

    def compared_all(self, n_iterations: int) -> None:
        """Take note of iterations that compared all rows, although there are bounds, and wrote into `labels` only."""


class Algorithm(Protocol):
    """How the rows of a run find their labels."""

    @property
    def prunes(self) -> bool:
        """Whether sums of clusters may be kept up to date instead of being added up anew."""

    def on(self, X: Any, n_clusters: int, frame: Any) -> "Algorithm":
        """What it comes to for rows like X: itself, or one that it decides for."""

    def start(self, X: Any, sample_weight: Any, n_clusters: int, frame: Any) -> State:
        """What rows remember before the first iteration."""


class Limits(NamedTuple):
    """At which iteration a run is to pause at the latest."""

    most: int  # iterations
    tol: float  # of the first that moved the centers by no more (squared)


class Iterated(NamedTuple):
    """What some iterations found. All but the last changed labels, moved centers by more than `tol`, emptied none."""

    centers_old: Any  # that the last one started from
    centers: Any  # the means after it
    sums: Any  # of the clusters of the last one
    weights: Any
    numbers: list[list[float]]  # what `steps.move` says of each
    fresh: bool  # whether the sums were added up anew, and were not brought up to date


@replaceable
def run_at_once(X, sample_weight, centers, prunes, frame, metric, limits):
    """A whole run on rows that are all at hand; None for `lloyd.lloyd` to make it, as always here.

    A backend finds the same as that, and None too where a cluster is empty or a number is not finite. -> centers
    relative to the origin, labels, weights of the clusters, numbers as in `Iterated`, (n_iter, 5), sum of the squared
    distances of the rows from their centers, how many clusters have rows, whether the run converged
    """


@replaceable
@primitive
def iterations(X, sample_weight, centers, state, frame, metric, limits):
    """At least one iteration from the centers, on rows that are all at hand: `Iterated`, and the state as after them.

    This is one. A backend may go on until a label stays as it is, a cluster is empty, a number is not finite or the
    limits are reached, but so that it comes back within 100 ms or after a few iterations, which Ctrl-C takes back.
    """
    found = moved(state.step(X, sample_weight, centers, frame), centers, frame, metric, not state.keeps_sums)
    state.looked_at(found.numbers[0][1])
    return found


def moved(found, centers, frame, metric, fresh):
    """One iteration, of whose step from `centers` this was found."""
    sums, weights, *counts = found
    means, numbers = move(sums, weights, centers, *counts, frame, metric)
    return Iterated(centers, means, sums, weights, [numbers], fresh)


@dataclass(frozen=True)
class Dense:
    """All rows are compared with all centers."""

    prunes = False

    def on(self, X, n_clusters, frame):
        return self

    def start(self, X, sample_weight, n_clusters, frame):
        return DenseState(unlabeled(X))


@dataclass(frozen=True)
class Bounded:
    """Rows are compared with all centers if their label may have changed, as long as these are not too many."""

    largest_share: float = 1.0  # of the rows

    prunes = True

    def on(self, X, n_clusters, frame):
        return self

    def start(self, X, sample_weight, n_clusters, frame):
        return BoundedState(unlabeled(X), sample_weight, n_clusters, self.largest_share)


@dataclass(frozen=True)
class Auto:
    """Bounded as far as that pays."""

    prunes = True

    def on(self, X, n_clusters, frame):
        share = share_that_pays(X, n_clusters, frame)
        return Bounded(share) if share > 0 else Dense()

    def start(self, X, sample_weight, n_clusters, frame):
        return self.on(X, n_clusters, frame).start(X, sample_weight, n_clusters, frame)


ALGORITHMS: dict[str, Algorithm] = {"auto": Auto(), "lloyd": Dense(), "elkan": Bounded()}
OPTIMAL = "optimal"  # the name of what finds the best centers of rows of one feature (`optimal.py`); iterations follow


def unlabeled(X):
    """Labels of rows that nothing is known about, (n_samples,) int32."""
    xp = namespace(X)
    return xp.full(X.shape[0], -1, dtype=xp.int32, device=device(X))


def dense_step(labels_old, X, sample_weight, centers, frame):
    """Compare all rows with all centers: labels, sums, weights, and the counts of `State.step`."""
    xp = namespace(centers)
    labels, sums, weights = lloyd_step(X, sample_weight, centers, frame)
    n_changed = xp.count_nonzero(labels != labels_old)
    return labels, sums, weights, n_changed, xp.zeros_like(n_changed)


class DenseState:
    """Labels."""

    doubtful = keeps_sums = False
    n_done, dense_left, kept = 0, 0, None

    def __init__(self, labels):
        self.labels = labels

    def step(self, X, sample_weight, centers, frame, active=None):
        self.labels, *found = dense_step(self.labels, X, sample_weight, centers, frame)
        return tuple(found)

    def looked_at(self, n_active):
        """Always at all of them."""

    def renew(self, sums, weights):
        self.kept = None
        return sums, weights

    def stale(self, centers):
        return None

    def memory(self, centers):
        return Memory(None)

    def went_on(self, memory):
        """Nothing but the labels is kept."""

    def compared_all(self, n_iterations):
        """Always."""


class BoundedState:
    """Labels, bounds (see `bounds`), and the sums of clusters that go with them.

    Bounds pay while few rows must be looked at, so the share of the last iteration decides. If it is too large, the
    next iterations compare all rows with all centers: 1 iteration, then 2, then 4, until bounds are tried again.
    """

    doubtful, keeps_sums, n_done, kept = False, True, 0, None

    def __init__(self, labels, sample_weight, n_clusters, largest_share):
        self.labels, self._n_clusters, self._largest_share = labels, n_clusters, largest_share
        self._slack = namespace(labels).full_like(sample_weight, -math.inf)
        self._sums, self._weights = 0, 0
        self._centers = self._path = None  # of the last bounded step
        self._measured = False  # whether that started from bounds
        self._pause = 1  # iterations
        self.dense_left = 0

    def step(self, X, sample_weight, centers, frame, active=None):
        if active is not None:
            return self._step_on(active, X, sample_weight, centers, frame)
        if self.dense_left > 0:
            return self._dense(X, sample_weight, centers, frame)
        self._path = self._path_to(centers)
        self._measured = self._centers is not None
        bounds, totals = (self.labels, self._slack, self._path), (self._sums, self._weights)
        found = bounded_step(X, sample_weight, centers, bounds, totals, frame)
        self.labels, self._slack, self._sums, self._weights, *counts = found
        self._centers = centers
        return self._sums, self._weights, *counts

    def renew(self, sums, weights):
        self._sums, self._weights, self.kept = sums, weights, None
        return sums, weights

    def looked_at(self, n_active):
        if self._measured and n_active > self._largest_share * self.labels.shape[0]:
            self.dense_left = self._pause
            self._pause *= 2

    def stale(self, centers):
        if self.dense_left > 0 or self._centers is None:
            return None
        xp = namespace(centers)
        return xp.nonzero(self._slack <= xp.take(self._path_to(centers), self.labels))[0]

    def memory(self, centers):
        if self._centers is None:
            return Memory(self._slack)
        return Memory(self._slack, self._path, self._sums, self._weights, self._centers)

    def went_on(self, memory):
        self._slack, self._path, self._sums, self._weights, self._centers = memory
        self._measured = True

    def compared_all(self, n_iterations):
        self.dense_left -= n_iterations
        if self._centers is not None:  # the last step had bounds
            slack = namespace(self._slack).full_like(self._slack, -math.inf)
            self._slack, self._centers, self._measured = slack, None, False

    def _step_on(self, active, X, sample_weight, centers, frame):
        """The step when X are the stale rows only."""
        self._path = self._path_to(centers)
        self._measured, self._centers = True, centers
        n_changed = n_active = namespace(centers).zeros((), dtype=self.labels.dtype, device=device(centers))
        if active.shape[0] > 0:
            labels, slack = self.labels[active], self._slack[active]
            before = update(X, sample_weight, labels, self._n_clusters, frame)
            found = bounded_step(X, sample_weight, centers, (labels, slack, self._path), before, frame)
            labels, slack, *after, n_changed, n_active = found
            self.labels[active], self._slack[active] = labels, slack
            self._sums, self._weights = (
                kept + (new - old) for kept, new, old in zip((self._sums, self._weights), after, before, strict=True)
            )
        return self._sums, self._weights, n_changed, n_active

    def _path_to(self, centers):
        if self._centers is None:
            return namespace(centers).zeros_like(centers[:, 0])
        return advance(self._path, centers, self._centers)

    def _dense(self, X, sample_weight, centers, frame):
        found = dense_step(self.labels, X, sample_weight, centers, frame)
        self.labels, self._sums, self._weights, *counts = found
        self.compared_all(1)
        return self._sums, self._weights, *counts
