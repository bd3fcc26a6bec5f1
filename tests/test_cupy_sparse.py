"""Sparse rows of CuPy, on a GPU or on the stand-in for one (CONTRIBUTING.md): the results of SciPy's."""

import pickle
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import moments, unbounded
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from test_sparse import matrix

from benchmarks import gpu
from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, arrays, bounds, kmeans_plusplus, metrics, steps
from kmeans_xp.algorithms import BoundedState
from kmeans_xp.validation import check_rows

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]


@pytest.fixture
def csr(cupy):
    """A function of a SciPy CSR matrix, or of what makes one: the same as CuPy's."""
    library = pytest.importorskip("cupyx.scipy.sparse")

    def csr(X):
        X = sparse.csr_matrix(X)
        return library.csr_matrix(tuple(map(cupy.asarray, (X.data, X.indices, X.indptr))), shape=X.shape)

    return csr


def same(ours, theirs, atol=1e-10):
    """Arrays of CuPy and NumPy with equal values."""
    assert type(ours).__module__ == "cupy"
    assert ours.dtype == theirs.dtype
    assert_allclose(ours.get(), theirs, atol=atol)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan", "auto"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_fits_as_scipys_rows_do(csr, rng, dtype, algorithm, init):
    X, weights, new = matrix(rng, dtype=dtype), rng.uniform(size=600), matrix(rng, n=90, dtype=dtype)
    options = {"init": init, "algorithm": algorithm, "n_init": 2, "random_state": 0}
    theirs, ours = (KMeans(7, **options).fit(x, sample_weight=weights) for x in (sparse.csr_matrix(X), csr(X)))
    precise = 1e-5 if dtype == "float32" else 1e-10
    same(ours.labels_, theirs.labels_)
    same(ours.cluster_centers_, theirs.cluster_centers_, precise)
    same(ours.cluster_sizes_, theirs.cluster_sizes_)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=precise)
    assert ours.n_iter_ == theirs.n_iter_
    given, ours_given = sparse.csr_matrix(new), csr(new)
    same(ours.predict(ours_given), theirs.predict(given))
    same(ours.transform(ours_given), theirs.transform(given), 2 * precise)
    assert ours.score(ours_given) == pytest.approx(theirs.score(given), rel=precise)
    # The centers move to the rows
    assert_array_equal(ours.predict(given), theirs.predict(given))
    same(theirs.predict(ours_given), theirs.predict(given))
    assert_array_equal(pickle.loads(pickle.dumps(ours)).predict(given), theirs.predict(given))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("n_clusters", [1, 2, 33, 150])
def test_numbers_of_clusters(csr, rng, metric, n_clusters):
    X = np.delete(matrix(rng, n=301, k=20), 3, axis=0)
    theirs, ours = (
        KMeans(n_clusters, metric=metric, random_state=0, max_iter=4, tol=1e9).fit(x)
        for x in (sparse.csr_matrix(X), csr(X))
    )
    same(ours.labels_, theirs.labels_)
    same(ours.cluster_centers_, theirs.cluster_centers_)
    same(ours.transform(csr(X)), theirs.transform(sparse.csr_matrix(X)), 1e-7)
    n = min(3, n_clusters)
    for name in ("nearest_centers", "nearest_rows"):
        pairs = zip(getattr(ours, name)(csr(X), n), getattr(theirs, name)(sparse.csr_matrix(X), n), strict=True)
        (distances, expected), (numbers, expected_numbers) = pairs
        same(distances, expected, 1e-7)
        apart = np.diff(expected, axis=1, append=np.inf).min(axis=1) > 1e-6
        assert_array_equal(numbers.get()[apart], expected_numbers[apart])


def test_cosine_with_rows_of_any_length(csr, rng):
    X = np.delete(matrix(rng), 3, axis=0) * 10.0 ** rng.uniform(-3, 3, size=(599, 1))
    theirs, ours = (KMeans(5, metric="cosine", random_state=0).fit(x) for x in (sparse.csr_matrix(X), csr(X)))
    same(ours.labels_, theirs.labels_)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    with pytest.raises(ValueError, match=r"rows of zeros have none: row 3 of X\."):
        KMeans(5, metric="cosine", zero_rows="raise").fit(csr(matrix(rng)))


def test_mini_batches_and_seeding(csr, rng):
    X = sparse.csr_matrix(matrix(rng))
    given = csr(X)
    theirs, ours = (MiniBatchKMeans(5, random_state=0, batch_size=64).fit(x) for x in (X, given))
    same(ours.labels_, theirs.labels_)
    same(ours.cluster_centers_, theirs.cluster_centers_)
    theirs, ours = (MiniBatchKMeans(5, random_state=0).partial_fit(x).partial_fit(x) for x in (X, given))
    same(ours.cluster_centers_, theirs.cluster_centers_)
    for one, other in zip(*(kmeans_plusplus(x, 9, random_state=3) for x in (given, X)), strict=True):
        same(one, other)


def test_more_rows_than_seeding_looks_at(csr, rng, monkeypatch):
    """A weighted sample, iterations on it, and the sums in several parts."""
    monkeypatch.setattr("kmeans_xp.seeding.greedy.MIN_SAMPLE", 100)
    monkeypatch.setattr("kmeans_xp.seeding.greedy.SAMPLE_PER_CLUSTER", 10)
    monkeypatch.setattr("kmeans_xp.rows._cupy_kernels.MOST_NUMBERS", 500)
    X = sparse.csr_matrix(matrix(rng))
    theirs, ours = (KMeans(5, random_state=0).fit(x) for x in (X, csr(X)))
    same(ours.labels_, theirs.labels_)
    same(ours.cluster_centers_, theirs.cluster_centers_)


def test_criteria_and_sweep(csr, rng, monkeypatch):
    monkeypatch.setattr("kmeans_xp.rows._cupy_kernels.MOST_DENSE", 1000)
    X = sparse.csr_matrix(matrix(rng))
    given, labels = csr(X), KMeans(5, random_state=0).fit(X).labels_
    for name in ("calinski_harabasz_score", "davies_bouldin_score", "silhouette_score", "bic_score"):
        score = getattr(metrics, name)
        assert score(given, labels) == pytest.approx(score(X, labels), rel=1e-9), name
    sampled = {"sample_size": 200, "random_state": 0}
    scores = [metrics.silhouette_score(x, labels, **sampled) for x in (given, X)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    same(metrics.simplified_silhouette_samples(given, labels), metrics.simplified_silhouette_samples(X, labels), 1e-9)
    theirs, ours = (KMeansSweep(range(2, 6), random_state=0).fit(x) for x in (X, given))
    assert ours.best_n_clusters_ == theirs.best_n_clusters_
    assert_allclose(ours.results_["inertia"], theirs.results_["inertia"])
    with pytest.raises(ValueError, match="'gap' needs dense data"):
        KMeansSweep([2, 3], criterion="gap").fit(given)


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shifted", [False, True])
def test_steps_equal_those_of_scipys_rows(cupy, csr, rng, index, dtype, shifted, monkeypatch):
    """Small tiles; an origin far from zero; bounded steps, also of some rows, from labels of which some are known."""
    monkeypatch.setattr("kmeans_xp.rows._cupy_kernels.MOST_NUMBERS", 2000)
    X, weights = sparse.csr_matrix(matrix(rng, dtype=dtype)), rng.uniform(size=600)
    given = csr(X)
    given.indices, given.indptr = given.indices.astype(index), given.indptr.astype(index)
    frame = moments(check_rows(X), weights, 10_000)
    device_frame = moments(check_rows(given), cupy.asarray(weights), 10_000)
    same(device_frame.origin, frame.origin)
    assert device_frame.spread == pytest.approx(frame.spread)
    centers, labels = frame.enter(X[rng.integers(600, size=9)].toarray()), rng.integers(9, size=600).astype("int32")
    rows, device_rows = check_rows(X), check_rows(given)
    if shifted:
        rows, frame = frame.shift(rows, np.float64), replace(frame, shifted=True)
        device_rows, device_frame = (
            device_frame.shift(device_rows, np.float64),
            replace(device_frame, shifted=True),
        )

    def compare(function, *arguments, atol=1e-10):
        def each(x, function):
            if isinstance(x, tuple):
                return tuple(each(part, function) for part in x)
            return function(x) if isinstance(x, np.ndarray) else x

        arguments = [each(x, np.copy) for x in arguments]
        on_device = [each(x, cupy.asarray) for x in arguments]
        found = function(device_rows, *on_device, device_frame)
        expected = function(rows, *arguments, frame)
        if not isinstance(found, tuple):
            found, expected = [found], [expected]
        for one, other in zip(found, expected, strict=True):
            assert_allclose(one.get(), other, atol=atol)

    compare(steps.assign, centers)
    compare(steps.lloyd_step, weights, centers)
    compare(steps.update, weights, labels, 9)
    compare(steps.sq_distances_to_own, labels, centers)
    compare(steps.sq_distances_to, np.array([3, 3, 17, 599]))
    compare(steps.distances, centers, atol=1e-6 if dtype == "float32" else 1e-10)
    path = rng.uniform(size=9)
    for slack in (np.where(rng.uniform(size=600) < 0.5, np.inf, -np.inf), np.full(600, np.inf)):
        sums = steps.update(rows, weights, labels, 9, frame)
        compare(bounds.bounded_step, weights, centers, (labels, slack, path), sums, atol=1e-5)
    compare(bounds.bounded_step, weights, centers, (*unbounded(rows, weights), path), (0, 0), atol=1e-5)


def test_numbers_that_do_not_lie_side_by_side(csr, rng):
    X = csr(matrix(rng))
    cupy = arrays.namespace(X.data)
    data, indices = (cupy.stack((part, part), axis=1)[:, 0] for part in (X.data, X.indices))
    apart = type(X)((X.data, X.indices, X.indptr), shape=X.shape)
    apart.data, apart.indices = data, indices
    assert not apart.data.flags.c_contiguous
    models = [KMeans(7, random_state=0).fit(x) for x in (X, apart)]
    assert_array_equal(models[0].cluster_centers_.get(), models[1].cluster_centers_.get())


def test_pruning_where_it_is_asked_for(csr, rng):
    X = matrix(rng)
    looked_at, looks = [], BoundedState.looked_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundedState, "looked_at", lambda self, n: (looked_at.append(n), looks(self, n)))
        KMeans(7, init=X[:7], tol=0, algorithm="elkan").fit(csr(X))
    assert looked_at[0] == 600
    assert 0 < looked_at[-2] < 300
    assert looked_at[-1] == 0, "the look with fresh means finds nothing to do"


@pytest.mark.parametrize("offset", [1e4, 1e7])
def test_rows_far_from_zero(csr, rng, offset):
    X = rng.normal(size=(300, 6)) + 5 * rng.integers(0, 2, size=(300, 6)) + offset
    for columns in (6, 4):
        X[:, columns:] = 0
        expected = KMeans(4, init=X[:4]).fit(X)
        for algorithm in ("lloyd", "elkan"):
            model = KMeans(4, init=X[:4], algorithm=algorithm).fit(csr(X))
            assert model.inertia_ == pytest.approx(expected.inertia_, rel=1e-6)
            assert_array_equal(model.labels_.get(), expected.labels_)
        assert metrics.bic_score(csr(X), expected.labels_) == pytest.approx(
            metrics.bic_score(X, expected.labels_), rel=1e-6
        )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_numbers(csr, rng):
    """None at all, one row, one feature, rows without numbers, a row with all."""
    some = np.zeros((5, 3))
    some[2, 1] = some[4] = 1
    for X, k in ((np.zeros((4, 3)), 2), (np.array([[0, 2.0, 1]]), 1), (np.arange(3.0)[:, None], 2), (some, 2)):
        for algorithm in ("lloyd", "elkan"):
            theirs, ours = (
                KMeans(k, random_state=0, algorithm=algorithm).fit(x) for x in (sparse.csr_matrix(X), csr(X))
            )
            same(ours.labels_, theirs.labels_)
            same(ours.cluster_centers_, theirs.cluster_centers_)
            assert ours.inertia_ == pytest.approx(theirs.inertia_)
            same(ours.transform(csr(X)), theirs.transform(sparse.csr_matrix(X)))


def test_rows_on_their_centers_and_empty_clusters(csr, rng):
    X = np.repeat(matrix(rng, n=8), 20, axis=0)
    with pytest.warns(UserWarning, match=r"Number of distinct clusters \(8\)"):
        model = KMeans(12, init=X[:12], n_init=1).fit(csr(X))
    assert model.inertia_ < 1e-25
    assert model.transform(csr(X)).min(axis=1).max() < 1e-12
    X = matrix(rng)
    X[17:19] = X[17] * 10  # twice
    init = np.concatenate((X[:4], np.full((2, 40), 1e3)))
    theirs, ours = (KMeans(6, init=init, n_init=1).fit(x) for x in (sparse.csr_matrix(X), csr(X)))
    same(ours.labels_, theirs.labels_)
    assert ours.labels_[17] == ours.labels_[18]


def test_numbers_stored_twice_out_of_order_or_zero(cupy, csr, rng):
    X = matrix(rng)
    rows, columns = np.nonzero(X + (rng.uniform(size=X.shape) < 0.1))  # with zeros
    order = rng.permutation(np.repeat(np.arange(len(rows)), 2))
    order = order[np.argsort(rows[order], kind="stable")]
    data, indices = X[rows, columns][order] / 2, columns[order].astype("int32")
    indptr = np.searchsorted(rows[order], np.arange(601)).astype("int32")
    given = csr(sparse.csr_matrix((600, 40)))
    given.data, given.indices, given.indptr = map(cupy.asarray, (data, indices, indptr))
    ours = KMeans(5, random_state=0).fit(given)
    same(ours.labels_, KMeans(5, random_state=0).fit(X).labels_)
    assert_array_equal(given.data.get(), data)  # X is not written to
    zeros = csr(sparse.csr_matrix(X))
    zeros.data *= 0
    with pytest.warns(UserWarning, match="distinct clusters"):
        assert KMeans(2, random_state=0).fit(zeros).inertia_ == 0


@pytest.mark.parametrize("index", ["int64", "int32"])
def test_other_formats(cupy, csr, rng, index):
    """Converted by CuPy; the stand-in has no cuSPARSE, which it asks for 32-bit indices."""
    if index == "int32" and "gpusim" in sys.modules:
        pytest.skip("needs cuSPARSE")
    X = matrix(rng)
    expected, coo = KMeans(5, random_state=0).fit(X), sparse.coo_matrix(X)
    library = pytest.importorskip("cupyx.scipy.sparse")
    places = tuple(cupy.asarray(x.astype(index)) for x in (coo.row, coo.col))
    given = library.coo_array((cupy.asarray(coo.data), places), shape=X.shape)
    same(KMeans(5, random_state=0).fit(given).labels_, expected.labels_)
    if index == "int32":
        same(KMeans(5, random_state=0).fit(given.tocsc()).labels_, expected.labels_)
    boolean = csr(X != 0)
    same(
        KMeans(5, random_state=0).fit(boolean).cluster_centers_, KMeans(5, random_state=0).fit(X != 0).cluster_centers_
    )


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_the_same_bits_from_run_to_run(cupy, csr, rng, algorithm):
    X = csr(matrix(rng, n=3000, dtype="float32"))
    first, second = (KMeans(20, random_state=0, max_iter=8, tol=1e9, algorithm=algorithm).fit(X) for _ in range(2))
    cupy.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    assert first.inertia_ == second.inertia_


def test_no_dense_copy_and_no_copy_to_the_host(cupy, csr, rng, monkeypatch):
    """2,000 x 30,000 would take 480 MB."""
    n, d = 2000, 30_000
    X = sparse.csr_matrix(
        (rng.uniform(size=10 * n), (np.repeat(np.arange(n), 10), rng.integers(d, size=10 * n))), shape=(n, d)
    )
    given = csr(X)
    model = KMeans(3, random_state=0, max_iter=2, tol=1e9)
    monkeypatch.setattr(type(given), "get", None)
    monkeypatch.setattr(type(given), "toarray", None)
    assert gpu.peak_bytes(lambda: model.fit(given).predict(given)) < 20 * 3 * d * 8  # some arrays of the centers' size
    same(model.labels_, KMeans(3, random_state=0, max_iter=2, tol=1e9).fit(X).labels_)


def test_one_synchronisation_an_iteration(csr, rng):
    """Counted by the stand-in: copies from the device, which stall the host."""
    gpusim = pytest.importorskip("gpusim")
    dense = rng.uniform(size=(3000, 6))
    X = csr(dense)

    def transfers(max_iter):
        model = KMeans(20, init=dense[:20], tol=0, max_iter=max_iter, algorithm="lloyd")
        with gpusim.sync_counts() as counts, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X)
        assert model.n_iter_ == max_iter
        return counts.to_host, counts.waits

    transfers(2)  # compiles
    few, many = transfers(3), transfers(13)
    assert many[0] - few[0] == 10
    assert many[1] - few[1] <= 10


def test_a_callable_is_given_a_matrix(cupy, csr, rng):
    X = csr(matrix(rng))
    dense = cupy.asarray(matrix(np.random.default_rng(20231)))
    seen = []

    def init(X, n_clusters, random_state):
        seen.append(X)
        return dense[:n_clusters]

    for estimator in (KMeans, MiniBatchKMeans):
        estimator(3, init=init, n_init=1, random_state=0).fit(X)
    assert all(type(x) is type(X) and x.shape == X.shape for x in seen)
    cupy.testing.assert_array_equal(seen[0].data, X.data)
    cupy.testing.assert_array_equal(seen[0].indptr, X.indptr)


def test_the_other_device(cupy, csr, rng):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    X = matrix(rng)
    with cupy.cuda.Device(1):
        there = csr(X)
    model, expected = KMeans(5, random_state=0).fit(there), KMeans(5, random_state=0).fit(X)
    assert {model.labels_.device.id, model.cluster_centers_.device.id, model.transform(there).device.id} == {1}
    same(model.labels_, expected.labels_)
    KMeans(5, device="cuda:1").fit(there)
    KMeans(5, device="auto").fit(there)
    for device in ("cpu", "cuda"):
        with pytest.raises(ValueError, match="not possible for sparse X, which is computed with where it is"):
            KMeans(5, device=device).fit(there)


@pytest.mark.parametrize(("number", "what"), [(np.nan, "NaN"), (np.inf, "infinity or a value too large for float64")])
def test_bad_numbers(csr, rng, number, what):
    X = csr(matrix(rng))
    X.data[5] = number
    for refuse in (KMeans(2).fit, KMeans(2, random_state=0).fit(matrix(rng)).predict):
        with pytest.raises(ValueError, match=f"Input X contains {what}"):
            refuse(X)


def test_bad_shapes(csr, rng):
    model = KMeans(2).fit(matrix(rng))
    with pytest.raises(ValueError, match="X has 7 features, but KMeans is expecting 40 features"):
        model.predict(csr(np.eye(7)))
    with pytest.raises(ValueError, match=r"n_samples=7 should be >= n_clusters=8"):
        KMeans(8).fit(csr(np.eye(7)))
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        KMeans(8).fit(csr(sparse.csr_matrix((0, 7))))


def test_numbers_too_large(csr):
    for fit in (KMeans(2).fit, MiniBatchKMeans(2).fit, lambda X: kmeans_plusplus(X, 2)):
        with pytest.raises(ValueError, match="too large for float64"):
            fit(csr(np.eye(5) * 1e160))
