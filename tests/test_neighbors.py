"""The nearest centers of a row, the nearest rows of a center, and the sizes of clusters."""

import numpy as np
import pandas as pd
import pytest
from conftest import blobs, to_numpy
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from kmeans_xp import BisectingKMeans, KMeans, MiniBatchKMeans
from kmeans_xp.data import stream


@pytest.fixture(params=["euclidean", "cosine"])
def metric(request):
    return request.param


def distances(X, model):
    """By the definition, in float64."""
    X, centers = X.astype(float), to_numpy(model.cluster_centers_).astype(float)
    if model.metric == "cosine":
        return 1 - (X / np.linalg.norm(X, axis=1, keepdims=True)) @ centers.T
    return np.sqrt(((X[:, None, :] - centers) ** 2).sum(axis=2))


def test_nearest_centers(lib, rng, metric):
    X = blobs(rng, 700, 5)
    model = KMeans(8, metric=metric, random_state=0).fit(lib.asarray(X))
    expected = distances(X, model)
    order = expected.argsort(axis=1)[:, :3]
    found, labels = model.nearest_centers(lib.asarray(X), 3)
    lib.assert_owns(found, "float64")
    lib.assert_owns(labels, "int32")
    assert_array_equal(to_numpy(labels), order)
    assert_allclose(to_numpy(found), np.take_along_axis(expected, order, axis=1), atol=1e-12)
    labels = model.nearest_centers(lib.asarray(X), return_distance=False)
    assert_array_equal(to_numpy(labels)[:, 0], to_numpy(model.predict(lib.asarray(X))))


def test_nearest_rows(lib, rng, metric):
    X = blobs(rng, 700, 5)
    model = KMeans(8, metric=metric, random_state=0).fit(lib.asarray(X))
    expected = distances(X, model)
    for n_rows in (1, 4, 700):
        order = expected.argsort(axis=0)[:n_rows].T
        found, rows = model.nearest_rows(lib.asarray(X), n_rows)
        lib.assert_owns(found, "float64")
        lib.assert_owns(rows, "int64")
        assert_array_equal(to_numpy(rows), order)
        assert_allclose(to_numpy(found), np.take_along_axis(expected.T, order, axis=1), atol=1e-12)
    assert_array_equal(
        to_numpy(model.nearest_rows(lib.asarray(X), return_distance=False)), expected.argmin(axis=0)[:, None]
    )


def test_a_row_on_a_center_is_at_distance_0(rng):
    X = blobs(rng, 50, 3) + 1e6
    model = KMeans(50, init=X).fit(X)
    found, rows = model.nearest_rows(X)
    assert_array_equal(found, 0)
    assert_array_equal(X[rows[:, 0]], model.cluster_centers_)


def test_ascending_where_products_lose_digits(rng):
    init = np.array([[1.0, 1, 1], [-1, -1, -1]])
    X = np.repeat(init, 50, axis=0) + 1e-9 * rng.normal(size=(100, 3))
    model = KMeans(2, init=init).fit(X)
    for found in (model.nearest_rows(X, 10)[0], model.nearest_centers(X, 2)[0]):
        assert (np.diff(found, axis=1) >= 0).all()


def test_equal_rows_and_centers_the_first_one_wins():
    X = np.repeat(np.eye(3), 100, axis=0)
    model = MiniBatchKMeans(3, init=np.eye(3), random_state=0).fit(X)
    assert_array_equal(model.nearest_rows(X, 2, return_distance=False), [[0, 1], [100, 101], [200, 201]])


@pytest.mark.parametrize("form", ["blocks", "sparse", "float32"])
def test_other_rows(rng, form, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 2**12)
    X = blobs(rng, 900, 4).astype("float32")
    model = KMeans(6, random_state=0).fit(X)

    class Source:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            return X[rows]

    given = {"blocks": Source(), "sparse": sparse.csr_array(X), "float32": X}[form]
    for method in ("nearest_centers", "nearest_rows"):
        found, numbers = getattr(model, method)(given, 3)
        expected, places = getattr(model, method)(X.astype(float), 3)
        assert_array_equal(numbers, places)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 7, 2.0, "all"])
def test_bad_counts(rng, count):
    X = blobs(rng, 6, 3)
    model = KMeans(5, random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"n_centers=.* must be an integer from 1 to n_clusters, which is 5"):
        model.nearest_centers(X, count)
    with pytest.raises(ValueError, match=r"n_rows=.* must be an integer from 1 to n_samples, which is 6"):
        model.nearest_rows(X, count)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_cluster_sizes(lib, rng, algorithm):
    X, weights = blobs(rng, 500, 3), rng.uniform(size=500)
    model = KMeans(6, algorithm=algorithm, random_state=0).fit(lib.asarray(X))
    lib.assert_owns(model.cluster_sizes_, "int64")
    assert_array_equal(to_numpy(model.cluster_sizes_), np.bincount(to_numpy(model.labels_)))
    model.fit(lib.asarray(X), sample_weight=lib.asarray(weights))
    lib.assert_owns(model.cluster_sizes_, "float64")
    assert_allclose(to_numpy(model.cluster_sizes_), np.bincount(to_numpy(model.labels_), weights))


@pytest.mark.parametrize("Estimator", [KMeans, MiniBatchKMeans, BisectingKMeans])
def test_cluster_sizes_are_integers_where_weights_are(Estimator, lib, rng):
    """int64, as NumPy's sums of integers; floats where these would not fit."""
    X, weights = blobs(rng, 300, 3), rng.integers(1, 9, size=300)
    floats, many = weights.astype(float), np.full(300, 2**63, dtype="uint64")
    integers = [(None, 1), (3, 3), *((kind(weights), weights) for kind in (np.asarray, list, lib.asarray, pd.Series))]
    given = {
        "int64": [*integers, (weights > 4, weights > 4), (pd.Series(weights, dtype="UInt8"), weights)],
        "float64": [
            (0.5, 0.5),
            (floats, floats),
            (lib.asarray(floats), floats),
            (floats.tolist(), floats),
            (many, many),
        ],
    }
    for dtype, choices in given.items():
        for sample_weight, each in choices:
            model = Estimator(4, random_state=0).fit(lib.asarray(X), sample_weight=sample_weight)
            lib.assert_owns(model.cluster_sizes_, dtype)
            expected = np.bincount(to_numpy(model.labels_), np.broadcast_to(each, 300).astype(float), minlength=4)
            assert_allclose(to_numpy(model.cluster_sizes_), expected)
