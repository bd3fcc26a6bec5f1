"""Steps in C++ for NumPy arrays, some for SciPy's rows too. What happens to the rows stands in the sources here."""

import numpy as np

from kmeans_xp.backends._native import native
from kmeans_xp.backends._threads import blas

PARALLEL_WORK = 2e6  # multiplications of a pass from which several threads pay, see `Thresholds`
ROUNDED_UP = 1 + 1e-12
SIDE_BY_SIDE = 50  # times as many multiplications, at least, as in a pass are in a run, which threads share instead
INTERVAL_WORK = 40  # multiplications that an interval costs
MOST_ITERATIONS = 2**31
DENSE_WORK = 2**12  # n_samples * n_features * n_clusters up to which bounds cost more than they save


def iterations(X, sample_weight, centers, state, frame, metric, limits):
    """`algorithms.iterations`."""
    memory, new, (k, shape) = state.memory(centers), centers.copy(order="C"), (len(centers), centers.shape)
    if memory is None:
        return NotImplemented
    begun = memory.centers_old is not None
    if not begun:
        new_sums = {"path": np.zeros(k), "sums": np.zeros(shape), "weights": np.zeros(k)}
        memory = memory._replace(**new_sums, centers_old=np.empty(shape))
    # Labels are exact either way, and float32 is faster, also for float64 rows; but not where many rows leave a doubt
    floats = frame.is_ordinary and not state.doubtful
    job = *_seen(X, frame), sample_weight, new, state.labels, *memory, begun, _numbers(frame, metric), floats
    numbers, fresh, in_doubt = native.iterate(*job, *_ending(limits), _n_threads(X.size * k))
    state.doubtful = in_doubt or not floats
    if not numbers:
        return _too_large(X, centers, frame)
    state.went_on(memory)
    return memory.centers_old, new, memory.sums, memory.weights, numbers, fresh


def run_at_once(X, sample_weight, centers, prunes, frame, metric, limits):
    """`algorithms.run_at_once`."""
    centers, labels, weights = centers.copy(order="C"), np.empty(len(X), dtype=np.int32), np.empty(len(centers))
    job = X, frame.origin, sample_weight, centers, labels, weights, _numbers(frame, metric), frame.is_ordinary
    bounded = prunes and share_that_pays(X, len(centers), frame) > 0
    found = _completed(native.run(*job, bounded, *_ending(limits), _n_threads(X.size * len(centers))))
    return None if found is None else (centers, labels, weights, *found)


def fits_at_once(X, sample_weight, begins, how, uniforms):
    """`fitting.fits_at_once`."""
    (n, d), n_fits, k = X.shape, len(begins) - 1, how.greedy.n_clusters
    found = np.zeros((n_fits, d)), np.zeros(n_fits), np.zeros((n_fits, k, d)), np.zeros(n, np.int32)
    weights, bounded_from = np.zeros((n_fits, k)), DENSE_WORK if how.prunes else np.inf
    given = tuple(how.greedy), how.direction, how.n_runs, *_ending(how.limits), bounded_from, uniforms
    of_pass = X.size * max(k, 2 * how.greedy.n_trials)
    n_threads = _n_threads(of_pass if n_fits == how.n_runs == 1 else SIDE_BY_SIDE * of_pass)
    runs = native.fits(X, sample_weight, begins, *found, weights, *given, n_threads)
    return *found, weights, list(map(_completed, runs))


def _ending(limits):
    """When a run ends, in numbers that C++ has."""
    return min(limits.most, MOST_ITERATIONS), float(limits.tol)


def _completed(run):
    """What a run found, with a line of numbers for each iteration; None if it did not come to its end."""
    numbers, *found = run
    return (numbers.reshape(-1, 5), *found) if len(numbers) else None


def inertia_of_clusters(X, sample_weight, labels, centers, frame):
    """`steps.inertia_of_clusters`."""
    return np.float64(native.inertia(X, frame.origin, sample_weight, labels, centers, _n_threads(8 * X.size)))


def assign(X, centers, frame):
    """`steps.assign`."""
    labels = np.empty(X.shape[0], dtype=np.int32)
    job = *_seen(X, frame), centers, _in_floats(frame), labels
    return labels if native.assign(*job, _n_threads(X.size * len(centers))) else _too_large(X, centers, frame)


def labels_at_once(X, model):
    """`prediction.labels_at_once`."""
    labels = np.empty(X.shape[0], dtype=np.int32)
    floats = X.dtype == np.float32 and model.is_ordinary
    n_threads = _n_threads(X.size * len(model.centers))
    return labels if native.labels_at_once(X, model.origin, model.centers, floats, labels, n_threads) else None


def distances_at_once(X, model):
    """`prediction.distances_at_once`."""
    result = np.empty((X.shape[0], len(model.centers)), np.float32 if X.dtype == np.float32 else np.float64)
    n_threads = _n_threads(X.size * len(model.centers))
    return result if native.distances_at_once(X, model.origin, model.centers, result, n_threads) else None


def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    labels = np.full(X.shape[0], -1, dtype=np.int32)
    found = bounded_step(X, sample_weight, centers, (labels, None, np.empty(len(centers))), (0, 0), frame)
    return found if found is NotImplemented else (labels, *found[2:4])


def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`bounds.bounded_step`, writing into labels and slack; without slack, of all rows."""
    sums, weights = np.zeros(centers.shape), np.zeros(len(centers))
    sums += totals[0]
    weights += totals[1]
    job = *_seen(X, frame), sample_weight, centers, *bounds, sums, weights
    n_changed, n_active = native.step(*job, _in_floats(frame), _n_threads(X.size * len(centers)))
    if n_changed < 0:
        return _too_large(X, centers, frame)
    return *bounds[:2], sums, weights, n_changed, n_active


def batch_step(X, sample_weight, centers, counts, frame):
    """`batches.batch_step`."""
    moved, seen = centers.copy(order="C"), counts.copy()
    how = (frame.origin, 0.0, frame.dtype == np.float32, False), _in_floats(frame), _n_threads(X.size * len(centers))
    numbers = native.batch_step(X, frame.origin, sample_weight, moved, seen, *how)
    return (moved, seen, numbers) if numbers else _too_large(X, centers, frame)


def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    sums, weights = np.empty((n_clusters, X.shape[1])), np.empty(n_clusters)
    native.sum(*_seen(X, frame), sample_weight, labels, sums, weights, _n_threads(8 * X.size))
    return sums, weights


def sum_of_rows(X, sample_weight, frame):
    """`steps.sum_of_rows`."""
    sums, weight = np.empty((1, X.shape[1])), np.empty(1)
    native.sum_of_rows(X, frame.origin, sample_weight, sums, weight, _n_threads(8 * X.size))
    return sums[0], weight[0]


def spread_of_rows(X, sample_weight, frame):
    """`steps.spread_of_rows`."""
    return native.spread_of_rows(X, frame.origin, sample_weight, _n_threads(8 * X.size))


def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    squares = np.empty(X.shape[0])
    native.sq_distances_to_own(*_seen(X, frame), labels, centers, squares, _n_threads(8 * X.size))
    return squares


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`."""
    squares = np.empty((len(rows), X.shape[0]))
    points = frame.shift(X[rows], np.float64)
    native.sq_distances_to(X, frame.origin, points, squares, _n_threads(X.size * len(rows)))
    return squares


def nearer(X, points, closest, frame):
    """`draws.nearer`."""
    closest = closest.copy()
    native.nearer(X, frame.origin, points - frame.origin, closest, _n_threads(X.size * len(points)))
    return closest


def distances(X, centers, frame):
    """`steps.distances`."""
    result = np.empty((X.shape[0], len(centers)), dtype=frame.dtype)
    native.distances(X, frame.origin, centers, result, _n_threads(X.size * len(centers)))
    return result


def greedy_rows(X, sample_weight, frame, how, uniforms, order):
    """`greedy.greedy_rows`."""
    n_threads = _n_threads(2 * X.size * how.n_trials)
    chosen = native.greedy(X, frame.origin, sample_weight, order, tuple(how), uniforms, n_threads)
    return np.asarray(chosen)


class Seen:
    """What was found when rows were last looked at for contenders, for most of them not to be looked at each time.

    The lead of the own center over another, in squared distances and prices, is linear in the row x, and changes from
    one look to the next by no more than 2 ||x|| times what the two centers moved, and by what ||c||² plus the price of
    the own rose over that of the other. A slack is a lead and the sums of these up to then; it is one number a row.
    """

    def __init__(self, X, n_clusters, frame):
        together, zero = np.zeros(len(X), dtype=np.int32), np.zeros((1, X.shape[1]))
        self.labels, self.slack = np.full(len(X), -1, dtype=np.int32), np.full(len(X), -np.inf)
        self.norms = np.sqrt(sq_distances_to_own(X, together, zero, frame)) * ROUNDED_UP
        self.moved, self.raised = np.zeros(n_clusters), np.zeros(n_clusters)
        self._last = None

    def go_on(self, centers, prices):
        """Before a look with these."""
        terms = np.vecdot(centers, centers) + prices
        if self._last is not None:
            moved = np.linalg.norm(centers - self._last[0], axis=1)
            raised, size = terms - self._last[1], np.abs(terms).max() + np.abs(self._last[1]).max()
            self.moved += (moved + most_of_others(moved)) * ROUNDED_UP
            self.raised += raised + most_of_others(-raised) + 1e-15 * size
        self._last = centers, terms


def most_of_others(values):
    """For each value the largest of all others."""
    if len(values) == 1:
        return np.zeros(1)
    first, second = np.argsort(-values, kind="stable")[:2]
    return np.where(np.arange(len(values)) == first, values[second], values[first])


def contenders(X, centers, prices, reach, most, looks, frame):
    """`sizes.contenders`."""
    seen = looks.seen = looks.seen or Seen(X, len(centers), frame)
    seen.go_on(centers, prices)
    # Where rounding to float32 alone makes centers contend, float64 is faster
    rounding = 4 * frame.doubt * (frame.spread + np.abs(prices).max())
    floats = bool(_in_floats(frame) and rounding < reach)
    job = X, frame.origin, centers, prices, reach, most, floats
    known = seen.labels, seen.slack, seen.norms, seen.moved, seen.raised
    found = native.contenders(*job, *known, _n_threads(X.size * len(centers)))
    return None if found is None else (seen.labels.copy(), *found)


def sq_distances_of_pairs(X, rows, clusters, centers, frame):
    """`sizes.sq_distances_of_pairs`."""
    squares = np.empty(len(rows))
    job = X, frame.origin, rows, clusters, centers, squares
    native.sq_distances_of_pairs(*job, _n_threads(8 * len(rows) * X.shape[1]))
    return squares


def mend(costs, choices, prices, low, high, reach):
    """`transport.mend`."""
    begin, clusters, _, n_staying = choices
    chosen, found = np.empty(len(begin) - 1, dtype=np.int64), prices.copy()
    is_done = native.mend(begin, clusters, costs, n_staying, low, high, reach, chosen, found)
    return chosen, found, is_done


def best_intervals(numbers, weights, counts):
    """`optimal.best_intervals`."""
    n_threads = _n_threads(INTERVAL_WORK * len(numbers))
    return native.best_intervals(numbers, weights, np.asarray(counts, dtype=np.int64), n_threads)


def projected(X, direction, frame):
    """`passes.projected`."""
    keys = np.empty(X.shape[0])
    native.keys(X, frame.origin, direction, keys)
    return keys


def sorted_rows(keys):
    """`passes.sorted_rows`."""
    rows = np.empty(len(keys), dtype=np.int64)
    native.sorted_rows(keys, rows)
    return rows


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: a pass with bounds costs no more, but a run with them ends with more passes."""
    return 0.0 if X.size * n_clusters < DENSE_WORK else 1.0


def _seen(X, frame):
    """Rows as the passes take them, and the origin that they are to be relative to."""
    return (X, frame.origin) if isinstance(X, np.ndarray) else X.stored(frame)


def _too_large(X, centers, frame):
    """Squared distances that leave the range of float64: the portable steps find them again, and say so."""
    frame.nearest(X, centers)
    return NotImplemented


def _numbers(frame, metric):
    """What native iterations must know of a frame."""
    return frame.origin, frame.spread, frame.dtype == np.float32, metric.spherical


def _in_floats(frame):
    """Whether distances are compared in float32."""
    return frame.distance_dtype == np.float32


def _n_threads(work):
    """Threads for a pass of so many multiplications."""
    return blas.n_threads() if work > PARALLEL_WORK else 1
