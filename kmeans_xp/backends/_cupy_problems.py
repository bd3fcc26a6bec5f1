"""Fits of many small problems side by side, by the kernels of cuda/problems.cu: host code for CuPy arrays.

A problem is an axis of the grid, so that neither launches nor waits become more with problems; those that have come to
their end drop out. What is found of one does not depend on which others are at its side.
"""

from typing import Any, NamedTuple

import cupy
import numpy as np

from kmeans_xp import cuda as _cuda
from kmeans_xp.backends._cupy_graph import Repeated
from kmeans_xp.backends._cupy_runs import MOST_TOGETHER, SUMMING, WORTH_A_GRAPH, n_together
from kmeans_xp.cuda import BLOCK, blocks, launch

MOST_ROWS = 2**13  # of a problem: beyond, its parts keep a device busy, and one block takes long to choose rows
MOST_NUMBERS = 2**17
MOST_DIFFERENCES = 2**28  # of numbers that the block of a problem measures for k-means++
MOST_PROBLEMS = 2**16 - 1  # blocks on the second axis of a grid
SCRATCH = 2**28  # bytes, of problems side by side
BETTER = 1e-9  # as `lloyd.ROUNDING`
ORDINARY = 1e-18, 1e18  # as in `frame.is_ordinary`


class Problems(NamedTuple):
    """Problems side by side: their rows, and what there is of each."""

    X: Any  # (n_rows, n_features) of all, one after the other
    sample_weight: Any  # (n_rows,)
    first: Any  # (n_problems,) int64, their first rows
    count: Any  # (n_problems,) int32
    origins: Any = None  # (n_problems, n_features)
    spreads: Any = None  # (n_problems,)

    @property
    def n_features(self):
        return self.X.shape[1]

    @property
    def rows(self):
        """What kernels that see weights are given first."""
        return self.X, self.sample_weight, self.first, self.count

    def take(self, some):
        """Some of them."""
        of_each = self.first, self.count, self.origins, self.spreads
        return Problems(self.X, self.sample_weight, *(values[some] for values in of_each))


class Run(NamedTuple):
    """What a run found of each problem."""

    centers: Any  # (n_problems, n_clusters, n_features) relative to the origin
    labels: Any  # (n_rows,)
    weights: Any  # (n_problems, n_clusters)
    numbers: list[Any]  # (n_iter, 5) of each, as in `algorithms.Iterated`
    inertia: Any  # (n_problems,) of NumPy, as the following; NaN of what is to be made by its parts
    n_distinct: Any  # (n_problems,) clusters that have rows
    converged: Any  # (n_problems,)


def fits(kernels, X, sample_weight, begins, how, uniforms):
    """`fitting.fits_at_once`."""
    (n, d), n_fits, k = X.shape, len(begins) - 1, how.greedy.n_clusters
    X, sample_weight = cupy.ascontiguousarray(X), cupy.ascontiguousarray(sample_weight)
    centers, labels, weights = cupy.zeros((n_fits, k, d)), cupy.zeros(n, dtype=cupy.int32), cupy.zeros((n_fits, k))
    origins, spreads, runs = cupy.zeros((n_fits, d)), np.zeros(n_fits), []
    for some in _side_by_side(np.diff(begins), 8 * (8 + how.greedy.n_trials), 8 * 10 * k * (d + 1)):
        own = slice(int(begins[some.start]), int(begins[some.stop]))
        sizes, given = np.diff(begins[some.start : some.stop + 1]), (X[own], sample_weight[own])
        small = (sizes <= MOST_ROWS) & (sizes * d <= min(MOST_NUMBERS, MOST_DIFFERENCES // (k * how.greedy.n_trials)))
        if not small.any():
            runs += [None] * len(sizes)
            continue
        problems, order, least, spread, possible = _framed(kernels, *given, sizes, small, how)
        possible, tol = np.where(possible, sizes, 0), how.limits.tol * spread / d
        best = None
        for _ in range(how.n_runs):
            chosen, possible = _choose(kernels, problems, order, least, possible, some.start, how.greedy, uniforms)
            found = _run(kernels, problems, chosen, possible, how.limits, tol)
            best = found if best is None else _better(best, found, sizes)
            possible = np.where(np.isnan(best.inertia), 0, possible)
        origins[some], spreads[some] = problems.origins, spread
        centers[some], labels[own], weights[some] = best.centers, best.labels, best.weights
        runs += _completed(best)
    return origins, spreads, centers, labels, weights, runs


def _side_by_side(sizes, of_row, of_problem):
    """Slices of problems that need up to `SCRATCH` bytes, so many for each row and problem, or of one."""
    start = n_bytes = 0
    for problem, needed in enumerate((sizes * of_row + of_problem).tolist()):
        if problem > start and (n_bytes + needed > SCRATCH or problem - start == MOST_PROBLEMS):
            yield slice(start, problem)
            start, n_bytes = problem, 0
        n_bytes += needed
    yield slice(start, len(sizes))


def _completed(run):
    """As `fitting.Found.run`, of each problem."""
    of_each = run.numbers, run.inertia.tolist(), run.n_distinct.tolist(), run.converged.tolist()
    return [tuple(found) if np.isfinite(found[1]) else None for found in zip(*of_each, strict=True)]


def _better(best, found, sizes):
    """The better one of two runs of each problem; that of NaN, where there is one."""
    better = ~(found.inertia >= best.inertia * (1 - BETTER))
    on_device = cupy.asarray(better)
    of_rows = on_device[_problem_of_rows(sizes)]
    new_or_old = zip(better.tolist(), found.numbers, best.numbers, strict=True)
    return Run(
        cupy.where(on_device[:, None, None], found.centers, best.centers),
        cupy.where(of_rows, found.labels, best.labels),
        cupy.where(on_device[:, None], found.weights, best.weights),
        [new if is_better else old for is_better, new, old in new_or_old],
        *(np.where(better, new, old) for new, old in zip(found[4:], best[4:], strict=True)),
    )


def _problem_of_rows(sizes):
    """The problem of each row, (n_rows,)."""
    return cupy.asarray(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))


def _framed(kernels, X, sample_weight, sizes, small, how):
    """Problems with their frames, the order in which their rows are drawn, rounding of the distance 0 of each row.

    And spreads on the host, and which of the problems can be fitted here.
    """
    (n, d), n_problems = X.shape, len(sizes)
    first = cupy.asarray(np.cumsum(sizes) - sizes)
    problems = Problems(X, sample_weight, first, cupy.asarray(np.where(small, sizes, 0).astype(np.int32)))
    origins, spreads, keys, least = cupy.empty((n_problems, d)), cupy.empty(n_problems), cupy.zeros(n), cupy.zeros(n)
    direction, rounding = cupy.asarray(how.direction), np.float64(how.greedy.rounding)
    given = d, direction, rounding, origins, spreads, keys, least
    launch(kernels["frame_problems"], n_problems, BLOCK, *problems.rows, *given)
    order = cupy.lexsort(cupy.stack((keys, _problem_of_rows(sizes).astype(cupy.float64))))
    spread = spreads.get()  # waits
    low, high = ORDINARY
    ordinary = (spread == 0) | ((spread > low) & (spread < high))
    return problems._replace(origins=origins, spreads=spreads), order, least, spread, small & ordinary


def _choose(kernels, problems, order, least, sizes, first_problem, how, uniforms):
    """First rows of each problem by greedy k-means++, (n_problems, n_clusters); waits once in a round of draws.

    And the sizes of problems, 0 where something was no number.
    """
    n, n_problems, k = len(order), len(sizes), how.n_clusters
    closest, cumulative, lowered = cupy.empty(n), cupy.empty(n), cupy.empty((how.n_trials, n))
    chosen, n_chosen = cupy.zeros((n_problems, k), dtype=cupy.int64), cupy.zeros(n_problems, dtype=cupy.int32)
    together = np.maximum(1, how.most_distances // (np.maximum(sizes, 1) * how.n_trials))
    problems = problems._replace(count=cupy.asarray(sizes.astype(np.int32)))
    done = np.where(sizes > 0, 0, k)
    while (done < k).any():
        n_draws = how.n_trials * np.minimum(np.minimum(k - done, 1 + (done / how.staleness).astype(int)), together)
        n_draws = np.where(done == 0, 1, n_draws)
        active = np.flatnonzero(done < k)
        drawn = [_drawn(uniforms, first_problem + i, int(n_draws[i]), done[i] == 0) for i in active.tolist()]
        begins = np.cumsum(n_draws) - n_draws
        numbers = cupy.asarray(np.concatenate(drawn, axis=1))
        total = numbers.shape[1]
        given = order, least, cupy.asarray(begins.astype(np.int32)), cupy.asarray(n_draws.astype(np.int32)), numbers
        shapes = total, problems.n_features, k, how.n_trials, np.float64(how.tie), np.uintp(n)
        scratch = closest, cumulative, lowered, cupy.empty(total, dtype=cupy.int64), cupy.empty(total)
        launch(kernels["choose_rows"], n_problems, BLOCK, *problems.rows, *given, *shapes, *scratch, chosen, n_chosen)
        before, done = done, np.where(done < k, n_chosen.get(), done)  # waits
        sizes = np.where((done == before) & (done < k), 0, sizes)
        done = np.where(sizes > 0, done, k)
    return chosen, sizes


def _drawn(uniforms, problem, n, is_first):
    """Random numbers of a problem for a round, (2, n): those by which rows are drawn, and of thresholds."""
    return np.stack([uniforms(problem, n), np.zeros(n) if is_first else uniforms(problem, n)])


def _run(kernels, problems, chosen, sizes, limits, tol):
    """Iterations from rows, and what they found."""
    X, k = problems.X, chosen.shape[1]
    problems = problems._replace(count=cupy.asarray(sizes.astype(np.int32)))
    centers = X[chosen].astype(cupy.float64) - problems.origins[:, None, :]
    labels = cupy.full(len(X), -1, dtype=cupy.int32)
    centers, numbers, converged, failed = _iterated(kernels, problems, centers, labels, sizes, limits, tol)
    n_problems = len(sizes)
    running, counts = cupy.ones(n_problems, dtype=cupy.uint64), cupy.zeros(n_problems, dtype=cupy.uint64)
    rows_of_clusters, inertia = cupy.zeros((n_problems, k), dtype=cupy.int32), cupy.empty(n_problems)
    most = int(sizes.max())
    _label(kernels, problems, centers, running, labels, counts, most)
    totals = cupy.empty((n_problems, k, problems.n_features + 1))
    _sum(kernels, problems, labels, running, totals, rows_of_clusters)
    given = problems.origins, centers, labels, problems.n_features, k, inertia
    launch(kernels["inertia_of_problems"], n_problems, BLOCK, *problems.rows, *given)
    n_distinct = cupy.count_nonzero(rows_of_clusters, axis=1)
    found = cupy.stack((inertia, n_distinct.astype(cupy.float64))).get()  # waits
    inertia = np.where(failed, np.nan, found[0])
    return Run(centers, labels, totals[:, :, -1], numbers, inertia, found[1].astype(int), converged)


def _iterated(kernels, problems, centers, labels, sizes, limits, tol):
    """Centers after the iterations, numbers of these, whether they converged; and which are to be made by their parts.

    As in `lloyd.lloyd`, several are launched before the host looks at what they found. Problems that have come to their
    end stay, and nothing is done for them, until they are half of those for which iterations are launched.
    """
    n_problems, d = len(sizes), problems.n_features
    final, numbers = centers.copy(), [[] for _ in range(n_problems)]
    converged, failed = np.zeros(n_problems, dtype=bool), sizes == 0
    left, done, own = np.flatnonzero(~failed), 0, ()
    while len(left) and done < limits.most:
        if 2 * len(left) <= len(own) or done == 0:
            own, on_device = left, cupy.asarray(left)
            centers = final[on_device]
            launched = _Launched(kernels, problems.take(on_device), centers.shape, labels, sizes[own], limits.tol)
        work = int(sizes[left].sum()) * d * (centers.shape[1] + SUMMING)
        n_launched = int(min(n_together(done, work, problems.X.dtype), limits.most - done))
        is_left = np.isin(own, left)
        found = launched.launch(centers, n_launched)[:, is_left]
        n_made = (found[:, :, 0] >= 0).sum(axis=0)
        for i, problem in enumerate(left.tolist()):
            numbers[problem].append(found[: n_made[i], i])
        n_changed, _, shift, inertia, n_empty = found[n_made - 1, np.arange(len(left))].T
        unchanged, finite = n_changed == 0, np.isfinite(shift) & np.isfinite(inertia)
        # Centers of the same clusters can have moved by rounding only
        centers = launched.centers_of(is_left, n_made - unchanged, centers)
        final[on_device] = centers
        converged[left] = unchanged | (shift <= tol[left])
        failed[left] = ~finite | (n_empty > 0)
        left = left[~(converged[left] | failed[left])]
        done += n_launched
    return final, [np.concatenate(parts) if parts else None for parts in numbers], converged, failed


class _Launched:
    """Iterations of problems whose centers pass to and fro between two places, and what they found."""

    def __init__(self, kernels, problems, shape, labels, sizes, tol):
        n_problems, k, d = shape
        self._kernels, self._problems, self._labels, self._tol = kernels, problems, labels, tol
        self._most_rows_of_one, self._parts = int(sizes.max()), cupy.empty((n_problems, k, 2))
        self._running = cupy.ones(n_problems, dtype=cupy.uint64)
        self._n_done = cupy.empty(n_problems, dtype=cupy.uint64)
        self._numbers, self._places = cupy.empty((MOST_TOGETHER, n_problems, 5)), cupy.empty((2, *shape))
        self._totals, self._sizes = cupy.empty((n_problems, k, d + 1)), cupy.empty((n_problems, k), dtype=cupy.int32)
        self._iterations = Repeated(WORTH_A_GRAPH, period=2)

    def launch(self, centers, n):
        """Make so many iterations of those that have not come to their end: numbers of each that was made; waits."""
        self._places[0] = centers
        self._n_done.fill(0)
        self._numbers.fill(-1.0)
        self._iterations.launch(self._iterate, n)
        return self._numbers.get()

    def centers_of(self, some, n_iterations, others):
        """Centers after so many of these iterations of some of the problems, and those that others have."""
        place = np.zeros(len(some), dtype=int)
        place[some] = n_iterations % 2
        found = self._places[cupy.asarray(place), cupy.arange(len(some))]
        return found if some.all() else cupy.where(cupy.asarray(some)[:, None, None], found, others)

    def _iterate(self, place):
        """An iteration from the centers in a place."""
        (n_problems, k, d), problems, kernels = self._places.shape[1:], self._problems, self._kernels
        old, new, counts = self._places[place], self._places[1 - place], cupy.zeros(n_problems, dtype=cupy.uint64)
        _label(kernels, problems, old, self._running, self._labels, counts, self._most_rows_of_one)
        _sum(kernels, problems, self._labels, self._running, self._totals, self._sizes)
        job = self._totals, old, problems.origins, k, d, self._running, new, self._parts
        launch(kernels[f"move_problems_{problems.X.dtype.name}"], (blocks(k, 8), n_problems), (32, 8), *job)
        ends = problems.spreads, k, d, np.float64(self._tol), self._running, self._n_done, self._numbers
        launch(kernels["sum_up_problems"], n_problems, 32, self._parts, self._totals, counts, *ends)


def _label(kernels, problems, centers, running, labels, counts, most_rows_of_one):
    """Label the rows of problems that are running, and count changes."""
    dtype, (n_problems, k, d) = problems.X.dtype, centers.shape
    minus_2_centers, sq_norms = cupy.empty(centers.shape, dtype=dtype), cupy.empty((n_problems, k), dtype=dtype)
    job = centers, n_problems * k, d, minus_2_centers, sq_norms, cupy.zeros(1, dtype=dtype)
    launch(kernels[f"coefficients_{dtype.name}"], blocks(n_problems * k, 8), (32, 8), *job)
    is_few = k <= _cuda.FEW
    shape = _cuda.SHAPES[dtype.name][is_few]
    grid = blocks(max(1, most_rows_of_one), shape[0]), n_problems
    given = problems.X, problems.first, problems.count, problems.origins.astype(dtype), minus_2_centers, sq_norms
    name = ("relabel_problems", "relabel_few_problems")[is_few]
    launch(kernels[name], grid, BLOCK, *given, d, k, running, labels, counts)


def _sum(kernels, problems, labels, running, totals, sizes):
    """Sum the clusters of problems that are running."""
    n_problems, k, columns = totals.shape
    given = problems.origins, labels, columns - 1, k, running, totals, sizes
    launch(kernels["sum_problems"], (blocks(k, 8), n_problems), (32, 8), *problems.rows, *given)
