"""Iterations that a CUDA device makes without asking the host: several are launched before it looks at what they found.

The device notes when the run ends, so that what has been launched beyond that does nothing. Where the same is launched
again, a CUDA graph of two iterations takes the place of their launches.
"""

from typing import Any, NamedTuple

import cupy
import numpy as np

from kmeans_xp.backends import _cupy_passes as passes
from kmeans_xp.backends._cupy_graph import Repeated

# Rows that change cluster are added to sums and taken away, if they are at most this share of many numbers (of rows)
FEW_CHANGED = 1 / 32
MANY_NUMBERS = 2**22
FAINT = 1e-9  # as in steps.py
MOST_TOGETHER = 8  # iterations between two looks at what they found: those after the last one are for nothing
WORTH_A_GRAPH = 4  # iterations: to capture two takes longer than to launch them
# Multiplications between two looks, by the bytes of a number: 100 ms on slow devices, so that Ctrl-C is answered
WORK_TOGETHER = {4: 2**37, 8: 2**34}
SUMMING = 64  # multiplications that take as long as it takes to read a number of a row, and to sum it


class Given(NamedTuple):
    """What iterations read beside the centers, and write into: the same objects as long as the same is launched."""

    kernels: Any
    X: Any
    sample_weight: Any
    labels: Any
    slack: Any  # None where all rows are compared
    path: Any
    since: Any  # None where all rows are summed
    frame: Any
    metric: Any
    tol: float

    def is_same(self, other):
        """Whether what was launched for the one is right for the other."""
        return self.tol == other.tol and all(one is another for one, another in zip(self[:-1], other[:-1], strict=True))


class Kept(NamedTuple):
    """What a run keeps from one look to the next."""

    launched: Any  # `Launched` by which the run may go on; None at its end
    totals: Any  # (n_clusters, n_features + 1) of the last iteration
    n_changed: float  # labels in it
    since: Any  # None where all rows were summed


def iterations(kernels, memory, X, sample_weight, centers, state, frame, metric, limits):
    """`algorithms.iterations`, with the memory of the state."""
    bounded, slack, path = memory.slack is not None and state.dense_left == 0, None, None
    if bounded:
        slack, path = memory.slack, cupy.zeros(len(centers)) if memory.centers_old is None else memory.path
    since = _since_to_start(kernels, X, sample_weight, state, frame)
    given = Given(kernels, X, sample_weight, state.labels, slack, path, since, frame, metric, limits.tol)
    launched = None if state.kept is None else state.kept.launched
    if launched is None or not launched.given.is_same(given):
        launched = Launched(given)
    n = _n_to_launch(state, X, len(centers), frame, limits.most)
    old, new, totals, numbers = launched.run(centers, memory.centers_old, n)
    sums, weights = totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps
    state.n_done += len(numbers)
    is_over = len(numbers) < n or n == limits.most
    state.kept = Kept(None if is_over else launched, totals, numbers[-1][0], since)
    if bounded:
        state.went_on(memory._replace(path=path, sums=sums, weights=weights, centers_old=old))
        if len(numbers) > 1 or memory.centers_old is not None:
            state.looked_at(numbers[-1][1])
    elif memory.slack is not None:
        state.compared_all(len(numbers))
    return old, new, sums, weights, numbers, since is None


class Launched:
    """Iterations whose centers pass to and fro between two places, and what they found."""

    def __init__(self, given):
        self.given, self._origin = given, given.frame.origin.astype(given.frame.distance_dtype)
        self._iterations = Repeated(WORTH_A_GRAPH, period=2)

    def run(self, centers, centers_old, n):
        """Make up to n iterations from centers; the path of bounds leads to `centers_old`, or is new.

        -> centers before and after the last that was made, its sums and weights as `_iterate` has them, numbers of all
        """
        self._begin(centers, centers_old)
        totals = self._iterations.launch(self._iterate, n)
        numbers = [row for row in self._numbers.get().tolist() if row[0] >= 0]  # waits
        found = self._places[(len(numbers) - 1) % 2], self._places[len(numbers) % 2], totals
        # A graph will write to them again; without one, `_begin` makes new ones
        return *(array.copy() if self._iterations.graph else array for array in found), numbers

    def _begin(self, centers, centers_old):
        """Put in place what iterations start from."""
        if self._iterations.graph is None:  # which reads and writes what there is
            self._places, self._parts = cupy.empty((2, *centers.shape)), cupy.empty((len(centers), 2))
            self._numbers, self._left = cupy.empty((MOST_TOGETHER, 5)), cupy.empty(2, dtype=cupy.uint64)
        self._places[0] = centers
        self._numbers.fill(-1.0)
        self._left.fill(0)
        self._left[0] = self.given.X.shape[0]
        if self.given.slack is None:
            return
        if centers_old is None:
            self._parts.fill(0.0)
        else:
            passes.shifts(self.given.kernels, self._places[0], centers_old, self._parts)

    def _iterate(self, place):
        """An iteration from the centers in a place: sums and weights of the clusters, (n_clusters, n_features + 1)."""
        kernels, X, sample_weight, labels, slack, path, since, frame, metric, tol = self.given
        old, new = self._places[place], self._places[1 - place]
        counts = cupy.zeros(2, dtype=cupy.uint64)
        if slack is not None:
            passes.advance(kernels, self._parts, path, self._left)
        passes.compare(kernels, X, old, frame, labels, slack, path, passes.Look(self._origin, counts, self._left))
        if since is None:
            totals = passes.totals(kernels, X, sample_weight, labels, len(old), frame)
        else:
            totals = passes.brought_up_to_date(kernels, X, sample_weight, labels, since, frame)
        found = (counts[:1], counts[1:]), frame, metric.spherical, (new, self._parts, self._numbers)
        ends = tol, 0.0 if since is None else FAINT, self._left
        passes.move_to(kernels, totals[:, :-1], totals[:, -1], old, *found, *ends)
        return totals


def _n_to_launch(state, X, n_clusters, frame, most):
    """How many iterations of a run to launch before the next look."""
    together = n_together(state.n_done, X.size * (n_clusters + SUMMING), frame.distance_dtype)
    return min(together, most, state.dense_left or most)


def n_together(done, work, dtype):
    """The same after so many iterations, by their work: few at first, so that bounds that don't pay are left soon."""
    return max(1, min(_next_look(done) - done, WORK_TOGETHER[np.dtype(dtype).itemsize] // work))


def _next_look(done):
    """Looks are after 2, 4, 8, 16, 24, ... iterations of a run, whatever else makes it stop in between."""
    return min(max(2, 1 << done.bit_length()), done - done % MOST_TOGETHER + MOST_TOGETHER)


def _since_to_start(kernels, X, sample_weight, state, frame):
    """`Since` by which the next iterations sum rows that change cluster, or None where they sum all.

    It is looked at after the iterations at which there is a look anyway, so that it does not matter what else makes a
    run stop.
    """
    kept, done = state.kept, state.n_done
    if kept is None:
        return None
    if done > 0 and _next_look(done - 1) == done:
        if X.size < MANY_NUMBERS or kept.n_changed > FEW_CHANGED * X.shape[0]:
            return None
        if kept.since is None:
            try:
                return passes.since_now(kernels, X, sample_weight, state.labels, kept.totals, frame)
            except cupy.cuda.memory.OutOfMemoryError:
                return None
    return kept.since
