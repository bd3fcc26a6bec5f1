"""The native steps for sparse rows beside those in Python: whatever the rows, the instruction set and the threads."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import Library, brute_force, moments, unbounded
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from threadpoolctl import threadpool_limits
from twins import case, compare

from kmeans_xp import KMeans, algorithms, steps
from kmeans_xp.algorithms import ALGORITHMS, Limits
from kmeans_xp.metric import EUCLIDEAN, Cosine
from kmeans_xp.rows.scipy import ScipyRows

_native = pytest.importorskip("kmeans_xp.backends.numpy")._native
if _native.problem is not None:
    pytest.skip(f"the native steps are not in use: {_native.problem}", allow_module_level=True)
native, ours = _native.native, importlib.import_module("kmeans_xp.backends._native.steps")

NUMPY = Library("numpy", np, None)
STEPS = ["assign", "bounded_step", "iterations", "lloyd_step", "sq_distances_to_own", "update"]
# n, d, k: widths around those of vectors and of 8 of them, chunks of features
SHAPES = [(1, 1, 1), (9, 1, 4), (40, 3, 7), (70, 5, 8), (300, 40, 33), (60, 300, 63), (90, 20, 64), (80, 30, 130)]
SHAPES += [(50, 5000, 5)]


@pytest.fixture
def _two_threads(monkeypatch):
    """However few the rows are."""
    monkeypatch.setattr(ours, "PARALLEL_WORK", 0)
    monkeypatch.setattr(ours.blas, "n_threads", lambda: 2)
    before = native.set_thresholds(0, np.inf)
    yield
    native.set_thresholds(*before)


def some_rows(rng, n, d, density=0.3):
    """Rows of which most numbers are 0, some equal, some of zeros, one full."""
    host = rng.uniform(1, 3, size=(n, d)) * (rng.uniform(size=(n, d)) < density)
    host[n // 2 :: 7] = 0
    host[n // 3 :: 5] = host[n // 3]
    host[-1] = rng.uniform(1, 3, size=d)
    return host


def stored(host, dtype="float64", index="int32"):
    matrix = sparse.csr_array(host.astype(dtype))
    rows = ScipyRows(matrix)
    rows.matrix.indices, rows.matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    return rows


@pytest.mark.usefixtures("_two_threads", "instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_are_those_of_arrays(rng, shape, index, dtype):
    n, d, k = shape
    host = some_rows(rng, n, d)
    X = stored(host, dtype, index)
    for known in (True, False):
        c = case(NUMPY, X.matrix.toarray().astype(np.float64), k, "float64", known, tile_bytes=2**20)
        for name in STEPS:
            step = getattr(algorithms if name in ("iterations", "bounded_step") else steps, name)
            assert compare(name, step, step.portable, c, X, c.host), name


def python(name):
    """The method that is in use without the native part."""
    return getattr(ScipyRows, name).__wrapped__


@pytest.mark.usefixtures("_two_threads", "instructions")
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("far", [0.0, 1e3, 1e7])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_nearest_centers_are_nearest_at_any_scale_and_far_from_the_origin(rng, k, far, scale):
    host = some_rows(rng, 200, 12)
    host = np.where(host > 0, host + far, 0) * scale
    X = stored(host)
    frame = moments(X, np.ones(200), 2**20)
    centers = frame.enter(host[rng.integers(200, size=k)]) * rng.uniform(0.9, 1, size=(k, 1))
    labels = X.assign(centers, frame)
    squares = np.array([((row - centers - frame.origin) ** 2).sum(axis=1) for row in host])
    best = squares.min(axis=1)
    lost = 1e-13 * ((host**2).sum(axis=1) + (centers**2).sum(axis=1).max() + (frame.origin**2).sum())
    assert (squares[np.arange(200), labels] <= best + lost).all()
    assert ((labels >= 0) & (labels < k)).all()
    found = X.sq_distances_to_own(labels, centers, frame)
    assert_allclose(found, squares[np.arange(200), labels], rtol=1e-9, atol=lost.max())
    assert_allclose(found, python("sq_distances_to_own")(X, labels, centers, frame), rtol=1e-9, atol=lost.max())

    start = *unbounded(X, np.ones(200)), np.zeros(k)
    given, slack, sums, weights, n_changed, n_active = X.bounded_step(np.ones(200), centers, start, (0, 0), frame)
    assert_array_equal(given, labels)
    assert (n_changed, n_active) == (200, 200)
    assert_array_equal(weights, np.bincount(labels, minlength=k))
    member = labels == np.arange(k)[:, None]
    assert_allclose(sums, member @ (host - frame.origin), atol=1e-12 * np.abs(host).max() * 200)
    if k > 1:
        nearest, second = np.sort(np.sqrt(squares), axis=1)[:, :2].T
        assert (slack <= second - nearest + 1e-9 * second).all()
        if far == 0:
            assert np.isclose(slack, second - nearest, atol=1e-4 * np.sqrt(lost.max() * 1e13)).mean() > 0.9
    else:
        assert (slack == np.inf).all()


@pytest.mark.usefixtures("instructions")
def test_of_equally_near_centers_the_first_is_taken(rng):
    """In each lane of a vector, and in lanes that are compared at the end."""
    host = some_rows(rng, 100, 9)
    X = stored(host)
    frame = moments(X, np.ones(100), 2**20)
    points = frame.enter(host[[1, 2, 3]])
    first = X.assign(points, frame)
    for k in (5, 17, 70):
        places = rng.integers(3, size=k)
        places[-3:] = 0, 1, 2
        labels = X.assign(points[places], frame)
        assert_array_equal(labels, [np.flatnonzero(places == which)[0] for which in first])


def iterated(X, weights, centers, state, frame, metric, most):
    """Iterations to the end or up to `most`, in as many calls as they take: a slow machine needs several."""
    numbers = []
    while True:
        found = algorithms.iterations(X, weights, centers, state, frame, metric, Limits(most - len(numbers), 0.0))
        centers, numbers = found[1], numbers + found[4]
        if len(numbers) == most or found[4][-1][0] == 0:
            return found, numbers


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("metric", [EUCLIDEAN, Cosine(True)], ids=["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_iterations_in_a_call_are_as_many_in_python(rng, dtype, metric, algorithm):
    """Of a run that ends by itself, and one that is cut off; with weights of which some are 0."""
    host = some_rows(rng, 400, 30)
    host[:, 0] += 1
    X = metric.prepare(stored(host, dtype))
    weights = rng.uniform(size=400) * (rng.uniform(size=400) < 0.8)
    frame = moments(X, weights, 2**20)
    start = frame.rounded(frame.enter(X.matrix.toarray()[:9] if dtype == "float64" else host[:9].astype(dtype)))
    if metric.spherical:
        start = metric.settle(start, start, frame)
    for most in (1, 2, 3, 100):
        state, there = (ALGORITHMS[algorithm].start(X, weights, 9, frame) for _ in range(2))
        found, all_numbers = iterated(X, weights, start, state, frame, metric, most)
        centers = start
        for numbers in all_numbers:
            expected = algorithms.iterations.portable(X, weights, centers, there, frame, metric, Limits(1, 0.0))
            assert numbers[0] == expected.numbers[0][0]
            assert numbers[4] == expected.numbers[0][4]
            assert_allclose(numbers[2:4], expected.numbers[0][2:4], rtol=1e-6, atol=1e-9)
            centers = expected.centers
        assert_array_equal(state.labels, there.labels)
        precise = 1e-6 if dtype == "float32" else 1e-11
        assert_allclose(found[0], expected.centers_old, atol=precise)
        assert_allclose(found[1], expected.centers, atol=precise)
        assert_allclose(found[3], expected.weights, rtol=1e-9)
        assert found[5] == (algorithm == "lloyd" or all_numbers[-1][0] == 0 or len(all_numbers) == 1)
        if dtype == "float32":
            places = found[1] + frame.origin
            assert_array_equal(places, places.astype("float32"))


def test_bounds_leave_rows_out_and_find_the_same(rng):
    host = rng.normal(size=(20, 30))[rng.integers(20, size=2000)] + 0.1 * rng.normal(size=(2000, 30))
    X = sparse.csr_array(np.where(rng.uniform(size=host.shape) < 0.5, 0, host))
    models = [KMeans(20, init=X[:20].toarray(), algorithm=name).fit(X) for name in ("lloyd", "elkan")]
    assert_array_equal(models[0].labels_, models[1].labels_)
    assert models[0].n_iter_ == models[1].n_iter_ > 5
    rows, weights = ScipyRows(X), np.ones(2000)
    frame = moments(rows, weights, 2**20)
    state = ALGORITHMS["elkan"].start(rows, weights, 20, frame)
    _, numbers = iterated(rows, weights, frame.enter(X[:20].toarray()), state, frame, EUCLIDEAN, 99)
    assert numbers[0][1] == 2000
    assert numbers[-1][1] < 500


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_the_number_of_threads(rng, dtype, algorithm):
    X, found = sparse.csr_array(some_rows(rng, 3000, 70).astype(dtype)), []
    before = native.set_thresholds(0, np.inf)
    for n_threads in (1, 2, 7):
        with threadpool_limits(n_threads, user_api="blas"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours, "PARALLEL_WORK", 0)
            model = KMeans(21, init=X[:21].toarray(), max_iter=5, tol=0, algorithm=algorithm)
            model.fit(X, sample_weight=np.arange(3000) % 4)
            found.append([model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_])
            found[-1] += [model.predict(X).tobytes(), model.score(X)]
    native.set_thresholds(*before)
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_as_many_clusters_as_rows_and_rows_of_zeros_only(rng, algorithm):
    host = some_rows(rng, 12, 5, density=0.9)
    host = np.unique(host, axis=0)
    model = KMeans(len(host), init=host, algorithm=algorithm).fit(sparse.csr_array(host))
    assert_array_equal(model.labels_, np.arange(len(host)))
    assert model.inertia_ == pytest.approx(0, abs=1e-20)
    zeros = sparse.csr_array((10, 4))
    model = KMeans(1, algorithm=algorithm).fit(zeros)
    assert_array_equal(model.cluster_centers_, np.zeros((1, 4)))
    assert model.inertia_ == 0


def test_numbers_too_large_are_an_error():
    X = sparse.csr_array(np.array([[1e200, 0.0], [0.0, -1e200], [1e200, 1.0]]))
    with pytest.raises(ValueError, match="squared distances are too large for float64"):
        KMeans(2, init=X[:2].toarray()).fit(X)


def broken():
    """CSR matrices that were fine before they were written to, and what is said about them."""
    for name in ("indices", "indptr"):
        for place, value in ((5, -1), (5, 2**31 - 1), (-1, 99), (0, 10)):
            X = sparse.random_array((50, 10), density=0.3, format="csr", rng=0)
            getattr(X, name)[place] = value
            yield X, name
    X = sparse.random_array((50, 10), density=0.3, format="csr", rng=0)
    X.data = X.data[:-1]
    yield X, "indptr"


@pytest.mark.parametrize(("X", "name"), list(broken()))
def test_a_matrix_whose_numbers_lie_beyond_it_is_an_error(X, name):
    with pytest.raises(ValueError, match=rf"X is a broken sparse matrix: .*{name}"):
        KMeans(2).fit(X)
    centers, labels = np.zeros((2, 10)), np.zeros(50, "i4")
    given = (X.data, X.indices, X.indptr.astype("i8")), np.zeros(10)
    with pytest.raises(ValueError, match=r"numbers in columns that the matrix has not|rows that begin or end beyond"):
        native.assign(*given, centers, False, labels, 1)


def test_what_makes_no_sense_is_an_error(rng):
    n, d, k = 50, 6, 3
    X = sparse.csr_array(some_rows(rng, n, d))
    data, columns, places = X.data, X.indices, X.indptr.astype("i8")
    call = {"X": (data, columns, places), "origin": np.zeros(d), "sample_weight": np.ones(n)}
    call |= {"centers": np.zeros((k, d)), "labels": np.full(n, -1, "i4"), "slack": None, "path": np.zeros(k)}
    call |= {"sums": np.zeros((k, d)), "weights": np.zeros(k), "floats": False, "n_threads": 1}
    native.step(**call)
    wrong = [{"X": rows} for rows in ((data, columns), (data.astype("f2"), columns, places), (data, places, columns))]
    wrong += [{"X": (data, columns.astype("i2"), places)}, {"X": (data[:-1], columns, places)}, {"X": ()}]
    wrong += [{"X": (data, columns, places[:0])}, {"X": (data, columns, places[:1])}, {"origin": np.zeros(d - 1)}]
    wrong += [{"centers": np.zeros((k, d - 1))}, {"centers": np.zeros((0, d))}, {"labels": np.full(n, k, "i4")}]
    wrong += [{"sample_weight": np.ones(n - 1)}, {"sums": np.zeros((k, d - 1))}, {"slack": np.zeros(n + 1)}]
    for one in wrong:
        with pytest.raises((TypeError, ValueError)):
            native.step(**(call | one))
    for labels in (np.full(n, k, "i4"), np.full(n, -1, "i4"), np.zeros(n - 1, "i4")):
        with pytest.raises(ValueError, match=r"labels of no cluster|arrays of different lengths"):
            native.sq_distances_to_own(call["X"], np.zeros(d), labels, np.zeros((k, d)), np.zeros(n), 1)


def test_rows_that_have_an_origin_of_their_own(rng):
    host = some_rows(rng, 60, 8)
    X, weights = stored(host), np.ones(60)
    frame = moments(X, weights, 2**20)
    relative = X.relative(frame.origin, np.float64)
    centers = frame.enter(host[:5])
    shifted = replace(frame, shifted=True)
    assert_array_equal(relative.assign(centers, shifted), X.assign(centers, frame))
    squares = brute_force(host - frame.origin, centers)
    labels = X.assign(centers, frame)
    assert_allclose(relative.sq_distances_to_own(labels, centers, shifted), squares.min(axis=1), atol=1e-12)
