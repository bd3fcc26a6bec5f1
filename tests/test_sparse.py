"""Sparse rows: the same answers as for dense ones, and never a dense copy."""

import tracemalloc

import numpy as np
import pytest
from conftest import moments, unbounded
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics
from kmeans_xp.bounds import bounded_step
from kmeans_xp.rows import array
from kmeans_xp.rows.scipy import ScipyRows
from kmeans_xp.validation import check_rows


def matrix(rng, n=600, d=40, k=5, density=0.2, dtype="float64"):
    """Rows around sparse centers, dense, most numbers 0."""
    centers = np.where(rng.uniform(size=(k, d)) < density, rng.uniform(2, 5, size=(k, d)), 0)
    X = centers[rng.integers(k, size=n)] * rng.uniform(0.8, 1.2, size=(n, d))
    X[rng.uniform(size=(n, d)) < 0.02] = 1
    X[3] = 0  # a row without numbers
    return X.astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan", "auto"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_fits_as_dense_rows_do(rng, dtype, algorithm, init):
    X, weights = matrix(rng, dtype=dtype), rng.uniform(size=600)
    models = [
        KMeans(7, init=init, algorithm=algorithm, n_init=2, random_state=0).fit(x, sample_weight=weights)
        for x in (X, sparse.csr_array(X))
    ]
    dense, ours = models
    assert type(ours.cluster_centers_) is np.ndarray
    assert ours.cluster_centers_.dtype == dtype
    assert_array_equal(ours.labels_, dense.labels_)
    precise = 1e-5 if dtype == "float32" else 1e-10
    assert_allclose(ours.cluster_centers_, dense.cluster_centers_, atol=precise)
    assert ours.inertia_ == pytest.approx(dense.inertia_, rel=precise)
    assert ours.n_iter_ == dense.n_iter_
    new = matrix(rng, n=90, dtype=dtype)
    given = sparse.csr_array(new)
    assert_array_equal(ours.predict(given), dense.predict(new))
    assert_array_equal(ours.predict(new), dense.predict(new))
    assert_allclose(ours.transform(given), dense.transform(new), atol=2 * precise)
    assert ours.transform(given).dtype == dtype
    assert ours.score(given) == pytest.approx(dense.score(new), rel=precise)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.lil_matrix])
def test_any_format(rng, form):
    X = matrix(rng)
    expected = KMeans(5, random_state=0).fit(X)
    assert_array_equal(KMeans(5, random_state=0).fit(form(X)).labels_, expected.labels_)


def test_numbers_stored_twice_out_of_order_or_zero(rng):
    X = matrix(rng)
    rows, columns = np.nonzero(X + (rng.uniform(size=X.shape) < 0.1))  # with zeros
    order = rng.permutation(np.repeat(np.arange(len(rows)), 2))
    given = sparse.coo_array((X[rows, columns][order] / 2, (rows[order], columns[order])), shape=X.shape)
    data, indices, indptr = [], [], [0]
    for row in range(len(X)):
        mine = np.flatnonzero(given.row == row)
        data.append(given.data[mine]), indices.append(given.col[mine]), indptr.append(indptr[-1] + len(mine))
    csr = sparse.csr_array((np.concatenate(data), np.concatenate(indices), indptr), shape=X.shape)
    before = csr.data.copy()
    assert_array_equal(KMeans(5, random_state=0).fit(csr).labels_, KMeans(5, random_state=0).fit(X).labels_)
    assert_array_equal(csr.data, before)  # X is not written to


def test_large_indices(rng):
    X = sparse.csr_array(matrix(rng))
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    assert_array_equal(KMeans(5, random_state=0).fit(X).labels_, KMeans(5, random_state=0).fit(X.toarray()).labels_)


def test_seeding_picks_the_same_rows(rng):
    X = matrix(rng)
    (centers, rows), (expected, expected_rows) = (
        kmeans_plusplus(x, 9, random_state=3) for x in (sparse.csr_array(X), X)
    )
    assert_array_equal(rows, expected_rows)
    assert_array_equal(centers, expected)


@pytest.mark.parametrize("tile_bytes", [10_000, 2**20])
def test_small_rows_are_shifted_once(rng, tile_bytes):
    X = matrix(rng)
    frame = moments(X, np.ones(600), tile_bytes)
    rows, of_rows = frame.shift_once(check_rows(sparse.csr_array(X)), np.float64)
    assert of_rows.shifted == (8 * X.size <= tile_bytes)
    assert_allclose(array.dense(rows), X - frame.origin if of_rows.shifted else X, atol=1e-12)
    assert frame.shift_once(X, np.float64) == (X, frame), "steps see arrays relative to the origin by themselves"


def test_rows_on_their_centers_are_at_distance_0(rng):
    X = np.repeat(matrix(rng, n=8), 20, axis=0)
    with pytest.warns(UserWarning, match=r"Number of distinct clusters \(8\)"):
        model = KMeans(12, init=X[:12], n_init=1).fit(sparse.csr_array(X))
    assert model.inertia_ < 1e-25
    assert model.transform(sparse.csr_array(X)).min(axis=1).max() < 1e-12


def test_an_empty_cluster_moves_to_the_farthest_row(rng):
    X = matrix(rng)
    X[17:19] = X[17] * 10  # twice
    init = np.concatenate((X[:4], np.full((2, 40), 1e3)))
    dense, ours = (KMeans(6, init=init, n_init=1).fit(x) for x in (X, sparse.csr_array(X)))
    assert_array_equal(ours.labels_, dense.labels_)
    assert ours.labels_[17] == ours.labels_[18]


@pytest.mark.parametrize("offset", [1e4, 1e7])
def test_rows_far_from_zero(rng, offset):
    """Numbers everywhere, and in some features only: inertia and criteria keep their digits."""
    X = rng.normal(size=(300, 6)) + 5 * rng.integers(0, 2, size=(300, 6)) + offset
    for columns in (6, 4):
        X[:, columns:] = 0
        labels = KMeans(4, random_state=0).fit(X).labels_
        models = [KMeans(4, init=X[:4], algorithm=a).fit(sparse.csr_array(X)) for a in ("lloyd", "elkan")]
        expected = KMeans(4, init=X[:4]).fit(X)
        for model in models:
            assert model.inertia_ == pytest.approx(expected.inertia_, rel=1e-6)
            assert_array_equal(model.labels_, model.predict(sparse.csr_array(X)))
        for name in ("calinski_harabasz_score", "davies_bouldin_score", "bic_score"):
            score = getattr(metrics, name)
            assert score(sparse.csr_array(X), labels) == pytest.approx(score(X, labels), rel=1e-6), name


def test_numbers_too_large():
    X = np.eye(5) * 1e160
    for fit in (KMeans(2).fit, MiniBatchKMeans(2).fit, lambda X: kmeans_plusplus(X, 2)):
        for given in (X, sparse.csr_array(X)):
            with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large for float64"):
                fit(given)


def test_tiny_numbers_do_not_keep_a_row_from_being_equal_to_itself():
    X = np.array([[1.0, 0], [1.1, 0], [1.2, 0], [1.0, 1e-20], [9.0, 1e-20], [1.3, 2.0], [0.9, 2]])
    init = [[1.0, 0], [50, 50], [60, 60]]
    dense, ours = (KMeans(3, init=init).fit(x) for x in (X, sparse.csr_array(X)))
    assert_array_equal(ours.labels_, dense.labels_)
    assert_array_equal(ours.cluster_sizes_, [4, 1, 2])


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_a_callable_is_given_the_matrix(rng, estimator):
    X = sparse.csr_array(matrix(rng))
    model = estimator(3, init=lambda X, k, random_state: X[:k].toarray(), n_init=1, random_state=0).fit(X)
    assert model.predict(X).shape == (600,)


def test_sparse_partitions_are_refused(rng):
    da = pytest.importorskip("dask.array")
    X = da.from_array(matrix(rng), chunks=(200, 40)).map_blocks(sparse.csr_matrix)
    with pytest.raises(TypeError, match=r"Partition \d of X: Sparse partitions are not supported.*toarray\(\)"):
        KMeans(3).fit(X)


def test_no_dense_copy(rng):
    """2,000 x 2,000,000 would take 32 GB."""
    n, d = 2000, 2_000_000
    X = sparse.csr_array(
        (rng.uniform(size=10 * n), (np.repeat(np.arange(n), 10), rng.integers(d, size=10 * n))), shape=(n, d)
    )
    tracemalloc.start()
    model = KMeans(3, random_state=0, max_iter=2, tol=1e9).fit(X)
    model.predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 3 * d * 8  # some arrays of the size of the centers


def peak_of(job):
    """Bytes that a job takes beyond what there was before."""
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_temporaries_stay_within_working_memory(rng, monkeypatch, dtype, metric):
    """Some 30 MiB of rows, of which the first have many more numbers than the others."""
    monkeypatch.setattr("kmeans_xp.arrays._N_CORES", 2)
    n, d, k, mebibytes = 18_000, 1500, 6, 2**20
    sizes = np.where(np.arange(n) < 600, 1200, 120 if dtype == "float64" else 200)
    indices = np.concatenate([np.arange(size) * (d // size) for size in sizes]).astype(np.int32)
    data = rng.uniform(1, 2, size=len(indices)).astype(dtype)
    X = sparse.csr_array((data, indices, np.concatenate(([0], np.cumsum(sizes, dtype=np.int32)))), shape=(n, d))
    assert 28 * mebibytes < data.nbytes + indices.nbytes < 40 * mebibytes

    allowed = 4 * mebibytes + 100 * n + 12 * 8 * k * d  # a few numbers per row, centers and sums
    allowed += data.nbytes if metric == "cosine" else 0  # the numbers divided by the norms of their rows
    init = X[:: n // k][:k].toarray()
    with config_context(working_memory=4):
        for given in ({"algorithm": "lloyd"}, {"algorithm": "elkan"}, {"init": "k-means++", "random_state": 0}):
            model = KMeans(k, **{"init": init, "max_iter": 2, "tol": 1e9, "metric": metric, **given})
            assert peak_of(lambda: model.fit(X)) < allowed, given  # noqa: B023
        assert peak_of(lambda: model.predict(X)) < allowed
        assert peak_of(lambda: model.transform(X)) < allowed + data.itemsize * n * k
        assert peak_of(lambda: model.score(X)) < allowed


def test_elkan_copies_the_rows_that_changed_tile_by_tile(rng, monkeypatch):
    """Most rows, but not all, must be looked at, and change."""
    monkeypatch.setattr("kmeans_xp.rows.scipy.NUMBERS", 1000)
    X = sparse.csr_array(matrix(rng, n=20_000, density=0.9))
    rows, weights = check_rows(X), np.ones(20_000)
    frame = moments(rows, weights, 2**18)
    labels, slack = unbounded(rows, weights)
    slack[7], labels[:] = np.inf, 0
    centers = frame.enter(X[100:105].toarray())
    peak = peak_of(lambda: bounded_step(rows, weights, centers, (labels, slack, np.zeros(5)), (0, 0), frame))
    assert peak < 2**19 + 100 * 20_000 < X.data.nbytes


def test_rows_in_canonical_format_are_not_copied_and_others_once(rng):
    columns = rng.permuted(np.tile(np.arange(50), (2 * 10**4, 1)), axis=1).ravel()
    places = np.arange(2 * 10**4 + 1) * 50
    X = sparse.csr_array((1.0 + np.arange(10**6) % 7, columns, places), shape=(2 * 10**4, 50))
    size = X.data.nbytes + X.indices.nbytes
    for given in (X, X.astype(np.int64)):
        before = given.indices.copy()
        assert size < peak_of(lambda: check_rows(given)) < 1.3 * size  # noqa: B023
        assert_array_equal(given.indices, before)
    X.sort_indices()
    X = sparse.csr_array((X.data, X.indices, X.indptr), shape=X.shape)
    assert peak_of(lambda: check_rows(X)) < 0.02 * size
    assert check_rows(X).matrix is X
    longer = sparse.csr_array((np.append(X.data, [7.0]), np.append(X.indices, [0]), X.indptr), shape=X.shape)
    assert KMeans(2, init=X[:2].toarray()).fit(longer).cluster_sizes_.sum() == 2 * 10**4  # room that is not in use


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_are_scaled_piece_by_piece(rng, monkeypatch, dtype):
    monkeypatch.setattr("kmeans_xp.rows.scipy.NUMBERS", 100)
    X = matrix(rng, dtype=dtype)
    rows = check_rows(sparse.csr_array(X))
    largest = rows.largest()
    assert largest.dtype == dtype
    assert_array_equal(largest, X.max(axis=1))
    unit = rows.scaled(largest)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    assert unit.dtype == dtype
    assert_allclose(unit.dense(), X / np.where(norms > 0, norms, 1), rtol=1e-6 if dtype == "float32" else 1e-14)
    X[5, 7] = np.nan
    assert np.flatnonzero(np.isnan(ScipyRows(sparse.csr_array(X)).largest())).tolist() == [5]


TEXTS = [
    "apples and pears",
    "pears, plums and apples",
    "plums",
    "trains and buses",
    "a bus, a train",
    "buses or trains",
]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_text_pipeline(metric):
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), KMeans(2, metric=metric, n_init=10, random_state=0))
    labels = model.fit_predict(TEXTS)
    assert labels[0] == labels[1] != labels[3] == labels[5]
    assert_array_equal(model.predict(TEXTS), labels)
    assert model.transform(TEXTS).shape == (6, 2)
    assert len(model[-1].get_feature_names_out()) == 2


def test_cosine(rng):
    X = np.delete(matrix(rng), 3, axis=0) * 10.0 ** rng.uniform(-3, 3, size=(599, 1))
    dense, ours = (KMeans(5, metric="cosine", random_state=0).fit(x) for x in (X, sparse.csr_array(X)))
    assert_array_equal(ours.labels_, dense.labels_)
    assert ours.inertia_ == pytest.approx(dense.inertia_, rel=1e-9)
    assert_allclose(ours.transform(sparse.csr_array(X)), dense.transform(X), atol=1e-9)
    with pytest.raises(ValueError, match=r"rows of zeros have none: row 3 of X\."):
        KMeans(5, metric="cosine", zero_rows="raise").fit(sparse.csr_array(matrix(rng)))


def test_criteria_and_sweep(rng):
    X = matrix(rng)
    labels = KMeans(5, random_state=0).fit(X).labels_
    for name in ("calinski_harabasz_score", "davies_bouldin_score", "silhouette_score", "bic_score"):
        score = getattr(metrics, name)
        assert score(sparse.csr_array(X), labels) == pytest.approx(score(X, labels), rel=1e-9), name
    samples = metrics.simplified_silhouette_samples
    assert_allclose(samples(sparse.csr_array(X), labels), samples(X, labels), atol=1e-9)
    dense, ours = (KMeansSweep(range(2, 7), random_state=0).fit(x) for x in (X, sparse.csr_array(X)))
    assert ours.best_n_clusters_ == dense.best_n_clusters_
    assert_allclose(ours.results_["inertia"], dense.results_["inertia"])


def test_mini_batches(rng):
    X = matrix(rng)
    dense, ours = (MiniBatchKMeans(5, random_state=0, batch_size=64).fit(x) for x in (X, sparse.csr_array(X)))
    assert_array_equal(ours.labels_, dense.labels_)
    dense, ours = (MiniBatchKMeans(5, random_state=0).partial_fit(x).partial_fit(x) for x in (X, sparse.csr_array(X)))
    assert_allclose(ours.cluster_centers_, dense.cluster_centers_, atol=1e-12)


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda", ValueError, "not possible for sparse X"),
        ("nowhere", ValueError, "is not known"),
    ],
)
def test_devices(rng, device, error, message):
    X = sparse.csr_array(matrix(rng))
    KMeans(2, device="auto").fit(X)
    KMeans(2, device="cpu").fit(X)
    with pytest.raises(error, match=message):
        KMeans(2, device=device).fit(X)


def test_other_libraries_and_bad_numbers(rng):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"Sparse data of torch .* '.to_dense\(\)'"):
        KMeans(2).fit(torch.eye(3).to_sparse())
    X = sparse.csr_array(matrix(rng))
    X.data[5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        KMeans(2).fit(X)
