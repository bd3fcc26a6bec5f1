"""Lloyd's iteration: assign the rows to the nearest centers, move the centers to the means, repeat.

S. Lloyd, "Least squares quantization in PCM", 1982. The stopping rules and the relocation of empty clusters are
scikit-learn's.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kmeans_xp import passes
from kmeans_xp.algorithms import Limits
from kmeans_xp.arrays import asarray_like, namespace, to_floats, to_numpy
from kmeans_xp.data.source import Job, new_run
from kmeans_xp.nearest import TOO_LARGE
from kmeans_xp.steps import means

ROUNDING = 1e-9  # relative difference of inertias that is no more
HISTORY = "inertia", "center_shift", "n_changed", "seconds"  # lists with one entry an iteration


@dataclass(frozen=True)
class Iteration:
    """What one iteration did, for callbacks."""

    number: int  # from 1
    centers: Any  # (n_clusters, n_features) after it, as in Result
    inertia: float  # of the centers that it started from
    center_shift: float  # sum of the squared distances that the centers moved
    n_changed: int  # rows whose label changed
    seconds: float


@dataclass(frozen=True)
class Result:
    """What one run found. `labels` and `inertia` are those of `centers`; weights and inertia are in units of weight."""

    centers: Any  # (n_clusters, n_features), relative to zero, in the dtype of X
    labels: Any  # (n_samples,) int32
    inertia: float
    weights: Any  # (n_clusters,) float64, of the rows of each cluster
    n_distinct: int  # clusters that have rows
    n_iter: int
    converged: bool
    interrupted: bool
    history: dict  # lists by the names in `HISTORY`
    proof: Any = None  # that no other labels within the bounds of sizes are better, see `sizes.Proof`


def is_better(result, other, by=ROUNDING):
    """Whether a result has less inertia by a larger share than that, of rounding by default.

    Runs that found the same clusters must not compete by their last bits, which differ from library to library.
    """
    return result.inertia < other.inertia * (1 - by)


class Run:
    """A run of iterations over the rows of a source, which remember their part of it."""

    def __init__(self, data, n_clusters, frame, metric, algorithm):
        self._data = data
        self.job = Job(0, 0, n_clusters, frame, metric, data.suited(algorithm, n_clusters, frame))
        self.weight_unit = data.weight_unit
        self.forget()

    def forget(self):
        """Start anew, as if there had been no iteration."""
        self.job = replace(self.job, run=new_run())

    def iterate(self, centers, limits):
        """At least one iteration from the centers: `algorithms.Iterated`."""
        self.job = replace(self.job, step=self.job.step + 1)
        found = self._data.iterate(self.job, centers, limits)
        self._centers = found.centers_old
        return found

    def at_once(self, centers, limits):
        """Result of the whole run, or None where iterations must be asked for."""
        if self._data.in_blocks:
            return None
        began = time.perf_counter()
        found = self._data.run_at_once(self.job, centers, limits)
        if found is None:
            return None
        centers, labels, weights, *run = found
        _require_finite(self, run[1])
        found = self.job.frame.leave(centers), asarray_like(labels, self._data.home), weights
        return completed(*found, run, self.job.metric, began)

    def step(self, centers):
        """Assign the rows to the centers: sums and weights of the clusters."""
        self.job, self._centers = replace(self.job, step=self.job.step + 1), centers
        return self._data.reduce(passes.step, passes.add, self.job, centers)[:2]

    def update(self):
        """Sums and weights of the clusters, anew, from which the next step goes on."""
        return self._data.reduce(passes.update, passes.add, self.job, self._centers)

    def farthest(self, n_rows):
        """Keys of at most `n_rows` different rows farthest from their centers, and not on them."""
        return list(self._data.reduce(passes.farthest, passes.farther, self.job, self._centers, n_rows)[1])

    def relocate(self, keys, clusters):
        """Sums and weights when the rows with each of the keys belong to one of the clusters."""
        order = np.argsort(keys)
        given = np.asarray(keys)[order], np.asarray(clusters)[order]
        return self._data.reduce(passes.relocate, passes.add, self.job, self._centers, *given)

    def check_finite(self):
        """Raise an error that names the rows with a number that is not finite."""
        self._data.reduce(passes.check_finite, lambda *_: None)

    def inertia(self):
        """Sum of the squared distances from the centers that the rows were last assigned to, 0-d."""
        return self._data.reduce(passes.inertia, passes.add, self.job, self._centers)[0]

    def count_distinct(self):
        """How many clusters have rows."""
        return len(self._data.reduce(passes.distinct, set.union, self.job, self._centers))

    def shown(self, centers):
        """Centers as callables of the user are given them."""
        return asarray_like(centers, self._data.shown)

    def proof(self):
        """Of the labels, if sizes are bounded."""

    def labels(self):
        """Clusters of the rows, (n_samples,) int32; None where they are lazy."""
        return self._data.labels(self.job, self._centers)


class SizedRun(Run):
    """A run over rows in memory, which are labeled so that the sizes of clusters are within bounds."""

    def at_once(self, centers, limits):
        """Never."""

    def proof(self):
        return self._data.reduce(passes.proof, None, self.job, self._centers)


def lloyd(run, centers, *, max_iter, tol, verbose=0, on_iteration=None, keep_interrupted=False):
    """Iterate from `centers` until no label changes, the centers move by no more than `tol` (squared), or `max_iter`.

    centers (n_clusters, n_features) relative to the origin of the run's frame -> Result. Ends early when
    `on_iteration(Iteration)` returns True and, if an interruption is to be kept, at a KeyboardInterrupt once the first
    iteration is done. Weights and inertia are in units, but for those who watch.

    The run comes as a whole, or gives one iteration or several at a time; whatever is to be decided is decided after
    the last of them.
    """
    xp, frame, metric, unit = namespace(centers), run.job.frame, run.job.metric, run.weight_unit
    is_watched = verbose or on_iteration is not None
    result = None if is_watched or keep_interrupted else run.at_once(centers, Limits(max_iter, tol))
    if result is not None:
        return result
    history = {name: [] for name in HISTORY}
    unchanged = converged = stopped = interrupted = fresh = False
    n_empty, completed, were_empty, renewed = 0, centers, False, False
    while not (converged or stopped) and len(history["inertia"]) < max_iter:
        began = time.perf_counter()
        try:
            most = 1 if is_watched else max_iter - len(history["inertia"])
            centers_old, centers, sums, weights, numbers, fresh = run.iterate(centers, Limits(most, tol))
            seconds = (time.perf_counter() - began) / len(numbers)
            for n_changed, _, shift, inertia, _ in numbers[:-1]:
                _note(history, inertia, shift, n_changed, seconds)
                completed, were_empty, renewed = centers_old, False, False
            n_changed, _, shift, inertia, n_empty = numbers[-1]
            _require_finite(run, inertia, shift)
            if n_empty:
                sums, weights = (sums, weights) if fresh else run.update()
                (n_empty,) = to_floats(xp.count_nonzero(weights == 0))
                if n_empty:
                    sums, weights = relocate_empty(run, sums, weights)
                centers = on_rows(means(sums, weights, centers_old, frame, metric), weights)
                (shift,) = to_floats(xp.sum((centers - centers_old) ** 2))
            same_clusters = n_changed == 0 and not (n_empty or were_empty)
            were_empty = n_empty > 0
            if same_clusters and not (renewed or fresh):
                # Sums kept up to date carry the rounding of their history: another look, with fresh means
                centers, renewed = means(*run.update(), centers_old, frame, metric), True
                continue
            renewed = False

            if same_clusters:  # whose means can have moved by rounding only
                centers = centers_old
            unchanged = same_clusters or (n_changed == 0 and shift == 0)
            converged = unchanged or shift <= tol
            completed = centers
            _note(history, inertia, shift, n_changed, time.perf_counter() - began - seconds * (len(numbers) - 1))
            if verbose:
                _print_progress(history, unchanged, converged, tol, unit)
            if on_iteration is not None:
                _, *latest = (values[-1] for values in history.values())
                found = run.shown(frame.leave(centers)), inertia * unit, *latest
                stopped = on_iteration(Iteration(len(history["inertia"]), *found)) is True
        except KeyboardInterrupt:
            if not (keep_interrupted and history["inertia"]):
                raise
            centers, interrupted, converged = completed, True, False
            run.forget()  # the step may have stopped anywhere
            break

    if not (n_empty or interrupted or unchanged or fresh):
        centers = means(*run.update(), centers_old, frame, metric)
    if interrupted or n_empty or not unchanged:  # else labels and weights are those of `centers` already
        _, weights = run.step(centers)
    (inertia,) = to_floats(run.inertia())
    _require_finite(run, inertia)
    found = frame.leave(centers), run.labels(), inertia, weights, run.count_distinct()
    return Result(*found, len(history["inertia"]), converged, interrupted, history, run.proof())


def completed(centers, labels, weights, run, metric, began):
    """`Result` of a run that a backend made at once, as `algorithms.run_at_once` says what it found."""
    numbers, squares, n_distinct, converged = run
    n_changed, _, shifts, inertias, _ = numbers.T.tolist()
    seconds = [(time.perf_counter() - began) / len(numbers)] * len(numbers)
    history = dict(zip(HISTORY, (inertias, shifts, list(map(int, n_changed)), seconds), strict=True))
    numbers = n_distinct, len(numbers), converged
    return Result(centers, labels, metric.cost(squares), weights, *numbers, interrupted=False, history=history)


def _note(history, inertia, center_shift, n_changed, seconds):
    """Append what an iteration found."""
    for values, value in zip(history.values(), (inertia, center_shift, int(n_changed), seconds), strict=True):
        values.append(value)


def relocate_empty(run, sums, weights):
    """Give each empty cluster the row farthest from its center, and all rows equal to that: new sums and weights.

    Fewer clusters than are empty, when all other rows sit on their centers. Rare, so it may synchronise.
    """
    empty = [cluster for cluster, weight in enumerate(to_numpy(weights).tolist()) if weight == 0]
    keys = run.farthest(len(empty))
    return run.relocate(keys, empty[: len(keys)]) if keys else (sums, weights)


def on_rows(centers, weights):
    """Centers of which those of clusters that found no row are that of the first that has rows, which lies on a row.

    The first, as of equally near centers the rows take the first: they stay, and the iterations come to an end.
    """
    xp = namespace(centers)
    first = xp.reshape(xp.argmax(xp.astype(weights > 0, xp.int32)), (1,))
    return xp.where((weights == 0)[:, None], xp.take(centers, first, axis=0), centers)


def _require_finite(run, *values):
    """X may have gone bad since it was checked, and then an error is better than centers that are no numbers."""
    if not all(map(math.isfinite, values)):
        run.check_finite()
        raise ValueError(TOO_LARGE)


def _print_progress(history, unchanged, converged, tol, weight_unit):
    """One line an iteration, in scikit-learn's words."""
    iteration = len(history["inertia"]) - 1
    n_changed, seconds = history["n_changed"][-1], history["seconds"][-1]
    print(
        f"Iteration {iteration}, inertia {history['inertia'][-1] * weight_unit}, {n_changed} rows changed cluster, "
        f"{seconds:.3g} s.",
        flush=True,
    )
    if unchanged:
        print(f"Converged at iteration {iteration}: strict convergence.")
    elif converged:
        shift = history["center_shift"][-1]
        print(f"Converged at iteration {iteration}: center shift {shift} within tolerance {tol}.")
