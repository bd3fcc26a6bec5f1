"""BisectingKMeans: scikit-learn's tests of its class, on every library, and what is ours."""

import pickle

import numpy as np
import pytest
from conftest import blobs
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import BisectingKMeans as Theirs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import v_measure_score

from kmeans_xp import BisectingKMeans, KMeans
from kmeans_xp.arrays import to_numpy
from kmeans_xp.estimators import bisecting

NINE = np.array([[1, 1], [10, 1], [3, 1], [10, 0], [2, 1], [10, 2], [10, 8], [10, 9], [10, 10]], dtype=float)


def thinned(rng, n_samples=10):
    X = rng.random((n_samples, 2))
    X[X < 0.8] = 0
    return X


class TestScikitLearns:
    """Its own tests, in the order of its file."""

    @pytest.mark.parametrize("bisecting_strategy", ["biggest_inertia", "largest_cluster"])
    @pytest.mark.parametrize("init", ["k-means++", "random", "k-means||", "afk-mc2"])
    def test_three_clusters(self, lib, bisecting_strategy, init):
        model = BisectingKMeans(3, random_state=0, bisecting_strategy=bisecting_strategy, init=init, n_init=3)
        model.fit(lib.asarray(NINE))
        assert sorted(to_numpy(model.cluster_centers_).tolist()) == [[2, 1], [10, 1], [10, 9]]
        assert v_measure_score([0, 1, 0, 1, 0, 1, 2, 2, 2], to_numpy(model.labels_)) == 1.0
        lib.assert_owns(model.cluster_centers_, "float64")
        lib.assert_owns(model.labels_, "int32")

    @pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix])
    def test_sparse(self, container):
        X = np.random.RandomState(0).rand(20, 2)
        X[X < 0.8] = 0
        model = BisectingKMeans(n_clusters=3, random_state=0)
        of_sparse = model.fit(container(X)).cluster_centers_
        np.testing.assert_allclose(model.fit(X).cluster_centers_, of_sparse, atol=1e-8)

    @pytest.mark.parametrize("n_clusters", [4, 5])
    def test_n_clusters(self, rng, n_clusters):
        model = BisectingKMeans(n_clusters, random_state=0).fit(rng.random((10, 2)))
        np.testing.assert_array_equal(np.unique(model.labels_), np.arange(n_clusters))

    def test_one_cluster(self, lib):
        X = lib.asarray(np.array([[1.0, 2.0], [10.0, 2.0], [10.0, 8.0]]))
        model = BisectingKMeans(1, random_state=0).fit(X)
        assert to_numpy(model.labels_).tolist() == to_numpy(model.predict(X)).tolist() == [0, 0, 0]
        np.testing.assert_allclose(to_numpy(model.cluster_centers_), [[7.0, 4.0]])
        np.testing.assert_allclose(model.inertia_, 78.0)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_fit_predict(self, lib, rng, dtype):
        X = lib.asarray(blobs(rng, n_samples=300), dtype)
        model = BisectingKMeans(12, random_state=0).fit(X)
        np.testing.assert_array_equal(to_numpy(model.labels_), to_numpy(model.predict(X)))
        lib.assert_owns(model.cluster_centers_, dtype)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_fit_predict_of_sparse_rows(self, rng, dtype):
        X = sparse.csr_array(thinned(rng, 60).astype(dtype))
        model = BisectingKMeans(5, random_state=0).fit(X)
        np.testing.assert_array_equal(model.labels_, model.predict(X))
        assert model.cluster_centers_.dtype == dtype

    def test_float32_float64_equivalence(self, rng):
        X = rng.random((10, 2))
        in64, in32 = (BisectingKMeans(3, random_state=0).fit(X.astype(dtype)) for dtype in ("float64", "float32"))
        np.testing.assert_allclose(in32.cluster_centers_, in64.cluster_centers_, rtol=1e-6)
        np.testing.assert_array_equal(in32.labels_, in64.labels_)

    @pytest.mark.parametrize("algorithm", ["auto", "lloyd", "elkan"])
    def test_rows_far_from_those_of_the_fit(self, rng, algorithm):
        model = BisectingKMeans(10, algorithm=algorithm, random_state=0).fit(rng.random((3000, 10)))
        assert np.isin(model.predict(50 * rng.random((100, 10))), np.arange(10)).all()

    def test_one_feature(self, rng):
        model = BisectingKMeans(random_state=0).fit(rng.normal(size=(128, 1)))
        assert (model.cluster_sizes_ > 0).all()

    def test_a_callable_gives_two_centers(self, lib, rng):
        kinds = set()

        def first_two(X, n_clusters, random_state):
            kinds.add(type(X))
            return X[:n_clusters, :]

        X = lib.asarray(rng.random((100, 2)))
        model = BisectingKMeans(3, init=first_two, random_state=np.random.RandomState(42)).fit(X)
        assert (to_numpy(model.cluster_sizes_) > 0).all()
        assert kinds == {type(X)}


def means_of(X, labels, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    return np.stack([np.average(X[labels == i], axis=0, weights=weights[labels == i]) for i in range(max(labels) + 1)])


class TestFit:
    def test_a_seed_picks_the_same_splits_on_every_library(self, lib, rng, sharing):
        X, weights = blobs(rng, n_samples=400), rng.random(400)
        model = BisectingKMeans(9, random_state=3).fit(lib.asarray(X), sample_weight=lib.asarray(weights))
        expected = BisectingKMeans(9, random_state=3).fit(X, sample_weight=weights)
        np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
        np.testing.assert_allclose(to_numpy(model.cluster_centers_), expected.cluster_centers_)
        np.testing.assert_allclose(model.inertia_, expected.inertia_)
        np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(X))), expected.labels_)

    def test_what_it_says_of_the_rows(self, rng):
        X, weights = blobs(rng, n_samples=400), rng.random(400) * 7
        model = BisectingKMeans(6, random_state=0, tol=0).fit(X, sample_weight=weights)
        np.testing.assert_allclose(model.cluster_centers_, means_of(X, model.labels_, weights))
        np.testing.assert_allclose(model.cluster_sizes_, np.bincount(model.labels_, weights))
        squares = ((X - model.cluster_centers_[model.labels_]) ** 2).sum(axis=1)
        np.testing.assert_allclose(model.inertia_, squares @ weights)
        assert -model.score(X, sample_weight=weights) <= model.inertia_ * (1 + 1e-12)
        np.testing.assert_allclose(
            model.transform(X), np.linalg.norm(X[:, None] - model.cluster_centers_[None], axis=2), atol=1e-12
        )

    def test_one_split_is_a_k_means_with_two_clusters(self, rng):
        X = blobs(rng)
        np.testing.assert_allclose(
            BisectingKMeans(2, random_state=0).fit(X).inertia_, KMeans(2, random_state=0).fit(X).inertia_
        )

    def test_fewer_clusters_are_the_beginning_of_more(self, rng):
        X = blobs(rng)
        few, many = (BisectingKMeans(k, random_state=0).fit(X).labels_ for k in (4, 9))
        assert v_measure_score(few, many) > 0
        assert all(len(np.unique(few[many == cluster])) == 1 for cluster in range(9))

    def test_the_strategy_says_what_is_split(self):
        X = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [100.0], [110.0]])
        by_inertia = BisectingKMeans(3, random_state=0).fit(X)
        by_size = BisectingKMeans(3, random_state=0, bisecting_strategy="largest_cluster").fit(X)
        assert sorted(by_inertia.cluster_sizes_) == [1, 1, 5]
        assert sorted(by_size.cluster_sizes_) == [2, 2, 3]

    @pytest.mark.parametrize("strategy", ["biggest_inertia", "largest_cluster"])
    def test_a_weight_counts_as_rows_and_zero_as_none(self, rng, strategy):
        X, counts = blobs(rng, n_samples=60), rng.integers(0, 4, size=60)
        model = BisectingKMeans(5, random_state=0, bisecting_strategy=strategy)
        weighted = clone(model).fit(X, sample_weight=counts.astype(float))
        repeated = clone(model).fit(np.repeat(X, counts, axis=0))
        np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_)
        np.testing.assert_allclose(weighted.cluster_sizes_, repeated.cluster_sizes_)
        np.testing.assert_array_equal(weighted.labels_, weighted.predict(X))

    def test_far_from_the_origin(self, rng):
        X = blobs(rng, n_samples=300)
        near, far = (BisectingKMeans(7, random_state=0).fit(x) for x in (X, X + 1e8))
        np.testing.assert_array_equal(near.labels_, far.labels_)
        np.testing.assert_array_equal(far.predict(X + 1e8), far.labels_)

    def test_cosine(self, rng):
        X = blobs(rng, n_samples=200)
        model = BisectingKMeans(5, metric="cosine", random_state=0).fit(X)
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1)
        longer = BisectingKMeans(5, metric="cosine", random_state=0).fit(X * 3)
        np.testing.assert_array_equal(model.labels_, longer.labels_)
        units = X / np.linalg.norm(X, axis=1, keepdims=True)
        np.testing.assert_allclose(
            model.inertia_, (1 - (units * model.cluster_centers_[model.labels_]).sum(axis=1)).sum()
        )

    def test_cosine_has_rules_for_rows_of_zeros(self, rng):
        X = blobs(rng, n_samples=50)
        X[7] = 0
        with pytest.warns(UserWarning, match="X has 1"):
            model = BisectingKMeans(3, metric="cosine", random_state=0).fit(X)
        assert model.labels_[7] == 0
        np.testing.assert_array_equal(model.labels_, model.predict(X))
        assert model.cluster_sizes_.tolist() == np.bincount(model.labels_).tolist()
        with pytest.raises(ValueError, match="row 7"):
            BisectingKMeans(3, metric="cosine", zero_rows="raise").fit(X)


class TestRowsThatCannotBeSplit:
    def test_as_many_clusters_as_rows(self, lib, rng):
        X = rng.normal(size=(20, 3))
        model = BisectingKMeans(20, random_state=0).fit(lib.asarray(X))
        assert sorted(to_numpy(model.labels_).tolist()) == list(range(20))
        np.testing.assert_allclose(to_numpy(model.cluster_centers_)[to_numpy(model.labels_)], X)

    @pytest.mark.parametrize("strategy", ["biggest_inertia", "largest_cluster"])
    def test_fewer_different_rows_than_clusters(self, strategy):
        X = np.repeat([[0.1, 0.2], [1.1, 0.3], [5.7, 0.7]], [50, 2, 3], axis=0)
        with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\) found smaller than n_clusters \(5\)"):
            model = BisectingKMeans(5, random_state=0, bisecting_strategy=strategy).fit(X)
        assert model.cluster_centers_.shape == (5, 2)
        np.testing.assert_array_equal(model.cluster_centers_[3:], model.cluster_centers_[[0, 0]])
        assert sorted(model.cluster_sizes_) == [0, 0, 2, 3, 50]
        np.testing.assert_array_equal(model.predict(X), model.labels_)
        np.testing.assert_allclose(model.inertia_, 0, atol=1e-12)

    def test_equal_rows_are_passed_over(self):
        X = np.concatenate([np.full((50, 1), 3.3), [[0.0], [1.0], [9.0]]])
        model = BisectingKMeans(4, random_state=0, bisecting_strategy="largest_cluster").fit(X)
        assert sorted(model.cluster_sizes_) == [1, 1, 1, 50]

    def test_rows_without_weight(self):
        X, weights = np.array([[0.0], [1.0], [5.0], [9.0]]), np.array([1.0, 0.0, 1.0, 0.0])
        with pytest.warns(ConvergenceWarning, match=r"\(2\) found smaller"):
            model = BisectingKMeans(3, random_state=0).fit(X, sample_weight=weights)
        assert model.cluster_sizes_.tolist() == [1, 1, 0]


class TestBadInput:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"init": np.zeros((2, 4))}, "'init' parameter"),
            ({"bisecting_strategy": "smallest"}, "'bisecting_strategy' parameter"),
            ({"n_init": "auto"}, "'n_init' parameter"),
            ({"n_clusters": 501}, "n_samples=500 should be >= n_clusters=501"),
            ({"init": lambda X, n_clusters, random_state: X[:3]}, "does not match the number of clusters 2"),
        ],
    )
    def test_one_sentence(self, rng, params, message):
        model = BisectingKMeans(3, random_state=0).fit(blobs(rng))
        before = dict(vars(model))
        with pytest.raises(ValueError, match=message):
            model.set_params(**params).fit(blobs(rng))
        assert {name: value for name, value in vars(model).items() if name.endswith("_")} == {
            name: value for name, value in before.items() if name.endswith("_")
        }

    def test_rows_in_blocks(self, rng):
        class Source:
            def __init__(self, X):
                self._X, self.shape, self.dtype = X, X.shape, X.dtype

            def __getitem__(self, rows):
                return self._X[rows]

        X = blobs(rng)
        with pytest.raises(ValueError, match="needs the rows of X in memory"):
            BisectingKMeans(3).fit(Source(X))
        model = BisectingKMeans(3, random_state=0).fit(X)
        np.testing.assert_array_equal(model.predict(Source(X)), model.labels_)

    def test_an_interrupted_fit_leaves_the_estimator_as_it_was(self, rng, monkeypatch):
        X = blobs(rng)
        model = BisectingKMeans(3, random_state=0).fit(X)
        before, split, calls = dict(vars(model)), bisecting.Splitter.split, []

        def interrupted(self, leaf):
            calls.append(leaf)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return split(self, leaf)

        monkeypatch.setattr(bisecting.Splitter, "split", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X[:, :2])
        assert vars(model) == before

    def test_a_warning_counts_splits_that_did_not_converge(self, rng):
        with pytest.warns(ConvergenceWarning, match="splits did not converge in max_iter=1"):
            model = BisectingKMeans(4, max_iter=1, tol=0, random_state=0).fit(rng.random((500, 3)))
        assert model.n_iter_ == 3


def test_copies_predict_the_same(lib, rng):
    X = lib.asarray(blobs(rng))
    model = BisectingKMeans(6, random_state=0).fit(X)
    saved = pickle.loads(pickle.dumps(model))
    assert type(saved.cluster_centers_) is np.ndarray
    np.testing.assert_array_equal(to_numpy(saved.predict(X)), to_numpy(model.labels_))
    assert not hasattr(clone(model), "labels_")


def test_centers_that_are_set_by_hand_have_no_tree(rng):
    X = blobs(rng)
    model = BisectingKMeans(6, random_state=0).fit(X)
    model.cluster_centers_ = model.cluster_centers_
    np.testing.assert_array_equal(model.predict(X), KMeans.from_centers(model.cluster_centers_).predict(X))


def test_predict_in_tiles_and_into_out(rng):
    X = blobs(rng, n_samples=400_000, n_features=2)
    model = BisectingKMeans(5, random_state=0).fit(X)
    out = np.empty(len(X), dtype=np.int8)
    assert model.predict(X, out=out) is out
    np.testing.assert_array_equal(out, model.labels_)


def test_parameters_are_those_of_scikit_learn():
    ours, theirs = BisectingKMeans().get_params(), Theirs().get_params()
    assert set(ours) - set(theirs) == {"metric", "zero_rows", "device"}
    differ = {name for name in theirs if ours[name] != theirs[name]}
    assert differ == {"init", "algorithm"}


@pytest.mark.quality
def test_inertia_is_no_higher_than_scikit_learns(rng):
    X = blobs(rng, n_samples=3000, n_clusters=20)
    ours, theirs = (
        [kind(20, random_state=seed).fit(X).inertia_ for seed in range(10)] for kind in (BisectingKMeans, Theirs)
    )
    assert np.mean(ours) <= np.mean(theirs)
