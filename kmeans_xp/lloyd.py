"""Lloyd's iteration: assign the rows to the nearest centers, move the centers to the means, repeat.

S. Lloyd, "Least squares quantization in PCM", 1982. The stopping rules and the relocation of empty clusters are
scikit-learn's.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmeans_xp.arrays import asarray_like, collect, first_few, namespace, to_floats, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.bounds import PrunedStep
from kmeans_xp.rows import primitive
from kmeans_xp.steps import TOO_LARGE, count_distinct, largest, row_sums, sq_distances_to_own, take_rows, update

FAINT = 1e-9  # share of the weight up to which a cluster may be empty but for rounding


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
    """What one run found. `labels` and `inertia` are those of `centers`."""

    centers: Any  # (n_clusters, n_features), relative to zero, in the dtype of X
    labels: Any  # (n_samples,) int32
    inertia: float
    weights: Any  # (n_clusters,) float64, of the rows of each cluster
    n_distinct: int  # clusters that have rows
    n_iter: int
    converged: bool
    interrupted: bool
    history: dict  # lists with one entry an iteration


class Rows:
    """Rows in memory, and what the iterations of a run remember of them."""

    def __init__(self, X, sample_weight, n_clusters, frame, algorithm):
        self._frame, self._run = frame, (n_clusters, frame, algorithm)
        self.place(X, sample_weight)
        self.forget()

    def place(self, X, sample_weight):
        """Have the rows in memory; None to let them go."""
        self._job = self._step_job = X, sample_weight
        if X is not None:
            shifted, self._step_frame = self._frame.shift_once(X, self._frame.distance_dtype)
            self._step_job = shifted, sample_weight

    def forget(self):
        """Start anew, as if there had been no iteration."""
        self._step = PrunedStep(*self._job, *self._run)
        self.prunes = self._step.prunes

    @property
    def labels(self):
        """Clusters of the rows, (n_samples,) int32."""
        return self._step.labels

    def step(self, centers):
        """Assign the rows to centers: sums, weights, and the 0-d counts of labels changed and rows looked at."""
        return self._step(*self._step_job, centers, self._step_frame)

    def stale(self, centers):
        """Numbers of the rows that the next step must look at, or None for all of them."""
        return self._step.stale(centers)

    def step_on(self, active, X, sample_weight, centers):
        """The step when only the stale rows are in memory."""
        return self._step.step_on(active, X, sample_weight, centers, self._frame)

    def looked_at(self, n_active):
        """Take note of the last count, once it has been read."""
        self._step.looked_at(n_active)

    def update(self):
        """Sums and weights of the clusters, anew, from which the next step goes on."""
        return self._step.renew(*update(*self._job, self.labels, self._step.n_clusters, self._frame))

    def farthest(self, centers, n_rows):
        """Distances of at most `n_rows` different rows farthest from their centers, and not on them, by key."""
        return farthest(*self._job, self.labels, centers, n_rows, self._frame)

    def relocate(self, keys, clusters):
        """Sums and weights when the rows with each of the keys belong to one of the clusters."""
        return relocate(*self._job, self.labels, keys, clusters, self._step.n_clusters, self._frame)

    def check_finite(self):
        """Raise an error that names the rows with a number that is not finite."""
        check_finite(self._job[0])

    def inertia(self, centers):
        """Sum of the squared distances from the centers that the rows were last assigned to, 0-d."""
        squares = sq_distances_to_own(self._job[0], self.labels, centers, self._frame)
        return self._frame.cost(namespace(squares).sum(self._job[1] * squares))

    def count_distinct(self):
        """How many clusters have rows."""
        return count_distinct(self.labels)


def lloyd(rows, centers, frame, *, max_iter, tol, verbose=0, on_iteration=None, keep_interrupted=False, weight_unit=1):
    """Iterate from `centers` until no label changes, the centers move by no more than `tol` (squared), or `max_iter`.

    centers (n_clusters, n_features) relative to `frame.origin` -> Result. Ends early when `on_iteration(Iteration)`
    returns True and, if an interruption is to be kept, at a KeyboardInterrupt once the first iteration is done. Weights
    and inertia are in units, but for those who watch.
    """
    xp = namespace(centers)
    history = {"inertia": [], "center_shift": [], "n_changed": [], "seconds": []}
    unchanged = converged = stopped = interrupted = False
    n_empty, completed, were_empty, renewed = 0, centers, False, False
    while not (converged or stopped) and len(history["inertia"]) < max_iter:
        began = time.perf_counter()
        centers_old = centers
        try:
            sums, weights, *counts = rows.step(centers_old)
            centers, numbers = move(sums, weights, centers_old, *counts, frame)
            n_changed, n_active, shift, inertia, n_empty = numbers
            _require_finite(rows, inertia, shift)
            rows.looked_at(n_active)
            if n_empty:
                sums, weights = rows.update() if rows.prunes else (sums, weights)
                (n_empty,) = to_floats(xp.count_nonzero(weights == 0))
                if n_empty:
                    sums, weights = relocate_empty(rows, centers_old, sums, weights)
                centers = on_rows(means(sums, weights, centers_old, frame), weights)
                (shift,) = to_floats(xp.sum((centers - centers_old) ** 2))
            same_clusters = n_changed == 0 and not (n_empty or were_empty)
            were_empty = n_empty > 0
            if same_clusters and rows.prunes and not renewed:
                # Sums kept up to date carry the rounding of their history: another look, with fresh means
                centers, renewed = means(*rows.update(), centers_old, frame), True
                continue
            renewed = False

            if same_clusters:  # whose means can have moved by rounding only
                centers = centers_old
            unchanged = same_clusters or (n_changed == 0 and shift == 0)
            converged = unchanged or shift <= tol
            completed = centers
            for name, value in zip(history, (inertia, shift, int(n_changed), time.perf_counter() - began), strict=True):
                history[name].append(value)
            if verbose:
                _print_progress(history, unchanged, converged, tol, weight_unit)
            if on_iteration is not None:
                _, *latest = (values[-1] for values in history.values())
                found = frame.leave(centers), inertia * weight_unit, *latest
                stopped = on_iteration(Iteration(len(history["inertia"]), *found)) is True
        except KeyboardInterrupt:
            if not (keep_interrupted and history["inertia"]):
                raise
            centers, interrupted, converged = completed, True, False
            rows.forget()  # the step may have stopped anywhere
            break

    if rows.prunes and not (n_empty or interrupted or unchanged):
        centers = means(*rows.update(), centers_old, frame)
    if interrupted or not unchanged:  # else the labels are those of `centers` already
        _, weights, *_ = rows.step(centers)
    (inertia,) = to_floats(rows.inertia(centers))
    _require_finite(rows, inertia)
    found = frame.leave(centers), rows.labels, inertia, weights, rows.count_distinct()
    return Result(*found, len(history["inertia"]), converged, interrupted, history)


@replaceable
def move(sums, weights, centers_old, n_changed, n_active, frame):
    """New centers, and what the loop must know as floats: the only synchronisation of an iteration.

    That is how many labels changed and rows were looked at, how far the centers moved (squared), the inertia of the old
    ones, and how many clusters may be empty: weights that are kept up to date may differ from 0 by rounding.
    """
    xp = namespace(sums)
    centers = means(sums, weights, centers_old, frame)
    shift, inertia = xp.sum((centers - centers_old) ** 2), inertia_of(centers_old, sums, weights, frame)
    return centers, to_floats(n_changed, n_active, shift, inertia, xp.count_nonzero(weights <= FAINT * xp.sum(weights)))


def means(sums, weights, centers_old, frame):
    """Centers of the clusters; an empty cluster keeps its old one."""
    xp = namespace(sums)
    empty = weights == 0
    centers = sums / xp.where(empty, xp.ones_like(weights), weights)[:, None]
    return frame.settle(xp.where(empty[:, None], centers_old, centers), centers_old)


def inertia_of(centers, sums, weights, frame):
    """Sum of squared distances by Σ||x - c||² = Σ||x||² - 2 Σ c·sum + Σ weight ||c||², which needs no pass.

    Loses digits where clusters are tiny beside the spread of the data: good for watching, not for the result.
    """
    xp = namespace(centers)
    explained = 2 * xp.sum(centers * sums) - xp.sum(weights * xp.vecdot(centers, centers))
    inertia = xp.sum(weights) * frame.spread - explained
    return frame.cost(xp.maximum(inertia, xp.zeros_like(inertia)))


def relocate_empty(rows, centers, sums, weights):
    """Give each empty cluster the row farthest from its center, and all rows equal to that: new sums and weights.

    Fewer clusters than are empty, when all other rows sit on their centers. Rare, so it may synchronise.
    """
    empty = [cluster for cluster, weight in enumerate(to_numpy(weights).tolist()) if weight == 0]
    keys = list(rows.farthest(centers, len(empty)))
    return rows.relocate(keys, empty[: len(keys)]) if keys else (sums, weights)


def on_rows(centers, weights):
    """Centers of which those of clusters that found no row are that of the first that has rows, which lies on a row.

    The first, as of equally near centers the rows take the first: they stay, and the iterations come to an end.
    """
    xp = namespace(centers)
    first = xp.reshape(xp.argmax(xp.astype(weights > 0, xp.int32)), (1,))
    return xp.where((weights == 0)[:, None], xp.take(centers, first, axis=0), centers)


def row_keys(X, frame):
    """Numbers that are equal for equal rows, (n_samples,) float64, whatever the library, the layout and the block.

    They are projections on a fixed direction: rows whose keys are equal by chance differ by less than rounding.
    """
    direction = asarray_like(np.random.RandomState(0).standard_normal(X.shape[1]), frame.origin, frame.origin.dtype)
    keys = frame.map_tiles(lambda rows, tile: projections(tile, direction), X, 1, direction.dtype)
    return collect(keys, X.shape[0])


@primitive
def projections(tile, direction):
    """Of rows on a direction: equal rows get equal numbers."""
    return row_sums(tile * direction)


def farthest(X, sample_weight, labels, centers, n_rows, frame):
    """Distances (squared) of at most `n_rows` different rows that are farthest from their centers, and not on them.

    -> a dict by the key of the row, the farthest first; of equally far rows the last first. Rows without weight don't
    count.
    """
    xp = namespace(X)
    distances = sq_distances_to_own(X, labels, centers, frame)
    apart = distances > xp.take(frame.sq_rounding(centers), labels)
    distances = xp.where(apart & (sample_weight > 0), distances, xp.zeros_like(distances))
    order = xp.flip(xp.argsort(distances, stable=True))
    found, begin, end = {}, 0, 2 * n_rows
    while len(found) < n_rows and begin < X.shape[0]:
        some = order[begin : min(end, X.shape[0])]
        keys, values = row_keys(take_rows(X, some), frame), xp.take(distances, some)
        for key, distance in zip(to_numpy(keys).tolist(), to_numpy(values).tolist(), strict=True):
            if distance > 0:
                found.setdefault(key, distance)
        begin, end = end, 2 * end  # there may be many equal rows
        if distance == 0:
            break
    return dict(list(found.items())[:n_rows])


def relocate(X, sample_weight, labels, keys, clusters, n_clusters, frame):
    """Sums and weights when the rows with each of the keys belong to one of the clusters."""
    xp = namespace(X)
    order = np.argsort(keys)
    keys = asarray_like(np.asarray(keys)[order], frame.origin, frame.origin.dtype)
    clusters = asarray_like(np.asarray(clusters)[order], labels, labels.dtype)
    mine = row_keys(X, frame)
    places = xp.searchsorted(keys, mine)
    places = xp.minimum(places, xp.full_like(places, keys.shape[0] - 1))
    labels = xp.where(xp.take(keys, places) == mine, xp.take(clusters, places), labels)
    return update(X, sample_weight, labels, n_clusters, frame)


def check_finite(X, first=0):
    """Raise an error that names the rows with a number that is not finite; `first` is the number of the first row."""
    rows = np.flatnonzero(~np.isfinite(to_numpy(largest(X)))) + first
    if len(rows) > 0:
        raise ValueError(f"X contains NaN or infinity in row {first_few(rows)}: it was changed while it was clustered.")


def _require_finite(rows, *values):
    """X may have gone bad since it was checked, and then an error is better than centers that are no numbers."""
    if not all(map(math.isfinite, values)):
        rows.check_finite()
        raise ValueError(TOO_LARGE)


def _print_progress(history, unchanged, converged, tol, weight_unit):
    """One line an iteration, in scikit-learn's words."""
    iteration = len(history["inertia"]) - 1
    print(f"Iteration {iteration}, inertia {history['inertia'][-1] * weight_unit}.")
    if unchanged:
        print(f"Converged at iteration {iteration}: strict convergence.")
    elif converged:
        shift = history["center_shift"][-1]
        print(f"Converged at iteration {iteration}: center shift {shift} within tolerance {tol}.")
