"""Clusters of bounded sizes: at the least cost, the same on every library, and what cannot be is refused."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
from conftest import blobs, brute_force, load
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, KMeansSweep, sizes
from kmeans_xp.arrays import to_numpy
from kmeans_xp.transport import Choices, Given, duality_gap, mend

# A fit that ends after one iteration has the labels of centers that have just moved
pytestmark = pytest.mark.filterwarnings("ignore:KMeans did not converge")


def least_cost(costs, low, high):
    """Of all assignments with sizes from low to high: a column for each place, rows of 0 for those that may be free."""
    columns = np.repeat(np.arange(len(high)), high)
    may_be_free = np.concatenate([np.arange(most) >= least for least, most in zip(low, high, strict=True)])
    free = np.tile(np.where(may_be_free, 0, np.inf), (len(columns) - len(costs), 1))
    matrix = np.concatenate([costs[:, columns], free])
    return matrix[linear_sum_assignment(matrix)].sum()


def bounds_of(rng, n_samples, k, kind):
    """Bounds that can be met: fixed sizes, some leeway, or anything."""
    low = rng.multinomial(n_samples if kind == 0 else rng.integers(n_samples + 1), np.ones(k) / k)
    more = 0 if kind == 0 else rng.integers(n_samples - low.sum(), n_samples + 1)
    high = low + rng.multinomial(more, np.ones(k) / k)
    return low, np.maximum(high, 1) if kind else high


def rows_of(rng, kind):
    """Rows with ties and without, and some that stand there several times."""
    n_samples, n_features = rng.integers(2, 60), rng.integers(1, 4)
    if kind == 1:
        return rng.integers(0, 3, size=(n_samples, n_features)).astype(float)
    X = rng.normal(size=(n_samples, n_features))
    return X[rng.integers(n_samples, size=n_samples)] if kind == 2 else X


@pytest.mark.parametrize("start", range(0, 300, 60))
def test_a_mended_assignment_costs_the_least(start):
    for case in range(start, start + 60):
        rng = np.random.default_rng(case)
        X, k = rows_of(rng, case % 3), rng.integers(1, 7)
        n = len(X)
        costs = brute_force(X, X[rng.integers(n, size=k)])
        low, high = bounds_of(rng, n, k, case % 5)
        choices = Choices(
            np.arange(n + 1) * k, np.tile(np.arange(k, dtype=np.int32), n), costs.ravel(), np.zeros(k, int)
        )
        prices = rng.normal(size=k) * (case % 2)
        given = Given(*mend(choices.costs, choices, prices, low, high, np.inf))
        found = np.bincount(choices.clusters[given.chosen], minlength=k)
        assert given.is_done
        assert (low <= found).all()
        assert (found <= high).all()
        expected = least_cost(costs, low, high)
        np.testing.assert_allclose(choices.costs[given.chosen].sum(), expected, rtol=1e-9, atol=1e-14)
        assert 0 <= duality_gap(choices, given.chosen, given.prices, low, high) <= 1e-12 * max(expected, 1)


@pytest.mark.parametrize("few", [sizes.FEW, 1], ids=["all", "contenders"])
@pytest.mark.parametrize("start", range(0, 300, 60))
def test_labels_of_a_fit_cost_the_least(numpy_passes, monkeypatch, start, few):
    """With all centers at hand for all rows, and with those that come near."""
    monkeypatch.setattr(sizes, "FEW", few)
    for case in range(start, start + 60):
        rng = np.random.default_rng(case)
        X, k = rows_of(rng, case % 3), int(rng.integers(1, 7))
        k = min(k, len(X))
        low, high = bounds_of(rng, len(X), k, case % 5)
        if (high < 1).any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = KMeans(k, init=X[:k], max_iter=1 + case % 4, size_min=low, size_max=high).fit(X)
        found = np.bincount(model.labels_, minlength=k)
        assert (low <= found).all()
        assert (found <= high).all()
        costs = brute_force(X, model.cluster_centers_)
        np.testing.assert_allclose(
            costs[np.arange(len(X)), model.labels_].sum(), model.inertia_, rtol=1e-12, atol=1e-14
        )
        np.testing.assert_allclose(model.inertia_, least_cost(costs, low, high), rtol=1e-9, atol=1e-13)
        assert_prices_prove(model, X, low, high)


def assert_prices_prove(model, X, low, high):
    """That the labels cost the least, as any solution of the dual problem does."""
    costs, prices = brute_force(to_numpy(X), to_numpy(model.cluster_centers_)), to_numpy(model.prices_)
    bound = (costs + prices).min(axis=1).sum() - np.maximum(prices * high, prices * low).sum()
    size = costs.max() * len(costs)
    assert 0 <= model.duality_gap_ <= 1e-13 * size
    np.testing.assert_allclose(model.inertia_ - model.duality_gap_, bound, rtol=1e-9, atol=1e-13 * size)
    assert prices[0] == 0 or (np.asarray(low) < high).any(), "nothing else says which of many solutions it is"


def test_all_libraries_find_the_same(lib, sharing, monkeypatch):
    monkeypatch.setattr(sizes, "FEW", 500)
    rng = np.random.default_rng(3)
    host = np.concatenate([blobs(rng, 220, 3), rng.integers(-3, 3, size=(80, 3))])
    bounds = {"size_min": 25, "size_max": [30, 40, 50, 60, 70, 80, 90]}
    expected = KMeans(7, random_state=0, **bounds).fit(host)
    assert expected.n_iter_ > 2
    model = KMeans(7, random_state=0, **bounds).fit(lib.asarray(host))
    lib.assert_owns(model.prices_, "float64")
    np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
    np.testing.assert_allclose(to_numpy(model.prices_), expected.prices_, rtol=1e-9, atol=1e-9)
    assert_prices_prove(model, host, 25, bounds["size_max"])


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e7, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_does_not_matter(lib, dtype, scale):
    """Three clear blobs, and rows without clusters, of which one is full."""
    rng = np.random.default_rng(5)
    for X, k, most in (
        (np.repeat(np.eye(3), 20, axis=0) * 9 + rng.normal(size=(60, 3)), 3, 20),
        (rng.normal(size=(90, 3)), 4, 25),
    ):
        X = X.astype("float32")
        expected = KMeans(k, random_state=0, size_min=10, size_max=most).fit(X)
        if dtype == "float32":
            scale = 2.0 ** round(np.log2(scale))  # others round
        model = clone(expected).fit(lib.asarray((X * scale).astype(dtype)))
        np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)


def test_a_window_that_is_too_narrow_is_widened(numpy_passes, monkeypatch):
    """Where prices must change by much more than what rows are apart, and most pairs may be looked at only in part."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(n, 2)) + at for n, at in ((700, 0), (200, 40), (100, 90))])
    low = high = np.asarray([300, 300, 400])
    start = np.asarray([[0.0, 0], [40, 40], [90, 90]])
    whole = KMeans(3, init=start, size_min=low, size_max=high).fit(X)
    monkeypatch.setattr(sizes, "FEW", 30)
    monkeypatch.setattr(sizes, "MOST", 50)
    found = KMeans(3, init=start, size_min=low, size_max=high).fit(X)
    np.testing.assert_array_equal(found.labels_, whole.labels_)
    assert_prices_prove(found, X, low, high)


def test_starts_on_a_sample_of_many_rows(monkeypatch):
    monkeypatch.setattr("kmeans_xp.seeding.greedy.MIN_SAMPLE", 200)
    monkeypatch.setattr("kmeans_xp.seeding.greedy.SAMPLE_PER_CLUSTER", 10)
    X = blobs(np.random.default_rng(0), 3000, 4)
    model = KMeans(5, random_state=0, size_min=590, size_max=610).fit(X)
    assert model.cluster_sizes_.min() >= 590
    assert model.cluster_sizes_.max() <= 610
    again = clone(model).fit(X)
    np.testing.assert_array_equal(again.labels_, model.labels_)


def test_bounds_of_each_cluster_go_to_clusters_of_such_sizes():
    """Whatever the order in which they were found."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(n, 2)) + at for n, at in ((100, 0), (20, 30), (50, -40))])
    for seed in range(5):
        model = KMeans(3, random_state=seed, size_min=[20, 100, 50], size_max=[20, 100, 50]).fit(X)
        np.testing.assert_array_equal(model.cluster_sizes_, [20, 100, 50])
        np.testing.assert_array_equal(np.round(model.cluster_centers_[:, 0], -1), [30, 0, -40])


def test_predict_is_the_nearest_center():
    X = blobs(np.random.default_rng(1), 300, 2)
    model = KMeans(4, random_state=0, size_min=75).fit(X)
    np.testing.assert_array_equal(model.predict(X), brute_force(X, model.cluster_centers_).argmin(axis=1))
    assert (model.predict(X) != model.labels_).any()
    np.testing.assert_array_equal(clone(model).fit_predict(X), model.labels_)


def test_what_is_within_the_bounds_anyway_stays_as_it_is():
    X = blobs(np.random.default_rng(1), 300, 2)
    free = KMeans(4, random_state=0).fit(X)
    model = KMeans(4, random_state=0, size_min=1, size_max=299).fit(X)
    np.testing.assert_array_equal(model.labels_, free.labels_)
    np.testing.assert_array_equal(model.prices_, 0)
    assert model.duality_gap_ == 0
    assert not hasattr(free, "prices_")


def test_sparse_rows():
    rng = np.random.default_rng(2)
    X = scipy.sparse.random_array((400, 30), density=0.2, rng=rng, format="csr")
    dense = KMeans(5, random_state=0, size_min=75, size_max=85).fit(X.toarray())
    model = clone(dense).fit(X)
    np.testing.assert_array_equal(model.labels_, dense.labels_)
    assert_prices_prove(model, X.toarray(), 75, 85)


def test_directions():
    X = np.random.default_rng(2).normal(size=(200, 3))
    model = KMeans(4, random_state=0, metric="cosine", size_min=45, size_max=55).fit(X)
    costs = 1 - X / np.linalg.norm(X, axis=1)[:, None] @ model.cluster_centers_.T
    np.testing.assert_allclose(model.inertia_, least_cost(costs, [45] * 4, [55] * 4), rtol=1e-9)
    at_prices = (costs + model.prices_)[np.arange(200), model.labels_]
    np.testing.assert_allclose(at_prices, (costs + model.prices_).min(axis=1), atol=1e-12)
    X[7] = 0
    with pytest.raises(ValueError, match="Rows of zeros have no direction, and X has 1: with size_min"):
        clone(model).fit(X)


@pytest.mark.parametrize("n_different", [1, 2, 3])
def test_fewer_different_rows_than_clusters(n_different):
    """Bounds then force centers that are the same."""
    X = np.arange(n_different, dtype=float)[np.arange(40) % n_different][:, None]
    model = KMeans(4, random_state=0, size_min=10, size_max=10).fit(X)
    np.testing.assert_array_equal(model.cluster_sizes_, 10)
    costs = brute_force(X, model.cluster_centers_)
    np.testing.assert_allclose(model.inertia_, least_cost(costs, [10] * 4, [10] * 4), atol=1e-12)
    assert np.isfinite(model.cluster_centers_).all()


def test_many_equal_rows(monkeypatch):
    monkeypatch.setattr(sizes, "FEW", 100)
    X = np.repeat([[0.0], [1], [5]], [500, 300, 200], axis=0)
    model = KMeans(5, random_state=0, size_min=200, size_max=200).fit(X)
    np.testing.assert_array_equal(model.cluster_sizes_, 200)
    assert_prices_prove(model, X, 200, 200)


@pytest.mark.parametrize("n_different", [80, 15])
def test_only_ties_are_settled_by_the_order_of_rows(numpy_passes, monkeypatch, n_different):
    """Of equal rows as many get each label; of different ones the same get it."""
    monkeypatch.setattr(sizes, "FEW", 100)
    rng = np.random.default_rng(0)
    different = rng.normal(size=(n_different, 2))
    which = np.arange(80) % n_different
    model = KMeans(4, random_state=0, size_min=18, size_max=22).fit(different[which])
    expected = sorted(zip(which, model.labels_, strict=True))
    for _ in range(5):
        rng.shuffle(which)
        model.fit(different[which])
        assert sorted(zip(which, model.labels_, strict=True)) == expected


def test_rows_that_tie_cost_the_same_in_any_order(numpy_passes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        X, centers = rng.integers(4, size=(40, 2)), rng.integers(4, size=(5, 2))
        costs, inertias = brute_force(X, centers), set()
        choices = np.arange(41) * 5, np.tile(np.arange(5, dtype=np.int32), 40)
        for _ in range(3):
            rng.shuffle(costs)
            prices, bounds = np.zeros(5), (np.full(5, 7), np.full(5, 9))
            job = Choices(*choices, costs.ravel(), np.zeros(5, dtype=int)), prices, *bounds, np.inf
            inertias.add(costs.ravel()[Given(*mend(costs.ravel(), *job)).chosen].sum())
        assert len(inertias) == 1


def test_a_row_for_each_cluster():
    X = np.random.default_rng(0).normal(size=(12, 2))
    for bounds in ({"size_max": 1}, {"size_min": 1}, {"size_min": 1, "size_max": 5}):
        model = KMeans(12, random_state=0, **bounds).fit(X)
        assert model.inertia_ == 0
        np.testing.assert_array_equal(np.sort(model.labels_), np.arange(12))


def test_a_cluster_may_be_empty_if_it_is_said_so():
    X = np.repeat([[0.0], [1], [9]], 10, axis=0)
    model = KMeans(3, init=[[0.0], [1], [500]], size_min=0).fit(X)
    np.testing.assert_array_equal(model.cluster_sizes_, 10)
    says = r"distinct clusters \(1\) found smaller than n_clusters \(2\). size_min or size_max let clusters be empty.$"
    for bounds in ({"size_min": [30, 0]}, {"size_max": [30, 0]}):
        with pytest.warns(ConvergenceWarning, match=says):
            model = KMeans(2, init=[[0.0], [9]], **bounds).fit(X)
        np.testing.assert_array_equal(model.cluster_sizes_, [30, 0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"size_min": 11},
            "size_min cannot be met: 3 clusters of at least that size have 33 rows together, and X has 30",
        ),
        (
            {"size_max": 9},
            "size_max cannot be met: 3 clusters of at most that size have 27 rows together, and X has 30",
        ),
        ({"size_min": 9, "size_max": [10, 12, 8]}, "size_min=9 is above size_max=8 for cluster 2"),
        ({"size_min": [1, 2]}, r"size_min has the shape \(2,\), expected a number or one for each of 3 clusters"),
        ({"size_min": [1, 2, 2.5]}, "size_min must be whole numbers of rows"),
        ({"size_max": [10, 20, np.nan]}, "size_max must be whole numbers of rows"),
        ({"size_min": [-1, 2, 2]}, "size_min must be whole numbers of rows, from 0 on"),
        ({"size_min": ["a", "b", "c"]}, "size_min must be whole numbers of rows"),
        ({"size_min": -1}, "size_min"),
        ({"size_max": 0}, "size_max"),
        ({"size_min": 2, "algorithm": "elkan"}, "use algorithm='auto'"),
    ],
)
def test_bounds_that_cannot_be_are_refused(params, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = KMeans(3, random_state=0).fit(X)
    before = dict(vars(model.set_params(**params)))
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert vars(model) == before


def test_weights_are_all_the_same():
    X = blobs(np.random.default_rng(0), 90, 2)
    model = KMeans(3, random_state=0, size_min=30).fit(X)
    double = clone(model).fit(X, sample_weight=np.full(90, 2.0))
    np.testing.assert_array_equal(double.labels_, model.labels_)
    np.testing.assert_allclose(double.inertia_, 2 * model.inertia_)
    np.testing.assert_array_equal(double.cluster_sizes_, 60)
    with pytest.raises(ValueError, match="sample_weight must be the same for all"):
        clone(model).fit(X, sample_weight=np.arange(1.0, 91))


def test_rows_that_are_not_in_memory_are_refused(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    dask = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="size_min and size_max need all rows in memory"):
        KMeans(3, size_min=2).fit(dask.from_array(X, chunks=20))


def test_a_fit_that_ends_amid_leaves_the_model_as_it_was():
    X = blobs(np.random.default_rng(0), 300, 3)

    def interrupt(iteration):
        if iteration.number == 2:
            raise KeyboardInterrupt

    model = KMeans(4, random_state=1, size_min=70, on_iteration=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert not hasattr(model, "labels_")
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 iterations"):
        model.set_params(keep_interrupted=True).fit(X)
    assert model.cluster_sizes_.min() >= 70
    assert_prices_prove(model, X, 70, 300)


def test_a_sweep_refuses_bounds():
    with pytest.raises(ValueError, match="size_min and size_max are for one number of clusters"):
        KMeansSweep([2, 3], estimator=KMeans(size_max=20)).fit(np.random.default_rng(0).normal(size=(30, 2)))


def test_prices_belong_to_their_fit():
    X = blobs(np.random.default_rng(0), 90, 2)
    model = KMeans(3, random_state=0, size_min=30).fit(X)
    assert_prices_prove(pickle.loads(pickle.dumps(model)), X, 30, 90)
    assert model.to_sklearn().n_clusters == 3
    model.cluster_centers_ = model.cluster_centers_ + 1
    assert not hasattr(model, "prices_")
    model.fit(X).set_params(size_min=None).fit(X)
    assert not hasattr(model, "prices_")
    assert not hasattr(model, "duality_gap_")


def test_bounds_may_be_of_any_library():
    X = blobs(np.random.default_rng(0), 90, 2)
    low = load("strict").asarray([20, 25, 30])
    assert (KMeans(3, random_state=0, size_min=low).fit(X).cluster_sizes_ >= [20, 25, 30]).all()
