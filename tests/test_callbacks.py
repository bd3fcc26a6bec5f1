"""scikit-learn's callbacks, and what fits print when they are asked to."""

import re

import numpy as np
import pytest
from conftest import SKLEARN_VERSION, blobs
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_xp import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans
from kmeans_xp.arrays import to_numpy

needs_callbacks = pytest.mark.skipif(SKLEARN_VERSION < (1, 9), reason="scikit-learn has no callbacks yet")
ESTIMATORS = [
    (KMeans(4, random_state=0, n_init=3, init="random"), {"run": 3}),
    (KMeans(4, random_state=0, keep_interrupted=True), {"run": 1}),
    (KMeans(4, random_state=0, n_init=7, algorithm="optimal"), {"run": 1}),
    (MiniBatchKMeans(4, random_state=0, batch_size=100), {}),
    (BisectingKMeans(4, random_state=0), {"split": 3}),
    (
        KMeansSweep([2, 3, 5], criterion="bic", random_state=0),
        {"n_clusters=2": 1, "n_clusters=3": 1, "n_clusters=5": 1},
    ),
]


class Recorder:
    """A callback that notes what it is told."""

    def __init__(self, stops_at=None):
        self.stops_at, self.begun, self.ended, self.fitted, self.log = stops_at, [], [], [], []

    def setup(self, estimator, context):
        self.log.append("setup")

    def teardown(self, estimator, context):
        self.log.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context)

    def on_fit_task_end(self, estimator, context, *, X, metadata, fitted_estimator):
        self.ended.append(context)
        self.fitted.append((context.task_name, X, metadata, fitted_estimator))
        return context.task_name == self.stops_at

    def count(self, name):
        return sum(context.task_name == name for context in self.ended)


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


@needs_callbacks
@pytest.mark.parametrize(("estimator", "parts"), ESTIMATORS, ids=lambda value: type(value).__name__)
def test_fits_tell_of_their_parts(estimator, parts, rng):
    X = blobs(rng, 600, 1, n_clusters=6)
    weights = rng.uniform(1, 2, size=600)
    recorder = Recorder()
    model = clone(estimator).set_callbacks(recorder).fit(X, sample_weight=weights)
    assert recorder.log == ["setup", "teardown"]
    assert recorder.count("fit") == 1
    for name, count in parts.items():
        assert recorder.count(name) == count
    assert sorted(map(id, recorder.begun)) == sorted(map(id, recorder.ended))
    for context in recorder.ended:
        children = list(context._children_map.values())
        assert context.max_subtasks is None or len(children) <= context.max_subtasks
    if isinstance(model, KMeans) and parts == {"run": 1}:
        assert recorder.count("iteration") == model.n_iter_
    if isinstance(model, MiniBatchKMeans):
        assert recorder.count("batch") == model.n_steps_
    name, seen, metadata, fitted = recorder.fitted[-1]
    assert name == "fit"
    assert seen is X
    assert metadata["sample_weight"] is weights
    assert_array_equal(fitted.predict(X), model.predict(X))
    assert not {"_task", "_callback_fit_ctx"} & set(vars(model))
    expected = clone(estimator).set_callbacks().fit(X, sample_weight=weights)
    assert_array_equal(expected.labels_, model.labels_)


@needs_callbacks
def test_a_callback_is_given_what_an_iteration_found(lib, rng):
    X = lib.asarray(blobs(rng, 500, 3))
    recorder = Recorder()
    model = KMeans(4, init=X[:4, :], n_init=1).set_callbacks(recorder).fit(X)
    found = [fitted for name, *_, fitted in recorder.fitted if name == "iteration"]
    assert len(found) == model.n_iter_
    assert_array_equal(to_numpy(found[-1].predict(X)), to_numpy(model.labels_))


@needs_callbacks
@pytest.mark.parametrize(
    ("estimator", "name", "attribute"),
    [
        (KMeans(9, init="random", tol=0), "iteration", "n_iter_"),
        (MiniBatchKMeans(9, batch_size=50), "batch", "n_steps_"),
    ],
)
def test_a_callback_may_stop_a_fit(estimator, name, attribute, rng):
    X = blobs(rng, 1000, 3, spread=1)
    model = estimator.set_params(n_init=1, random_state=0).set_callbacks(Recorder(name)).fit(X)
    assert getattr(model, attribute) == 1


@needs_callbacks
def test_a_failed_fit_is_torn_down(rng):
    recorder = Recorder()
    model = KMeans(4).set_callbacks(recorder)
    with pytest.raises(ValueError, match="n_samples=2"):
        model.fit(blobs(rng, 2))
    assert recorder.log == ["setup", "teardown"]
    assert vars(model).keys() == vars(clone(model)).keys()


@needs_callbacks
@pytest.mark.parametrize("estimator", [KMeans(3, n_init=1), KMeansSweep([2, 3], criterion="bic")])
def test_callbacks_of_a_pipeline_reach_the_runs(estimator, rng):
    recorder = PropagatedRecorder()
    make_pipeline(StandardScaler(), estimator).set_callbacks(recorder).fit(blobs(rng))
    assert recorder.count("run") == (2 if isinstance(estimator, KMeansSweep) else 1)
    assert recorder.count("iteration") > 1
    assert recorder.log == ["setup", "teardown"]


@pytest.mark.skipif(SKLEARN_VERSION >= (1, 9), reason="scikit-learn has callbacks")
def test_without_callbacks_of_scikit_learn_the_error_says_so():
    with pytest.raises(ImportError, match=r"needs scikit-learn 1\.9, and this is 1\.8"):
        KMeans().set_callbacks()


def test_batches_are_reported(lib, rng):
    X = lib.asarray(blobs(rng, 2000, 3))
    seen = []
    model = MiniBatchKMeans(5, random_state=0, batch_size=100, on_iteration=seen.append).fit(X)
    assert [batch.number for batch in seen] == list(range(1, model.n_steps_ + 1))
    assert_array_equal(to_numpy(seen[-1].centers), to_numpy(model.cluster_centers_))
    lib.assert_owns(seen[0].centers, "float64")
    assert 0 < seen[-1].smoothed_inertia <= seen[0].smoothed_inertia
    stopped = MiniBatchKMeans(5, random_state=0, batch_size=100, on_iteration=lambda batch: batch.number == 2).fit(X)
    assert stopped.n_steps_ == 2


@pytest.mark.parametrize("weighted", [False, True])
def test_sizes_of_clusters_of_batches(lib, rng, weighted):
    X, weights = blobs(rng, 500, 3), rng.uniform(size=500)
    model = MiniBatchKMeans(5, random_state=0).fit(lib.asarray(X), sample_weight=weights if weighted else None)
    expected = np.bincount(to_numpy(model.labels_), weights if weighted else None, minlength=5)
    np.testing.assert_allclose(to_numpy(model.cluster_sizes_), expected)
    lib.assert_owns(model.cluster_sizes_, "float64" if weighted else "int64")
    model.partial_fit(lib.asarray(X[:50]))
    assert to_numpy(model.cluster_sizes_).sum() == 50
    assert not hasattr(MiniBatchKMeans(5, compute_labels=False).fit(lib.asarray(X)), "cluster_sizes_")


def test_verbose_fits_say_what_they_do(rng, capsys):
    X = blobs(rng, 500, 3)
    model = KMeans(4, n_init=2, random_state=0, verbose=1).fit(X)
    said = capsys.readouterr().out
    assert re.findall(r"Run \d of 2: Initialization, init=k-means\+\+", said) == [
        f"Run {run} of 2: Initialization, init=k-means++" for run in (1, 2)
    ]
    assert len(re.findall(r"^Initialization complete, .* s$", said, re.MULTILINE)) == 2
    line = re.search(r"^Iteration 0, inertia ([\d.]+), (\d+) rows changed cluster, [\d.e-]+ s\.$", said, re.MULTILINE)
    assert line
    assert model.inertia_ <= float(line[1])
    KMeans(4, random_state=0, verbose=1, refine=True).fit(X)
    assert "Initialization, init=k-means++, refined" in capsys.readouterr().out
    KMeans(4, init=X[:4], verbose=1).fit(X)
    assert "Initialization, init=ndarray\n" in capsys.readouterr().out
    MiniBatchKMeans(4, random_state=0, verbose=1, n_init=2).fit(X)
    said = capsys.readouterr().out
    assert said.startswith("Init 1/2 with method k-means++\nInertia for init 1/2: ")
    assert "Converged (lack of improvement in inertia)" in said
    assert said.splitlines()[-1].startswith("Labels of all rows, ")
    BisectingKMeans(4, random_state=0, verbose=1).fit(X)
    assert "4 of 4 clusters: one was split into weights " in capsys.readouterr().out
