"""Pruned iterations find what dense ones find, and look at fewer rows; the compiled steps are their portable twins."""

import numpy as np
import pytest
from conftest import blobs, brute_force, load, moments, without_iterations

from kmeans_xp import KMeans, algorithms, bounds, steps
from kmeans_xp.algorithms import ALGORITHMS
from kmeans_xp.arrays import to_numpy
from kmeans_xp.frame import frame_at


def fit(X, k, algorithm, **params):
    return KMeans(k, init=X[:k], tol=0, max_iter=40, algorithm=algorithm, **params)


def hard_data(name, rng):
    if name == "blobs":
        return blobs(rng, 3000, 8, n_clusters=12)
    if name == "noise":
        return rng.uniform(size=(3000, 5))
    if name == "duplicates":
        return rng.integers(0, 4, size=(3000, 3)).astype(float)
    if name == "far from zero":
        return blobs(rng, 2000, 4) + 1e6
    if name == "tiny far clusters":
        X = blobs(rng, 2000, 3)
        X[:5] += 1e4
        return X
    if name == "one feature":
        return rng.standard_t(2, size=(2000, 1))
    if name == "huge and tiny scales":
        return rng.normal(size=(2000, 4)) * [1e8, 1, 1e-4, 0]
    raise ValueError(name)


HARD = ["blobs", "noise", "duplicates", "far from zero", "tiny far clusters", "one feature", "huge and tiny scales"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", HARD)
def test_labels_are_those_of_the_dense_pass(name, weighted, rng):
    X = hard_data(name, rng)
    weights = rng.integers(0, 3, size=len(X)).astype(float) if weighted else None
    for k in (1, 2, 23):
        dense = fit(X, k, "lloyd").fit(X, sample_weight=weights)
        for algorithm in ("elkan", "auto"):
            pruned = fit(X, k, algorithm).fit(X, sample_weight=weights)
            np.testing.assert_array_equal(pruned.labels_, dense.labels_)
            assert pruned.n_iter_ == dense.n_iter_
            np.testing.assert_allclose(pruned.inertia_, dense.inertia_, rtol=1e-12)
            np.testing.assert_allclose(pruned.history_["inertia"], dense.history_["inertia"], rtol=1e-6)
            assert pruned.history_["n_changed"] == dense.history_["n_changed"]
            np.testing.assert_array_equal(pruned.predict(X), pruned.labels_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_on_other_libraries(foreign, rng):
    X = blobs(rng, 1500, 6, n_clusters=9)
    dense, pruned = (fit(X, 14, algorithm).fit(foreign.asarray(X)) for algorithm in ("lloyd", "elkan"))
    foreign.assert_owns(pruned.labels_, "int32")
    np.testing.assert_array_equal(to_numpy(pruned.labels_), to_numpy(dense.labels_))
    assert pruned.n_iter_ == dense.n_iter_


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", HARD)
def test_a_row_that_is_not_looked_at_has_the_right_label(name, dtype, rng):
    """Step by step, in float32 too: where another center is nearer by more than rounding, the row was looked at."""
    X = hard_data(name, rng).astype(dtype)
    weights = np.ones(len(X))
    frame = moments(X, weights, 2**16)
    centers = frame.enter(X[:19])
    state = ALGORITHMS["elkan"].start(X, weights, 19, frame)
    for _ in range(12):
        sums, mass, *_ = state.step(X, weights, centers, frame)
        labels = state.labels
        expected = steps.assign(X, centers, frame)
        differ = np.flatnonzero(labels != expected)
        squares = ((X[differ].astype(float) - frame.origin)[:, None, :] - centers) ** 2
        own, best = (np.take_along_axis(squares.sum(axis=2), of[differ, None], axis=1) for of in (labels, expected))
        norms = (centers**2).sum(axis=1).max() + ((X.astype(float) - frame.origin) ** 2).sum(axis=1).max()
        np.testing.assert_array_less(abs(own - best), 20 * np.finfo(dtype).eps * X.shape[1] * norms + 1e-300)
        np.testing.assert_allclose(mass, np.bincount(labels, weights, minlength=19), atol=1e-9)
        np.testing.assert_allclose(sums, steps.update(X, weights, labels, 19, frame)[0], atol=1e-9 * norms**0.5 * 2000)
        centers = centers + 0.3 * (sums / np.maximum(mass, 1)[:, None] - centers) * (mass > 0)[:, None]


SHAPES = [(1, 1), (2, 3), (3, 16), (4, 5), (7, 70), (17, 40), (130, 9)]


def job(rng, d, k, dtype, n=1211):
    X = blobs(rng, n, d, n_clusters=6, dtype=dtype)
    weights = rng.uniform(size=n)
    frame = moments(X, weights, 2**20)
    return X, weights, frame, frame.enter(X[:k])


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_numpys_passes_are_their_portable_twins(rng, dtype, d, k):
    X, weights, frame, centers = job(rng, d, k, dtype)
    labels = steps.assign(X, centers, frame)
    np.testing.assert_array_equal(labels, steps.assign.portable(X, centers, frame))
    tight = {"rtol": 1e-5, "atol": 1e-3} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-11}
    squares = steps.sq_distances_to_own(X, labels, centers, frame)
    np.testing.assert_allclose(
        squares, steps.sq_distances_to_own.portable(X, labels, centers, frame), rtol=1e-12, atol=0
    )
    for ours, theirs in (
        (steps.lloyd_step(X, weights, centers, frame), steps.lloyd_step.portable(X, weights, centers, frame)),
        (steps.update(X, weights, labels, k, frame), steps.update.portable(X, weights, labels, k, frame)),
    ):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, **tight)


def check_bounded_step(rng, dtype, d, k, name="numpy"):
    """From labels of which half are bounded, and all others stale: labels, sums, counts as portable, slack valid."""
    lib, (X, weights, frame, centers) = load(name), job(rng, d, k, dtype)
    n = len(X)
    right = steps.assign.portable(X, centers, frame)
    labels = np.where(rng.uniform(size=n) < 0.7, right, rng.integers(0, k, size=n)).astype("int32")
    slack = np.where(labels == right, np.inf, -np.inf)
    slack[rng.uniform(size=n) < 0.5] = -np.inf
    path = rng.uniform(size=k)
    totals = steps.update.portable(X, weights, labels, k, frame)
    given = (labels.copy(), slack.copy(), path), totals, frame
    expected = bounds.bounded_step.portable(X, weights, centers, *given)
    theirs = moments(lib.asarray(X), lib.asarray(weights), 2**20)
    given = (tuple(map(lib.asarray, parts)) for parts in ((labels, slack.copy(), path), totals))
    found = bounds.bounded_step(*map(lib.asarray, (X, weights, centers)), *given, theirs)
    found = [to_numpy(x) for x in found[:4]] + [int(x) for x in found[4:]]
    np.testing.assert_array_equal(found[0], right)
    np.testing.assert_array_equal(found[0], expected[0])
    for ours, twins in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, twins, rtol=1e-4, atol=1e-3 if dtype == "float32" else 1e-10)
    distances = np.sort(brute_force(X.astype(float), centers + frame.origin) ** 0.5, axis=1)
    gaps = distances[:, 1] - distances[:, 0] if k > 1 else np.full(n, np.inf)
    stale = slack < 0
    assert (found[1][stale] - path[right[stale]] <= gaps[stale] + 1e-12).all(), "never more than there is"
    np.testing.assert_array_equal(found[1][~stale], np.inf, "not looked at")
    share = np.mean(found[1][stale] - path[right[stale]] > 0)
    assert share > 0.5, "bounds that let nothing rest would be right and useless"


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_numpys_bounds_are_their_portable_twin(rng, dtype, d, k):
    check_bounded_step(rng, dtype, d, k)


@pytest.mark.usefixtures("numpy_passes")
def test_few_rows_are_looked_at_in_the_end(rng, monkeypatch):
    """Otherwise the bounds would be right and useless."""
    X = blobs(rng, 20_000, 40, n_clusters=30)
    weights = np.ones(len(X))
    looked_at = []
    without_iterations(monkeypatch)

    def counting(*args, step=bounds.bounded_step):
        result = step(*args)
        looked_at.append(int(result[-1]))
        return result

    monkeypatch.setattr(algorithms, "bounded_step", counting)
    fit(X, 60, "elkan").fit(X, sample_weight=weights)
    assert looked_at[0] == len(X)
    assert looked_at[-1] < len(X) / 4


def test_auto_gives_up_bounds_that_do_not_pay(rng, monkeypatch):
    """Iterations that compare all rows: 1, then 2, then 4 between trials."""
    monkeypatch.setattr(algorithms, "share_that_pays", lambda *_: 1e-9)
    X = rng.normal(size=(500, 3))
    weights = np.ones(500)
    frame = moments(X, weights, 2**20)
    state = ALGORITHMS["auto"].start(X, weights, 5, frame)
    trials = []
    monkeypatch.setattr(algorithms, "lloyd_step", lambda *args: trials.append("dense") or steps.lloyd_step(*args))
    bounded = bounds.bounded_step
    monkeypatch.setattr(algorithms, "bounded_step", lambda *args: trials.append("bounds") or bounded(*args))
    for iteration in range(11):
        centers = frame.enter(X[5 * iteration : 5 * iteration + 5])
        sums, mass, _, n_active = state.step(X, weights, centers, frame)
        labels = state.labels
        state.looked_at(n_active)
        expected = steps.lloyd_step(X, weights, centers, frame)
        for ours, theirs in zip((labels, sums, mass), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert " ".join(trials) == "bounds bounds dense bounds bounds dense dense bounds bounds dense dense"


def test_a_center_that_was_first_takes_its_row_back():
    """The old owner of a row stays a rival at its distance, not at that of the bound."""
    X = np.array([[0.0], [1.0], [10.0]])
    weights = np.ones(3)
    frame = frame_at(np.zeros(1), 30.0, X, 2**20)
    state = ALGORITHMS["elkan"].start(X, weights, 2, frame)
    for a, b, expected in ((0.9, 2.0, 0), (3.5, 2.0, 1), (0.9, 2.0, 0), (0.9, 1.0, 1), (1.0, 1.0, 0)):
        state.step(X, weights, np.array([[a], [b]]), frame)
        assert state.labels[1] == expected
