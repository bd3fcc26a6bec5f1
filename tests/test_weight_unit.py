"""Weights of any scale: products with squares neither underflow nor overflow, and results are given in that scale."""

import numpy as np
import pytest
from conftest import blobs
from numpy.testing import assert_array_equal
from scipy import sparse

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus
from kmeans_xp.arrays import to_numpy
from kmeans_xp.steps import in_unit, weight_unit

EXPONENTS = (-1000, -300, 0, 300, 1000)


@pytest.fixture
def data(rng):
    """Rows of a small spread, and weights of which some are 0."""
    X, weights = blobs(rng, 300, 4, 5) * 1e-6, rng.uniform(0.1, 3, size=300)
    weights[::50] = 0
    return X, weights


def fits(fit, weights):
    """Models for weights of several scales, and the scales."""
    return [(fit(weights * 2.0**exponent), 2.0**exponent) for exponent in EXPONENTS]


def assert_scaled(models):
    """The same centers and labels bit for bit, and what has the scale of the weights in that scale."""
    (expected,) = (model for model, scale in models if scale == 1)
    for model, scale in models:
        assert_array_equal(to_numpy(model.cluster_centers_), to_numpy(expected.cluster_centers_))
        assert_array_equal(to_numpy(model.labels_), to_numpy(expected.labels_))
        assert model.inertia_ == expected.inertia_ * scale > 0
        if hasattr(expected, "cluster_sizes_"):
            assert_array_equal(to_numpy(model.cluster_sizes_), to_numpy(expected.cluster_sizes_) * scale)
        if hasattr(expected, "history_"):
            assert model.history_["inertia"] == [inertia * scale for inertia in expected.history_["inertia"]]
            assert model.history_["center_shift"] == expected.history_["center_shift"]


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_a_fit_does_not_depend_on_the_scale_of_the_weights(lib, data, init, algorithm):
    X = lib.asarray(data[0])
    model = KMeans(5, init=init, n_init=3, random_state=0, algorithm=algorithm)
    results = fits(lambda weights: KMeans(**model.get_params()).fit(X, sample_weight=lib.asarray(weights)), data[1])
    assert_scaled(results)
    for fitted, scale in results:
        score = fitted.score(X, sample_weight=lib.asarray(data[1] * scale))
        assert score == pytest.approx(-fitted.inertia_, rel=1e-12)
        assert score == results[2][0].score(X, sample_weight=lib.asarray(data[1])) * scale


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weight", [1e-300, 1e304])
def test_uniform_weights_of_any_size_change_nothing(lib, data, weight, metric):
    X = lib.asarray(data[0] * 1e9)  # whose squares find no room beside 1e304
    expected = KMeans(4, random_state=0, metric=metric).fit(X)
    for given in (weight, lib.asarray(np.full(300, weight))):
        found = KMeans(4, random_state=0, metric=metric).fit(X, sample_weight=given)
        assert_array_equal(to_numpy(found.labels_), to_numpy(expected.labels_))
        assert_array_equal(
            to_numpy(kmeans_plusplus(X, 4, sample_weight=given if given is not weight else None, random_state=1)[1]),
            to_numpy(kmeans_plusplus(X, 4, random_state=1)[1]),
        )
    assert found.inertia_ == pytest.approx(expected.inertia_ * weight, rel=1e-12)  # infinite, if it must be


def test_fits_that_look_at_a_sample(rng):
    X, weights = blobs(rng, 90_000, 2, 3) * 1e-6, rng.uniform(0.5, 2, size=90_000)
    assert_scaled(fits(lambda weights: KMeans(3, random_state=0).fit(X, sample_weight=weights), weights))


def test_empty_clusters_find_rows(data):
    X, weights = data
    init = np.concatenate((X[1:4], np.full((2, 4), 1e3)))
    assert_scaled(fits(lambda weights: KMeans(5, init=init).fit(X, sample_weight=weights), weights))


def test_sparse_rows(data):
    X, weights = np.where(np.abs(data[0]) > 4e-6, data[0], 0), data[1]
    X[np.all(X == 0, axis=1), 0] = 1e-6
    for algorithm in ("lloyd", "elkan"):
        model = KMeans(3, random_state=0, algorithm=algorithm)
        assert_scaled(
            fits(lambda weights: KMeans(**model.get_params()).fit(sparse.csr_array(X), sample_weight=weights), weights)  # noqa: B023
        )


class Slices:
    """A source of rows."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows):
        return self._X[rows]


def test_rows_that_are_read_block_by_block(data):
    X, weights = Slices(data[0]), data[1]
    results = fits(lambda weights: KMeans(4, random_state=0).fit(X, sample_weight=weights), weights)
    assert_scaled(results)
    for model, scale in results:
        assert model.score(X, sample_weight=weights * scale) == pytest.approx(-model.inertia_, rel=1e-12)


@pytest.mark.parametrize("lazy", [True, False])
def test_partitions_have_one_unit(data, lazy):
    """The weights of one partition are all small beside those of the others, and one partition has no rows."""
    da = pytest.importorskip("dask.array")
    X, weights = da.from_array(data[0], chunks=((100, 0, 100, 100), 4)), data[1].copy()
    weights[:100] *= 2.0**-40

    def fit(weights):
        given = da.from_array(weights, chunks=(X.chunks[0],)) if lazy else weights
        return KMeans(4, random_state=0).fit(X, sample_weight=given)

    results = fits(fit, weights)
    for model, scale in results:
        model.labels_ = model.labels_.compute()
        score = model.score(X, sample_weight=weights * scale)
        assert score == pytest.approx(-model.inertia_, rel=1e-12)
    assert_scaled(results)
    expected = KMeans(4, random_state=0).fit(data[0], sample_weight=weights)
    assert results[2][0].inertia_ == pytest.approx(expected.inertia_, rel=1e-9)
    uniform = KMeans(4, random_state=0).fit(X, sample_weight=1e304)
    assert_array_equal(uniform.labels_.compute(), KMeans(4, random_state=0).fit(X).labels_.compute())


@pytest.mark.parametrize("init_size", [None, 300])
@pytest.mark.parametrize("is_source", [False, True])
def test_mini_batches(data, init_size, is_source):
    X, weights = Slices(data[0]) if is_source else data[0], data[1]

    def fit(weights):
        model = MiniBatchKMeans(4, random_state=0, batch_size=50, init_size=init_size, max_iter=3)
        return model.fit(X, sample_weight=weights)

    assert_scaled(fits(fit, weights))


def test_sweeps(data):
    """Weights are counts for some criteria, which the larger ones make larger."""
    X, weights = data[0], data[1] / 3
    weights = np.where(weights > 0, weights, 0.5)
    ratios, counts = ("davies_bouldin", "simplified_silhouette", "gap"), ("calinski_harabasz", "bic")

    def fit(weights):
        return KMeansSweep(range(2, 6), criteria=ratios + counts, random_state=0).fit(X, sample_weight=weights)

    results = fits(fit, weights)
    (expected,) = (sweep for sweep, scale in results if scale == 1)
    for sweep, scale in results:
        assert_array_equal(sweep.results_["inertia"], np.asarray(expected.results_["inertia"]) * scale)
        assert sweep.best_n_clusters_ == expected.best_n_clusters_
        for name in ratios if scale > 1 else ratios + counts:
            assert sweep.results_[name] == pytest.approx(expected.results_[name], rel=1e-9), name
        assert np.isfinite([sweep.results_[name] for name in counts]).all()


def test_kmeans_plusplus(lib, data):
    X = lib.asarray(data[0])
    _, expected = kmeans_plusplus(X, 5, sample_weight=lib.asarray(data[1]), random_state=0)
    for exponent in EXPONENTS:
        _, rows = kmeans_plusplus(X, 5, sample_weight=lib.asarray(data[1] * 2.0**exponent), random_state=0)
        assert_array_equal(to_numpy(rows), to_numpy(expected))


def test_who_watches_sees_the_scale_of_the_weights(data, capsys):
    X, weights = data
    for scale in (2.0**-1000, 2.0**1000):
        seen = []
        model = KMeans(3, random_state=0, verbose=1, on_iteration=lambda now: seen.append(now.inertia))  # noqa: B023
        model.fit(X, sample_weight=weights * scale)
        assert seen == model.history_["inertia"]
        assert f"Iteration 0, inertia {seen[0]}, " in capsys.readouterr().out


def test_units():
    for largest, unit in ((1.0, 1), (1.99, 1), (2.0, 2), (0.7, 0.5), (5e-324, 5e-324), (1e308, 2.0**1023), (0.0, 1)):
        assert weight_unit(largest) == unit
    ones = np.ones(3)
    assert in_unit(ones)[0] is ones  # no copy without need
    weights, unit = in_unit(np.asarray([0.0, 5e-324, 1e-310]))
    assert weights.tolist() == [0, 5e-324 / unit, 1e-310 / unit]
    assert weights[2] >= 1


@pytest.mark.parametrize("place", ["memory", "file", "dask"])
def test_rows_of_zeros_weigh_what_they_weigh(data, place):
    """They have no direction, and are counted in after the fit."""
    X, weights = data[0].copy(), data[1]
    X[10:13] = 0
    if place == "file":
        X = Slices(X)
    elif place == "dask":
        X = pytest.importorskip("dask.array").from_array(X, chunks=(100, 4))

    def fit(weights):
        with pytest.warns(UserWarning, match="Rows of zeros have no direction, and X has 3"):
            model = KMeans(3, random_state=0, metric="cosine").fit(X, sample_weight=weights)
        model.labels_ = np.asarray(model.labels_)
        return model

    results = fits(fit, weights)
    assert_scaled(results)
    for model, scale in results:
        assert model.cluster_sizes_.sum() == pytest.approx(weights.sum() * scale, rel=1e-12)
        assert model.score(X, sample_weight=weights * scale) == pytest.approx(-model.inertia_, rel=1e-9)
