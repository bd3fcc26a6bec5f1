"""Cases for each step, and how what stands in for it is compared with the portable one.

What stands in is found by test_backends.py and test_stored_rows.py; what has no arguments here fails there.
"""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from conftest import Library, brute_force, moments, unbounded
from numpy.testing import assert_allclose, assert_array_equal

from kmeans_xp import steps
from kmeans_xp.algorithms import ALGORITHMS, Limits
from kmeans_xp.arrays import namespace, to_numpy
from kmeans_xp.fitting import fitting
from kmeans_xp.frame import Frame
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.passes import key_direction
from kmeans_xp.prediction import Model
from kmeans_xp.rows import StoredRows, array
from kmeans_xp.seeding.greedy import Greedy
from kmeans_xp.sizes import Looks
from kmeans_xp.transport import Choices


@dataclass(frozen=True)
class Case:
    """What the steps are given beside the rows: arrays of a library."""

    lib: Library
    host: np.ndarray  # the rows
    n_clusters: int
    frame: Frame
    centers: Any
    weights: Any
    labels: Any
    known: bool  # whether the labels are those of a step before, from which a bounded step starts
    precise: float  # what rounding may do, relative to the largest number
    mixed: bool = False  # rows in float32 are compared with the same in float64

    def array(self, values, dtype=None):
        return self.lib.asarray(values, dtype)

    def rng(self):
        """The same numbers again each time."""
        return np.random.default_rng(7)

    def model(self):
        """Fitted centers, as predict is given them."""
        return Model(self.frame.leave(self.centers), self.frame.origin, self.frame.spread, EUCLIDEAN, 2**26)

    def row_numbers(self):
        return self.array(self.rng().integers(len(self.host), size=5), "int64")

    def state(self):
        """What a bounded step starts from, to be written to: labels, slack, path, sums, weights."""
        path, n_samples = self.array(self.rng().uniform(size=self.n_clusters)), len(self.host)
        if not self.known:
            return *unbounded(self.array(self.host), self.weights), path, 0, 0
        job = self.array(self.host), self.weights, self.labels, self.n_clusters
        sums = steps.update.portable(*job, replace(self.frame, shifted=False))
        slack = np.where(self.rng().uniform(size=n_samples) < 0.5, np.inf, -np.inf)
        return self.array(to_numpy(self.labels).copy()), self.array(slack), path, *sums


def case(lib, host, n_clusters, dtype, known=True, tile_bytes=10_000, precise=None):
    """A case, its centers near rows, its weights partly 0, and some clusters without rows."""
    rng = np.random.default_rng(len(host) + n_clusters)
    X, n_samples = lib.asarray(host, dtype), len(host)
    weights = rng.uniform(0.5, 2, size=n_samples) * (rng.integers(4, size=n_samples) > 0)
    weights[0] = 1.0
    frame = moments(X, lib.asarray(weights), tile_bytes)
    centers = host[rng.integers(n_samples, size=n_clusters)] * rng.uniform(0.9, 1.1, size=(n_clusters, 1))
    labels = rng.integers(-(-n_clusters // 2), size=n_samples)
    return Case(
        lib,
        host.astype(dtype),
        n_clusters,
        frame,
        frame.enter(lib.asarray(centers, dtype)),
        lib.asarray(weights),
        lib.asarray(labels, "int32"),
        known,
        precise or (1e-5 if dtype == "float32" else 1e-12),
    )


def bounds_of_a_step(c, X):
    labels, slack, path, *sums = c.state()
    return X, c.weights, c.centers, (labels, slack, path), sums, c.frame


def sums_of_a_step(c, X):
    sums = steps.update.portable(X, c.weights, c.labels, c.n_clusters, c.frame)
    return *sums, c.centers, c.array(3), c.array(5), c.frame, EUCLIDEAN


def iterations_from_centers(c, X):
    """One, of a run that has bounds and of one that has not."""
    frame = c.frame
    if frame.shifted and not isinstance(X, StoredRows):  # of which backends for arrays know nothing
        X, frame = c.array(c.host), replace(frame, shifted=False)
    for algorithm in ALGORITHMS["lloyd"], ALGORITHMS["elkan"]:
        state = algorithm.start(X, c.weights, c.n_clusters, frame)
        yield X, c.weights, c.centers, state, frame, EUCLIDEAN, Limits(1, 0.0)


def runs_from_centers(c, X):
    """With bounds and without, that end as labels stay as they are, as centers hardly move, and by their number."""
    for prunes in (False, True):
        for limits in Limits(300, 0.0), Limits(300, c.frame.spread / 100), Limits(2, 0.0):
            yield X, c.weights, c.centers, prunes, c.frame, EUCLIDEAN, limits


def intervals_of_numbers(c):
    """As many clusters as there are numbers too, of a few."""
    numbers = np.unique(c.host[:, 0].astype("float64"))
    few = numbers[:: len(numbers) // 30 + 1]
    more = min(c.n_clusters, 20, len(numbers))
    for some, counts in (
        (numbers, [1]),
        (numbers, [more]),
        (few, [len(few)]),
        (numbers, sorted({1, more // 2, more} - {0})),
    ):
        yield some, c.rng().uniform(0.5, 2, size=len(some)), counts


def fits_of_problems(c, X):
    """Of one, and of two side by side."""
    n_clusters = min(c.n_clusters, len(c.host) // 2 or 1)
    for begins in [0, len(c.host)], [0, n_clusters, len(c.host)][: 1 + len(c.host) // n_clusters]:
        how = fitting(n_clusters, c.host.shape[1], 2, ALGORITHMS["auto"], Limits(300, 1e-4))
        yield X, c.weights, np.asarray(begins), how, lambda _, n: c.rng().random(n)


def choice_of_rows(c, X):
    """Of no more rows than there are different ones: what is chosen then is decided by rounding."""
    n_clusters = min(c.n_clusters, len(np.unique(c.host, axis=0)))
    rounding = replace(c.frame, distance_dtype=c.frame.origin.dtype).doubt * 2
    n_trials = 2 + int(np.log(n_clusters))
    how = Greedy(n_clusters, n_trials, 4 * len(c.host) * n_trials, 3, 1e-9, rounding)
    for order in None, c.array(c.rng().permutation(len(c.host)), "int64"):
        yield X, c.weights, c.frame, how, c.rng().random, order


def candidates_of_a_draw(c, X):
    closest = c.array(brute_force(c.host, c.host[:1]).min(axis=1))
    rows = c.rng().integers(len(c.host), size=6)
    squares = c.array(brute_force(c.host, c.host[rows]).T.copy())
    return closest, squares, c.weights, c.array(rows, "int64"), c.rng().uniform(size=6), 2, 3


def prices_of(c):
    """As large as differences of squared distances."""
    return c.rng().normal(size=c.n_clusters) * c.frame.spread / 10


def looks_for_contenders(c, X):
    """With a reach that leaves out some, with none, and too many; then with what has been seen before."""
    for reach, most in ((c.frame.spread / 5, 10**6), (np.inf, 10**6), (c.frame.spread, 1)):
        yield X, c.centers, prices_of(c), reach, most, Looks(), c.frame
    looks = Looks()
    for move, reach in ((0, 0.1), (1e-3, 0.1), (1e-2, 0.05), (0, 0.2), (0.3, 0.01), (1e-2, 0)):
        centers, prices = c.centers * (1 + move) + move * c.centers[:1, :], prices_of(c) * (1 + 5 * move)
        yield X, centers, prices, c.frame.spread * reach, 10**6, looks, c.frame


def pairs_of_rows_and_clusters(c, X):
    rows = np.sort(c.rng().integers(len(c.host), size=50))
    return X, rows, c.rng().integers(c.n_clusters, size=50).astype(np.int32), c.centers, c.frame


def rows_to_be_moved(c, X):
    """Free to go anywhere, and within a reach; some costs are equal."""
    n, k = len(c.host), c.n_clusters
    costs = np.round(brute_force(c.host, to_numpy(c.frame.leave(c.centers))), 1).ravel()
    choices = Choices(np.arange(n + 1) * k, np.tile(np.arange(k, dtype=np.int32), n), costs, np.zeros(k, dtype=int))
    low, high = np.full(k, n // (2 * k)), np.full(k, -(-n // k))
    for prices, reach in ((np.zeros(k), np.inf), (prices_of(c), np.inf), (prices_of(c), c.frame.spread / 100)):
        yield costs, choices, prices, low, high, reach


def slices_of(X, n_rows=7):
    return [slice(begin, min(begin + n_rows, X.shape[0])) for begin in range(0, X.shape[0], n_rows)]


# Calls of each step for a case and its rows, as an array or stored otherwise
ARGUMENTS = {
    "batch_step": lambda c, X: [(X, c.weights, c.centers, c.weights[0] + c.centers[:, 0] ** 2, c.frame)],
    "distances_at_once": lambda c, X: [(X, c.model())],
    "labels_at_once": lambda c, X: [(X, c.model())],
    "as_given": lambda c, X: [(X,)],
    "assign": lambda c, X: [(X, c.centers, c.frame)],
    "best_intervals": lambda c, X: intervals_of_numbers(c),
    "bounded_step": lambda c, X: [bounds_of_a_step(c, X)],
    "choose": lambda c, X: [candidates_of_a_draw(c, X)],
    "contenders": looks_for_contenders,
    "cluster_sums": lambda c, X: [(X, c.labels, c.weights, c.n_clusters)],
    "distinct": lambda c, X: [(c.labels,)],
    "dense": lambda c, X: [(X,)],
    "distances": lambda c, X: [(X, c.centers, c.frame)],
    "greedy_rows": choice_of_rows,
    "iterations": iterations_from_centers,
    "fits_at_once": fits_of_problems,
    "inertia_of_clusters": lambda c, X: [(X, c.weights, c.labels, c.centers, c.frame)],
    "joined": lambda c, X: [(X,), (X, X, array.take_rows(X, c.row_numbers()))],
    "largest": lambda c, X: [(X,)],
    "lloyd_step": lambda c, X: [(X, c.weights, c.centers, c.frame)],
    "map_slices": lambda c, X: [(X, lambda rows: rows, slices_of(X))],
    "mend": rows_to_be_moved,
    "move": lambda c, X: [sums_of_a_step(c, X)],
    "own_threads": lambda c, X: [(X, c.n_clusters)],
    "projected": lambda c, X: [(X, key_direction(c.frame), c.frame)],
    "projections": lambda c, X: [(X, c.centers[0, :])],
    "nearer": lambda c, X: [(X, c.frame.leave(c.centers), c.weights + 0.1, c.frame)],
    "relative": lambda c, X: [(X, origin, c.lib.xp.float64) for origin in (c.frame.origin, None)],
    "row_size": lambda c, X: [(X,)],
    "run_at_once": runs_from_centers,
    "scaled": lambda c, X: [(X, array.largest(X))],
    "side_by_side": lambda c, X: [(X, c.n_clusters, abs, range(-20, 20))],
    "share_that_pays": lambda c, X: [(X, c.n_clusters, c.frame)],
    "sq_distances": lambda c, X: [(X, c.centers), (X, array.take_rows(X, c.row_numbers()))],
    "sq_distances_of_pairs": lambda c, X: [pairs_of_rows_and_clusters(c, X)],
    "sq_distances_of_tile": lambda c, X: [(X, c.labels, c.centers)],
    "sq_distances_to": lambda c, X: [(X, c.row_numbers(), c.frame)],
    "sq_distances_to_own": lambda c, X: [(X, c.labels, c.centers, c.frame)],
    "sorted_rows": lambda c, X: [(c.array(c.host[:, 0], "float64"),), (c.array(np.round(c.host[:, 0]), "float64"),)],
    "spread_of_rows": lambda c, X: [(X, c.weights, c.frame)],
    "sum_of_rows": lambda c, X: [(X, c.weights, c.frame)],
    "sq_norms": lambda c, X: [(X,)],
    "take_rows": lambda c, X: [(X, c.row_numbers())],
    "update": lambda c, X: [(X, c.weights, c.labels, c.n_clusters, c.frame)],
}


def same(ours, theirs, c, atol=None):
    """The same values, up to rounding in the dtype of the rows; whole numbers exactly."""
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, c, atol)
        return
    if isinstance(ours, StoredRows):
        ours = ours.dense()
    if hasattr(theirs, "shape") and theirs.shape != ():
        assert namespace(ours) is namespace(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype or c.mixed
    ours, theirs = (to_numpy(x) if hasattr(x, "shape") else np.asarray(x) for x in (ours, theirs))
    if theirs.dtype.kind in "iu":
        assert_array_equal(ours, theirs)
        return
    if atol is None:
        atol = c.precise * np.max(np.abs(theirs), where=np.isfinite(theirs), initial=0)
    assert_allclose(ours, theirs, rtol=c.precise, atol=atol)


def same_sums(ours, theirs, c):
    """Sums, and weights after them, perhaps labels before: sums may be near 0, beside what is summed."""
    (*labels, sums, weights), (*their_labels, their_sums, their_weights) = ours, theirs
    same((labels, weights), (their_labels, their_weights), c)
    summed = to_numpy(c.weights) @ np.abs(c.host - to_numpy(c.frame.origin))
    same(sums, their_sums, c, atol=1e-13 * summed.max())


def same_iteration(ours, theirs, c):
    """Centers, sums, weights, and what the loop must know."""
    same_sums(ours[2:4], theirs[2:4], c)
    same(ours[:2], theirs[:2], c, atol=c.precise * np.abs(c.host).max())
    (ours,), (theirs,) = ours[4], theirs[4]
    assert (ours[0], ours[1], ours[4]) == (theirs[0], theirs[1], theirs[4])
    size = np.sum(to_numpy(c.weights)) * np.max((c.host - to_numpy(c.frame.origin)) ** 2, initial=1e-300)
    assert_allclose(ours[2:4], theirs[2:4], rtol=1e-6, atol=1e-9 * size * c.host.shape[1])


def same_run(ours, theirs, c):
    """As the portable function makes none, that which `lloyd` makes of its iterations is in test_lloyd.py."""
    assert theirs is None
    if ours is None:
        return
    centers, labels, weights, numbers, squares, n_distinct, _ = ours
    found = Counter(labels.tolist())
    assert n_distinct == len(found) <= c.n_clusters
    rows = c.host.astype(np.float64) - c.frame.origin
    apart = brute_force(rows, centers)
    size = np.max(apart)
    assert_allclose(squares, c.weights @ apart.min(axis=1), rtol=c.precise, atol=1e-9 * size)
    assert_allclose(weights, np.bincount(labels, c.weights, c.n_clusters), rtol=1e-9, atol=1e-12)
    assert numbers[-1][3] <= numbers[0][3] + 1e-9 * size


def same_fits(ours, theirs, c):
    """As the portable function makes none, that they are those of the parts is in test_fitting.py."""
    assert theirs is None
    if ours is not None:
        origins, spreads, centers, labels, weights, runs = ours
        assert len(origins) == len(spreads) == len(centers) == len(weights) == len(runs)
        assert len(labels) == len(c.host)


def same_items(ours, theirs, c):
    assert list(ours) == list(theirs)


def same_but_for_the_square_root_of_rounding(ours, theirs, c):
    """Of squares near 0, which are differences of larger numbers."""
    same(ours, theirs, c, atol=1e-6 * np.abs(c.host).max())


def same_but_for_rounding_of_squares(ours, theirs, c):
    """Of ||x||² - 2 x·c + ||c||², which may be near 0."""
    same(ours, theirs, c, atol=100 * c.precise * np.abs(c.host - to_numpy(c.frame.origin)).max() ** 2)


def same_bounds(ours, theirs, c):
    """Slack is never more than is true, by brute force; less in a few rows, of which some centers were left out."""
    same_sums((ours[0], *ours[2:4]), (theirs[0], *theirs[2:4]), c)
    same(ours[4:], theirs[4:], c)
    before, path = map(to_numpy, c.state()[1:3])
    labels, slack, expected = to_numpy(ours[0]), to_numpy(ours[1]), to_numpy(theirs[1])
    looked_at = before < np.inf
    assert_array_equal(slack[~looked_at], before[~looked_at])
    rows, centers = c.host.astype(np.float64) - to_numpy(c.frame.origin), to_numpy(c.centers)
    size = np.sqrt(max((rows**2).sum(axis=1).max(), (centers**2).sum(axis=1).max()))
    allowed = 0.05 if c.lib.name == "cupy" else c.frame.rounding**0.5  # CuPy's kernels allow for more rounding
    assert np.isclose(slack, expected, atol=size * allowed).mean() > 0.9
    if c.n_clusters > 1:
        nearest, second = np.sort(np.sqrt(brute_force(rows, centers)), axis=1)[:, :2].T
        true = path[labels] + second - nearest
        assert (slack <= true + 1e-9 * size)[looked_at].all()


def same_slices(ours, theirs, c):
    """In order, and all rows; they may be cut."""
    ours, theirs = list(ours), list(theirs)
    assert [rows.start for rows in ours[1:]] == [rows.stop for rows in ours[:-1]]
    assert (ours[0].start, ours[-1].stop) == (theirs[0].start, theirs[-1].stop)
    assert {rows.stop for rows in theirs} <= {rows.stop for rows in ours}


def same_up_to_a_constant(ours, theirs, c):
    """Equal for equal rows: all that is asked."""
    same(ours - ours[0], theirs - theirs[0], c, atol=1e-11 * np.abs(to_numpy(theirs)).max())


def both_are_contexts(ours, theirs, c):
    assert isinstance(ours, AbstractContextManager)
    with ours:
        pass


def is_a_share(ours, theirs, c):
    """It may differ, as it says what is faster."""
    assert 0 <= ours <= 1


def no_more_numbers(ours, theirs, c):
    assert 1 <= ours <= theirs


def same_rows(ours, theirs, c):
    """As a user has them: of a matrix on a device on the host, as the stand-in for a GPU has no cuSPARSE."""
    ours = ours.get() if hasattr(ours, "get") else ours
    assert_allclose(ours.toarray() if hasattr(ours, "toarray") else to_numpy(ours), to_numpy(theirs), rtol=c.precise)


def same_contenders(ours, theirs, c):
    """Labels too, but of rows that have several."""
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        for found, expected in zip(ours[1:], theirs[1:], strict=True):
            assert_array_equal(found, expected)
        alone = np.setdiff1d(np.arange(len(c.host)), theirs[1])
        assert_array_equal(to_numpy(ours[0])[alone], to_numpy(theirs[0])[alone])


def same_bits(ours, theirs, c):
    for found, expected in zip(ours, theirs, strict=True):
        assert_array_equal(found, expected)


def same_sets(ours, theirs, c):
    """In any order."""
    assert sorted(to_numpy(ours).tolist()) == sorted(to_numpy(theirs).tolist())


COMPARE = {
    "distances_at_once": same_but_for_the_square_root_of_rounding,
    "sum_of_rows": same_sums,
    "as_given": same_rows,
    "bounded_step": same_bounds,
    "cluster_sums": same_sums,
    "contenders": same_contenders,
    "distinct": same_sets,
    "distances": same_but_for_the_square_root_of_rounding,
    "fits_at_once": same_fits,
    "iterations": same_iteration,
    "lloyd_step": same_sums,
    "map_slices": same_slices,
    "mend": same_bits,
    "own_threads": both_are_contexts,
    "nearer": same_but_for_rounding_of_squares,
    "projections": same_up_to_a_constant,
    "row_size": no_more_numbers,
    "run_at_once": same_run,
    "sq_distances_of_pairs": same_bits,
    "share_that_pays": is_a_share,
    "side_by_side": same_items,
    "update": same_sums,
}


def compare(name, function, portable, c, X, dense):
    """Whether `function(X, …)` computes at all; if it does, the same as `portable(dense, …)`."""
    assert name in ARGUMENTS, f"no arguments are known for {name}: add them to ARGUMENTS"
    computed = False
    for ours, theirs in zip(ARGUMENTS[name](c, X), ARGUMENTS[name](c, dense), strict=True):
        found = function(*ours)
        if found is not NotImplemented:
            COMPARE.get(name, same)(found, portable(*theirs), c)
            computed = True
    return computed
