"""Whole fits in one call: they are those of their parts, bit for bit."""

import threading
import warnings

import numpy as np
import pytest
from conftest import blobs, without
from numpy.testing import assert_array_equal
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from kmeans_xp import KMeans
from kmeans_xp.backends import backend_for
from kmeans_xp.estimators import runs
from kmeans_xp.fitting import fits_at_once

pytestmark = pytest.mark.skipif(
    not hasattr(backend_for("numpy"), "fits_at_once"), reason="the native steps are not in use"
)
LEARNT = "labels_", "cluster_centers_", "inertia_", "cluster_sizes_", "n_iter_", "converged_", "_origin", "_spread"


def by_parts(model, monkeypatch, *given):
    """The model, fitted without whole fits."""
    with monkeypatch.context() as patch:
        without(patch, "fits_at_once")
        return model.fit(*given)


def counted(monkeypatch):
    """A list that grows by whether a fit came at once."""
    came = []

    def count(*given):
        found = fits_at_once(*given)
        came.append(found is not None and all(found[-1]))
        return found

    monkeypatch.setattr(runs, "fits_at_once", count)
    return came


def assert_same_bits(one, other):
    for name in LEARNT:
        ours, theirs = (np.asarray(getattr(model, name)) for model in (one, other))
        assert ours.dtype == theirs.dtype, name
        assert ours.tobytes() == theirs.tobytes(), name
    for name in ("inertia", "center_shift", "n_changed"):
        assert one.history_[name] == other.history_[name]
        assert list(map(type, one.history_[name])) == list(map(type, other.history_[name]))
    assert len(one.history_["seconds"]) == one.n_iter_


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int16"])
@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "elkan"])
@pytest.mark.filterwarnings("ignore:KMeans did not converge", "ignore:Number of distinct clusters")
def test_fits_are_those_of_their_parts(rng, monkeypatch, dtype, algorithm):
    came = counted(monkeypatch)
    for n_features in (1, 2, 3, 7, 8, 9, 40, 130):
        n_samples = int(rng.integers(1, 1500))
        X = np.abs(rng.normal(size=(n_samples, n_features)) * 40 + 20).astype(dtype)
        X = [X, np.asfortranarray(X), X[:, ::-1], np.repeat(X, 2, axis=0)[::2]][n_features % 4]
        sample_weight = [None, rng.uniform(size=n_samples) * (rng.integers(4, size=n_samples) > 0) + 1e-9][
            n_features % 2
        ]
        model = KMeans(
            int(rng.integers(1, min(40, n_samples) + 1)),
            n_init=int(rng.integers(1, 4)),
            max_iter=int(rng.choice([1, 3, 300])),
            tol=rng.choice([0, 1e-4, 0.1]),
            random_state=n_features,
            algorithm=algorithm,
        )
        assert_same_bits(
            clone(model).fit(X, sample_weight=sample_weight), by_parts(model, monkeypatch, X, None, sample_weight)
        )
    assert sum(came) > len(came) / 4  # every other fit is one by parts


CLEAR = np.random.default_rng(0).normal(size=(400, 2)) + 50 * np.random.default_rng(1).integers(0, 2, size=(400, 2))
HARD = {
    "clear clusters": CLEAR,
    "one row": np.ones((1, 3)),
    "as many clusters as rows": np.random.default_rng(0).normal(size=(5, 3)),
    "equal rows": np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 50, axis=0),
    "all rows equal": np.full((20, 2), 3.25),
    "far from zero": np.random.default_rng(0).normal(size=(300, 3)) + 1e9,
    "tiny": np.random.default_rng(0).normal(size=(300, 3)) * 1e-12,
    "beyond float32": np.random.default_rng(0).normal(size=(300, 3)) * 1e25,
    "a grid": np.random.default_rng(0).integers(0, 3, size=(500, 3)).astype(float),
    "outliers": np.concatenate((np.random.default_rng(0).normal(size=(300, 2)), [[1e7, 0], [0, -1e7]])),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("n_init", [1, 20])
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_hard_fits_are_those_of_their_parts(monkeypatch, kind, n_init):
    model = KMeans(min(4, len(HARD[kind])), random_state=0, n_init=n_init)
    assert_same_bits(clone(model).fit(HARD[kind]), by_parts(model, monkeypatch, HARD[kind]))


@pytest.mark.parametrize("seed", [lambda: 3, lambda: np.random.RandomState(3), lambda: np.random.mtrand._rand])
@pytest.mark.parametrize("empty", [False, True])
def test_what_a_fit_draws_is_drawn_once(rng, monkeypatch, seed, empty):
    """Also if it could not be made at once: a run that a cluster is empty in is made by its parts."""
    X, drawn, fit = rng.normal(size=(200, 2)), [], KMeans.fit
    if empty:
        monkeypatch.setattr(runs, "fits_at_once", lambda *given: (fits_at_once(*given), [None]))
    for way in fit, lambda model, X: by_parts(model, monkeypatch, X):
        np.random.seed(5)
        generator = seed()
        model = way(KMeans(4, random_state=generator, n_init=2), X)
        drawn.append(generator.uniform() if hasattr(generator, "uniform") else model.inertia_)
        drawn[-1] = drawn[-1], model.inertia_
    assert drawn[0] == drawn[1]


def test_the_global_generator_goes_on(rng):
    """Also after a fit that is not made at once, of numbers that are no ordinary ones."""
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        drawn.append(
            (
                KMeans(5).fit(rng.normal(size=(30, 2)) * 0 + np.arange(60).reshape(30, 2) * 1e20).inertia_,
                np.random.rand(),
            )
        )
    assert drawn[0] == drawn[1]


def test_numbers_of_any_type_end_a_run(rng):
    X = rng.normal(size=(40, 3))
    expected = KMeans(3, random_state=0).fit(X)
    for n_clusters, max_iter in ((np.int8(3), 300), (3, 2**70), (np.uint8(3), np.int16(300))):
        assert_array_equal(KMeans(n_clusters, max_iter=max_iter, random_state=0).fit(X).labels_, expected.labels_)


def test_bits_do_not_depend_on_threads(rng):
    native = backend_for("numpy")._native.native
    X, found = rng.normal(size=(3000, 6)), []
    before = native.set_thresholds(0, -1)
    try:
        for parallel_work in (0, 1e12):  # passes are shared, or runs
            native.set_thresholds(parallel_work, -1)
            for n_threads in (1, 2, 5):
                with threadpool_limits(n_threads, user_api="blas"):
                    model = KMeans(7, random_state=0, n_init=20, max_iter=5, tol=1).fit(X)
                found.append((model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_))
    finally:
        native.set_thresholds(*before)
    assert found == found[:1] * len(found)


def test_errors_of_random_numbers_are_raised(rng):
    """On the thread of the caller, whichever thread has asked for the numbers."""
    X, threads = rng.normal(size=(4000, 4)), set()
    how = runs.fitting(3, 4, 1, runs.ALGORITHMS["auto"], runs.Limits(5, 0.0))

    def uniforms(problem, n):
        threads.add(threading.get_ident())
        if problem == 7:
            raise ZeroDivisionError("no more numbers")
        return np.full(n, 0.5)

    begins = np.arange(0, 4001, 100)
    with pytest.raises(ZeroDivisionError, match="no more numbers"):
        fits_at_once(X, np.ones(4000), begins, how, uniforms)
    with pytest.raises(ValueError, match="fewer rows than clusters"):
        fits_at_once(X, np.ones(4000), np.asarray([0, 2, 4000]), how, uniforms)
    with pytest.raises(ValueError, match="different lengths"):
        fits_at_once(X, np.ones(4000), begins, how, lambda problem, n: np.full(n + 1, 0.5))


def test_a_fit_that_does_not_converge_says_so_once(rng):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        KMeans(8, max_iter=1, random_state=0, n_init=3).fit(blobs(rng, 500, 3, n_clusters=20, spread=5))
    assert ["did not converge in max_iter=1" in str(warning.message) for warning in caught] == [True]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("special", [{"verbose": 1}, {"keep_interrupted": True}, {"on_iteration": lambda _: None}])
def test_who_is_watched_is_fitted_by_parts(rng, monkeypatch, capsys, special):
    came, X = counted(monkeypatch), rng.normal(size=(100, 2))
    assert_array_equal(KMeans(3, random_state=0, **special).fit(X).labels_, KMeans(3, random_state=0).fit(X).labels_)
    assert came == [True]
