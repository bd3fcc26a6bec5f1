"""`metric="cosine"`: spherical k-means."""

import numpy as np
import pytest
import scipy.sparse
from conftest import to_numpy
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from kmeans_xp import KMeans, KMeansSweep


class Slices:
    """A source: shape, dtype and slices of rows."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._X[rows]


def dask_array(X):
    return pytest.importorskip("dask.array").from_array(X, chunks=(170, -1))


def directions(rng, n=3000, d=6, k=5, dtype="float64"):
    """Rows around k directions, of very different lengths."""
    centers = rng.normal(size=(k, d))
    X = centers[rng.integers(k, size=n)] + 0.3 * rng.normal(size=(n, d))
    return (X * 10.0 ** rng.uniform(-3, 3, size=(n, 1))).astype(dtype)


def twin(X, init, weights, n_iter):
    """Spherical k-means by its definition: labels of the last centers, centers, sum of 1 - cos."""
    X = X.astype(float) / np.linalg.norm(X.astype(float), axis=1, keepdims=True)
    centers = init / np.linalg.norm(init, axis=1, keepdims=True)
    for _ in range(n_iter):
        labels = (X @ centers.T).argmax(axis=1)
        sums = np.stack([(weights[:, None] * X)[labels == j].sum(axis=0) for j in range(len(centers))])
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cosines = X @ centers.T
    return cosines.argmax(axis=1), centers, weights @ (1 - cosines.max(axis=1))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_equals_the_definition(lib, rng, algorithm):
    X, weights = directions(rng, n=400), rng.uniform(size=400)
    labels, centers, inertia = twin(X, X[:5], weights, 4)
    model = KMeans(5, init=X[:5], max_iter=4, tol=0, metric="cosine", algorithm=algorithm)
    model.fit(lib.asarray(X), sample_weight=lib.asarray(weights))
    lib.assert_owns(model.cluster_centers_, "float64")
    np.testing.assert_array_equal(to_numpy(model.labels_), labels)
    np.testing.assert_allclose(to_numpy(model.cluster_centers_), centers, atol=1e-12)
    assert model.inertia_ == pytest.approx(inertia, rel=1e-9)

    cosines = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ centers.T
    np.testing.assert_allclose(to_numpy(model.transform(lib.asarray(X))), 1 - cosines, atol=1e-12)
    np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(X))), labels)
    assert model.score(lib.asarray(X), sample_weight=lib.asarray(weights)) == pytest.approx(-inertia, rel=1e-9)


def test_only_directions_count(rng):
    X = directions(rng)
    scales = 10.0 ** rng.integers(-200, 100, size=len(X))  # squares of which float64 does not hold
    one, other = (KMeans(5, metric="cosine", random_state=0).fit(x) for x in (X, X * scales[:, None]))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_allclose(one.cluster_centers_, other.cluster_centers_)
    np.testing.assert_allclose(np.linalg.norm(one.cluster_centers_, axis=1), 1)


def test_pruned_iterations_give_the_same(rng):
    X = directions(rng, n=20_000, k=30, dtype="float32")
    init = X[:30]
    fits = [KMeans(30, init=init, metric="cosine", algorithm=a, tol=0).fit(X) for a in ("lloyd", "elkan", "auto")]
    for other in fits[1:]:
        np.testing.assert_array_equal(fits[0].labels_, other.labels_)
        assert fits[0].n_iter_ == other.n_iter_
        np.testing.assert_allclose(fits[0].history_["inertia"], other.history_["inertia"], rtol=1e-6)


def test_the_inertia_never_rises(rng):
    X = directions(rng, k=12, d=20)
    history = KMeans(15, init="random", metric="cosine", n_init=1, random_state=1, tol=0).fit(X).history_["inertia"]
    assert len(history) > 3
    assert (np.diff(history) <= 1e-12).all()


def test_rows_of_zeros_are_named(lib, rng):
    X = directions(rng, n=50)
    X[[7, 31]] = 0
    model = KMeans(3, metric="cosine", zero_rows="raise")
    for call in (model.fit, clone(model).fit(directions(rng)).predict):
        with pytest.raises(ValueError, match=r"row 7, 31 of X\. Leave them out, or set zero_rows='warn'"):
            call(lib.asarray(X))
    with pytest.raises(ValueError, match="NaN"):
        KMeans(3, metric="cosine").fit(lib.asarray(np.full((5, 2), np.nan)))
    with pytest.raises(ValueError, match="rows of zeros"):
        KMeans(2, metric="cosine", init=np.zeros((2, 6))).fit(directions(rng))


def test_opposite_rows_have_no_mean_direction():
    X = np.array([[1.0, 0.0], [-1.0, 0.0]])
    model = KMeans(1, metric="cosine", init=X[:1]).fit(X)
    assert np.isfinite(model.cluster_centers_).all()
    assert model.inertia_ == pytest.approx(2)


def test_blocks_are_scaled_as_they_are_read(rng, tmp_path, monkeypatch):
    """A source, and an array whose copy would not fit into working memory; a row of zeros by its number."""
    import sklearn

    from kmeans_xp.data import stream

    monkeypatch.setattr(stream, "BLOCK_BYTES", 2**14)
    X = directions(rng)
    np.save(tmp_path / "X.npy", X)
    expected = KMeans(5, metric="cosine", random_state=0).fit(X)
    with sklearn.config_context(working_memory=0.1):
        for given in (np.load(tmp_path / "X.npy", mmap_mode="r"), X):
            model = KMeans(5, metric="cosine", random_state=0)
            with model._opened_to_fit(given, None) as data:
                assert data.in_blocks
            model.fit(given)
            np.testing.assert_array_equal(model.labels_, expected.labels_)
            assert model.inertia_ == pytest.approx(expected.inertia_)
            np.testing.assert_array_equal(model.predict(given), expected.labels_)
            np.testing.assert_allclose(model.transform(given), expected.transform(X), atol=1e-12)
            assert model.score(given) == pytest.approx(-expected.inertia_)
        X[2900] = 0
        with pytest.raises(ValueError, match="row 2900"):
            KMeans(5, metric="cosine", zero_rows="raise").fit(X)
        with pytest.warns(UserWarning, match="Rows of zeros have no direction, and X has 1:"):
            model = KMeans(5, metric="cosine", random_state=0).fit(X)
    assert model.labels_[2900] == 0
    assert model.score(X) == pytest.approx(-model.inertia_)


@pytest.mark.parametrize("stored", ["array", "sparse", "file", "dask"])
def test_rows_of_zeros_get_the_first_label_and_the_distance_1(lib, rng, stored):
    X, weights = directions(rng, n=600, k=4), rng.uniform(size=600)
    zeros = np.array([0, 7, 31, 599])
    rest = np.delete(np.arange(600), zeros)
    X[zeros] = 0
    given, options = lib.asarray(X), {"init": X[rest[:4]], "metric": "cosine", "tol": 0}
    if stored != "array":
        if lib.name != "numpy":
            pytest.skip("of NumPy only")
        given = {"sparse": scipy.sparse.csr_array, "file": Slices, "dask": dask_array}[stored](X)
    without = KMeans(4, **options).fit(X[rest], sample_weight=weights[rest])
    with pytest.warns(
        UserWarning, match=r"^Rows of zeros have no direction, and X has 4: they are left out of the means"
    ):
        model = KMeans(4, **options).fit(given, sample_weight=weights)
    labels = to_numpy(model.labels_.compute() if stored == "dask" else model.labels_)
    np.testing.assert_array_equal(labels[rest], without.labels_)
    np.testing.assert_array_equal(labels[zeros], 0)
    np.testing.assert_array_equal(np.asarray(to_numpy(model.predict(X))), labels)
    np.testing.assert_allclose(to_numpy(model.cluster_centers_), without.cluster_centers_, atol=1e-12)
    assert model.inertia_ == pytest.approx(without.inertia_ + weights[zeros].sum())
    assert model.score(given, sample_weight=weights) == pytest.approx(-model.inertia_)
    assert model.history_["inertia"][-1] == pytest.approx(model.inertia_)
    np.testing.assert_allclose(to_numpy(model.cluster_sizes_), np.bincount(labels, weights, 4))
    distances = to_numpy(model.transform(lib.asarray(X)))
    np.testing.assert_array_equal(distances[zeros], 1)
    np.testing.assert_allclose(distances[rest], without.transform(X[rest]), atol=1e-12)
    near, numbers = (to_numpy(found) for found in model.nearest_centers(lib.asarray(X), 3))
    np.testing.assert_array_equal(near[zeros], 1)
    np.testing.assert_array_equal(numbers[zeros], [[0, 1, 2]] * 4)
    far, numbers = (to_numpy(found) for found in model.nearest_rows(lib.asarray(X), 600))
    assert (np.diff(far, axis=1) >= 0).all()
    np.testing.assert_array_equal(far[np.isin(numbers, zeros)], 1)


def test_seedings_pass_over_rows_of_zeros(rng):
    X = directions(rng, n=300)
    X[rng.permutation(300)[:250]] = 0
    for init in ("k-means++", "k-means||", "random"):
        with pytest.warns(UserWarning, match="X has 250:"):
            model = KMeans(5, init=init, metric="cosine", random_state=0).fit(X)
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1)


def test_nothing_but_rows_of_zeros(lib):
    with pytest.raises(
        ValueError, match="All rows that have weight are zeros, and metric='cosine' compares directions"
    ):
        KMeans(2, metric="cosine").fit(lib.asarray(np.zeros((5, 3))))


def test_an_empty_text_stops_no_pipeline():
    texts = ["red apple", "green apple", "", "fast car", "slow car", "red car"] * 3
    model = make_pipeline(TfidfVectorizer(), KMeans(2, metric="cosine", random_state=0))
    with pytest.warns(UserWarning, match="X has 3:"):
        labels = model.fit_predict(texts)
    assert labels[2] == 0
    np.testing.assert_array_equal(model.predict(["", "unknown words"]), [0, 0])


def test_partitions_of_dask(rng):
    da = pytest.importorskip("dask.array")
    X = directions(rng)
    expected = KMeans(5, metric="cosine", random_state=0).fit(X)
    model = KMeans(5, metric="cosine", random_state=0).fit(da.from_array(X, chunks=(700, 6)))
    np.testing.assert_array_equal(model.labels_.compute(), expected.labels_)
    assert model.score(da.from_array(X, chunks=(700, 6))) == pytest.approx(-expected.inertia_)
    X[1500] = 0
    with pytest.raises(ValueError, match=r"Partition 2 of X: .* row 1500 of X"):
        KMeans(5, metric="cosine", zero_rows="raise").fit(da.from_array(X, chunks=(700, 6)))


def test_half_precision_and_float32(rng):
    X = directions(rng, dtype="float32")
    model = KMeans(5, metric="cosine", random_state=0).fit(X)
    assert model.cluster_centers_.dtype == model.transform(X).dtype == "float32"
    torch = pytest.importorskip("torch")
    half = torch.asarray(X / np.abs(X).max(axis=1, keepdims=True)).to(torch.float16)
    assert KMeans(5, metric="cosine", random_state=0).fit(half).cluster_centers_.dtype == torch.float32


def test_a_sweep(rng):
    sweep = KMeansSweep(range(2, 9), estimator=KMeans(metric="cosine"), random_state=0).fit(directions(rng, d=12))
    assert sweep.best_n_clusters_ == 5
    assert (np.diff(sweep.results_["inertia"]) < 0).all()


def test_scikit_learn_has_no_such_model(rng):
    with pytest.raises(ValueError, match="Normalizer"):
        KMeans(3, metric="cosine").fit(directions(rng)).to_sklearn()
