"""The iteration: agreement with scikit-learn from the same start, and what must hold on any data."""

import itertools
import re
import warnings

import numpy as np
import pytest
from conftest import blobs, inertia, moments, run_of, without, without_iterations
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import cluster, config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, algorithms, lloyd, passes, steps
from kmeans_xp.arrays import to_numpy

SHAPES = [(100, 2, 3), (1000, 10, 8), (333, 1, 5), (2000, 3, 40), (50, 30, 50), (500, 64, 1)]


def pair(X, init, sample_weight=None, **params):
    """The fits of this library and of scikit-learn from the same centers."""
    k = len(init)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = KMeans(k, init=init, **params).fit(X, sample_weight=sample_weight)
        theirs = cluster.KMeans(k, init=init, n_init=1, **params).fit(X, sample_weight=sample_weight)
    return ours, theirs


def assert_agrees(ours, theirs):
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-6, atol=1e-20)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-6, atol=1e-9)
    assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.parametrize("max_iter", [1, 2, 300])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_scikit_learn_from_the_same_start(rng, shape, weighted, max_iter):
    n, d, k = shape
    X = blobs(rng, n, d, n_clusters=k)
    weights = rng.uniform(0.1, 3, size=n) if weighted else None
    assert_agrees(*pair(X, X[:k], weights, max_iter=max_iter, tol=0))


@pytest.mark.parametrize("start", range(20))
def test_equals_scikit_learn_from_bad_starts(start):
    """Most starts here leave clusters empty, which move to the farthest rows."""
    rng = np.random.default_rng(start)
    X = blobs(rng, 300, 2, n_clusters=3)
    init = np.concatenate([X[:4], rng.normal(scale=100, size=(3, 2))])
    ours, theirs = pair(X, init, tol=0)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-6, atol=1e-20)
    # Which of several empty clusters gets which row is scikit-learn's accident
    both = np.unique(np.stack([ours.labels_, theirs.labels_]), axis=1)
    assert both.shape[1] == len(np.unique(ours.labels_)) == 7


def test_equals_scikit_learn_with_its_tolerance(rng):
    X = rng.normal(size=(3000, 5))
    assert_agrees(*pair(X, X[:12], tol=1e-3))


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "big-endian", "read-only", "integer"])
def test_equals_scikit_learn_in_any_layout(rng, layout):
    base = blobs(rng, 400, 6)
    X = {
        "F": np.asfortranarray(base),
        "strided": np.repeat(np.repeat(base, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": base[::-1, ::-1],
        "big-endian": base.astype(">f8"),
        "read-only": base,
        "integer": (base * 10).astype("int16"),
    }[layout]
    X.flags.writeable = layout != "read-only"
    before = X.copy()
    ours, theirs = pair(X, np.asarray(X[:5], dtype="float64"), tol=0)
    assert_agrees(ours, theirs)
    np.testing.assert_array_equal(X, before)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 5), k=st.integers(1, 12), seed=st.integers(0, 2**32), grid=st.booleans())
def test_invariants(n, d, k, seed, grid):
    """On a grid there are ties, duplicates and empty clusters."""
    k = min(n, k)
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, size=(n, d)).astype("float64") if grid else rng.normal(size=(n, d))
    weights = rng.integers(0, 4, size=n).astype("float64")
    weights[0] += 1
    frame = moments(X, weights, 1_000)
    result = lloyd.lloyd(run_of(X, weights, k, frame, "auto"), frame.enter(X[:k]), max_iter=50, tol=0)

    history = result.history["inertia"]
    scale = weights.sum() * (frame.spread + 1)
    assert all(later <= earlier + 1e-12 * scale for earlier, later in itertools.pairwise(history))
    assert np.isfinite(result.centers).all()
    assert result.inertia <= history[-1] + 1e-12 * scale
    np.testing.assert_allclose(result.inertia, inertia(X, result.centers, weights), rtol=1e-9, atol=1e-12)
    assert result.converged, "50 iterations are plenty for 60 rows"
    np.testing.assert_array_equal(
        result.labels, steps.assign(X, frame.enter(result.centers), frame), "labels are those of the returned centers"
    )
    for j in range(k):  # Lloyd's fixed point: each center is the mean of its rows
        mine = weights * (result.labels == j)
        if mine.sum() > 0:
            np.testing.assert_allclose(result.centers[j], np.average(X, axis=0, weights=mine), atol=1e-9)


@pytest.mark.parametrize("max_iter", [1, 3, 300])
def test_weights_are_repetitions(lib, rng, max_iter):
    """Weight 2 is the row twice and weight 0 no row, also where clusters run empty."""
    X = np.round(blobs(rng, 120, 2, n_clusters=3), 1)
    weights = rng.integers(0, 4, size=120)
    init = np.concatenate([X[weights > 0][:3], rng.normal(scale=50, size=(4, 2))])
    fits = []
    for rows, w in [(X, weights), (X.repeat(weights, axis=0), None), (X[weights > 0], weights[weights > 0])]:
        model = KMeans(7, init=init, max_iter=max_iter, tol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits.append(model.fit(lib.asarray(rows), sample_weight=w))
    for other in fits[1:]:
        assert other.n_iter_ == fits[0].n_iter_
        np.testing.assert_allclose(other.inertia_, fits[0].inertia_, rtol=1e-9)
        np.testing.assert_allclose(
            to_numpy(other.cluster_centers_), to_numpy(fits[0].cluster_centers_), rtol=1e-9, atol=1e-9
        )


def test_permuted_rows_permute_the_labels(lib, rng):
    X = blobs(rng, 300, 3)
    order = rng.permutation(300)
    straight = KMeans(6, random_state=1).fit(lib.asarray(X))
    permuted = KMeans(6, random_state=1).fit(lib.asarray(X[order]))
    np.testing.assert_array_equal(to_numpy(straight.labels_)[order], to_numpy(permuted.labels_))


def test_same_bits_again(lib, rng):
    X = lib.asarray(blobs(rng, 500, 7, dtype="float32"))
    first, second = (KMeans(9, random_state=4).fit(X) for _ in range(2))
    assert first.inertia_ == second.inertia_
    np.testing.assert_array_equal(to_numpy(first.cluster_centers_), to_numpy(second.cluster_centers_))


def test_float32_agrees_with_float64(lib, rng):
    X = blobs(rng, 1000, 5, dtype="float32")
    single = KMeans(5, random_state=0).fit(lib.asarray(X))
    double = KMeans(5, random_state=0).fit(lib.asarray(X.astype("float64")))
    np.testing.assert_array_equal(to_numpy(single.labels_), to_numpy(double.labels_))
    np.testing.assert_allclose(single.inertia_, double.inertia_, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "offset"), [("float64", 1e8), ("float32", 1e4)], ids=["float64 at 1e8", "float32 at 1e4"]
)
def test_data_far_from_zero_clusters_as_well_as_centered_data(lib, rng, dtype, offset):
    X = (blobs(rng, 800, 4, n_clusters=6, spread=2) + offset).astype(dtype)
    centered = X.astype("float64") - offset
    far = KMeans(6, init=X[:6], tol=0).fit(lib.asarray(X))
    near = KMeans(6, init=centered[:6], tol=0).fit(centered)
    assert (to_numpy(far.labels_) == near.labels_).mean() > 0.995
    np.testing.assert_allclose(far.inertia_, near.inertia_, rtol=1e-4)
    np.testing.assert_allclose(far.inertia_, inertia(X, far.cluster_centers_), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_numbers(lib, rng, dtype, scale):
    X = blobs(rng, 300, 3, dtype=dtype)
    scaled = X * np.asarray(scale, dtype=dtype)
    plain = KMeans(5, init=X[:5], tol=0).fit(X)
    model = KMeans(5, init=scaled[:5], tol=0).fit(lib.asarray(scaled))
    np.testing.assert_array_equal(to_numpy(model.labels_), plain.labels_)
    np.testing.assert_allclose(model.inertia_, plain.inertia_ * scale**2, rtol=1e-5)
    np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(scaled))), plain.labels_)
    transformed = to_numpy(model.transform(lib.asarray(scaled)))
    np.testing.assert_allclose(transformed, plain.transform(X) * scale, rtol=1e-3)


def test_results_do_not_depend_on_working_memory(rng):
    X = blobs(rng, 2000, 3)
    with config_context(working_memory=0.01):
        small = KMeans(10, random_state=0).fit(X)
    large = KMeans(10, random_state=0).fit(X)
    np.testing.assert_array_equal(small.labels_, large.labels_)
    np.testing.assert_allclose(small.inertia_, large.inertia_, rtol=1e-12)


def test_one_synchronisation_per_iteration(monkeypatch, rng):
    X = blobs(rng, 500, 3)
    transfers = []
    without_iterations(monkeypatch)
    frame = moments(X, np.ones(500), 2**20)
    for module in (lloyd, steps):
        monkeypatch.setattr(module, "to_floats", lambda *s: transfers.append(s) or [float(x) for x in s])
    result = lloyd.lloyd(run_of(X, np.ones(500), 4, frame, "lloyd"), frame.enter(X[:4]), max_iter=100, tol=0)
    assert len(transfers) == result.n_iter + 1, "one an iteration, and the inertia at the end"


def test_of_equally_far_rows_the_last_fill_empty_clusters(lib):
    """As scikit-learn has it where NumPy's argpartition leaves them in order."""
    X, init = np.array([[0, 0.5, 2, 3, 9, 10]]).T, np.array([[1.0, 3, 5, 7, 9]]).T
    theirs = cluster.KMeans(5, init=init, n_init=1, tol=0).fit(X)
    ours = KMeans(5, init=init, tol=0).fit(lib.asarray(X))
    np.testing.assert_array_equal(to_numpy(ours.labels_), theirs.labels_)
    np.testing.assert_array_equal(to_numpy(ours.cluster_centers_), theirs.cluster_centers_)
    assert ours.inertia_ == theirs.inertia_ == 0.125


@pytest.mark.parametrize("init", [[0.0, 1, 1e6], [1e6, 0, 1], [1e6, -1e6, 0], [0, 1e6, -1e6]])
def test_a_cluster_that_finds_no_row_lies_on_one(lib, init):
    X = np.repeat([[0.0], [1.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"Number of distinct clusters \(2\)"):
        model = KMeans(3, init=np.array(init)[:, None], tol=0).fit(lib.asarray(X))
    assert model.inertia_ == 0
    assert model.converged_
    assert set(to_numpy(model.cluster_centers_).ravel().tolist()) == {0.0, 1.0}
    assert len(np.unique(to_numpy(model.labels_))) == 2


def test_many_empty_clusters_take_few_passes(monkeypatch, rng):
    """Each takes a different row, and all together as many passes as one."""
    X = rng.normal(size=(3000, 3))
    X[1000:2000] = X[:1000]
    calls = []
    monkeypatch.setattr(passes, "row_keys", lambda *job, keys=passes.row_keys: calls.append(1) or keys(*job))
    init = np.concatenate([X[:5], 1e3 + rng.normal(size=(200, 3))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(205, init=init, tol=0, max_iter=1).fit(X)
    assert len(calls) <= 4
    assert len(np.unique(model.labels_)) >= 200


def test_x_that_goes_bad_during_a_fit_is_named(rng):
    X = blobs(rng, 2000, 3)
    for bad in (np.nan, np.inf):
        given = X.copy()

        def spoil(iteration, given=given, bad=bad):
            given[[7, 1200]] = bad

        model = KMeans(4, random_state=0, tol=0, on_iteration=spoil)
        with pytest.raises(ValueError, match="X contains NaN or infinity in row 7, 1200: it was changed while"):
            model.fit(given)
        assert not hasattr(model, "cluster_centers_")


def give_several(monkeypatch, most=7):
    """Have the NumPy backend give several iterations at a time: how many it gave."""
    backend, given = pytest.importorskip("kmeans_xp.backends.numpy"), []

    def iterations(X, sample_weight, centers, state, frame, metric, limits):
        numbers, go_on = [], True
        while go_on:
            found = algorithms.iterations.portable(X, sample_weight, centers, state, frame, metric, limits)
            centers, (latest,) = found.centers, found.numbers
            numbers.append(latest)
            n_changed, _, shift, inertia, n_empty = latest
            good = n_changed > 0 and shift > limits.tol and n_empty == 0 and np.isfinite(inertia)
            go_on = good and len(numbers) < min(most, limits.most)
        given.append(len(numbers))
        return found._replace(numbers=numbers)

    without_iterations(monkeypatch)
    monkeypatch.setattr(backend, "iterations", iterations, raising=False)
    return given


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan", "auto"])
@pytest.mark.parametrize("kind", ["blobs", "grid", "empty clusters", "cosine"])
@pytest.mark.parametrize("stopping", [{"tol": 0}, {}, {"tol": 1e-2}, {"tol": 0, "max_iter": 5}, {"max_iter": 1}])
@pytest.mark.filterwarnings("ignore:KMeans did not converge", "ignore:Number of distinct clusters")
def test_several_iterations_at_a_time_are_as_good_as_one(rng, monkeypatch, algorithm, kind, stopping):
    X, init = blobs(rng, 1500, 3, n_clusters=9, spread=2), slice(9)
    if kind == "grid":
        X = rng.integers(0, 4, size=(1500, 3)).astype(float)
    init = X[init].copy()
    if kind == "empty clusters":
        init[6:] += 1e4
    model = KMeans(9, init=init, algorithm=algorithm, metric="cosine" if kind == "cosine" else "euclidean", **stopping)
    whole = clone(model).fit(X)
    without(monkeypatch, "run_at_once")
    native = clone(model).fit(X)
    without_iterations(monkeypatch)
    expected = clone(model).fit(X)
    several = give_several(monkeypatch)
    found = clone(model).fit(X)
    assert max(several) > 1 or found.n_iter_ <= 2 or kind == "empty clusters"
    np.testing.assert_array_equal(native.labels_, expected.labels_)
    assert (native.n_iter_, native.converged_) == (expected.n_iter_, expected.converged_)
    for name in ("cluster_centers_", "inertia_"):
        np.testing.assert_allclose(getattr(native, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    for name in ("labels_", "cluster_centers_", "inertia_", "cluster_sizes_", "n_iter_", "converged_"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(native, name), err_msg=name)
    for name in ("inertia", "center_shift", "n_changed"):
        assert whole.history_[name] == native.history_[name]
    assert {type(n) for n in whole.history_["n_changed"]} == {int}
    for name in ("inertia", "center_shift", "n_changed"):
        np.testing.assert_allclose(native.history_[name], expected.history_[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
    for name in ("inertia_", "n_iter_", "converged_"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("inertia", "center_shift", "n_changed"):
        assert found.history_[name] == expected.history_[name]
    assert len(found.history_["seconds"]) == found.n_iter_


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.filterwarnings("ignore:KMeans did not converge")
def test_runs_side_by_side_are_those_of_one_after_the_other(rng, monkeypatch, algorithm):
    """Also those in which a cluster is empty, which the native steps leave to the interpreter."""
    backend = pytest.importorskip("kmeans_xp.backends.numpy")
    X, rounds, n_threads = blobs(rng, 1500, 3, n_clusters=9, spread=2), [], [1]

    def start(X, n_clusters, random_state):
        centers = X[random_state.permutation(len(X))[:n_clusters]]
        centers[: random_state.randint(3)] += 1e4
        return centers

    def side_by_side(X, n_clusters, function, items):
        rounds.append(n_threads[0])
        return backend.map_in_order(function, items) if n_threads[0] > 1 else map(function, items)

    without(monkeypatch, "fits_at_once")
    monkeypatch.setattr(backend, "side_by_side", side_by_side)
    monkeypatch.setattr("kmeans_xp.backends._threads.blas.n_threads", lambda: n_threads[0])
    for init in "k-means++", "random", start:
        found = []
        for n_threads[0] in 1, 3:
            model = KMeans(9, init=init, n_init=8, algorithm=algorithm, max_iter=9, random_state=0)
            found.append(model.fit(X))
        for name in ("labels_", "cluster_centers_", "inertia_", "n_iter_"):
            np.testing.assert_array_equal(*(getattr(model, name) for model in found))
    assert rounds == [1, 3] * 3


def test_runs_go_side_by_side_where_that_pays(monkeypatch):
    """Neither tiny ones, for which waking a thread takes longer, nor those whose passes are shared."""
    backend = pytest.importorskip("kmeans_xp.backends.numpy")
    if backend.native_problem() is not None:
        pytest.skip("plain NumPy holds the interpreter's lock for much of a run")
    monkeypatch.setattr(backend.blas, "n_threads", lambda: 2)
    shares = [backend.side_by_side(np.ones((n, 8)), 5, abs, [-1]) for n in (100, 10_000, 1_000_000)]
    assert [share is NotImplemented for share in shares] == [True, False, True]
    assert list(shares[1]) == [1]
    monkeypatch.setattr(backend.blas, "n_threads", lambda: 1)
    assert backend.side_by_side(np.ones((10_000, 8)), 5, abs, [-1]) is NotImplemented


def test_an_error_in_one_of_several_runs_reaches_the_caller(rng, monkeypatch):
    backend = pytest.importorskip("kmeans_xp.backends.numpy")
    monkeypatch.setattr(backend, "side_by_side", lambda X, k, function, items: backend.map_in_order(function, items))
    X = blobs(rng, 1500, 3, n_clusters=9, spread=2)

    def spoiling(X, n_clusters, random_state):
        given[3, 1] = np.nan
        return np.ones((n_clusters, 3)) * np.arange(n_clusters)[:, None]

    given = X.copy()
    model = KMeans(9, init=spoiling, n_init=4, random_state=0)
    with pytest.raises(ValueError, match="X contains NaN or infinity in row 3: it was changed while it was clustered"):
        model.fit(given)
    assert not hasattr(model, "cluster_centers_")


def without_seconds(printed):
    """What a fit prints, but for what differs from one to the next."""
    assert " s" in printed
    return re.sub(r", [0-9.e-]+ s", "", printed)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_who_watches_is_given_one_iteration_at_a_time(rng, monkeypatch, capsys, algorithm):
    X = blobs(rng, 1500, 3, n_clusters=9, spread=2)
    job = {"n_clusters": 9, "init": X[:9], "tol": 0, "algorithm": algorithm}
    without_iterations(monkeypatch)
    KMeans(**job, verbose=1).fit(X)
    printed, expected = without_seconds(capsys.readouterr().out), []
    KMeans(**job, on_iteration=lambda found: expected.append((found.number, found.inertia))).fit(X)
    given, seen = give_several(monkeypatch), []
    KMeans(**job, verbose=1).fit(X)
    assert without_seconds(capsys.readouterr().out) == printed
    KMeans(**job, on_iteration=lambda found: seen.append((found.number, found.inertia))).fit(X)
    assert seen == expected
    assert set(given) == {1}
    stopped = KMeans(**job, on_iteration=lambda found: found.number == 3).fit(X)
    assert stopped.n_iter_ == 3


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_an_interruption_among_several_iterations(rng, monkeypatch, algorithm):
    """What was given before is kept, and of what was not given nothing."""
    X = blobs(rng, 1500, 3, n_clusters=9, spread=1)
    given = give_several(monkeypatch, most=4)
    several = pytest.importorskip("kmeans_xp.backends.numpy").iterations

    def interrupted(X, sample_weight, centers, state, *args):
        if len(given) == 2:
            state.labels[::2] = 0
            raise KeyboardInterrupt
        return several(X, sample_weight, centers, state, *args)

    monkeypatch.setattr("kmeans_xp.backends.numpy.iterations", interrupted)
    model = KMeans(9, init=X[:9], tol=0, keep_interrupted=True, algorithm=algorithm)
    with pytest.warns(ConvergenceWarning, match="interrupted after 8 iterations"):
        model.fit(X)
    monkeypatch.delattr("kmeans_xp.backends.numpy.iterations")
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        expected = clone(model).set_params(max_iter=8).fit(X)
    np.testing.assert_array_equal(model.labels_, expected.labels_)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-12)


def test_x_that_goes_bad_among_several_iterations_is_named(rng, monkeypatch):
    X = blobs(rng, 40_000, 3, n_clusters=9, spread=1).astype("float32")
    given = give_several(monkeypatch, most=3)
    several = pytest.importorskip("kmeans_xp.backends.numpy").iterations

    def spoiling(X, *args):
        if len(given) == 2:
            X[7, 1] = np.nan
        return several(X, *args)

    monkeypatch.setattr("kmeans_xp.backends.numpy.iterations", spoiling)
    with pytest.raises(ValueError, match="X contains NaN or infinity in row 7: it was changed while"):
        KMeans(9, init=X[:9].copy(), tol=0).fit(X)
