"""Criteria of a clustering: scikit-learn's values, on every library, and weights that are repetitions."""

import tracemalloc

import numpy as np
import pytest
import sklearn
from conftest import blobs
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from sklearn import metrics as theirs
from sklearn.mixture import GaussianMixture

from kmeans_xp import KMeans, metrics
from kmeans_xp.arrays import to_numpy

SAME = ["calinski_harabasz_score", "davies_bouldin_score", "silhouette_score", "silhouette_samples"]
OURS = ["simplified_silhouette_samples", "bic_score", "cluster_inertias"]


def data(rng, n=400, k=5, offset=0.0):
    """Rows with labels of a clustering that is not perfect, one cluster of a single row."""
    X = blobs(rng, n, 3, n_clusters=k, spread=3) + offset
    labels = KMeans(k - 1, init=X[: k - 1], max_iter=3, tol=1e9).fit(X).labels_
    labels[0] = k - 1
    return X, labels


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("name", SAME)
def test_equals_scikit_learn(lib, rng, name, offset):
    X, labels = data(rng, offset=offset)
    ours = getattr(metrics, name)(lib.asarray(X), lib.asarray(labels))
    # At an offset scikit-learn's own distances lose digits, so it gets the centered rows
    assert_allclose(
        to_numpy(ours) if name.endswith("s") else ours, getattr(theirs, name)(X - offset, labels), rtol=1e-6, atol=1e-7
    )
    if name.endswith("samples"):
        lib.assert_owns(ours, "float64")


@pytest.mark.parametrize("name", SAME)
def test_in_many_tiles(rng, name):
    X, labels = data(rng, 3000, 7)
    with sklearn.config_context(working_memory=1):
        assert_allclose(getattr(metrics, name)(X, labels), getattr(theirs, name)(X, labels), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_silhouette_of_squared_distances(lib, rng, dtype):
    X, labels = data(rng)
    ours = metrics.silhouette_samples(lib.asarray(X, dtype=dtype), lib.asarray(labels), metric="sqeuclidean")
    expected = theirs.silhouette_samples(cdist(X, X, "sqeuclidean"), labels, metric="precomputed")
    assert_allclose(to_numpy(ours), expected, rtol=1e-6 if dtype == "float64" else 1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [*SAME, *OURS, "sqeuclidean"])
def test_weights_are_repetitions(lib, rng, name):
    X, labels = data(rng)
    weights = rng.integers(1, 4, size=len(X))
    options = {}
    if name == "sqeuclidean":
        name, options = "silhouette_samples", {"metric": "sqeuclidean"}
    function = getattr(metrics, name)
    weighted = function(lib.asarray(X), lib.asarray(labels), sample_weight=lib.asarray(weights), **options)
    repeated = function(lib.asarray(X.repeat(weights, axis=0)), lib.asarray(labels.repeat(weights)), **options)
    if name.endswith("samples"):
        first = np.concatenate(([0], np.cumsum(weights)[:-1]))
        weighted, repeated = to_numpy(weighted), to_numpy(repeated)[first]
    if name == "cluster_inertias":
        weighted, repeated = (np.stack([to_numpy(part) for part in parts]) for parts in (weighted, repeated))
    assert_allclose(weighted, repeated, rtol=1e-9, atol=1e-7)


def test_simplified_silhouette(lib, rng):
    X, labels = data(rng)
    means = np.stack([X[labels == label].mean(axis=0) for label in range(5)])
    distances = cdist(X, means)
    own = distances[np.arange(len(X)), labels]
    distances[np.arange(len(X)), labels] = np.inf
    expected = (distances.min(axis=1) - own) / np.maximum(own, distances.min(axis=1))
    expected[0] = 0
    ours = metrics.simplified_silhouette_samples(lib.asarray(X), lib.asarray(labels))
    assert_allclose(to_numpy(ours), expected, rtol=1e-9, atol=1e-9)


def test_inertias(lib, rng):
    X, labels = data(rng)
    inertias, weights = metrics.cluster_inertias(lib.asarray(X), lib.asarray(labels))
    for label in range(5):
        mine = X[labels == label]
        assert float(weights[label]) == len(mine)
        assert_allclose(float(inertias[label]), ((mine - mine.mean(axis=0)) ** 2).sum(), atol=1e-9)


def test_bic_is_lowest_at_the_true_number(rng):
    X = blobs(rng, 3000, 2, n_clusters=6, spread=15)
    scores = {k: metrics.bic_score(X, KMeans(k, n_init=5, random_state=0).fit_predict(X)) for k in range(1, 12)}
    assert min(scores, key=scores.get) == 6
    mixture = GaussianMixture(1, covariance_type="spherical").fit(X)
    assert scores[1] == pytest.approx(mixture.bic(X), rel=1e-3)


def test_a_sample(lib, rng):
    X, labels = data(rng, 2000)
    options = {"sample_size": 300, "random_state": 7}
    ours = metrics.silhouette_score(lib.asarray(X), lib.asarray(labels), **options)
    assert ours == pytest.approx(theirs.silhouette_score(X, labels, **options), rel=1e-6)


def test_a_sample_of_what_lies_elsewhere(rng):
    """Of a Dask array, whose labels are lazy, and of sparse rows: the sample of the same rows in memory."""
    from scipy import sparse

    da = pytest.importorskip("dask.array")
    X, labels = data(rng, 2000)
    weights = rng.integers(1, 4, size=2000)
    options = {"sample_size": 300, "random_state": 7, "sample_weight": weights}
    expected = metrics.silhouette_score(X, labels, **options)
    lazy = da.from_array(X, chunks=(700, 3))
    for given in (lazy, sparse.csr_array(X), sparse.coo_array(X), X.tolist(), np.ma.array(X), Source(X)):
        assert metrics.silhouette_score(given, labels, **options) == pytest.approx(expected)
    options["sample_weight"] = da.from_array(weights, chunks=500)
    assert metrics.silhouette_score(lazy, da.from_array(labels, chunks=700), **options) == pytest.approx(expected)


def test_silhouettes_in_several_tiles(lib, rng):
    X, labels = data(rng, 2100)
    ours = metrics.silhouette_samples(lib.asarray(X), lib.asarray(labels))
    assert_allclose(to_numpy(ours), theirs.silhouette_samples(X, labels), rtol=1e-6, atol=1e-7)


def test_distances_between_many_clusters_are_not_held_at_once(rng):
    k = 3000
    X, labels = rng.normal(size=(2 * k, 2)), np.arange(2 * k) % k
    metrics.davies_bouldin_score(X[:20], labels[:20] // 10)
    tracemalloc.start()
    try:
        score = metrics.davies_bouldin_score(X, labels)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20, "k² numbers are 69 MiB"
    finally:
        tracemalloc.stop()
    assert score == pytest.approx(theirs.davies_bouldin_score(X, labels))


def test_names_as_labels(rng):
    X, labels = data(rng)
    names = np.asarray(["e", "a", "c", "b", "d"])[labels]
    assert metrics.calinski_harabasz_score(X, names) == pytest.approx(metrics.calinski_harabasz_score(X, labels))


def test_rows_on_their_means():
    X = np.repeat(np.eye(3), 4, axis=0)
    labels = np.repeat(np.arange(3), 4)
    for name in SAME:
        assert_allclose(getattr(metrics, name)(X, labels), getattr(theirs, name)(X, labels), atol=1e-7)


@pytest.mark.parametrize("name", [*SAME, "simplified_silhouette_samples"])
def test_bad_input(rng, name):
    X = rng.normal(size=(10, 2))
    function = getattr(metrics, name)
    for labels in (np.zeros(10, dtype=int), np.arange(10)):
        with pytest.raises(ValueError, match=r"Number of labels is \d+\. Valid values are 2 to n_samples - 1"):
            function(X, labels)
    with pytest.raises(ValueError, match=r"labels.shape == \(9,\), expected \(10,\)"):
        function(X, np.zeros(9, dtype=int))


def test_weights_are_counts(rng):
    """Two rows of weight 2 are four; a cluster without weight, or less weight than clusters, is refused."""
    assert metrics.silhouette_score([[0.0], [1.0]], [0, 1], sample_weight=[2, 2]) == 1
    X, labels = data(rng)
    with pytest.raises(ValueError, match="A cluster has no weight"):
        metrics.davies_bouldin_score(X, labels, sample_weight=labels != 2)
    with pytest.raises(ValueError, match="a weight says how often a row stands there"):
        metrics.silhouette_score(X, labels, sample_weight=np.full(len(X), 1 / len(X)))


def test_a_tight_cluster_beside_far_rows(rng):
    X = np.concatenate((rng.normal(size=(1000, 1)) * 1e6, 5 + rng.normal(size=(997, 1)) * 1e-3))
    inertias, _ = metrics.cluster_inertias(X, np.repeat([0, 1], [1000, 997]))
    assert inertias[1] == pytest.approx(997 * X[1000:].var(), rel=1e-6)


def test_labels_in_a_column(rng):
    X, labels = data(rng)
    assert metrics.davies_bouldin_score(X, labels[:, None]) == metrics.davies_bouldin_score(X, labels)


def test_bad_metric(rng):
    with pytest.raises(ValueError, match="metric='cosine' is not known"):
        metrics.silhouette_samples(rng.normal(size=(10, 2)), np.arange(10) % 2, metric="cosine")


class Source:
    """The least that data read by blocks have."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._X[rows]


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16"])
def test_of_rows_that_are_read_tile_by_tile(rng, dtype):
    X = (10 * blobs(rng, 3000, 4)).astype(dtype)
    labels, weights = rng.integers(5, size=3000), rng.uniform(1, 2, size=3000)
    with sklearn.config_context(working_memory=0.1):
        for name in ("calinski_harabasz_score", "davies_bouldin_score", "bic_score", "silhouette_score"):
            score = getattr(metrics, name)
            expected = score(X, labels, sample_weight=weights)
            assert score(Source(X), labels, sample_weight=weights) == pytest.approx(expected), name
        assert_allclose(
            metrics.simplified_silhouette_samples(Source(X), labels), metrics.simplified_silhouette_samples(X, labels)
        )
        sample = {"sample_size": 100, "random_state": 0}
        expected = metrics.silhouette_score(X, labels, **sample)
        assert metrics.silhouette_score(Source(X), labels, **sample) == pytest.approx(expected)
    if dtype != "int16":
        X[7, 1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            metrics.bic_score(Source(X), labels)


def test_numbers_too_large_are_not_called_nan():
    for given in (np.eye(4) * 1e200, Source(np.eye(4) * 1e200)):
        with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match="too large for float64"):
            metrics.bic_score(given, [0, 0, 1, 1])


@pytest.mark.parametrize("sample_size", [0, -1, 0.5, "a"])
def test_samples_of_no_size_are_refused(rng, sample_size):
    with pytest.raises(ValueError, match=r"sample_size=.* must be an integer from 1 on"):
        metrics.silhouette_score(rng.normal(size=(30, 2)), np.arange(30) % 3, sample_size=sample_size)
