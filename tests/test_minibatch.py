"""MiniBatchKMeans: scikit-learn's algorithm on every library."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
from conftest import blobs, inertia
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from kmeans_xp import BisectingKMeans, KMeans, MiniBatchKMeans
from kmeans_xp.arrays import to_numpy
from kmeans_xp.backends import backend_for
from kmeans_xp.estimators.batches import Draw, Monitor, State


def test_a_batch_moves_centers_as_in_scikit_learn(lib, rng):
    """From given centers, with weights, over several batches of which a cluster gets no row at first."""
    X = blobs(rng, 600, 3, n_clusters=4)
    init = np.concatenate((X[:3], np.full((1, 3), 40.0)))
    X[400:430] += 40
    weights = rng.uniform(0.5, 2, size=600)
    job = {"n_clusters": 4, "init": init, "n_init": 1, "reassignment_ratio": 0, "random_state": 0}
    ours, theirs = MiniBatchKMeans(**job), sklearn.cluster.MiniBatchKMeans(**job)
    for rows in np.split(np.arange(600), 4):
        ours.partial_fit(lib.asarray(X[rows]), sample_weight=lib.asarray(weights[rows]))
        theirs.partial_fit(X[rows], sample_weight=weights[rows])
        assert_allclose(to_numpy(ours.cluster_centers_), theirs.cluster_centers_, rtol=1e-9)
        assert_array_equal(to_numpy(ours.labels_), theirs.labels_)
        assert ours.inertia_ == pytest.approx(theirs.inertia_)
    assert ours.n_steps_ == theirs.n_steps_ == 4
    lib.assert_owns(ours.cluster_centers_, "float64")
    lib.assert_owns(ours.labels_, "int32")


def test_fit_is_the_same_on_every_library(lib, rng):
    X = blobs(rng, 3000, 5, n_clusters=6, spread=5)
    weights = rng.uniform(size=3000)
    job = {"n_clusters": 6, "random_state": 0, "batch_size": 256}
    ours = MiniBatchKMeans(**job).fit(lib.asarray(X), sample_weight=lib.asarray(weights))
    expected = MiniBatchKMeans(**job).fit(X, sample_weight=weights)
    assert_allclose(to_numpy(ours.cluster_centers_), expected.cluster_centers_, rtol=1e-7)
    assert_array_equal(to_numpy(ours.labels_), expected.labels_)
    assert (ours.n_steps_, ours.n_iter_) == (expected.n_steps_, expected.n_iter_)
    lib.assert_owns(ours.cluster_centers_, "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_belong_together(rng, dtype):
    X = blobs(rng, 5000, 4, dtype=dtype)
    weights = rng.uniform(size=5000)
    model = MiniBatchKMeans(5, random_state=1).fit(X, sample_weight=weights)
    assert model.cluster_centers_.dtype == dtype
    assert_array_equal(model.labels_, model.predict(X))
    assert model.inertia_ == pytest.approx(inertia(X, model.cluster_centers_, weights))
    assert model.n_iter_ == -(-model.n_steps_ * 1024 // 5000)
    estimate = clone(model).set_params(compute_labels=False).fit(X, sample_weight=weights)
    assert not hasattr(estimate, "labels_")
    assert_array_equal(estimate.cluster_centers_, model.cluster_centers_)
    assert estimate.inertia_ == pytest.approx(model.inertia_, rel=0.1)


def test_inertia_is_that_of_scikit_learn(rng):
    X = blobs(rng, 20_000, 8, n_clusters=12, spread=2)
    ours, theirs = (
        np.mean([Model(12, random_state=seed).fit(X).inertia_ for seed in range(10)])
        for Model in (MiniBatchKMeans, sklearn.cluster.MiniBatchKMeans)
    )
    assert ours <= 1.01 * theirs


def test_a_checkpoint_goes_on_with_the_same_bits(lib, rng):
    """Pickled between batches, also where clusters are reassigned at random."""
    batches = [blobs(rng, 100, 3, n_clusters=9) for _ in range(12)]
    straight = MiniBatchKMeans(9, random_state=0, reassignment_ratio=0.3)
    stops = MiniBatchKMeans(9, random_state=0, reassignment_ratio=0.3)
    for batch in batches:
        straight.partial_fit(lib.asarray(batch))
        stops = pickle.loads(pickle.dumps(stops)).partial_fit(lib.asarray(batch))
    assert_array_equal(to_numpy(stops.cluster_centers_), to_numpy(straight.cluster_centers_))
    lib.assert_owns(stops.cluster_centers_, "float64")


def test_small_clusters_are_reassigned(lib, rng):
    """A center far from all rows gets one."""
    X = blobs(rng, 2000, 2, n_clusters=3)
    init = np.concatenate((X[:2], np.full((1, 2), 1e4)))
    job = {"n_clusters": 3, "init": init, "random_state": 0, "max_iter": 5}
    kept = MiniBatchKMeans(**job, reassignment_ratio=0).fit(lib.asarray(X))
    moved = MiniBatchKMeans(**job).fit(lib.asarray(X))
    assert to_numpy(kept.cluster_centers_).max() == pytest.approx(1e4)
    assert abs(to_numpy(moved.cluster_centers_)).max() < 100
    assert moved.inertia_ < kept.inertia_


def test_batches_follow_the_weights():
    draw = Draw(4, np.asarray([0.0, 3.0, 1.0, 0.0]))
    counts = np.bincount(draw(40_000, np.random.RandomState(0)), minlength=4)
    assert counts[0] == counts[3] == 0
    assert counts[1] / 40_000 == pytest.approx(0.75, abs=0.02)
    counts = np.bincount(Draw(4, None)(40_000, np.random.RandomState(0)), minlength=4)
    assert_allclose(counts / 40_000, 0.25, atol=0.02)


def test_when_to_stop():
    """After so many batches without a new minimum, or when the centers hardly move; never at the first batch."""
    monitor = Monitor(max_no_improvement=2, tol=0.1)
    assert [monitor.stops(inertia, 1.0, 1.0) for inertia in (9, 5, 4, 6, 7)] == [False] * 4 + [True]
    monitor = Monitor(max_no_improvement=None, tol=0.1)
    assert [monitor.stops(5, shift, 1.0) for shift in (0.0, 1.0, 0.1)] == [False, False, True]
    monitor = Monitor(max_no_improvement=None, tol=0.0)
    assert not any(monitor.stops(5, 0.0, 0.5) for _ in range(100))


def test_equal_weights_are_as_good_as_none(rng):
    X = blobs(rng, 300)
    plain = MiniBatchKMeans(5, random_state=0).fit(X)
    weighted = MiniBatchKMeans(5, random_state=0).fit(X, sample_weight=np.full(300, 0.5))
    assert_array_equal(weighted.cluster_centers_, plain.cluster_centers_)
    assert weighted.inertia_ == plain.inertia_ / 2
    assert_array_equal(weighted.cluster_sizes_, plain.cluster_sizes_ / 2)
    rough = MiniBatchKMeans(5, random_state=0, compute_labels=False).fit(X, sample_weight=np.full(300, 0.5))
    assert rough.inertia_ == MiniBatchKMeans(5, random_state=0, compute_labels=False).fit(X).inertia_ / 2


def test_given_centers_are_one_seeding(rng):
    X = blobs(rng)
    with pytest.warns(
        RuntimeWarning, match="performing only one init in MiniBatchKMeans instead of n_init=4"
    ) as caught:
        MiniBatchKMeans(3, init=X[:3], n_init=4).fit(X)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("fit", [1, 2], ids=["first", "with parameters that are known"])
@pytest.mark.parametrize(
    "call",
    [
        lambda X: KMeans(8, max_iter=1, n_init=1, random_state=0).fit(X),
        lambda X: KMeans(np.uint8(8), max_iter=1, n_init=1, random_state=0).fit(X),
        lambda X: KMeans(8, init=X[:8], max_iter=1, n_init=4, random_state=0).fit(X),
        lambda X: KMeans(2, metric="cosine", random_state=0).fit(np.concatenate((X, 0 * X[:1]))),
        lambda X: BisectingKMeans(8, max_iter=1, random_state=0).fit(X),
        lambda X: MiniBatchKMeans(8, init_size=3, random_state=0).fit(X),
        lambda X: MiniBatchKMeans(3, init=X[:3], n_init=4).partial_fit(X),
    ],
)
def test_a_warning_names_the_line_of_the_user(rng, call, fit):
    X = rng.normal(size=(500, 3))
    for _ in range(fit):
        with pytest.warns() as caught:
            call(X)
    assert {warning.filename for warning in caught} == {__file__}


def test_verbose(capsys, rng):
    model = MiniBatchKMeans(2, random_state=0, verbose=1, max_iter=1, batch_size=50).fit(rng.normal(size=(200, 2)))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Minibatch step")]
    assert len(lines) == model.n_steps_
    assert lines[-1].startswith(f"Minibatch step {model.n_steps_}/4: mean batch inertia: ")


def test_few_rows_are_all_candidates():
    """Ten rows in five pairs: a center for each is found about as often as by scikit-learn."""
    X = np.asarray([[c + d] for c in (0, 10, 20, 30, 40) for d in (0, 0.1)])
    ours, theirs = (
        np.mean([Model(5, random_state=seed).fit(X).inertia_ < 1 for seed in range(100)])
        for Model in (MiniBatchKMeans, sklearn.cluster.MiniBatchKMeans)
    )
    assert ours > theirs - 0.15


def test_another_number_of_clusters_between_batches(rng):
    X = rng.normal(size=(50, 2))
    model = MiniBatchKMeans(3, random_state=0).partial_fit(X)
    model.set_params(n_clusters=5).partial_fit(X)
    assert model.set_output(transform="pandas").transform(X).shape == (50, 3)


def test_names_of_columns_are_kept(rng):
    table = pd.DataFrame(rng.normal(size=(50, 2)), columns=["a", "b"])
    model = MiniBatchKMeans(2, random_state=0).partial_fit(table).partial_fit(table)
    assert list(model.feature_names_in_) == ["a", "b"]


def test_any_share_may_be_reassigned(rng):
    MiniBatchKMeans(2, random_state=0, reassignment_ratio=2.0).fit(rng.normal(size=(100, 2)))


def test_bad_input(rng):
    X = rng.normal(size=(20, 2))
    with pytest.raises(ValueError, match="n_samples=20 should be >= n_clusters=21"):
        MiniBatchKMeans(21).partial_fit(X)
    with pytest.raises(ValueError, match="X has 1 features, but MiniBatchKMeans is expecting 2"):
        MiniBatchKMeans(2).partial_fit(X).partial_fit(X[:, :1])
    with pytest.raises(ValueError, match="Negative values"):
        MiniBatchKMeans(2).fit(X, sample_weight=-np.ones(20))
    with pytest.warns(RuntimeWarning, match="init_size=3 should be larger than n_clusters=4"):
        MiniBatchKMeans(4, init_size=3).fit(X)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random", "callable", "array"])
def test_inits(lib, rng, init):
    X = lib.asarray(blobs(rng, 1000, 3, n_clusters=4, spread=20))
    given = {"callable": lambda X, k, random_state: X[:k, :], "array": X[:4, :]}.get(init, init)
    model = MiniBatchKMeans(4, init=given, random_state=0).fit(X)
    assert model.cluster_centers_.shape == (4, 3)
    assert model.score(X) == pytest.approx(-model.inertia_)


def test_a_partial_fit_that_fails_leaves_no_trace(rng, monkeypatch):
    """Afterwards the model goes on with the bits of one that it never happened to, random numbers included."""
    batches = [blobs(rng, 90, 3, n_clusters=4, spread=1) for _ in range(4)]
    model, expected = (MiniBatchKMeans(4, random_state=0, reassignment_ratio=0.9) for _ in range(2))
    state = np.random.RandomState(5)
    shared = MiniBatchKMeans(4, random_state=state, reassignment_ratio=0.9)
    expected_of_shared = MiniBatchKMeans(4, random_state=np.random.RandomState(5), reassignment_ratio=0.9)
    reassign = State._reassign

    def fail(self, *args):
        reassign(self, *args)
        raise OSError("no")

    for number, batch in enumerate(batches):
        for ours, theirs in ((model, expected), (shared, expected_of_shared)):
            if number:
                monkeypatch.setattr(State, "_reassign", fail)
                with pytest.raises(OSError, match="no"):
                    ours.partial_fit(batch[::-1])
                monkeypatch.undo()
            ours.partial_fit(batch)
            theirs.partial_fit(batch)
            np.testing.assert_array_equal(ours.cluster_centers_, theirs.cluster_centers_)
            np.testing.assert_array_equal(ours._counts, theirs._counts)
            np.testing.assert_array_equal(ours._random_state.get_state()[1], theirs._random_state.get_state()[1])


@pytest.mark.skipif(backend_for("numpy") is None, reason="NumPy's own take copies all")
@pytest.mark.parametrize("layout", [np.asfortranarray, lambda X: np.hstack((X, X))[:, : X.shape[1]]])
def test_rows_in_any_layout_are_taken_without_a_copy_of_all(rng, layout):
    X = layout(rng.normal(size=(200_000, 16)))
    expected = MiniBatchKMeans(4, random_state=0, max_iter=2).fit(np.ascontiguousarray(X))
    tracemalloc.start()
    try:
        found = MiniBatchKMeans(4, random_state=0, max_iter=2).fit(X)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 2
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
