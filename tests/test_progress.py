"""What a fit tells while it runs, and what an interruption leaves behind."""

import ctypes
import pickle
import signal
import weakref

import numpy as np
import pytest
from conftest import blobs, inertia, without_iterations
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans
from kmeans_xp.arrays import to_numpy


def test_iterations_are_reported(lib, rng):
    X = lib.asarray(blobs(rng, 2000, 3, n_clusters=6))
    seen = []
    model = KMeans(6, init=X[:6, :], tol=0, on_iteration=seen.append).fit(X)
    assert [iteration.number for iteration in seen] == list(range(1, model.n_iter_ + 1))
    for name, attribute in [("inertia", "inertia"), ("center_shift", "center_shift"), ("n_changed", "n_changed")]:
        assert [getattr(iteration, attribute) for iteration in seen] == model.history_[name]
    assert_array_equal(to_numpy(seen[-1].centers), to_numpy(model.cluster_centers_))
    lib.assert_owns(seen[0].centers, "float64")


def test_a_callback_may_stop_the_fit(rng):
    X = blobs(rng, 2000, 3, n_clusters=9, spread=1)
    model = KMeans(9, init=X[:9], tol=0, on_iteration=lambda iteration: iteration.number == 3).fit(X)
    assert model.n_iter_ == 3
    assert not model.converged_
    assert_array_equal(model.labels_, model.predict(X))
    assert model.inertia_ == pytest.approx(inertia(X, model.cluster_centers_))


def test_only_true_stops(rng):
    X = blobs(rng, 500, 3)
    model = KMeans(5, init=X[:5], on_iteration=lambda iteration: np.ones(3))
    assert model.fit(X).n_iter_ == KMeans(5, init=X[:5]).fit(X).n_iter_


def interrupt_at(number):
    def on_iteration(iteration):
        if iteration.number == number:
            raise KeyboardInterrupt

    return on_iteration


def test_an_interrupted_fit_leaves_the_estimator_as_it_was(rng):
    X = blobs(rng, 2000, 3, n_clusters=9, spread=1)
    model = KMeans(9, init=X[:9]).fit(X)
    before = {**vars(model)}
    model.set_params(on_iteration=interrupt_at(2))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[::2])
    after = {**vars(model)}
    assert before.pop("on_iteration") is None
    del after["on_iteration"]
    assert after == before


class CtrlC:
    """Handler of SIGINT: raises as Python's does, and so many times more, each time that Python listens again."""

    def __init__(self, n_more):
        self.n_more = n_more
        self.listens = True

    def __call__(self, *_):
        if self.listens:
            if self.n_more:
                self.n_more -= 1
                signal.raise_signal(signal.SIGINT)
            raise KeyboardInterrupt


def is_interrupted(function, n_more):
    """Whether a function ends by Ctrl-C, which it sends itself, if it is pressed some times more."""
    handler = CtrlC(n_more)
    before = signal.signal(signal.SIGINT, handler)
    try:
        function()
    except KeyboardInterrupt:
        handler.listens = False
        return True
    finally:
        handler.listens = False
        signal.signal(signal.SIGINT, before)


# Ctrl-C without a step of Python, at which it would be noticed at once
press_again = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyErr_SetInterrupt", ctypes.pythonapi))


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans, "partial_fit", KMeansSweep])
def test_more_interruptions_leave_the_estimator_as_it_was(rng, monkeypatch, estimator, fitted):
    """Several at once, and one that comes just when an attribute of the fit is let go."""
    X = blobs(rng, 600, 3, n_clusters=3)
    if estimator is KMeansSweep:
        model = KMeansSweep([2, 3], criteria=(), criterion="elbow", random_state=0)
    elif estimator is KMeans:
        model = KMeans(3, random_state=0)
    else:
        model = MiniBatchKMeans(3, random_state=0, batch_size=100)
    fit = model.partial_fit if estimator == "partial_fit" else model.fit
    if fitted:
        fit(X)
    before = {name: pickle.dumps(value) for name, value in vars(model).items()}
    watched = []

    def interrupt(*_, **__):
        model.attribute_ = type("Value", (), {})()
        watched.append(weakref.ref(model.attribute_, press_again))
        signal.raise_signal(signal.SIGINT)

    def draw_and_interrupt(state, X, sample_weight, ratio, rng):
        rng.random_sample(7)
        interrupt()

    if isinstance(model, KMeans):
        monkeypatch.setattr("kmeans_xp.estimators.runs.lloyd", interrupt)
        monkeypatch.setattr("kmeans_xp.estimators.runs.fits_at_once", interrupt)
    elif isinstance(model, MiniBatchKMeans):
        monkeypatch.setattr("kmeans_xp.estimators.batches.State.step", draw_and_interrupt)
    else:
        place = type("Place", (), {"__index__": interrupt})()  # looked up when some attributes are set
        monkeypatch.setattr("kmeans_xp.estimators.sweep.recommend", lambda *_: (place, ""))
    for n_more in range(12):
        assert is_interrupted(lambda: fit(X[::-1]), n_more)
        assert watched[-1]() is None
        after = {name: pickle.dumps(value) for name, value in vars(model).items()}
        assert after == before


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("where", ["callback", "step"])
def test_an_interruption_is_kept_if_asked(rng, monkeypatch, where, algorithm):
    """The interruption may come amid a pass, when labels are half written."""
    X = blobs(rng, 3000, 3, n_clusters=9, spread=1)
    model = KMeans(9, init=X[:9], tol=0, keep_interrupted=True, algorithm=algorithm)
    if where == "callback":
        model.set_params(on_iteration=interrupt_at(4))
    else:
        from kmeans_xp.data.memory import InMemory

        without_iterations(monkeypatch)
        iterate, calls = InMemory.iterate, []

        def interrupted(data, job, *args):
            calls.append(1)
            found = iterate(data, job, *args)
            if len(calls) == 5:
                data.block.state(job).labels[::2] = 0
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(InMemory, "iterate", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted after 4 iterations"):
        model.fit(X)
    assert model.n_iter_ == 4
    with pytest.warns(ConvergenceWarning):
        expected = clone(model).set_params(max_iter=4, on_iteration=None).fit(X)
    assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-12, atol=1e-12)
    assert_array_equal(model.labels_, expected.labels_)
    assert model.inertia_ == pytest.approx(expected.inertia_, rel=1e-12)


def test_an_interruption_before_the_first_iteration_leaves_nothing(rng, monkeypatch):
    without_iterations(monkeypatch)
    monkeypatch.setattr("kmeans_xp.steps.means", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    X = blobs(rng, 100, 2)
    model = KMeans(2, init=X[:2], keep_interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert not hasattr(model, "labels_")


def test_an_interruption_while_the_second_run_is_seeded(rng):
    X = blobs(rng, 500, 2, n_clusters=4, spread=9)
    calls = []

    def init(X, n_clusters, random_state):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return X[:4]

    model = KMeans(4, init=init, n_init=2, keep_interrupted=True)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(X)
    assert model.inertia_ == KMeans(4, init=X[:4]).fit(X).inertia_


def test_the_best_run_before_an_interruption_counts(rng):
    """Of several runs, one that was better stays the best."""
    X = blobs(rng, 500, 2, n_clusters=4, spread=9)
    inits = iter([X[[0, 100, 200, 300]], np.repeat(X[:1], 4, axis=0) + np.arange(4)[:, None] * 1e-3])
    seen = []

    def interrupt(iteration):
        seen.append(iteration.number)
        if seen.count(1) == 2:
            raise KeyboardInterrupt

    model = KMeans(
        4, init=lambda *_, random_state: next(inits), n_init=2, on_iteration=interrupt, keep_interrupted=True
    )
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(X)
    assert model.inertia_ <= KMeans(4, init=X[[0, 100, 200, 300]]).fit(X).inertia_ * (1 + 1e-9)
