"""`refine`: breaths find better clusters, never worse ones, and the same on every library."""

import numpy as np
import pytest
from conftest import blobs, brute_force
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits

from kmeans_xp import KMeans
from kmeans_xp.arrays import to_numpy
from kmeans_xp.breathing import breathe, use_of, without
from kmeans_xp.data import Purpose, frame_of, open_data


def hard_blobs(rng, n=3000, k=30):
    """More clusters than a default fit finds."""
    centers = rng.uniform(-10, 10, size=(k, 3))
    return centers[rng.integers(k, size=n)] + 0.15 * rng.normal(size=(n, 3))


def test_one_refined_fit_is_as_good_as_the_best_of_many(rng):
    X = hard_blobs(rng)
    best = min(KMeans(30, random_state=seed).fit(X).inertia_ for seed in range(20))
    for seed in range(5):
        assert KMeans(30, refine=True, random_state=seed).fit(X).inertia_ < best * (1 + 1e-3)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||", "afk-mc2"])
def test_refining_never_raises_the_inertia(rng, init, algorithm):
    X = load_digits().data
    weights = rng.uniform(size=len(X)) * (rng.uniform(size=len(X)) < 0.8)
    for seed in range(3):
        model = KMeans(12, init=init, n_init=1, random_state=seed, tol=0, algorithm=algorithm)
        plain = model.fit(X, sample_weight=weights).inertia_
        refined = model.set_params(refine=True).fit(X, sample_weight=weights)
        assert refined.inertia_ <= plain * (1 + 1e-12)
        squares = brute_force(X, refined.cluster_centers_)
        assert_array_equal(refined.labels_, squares.argmin(axis=1))
        np.testing.assert_allclose(refined.inertia_, weights @ squares.min(axis=1), rtol=1e-10)
        assert len(refined.history_["inertia"]) == refined.n_iter_


def test_it_refines_given_centers_and_many_rows_by_a_sample(rng):
    """All centers in one corner; 60,000 rows, of which it looks at 40,000."""
    X = hard_blobs(rng, 60_000)
    best = min(KMeans(30, random_state=seed).fit(X).inertia_ for seed in range(8))
    for init in X[np.argsort(X.sum(axis=1))[:30]], lambda X, n_clusters, random_state: X[:n_clusters]:
        assert KMeans(30, init=init, n_init=1, refine=True, random_state=0).fit(X).inertia_ < best * (1 + 1e-3)


def test_labels_are_the_same_on_every_library(lib, rng):
    X = blobs(rng, 600, 4, n_clusters=12, spread=3)
    for dtype in "float64", "float32":
        expected = KMeans(12, refine=True, random_state=3).fit(X.astype(dtype))
        found = KMeans(12, refine=True, random_state=3).fit(lib.asarray(X, dtype))
        assert_array_equal(to_numpy(found.labels_), expected.labels_)
        centers = to_numpy(found.cluster_centers_)
        np.testing.assert_allclose(centers, expected.cluster_centers_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_whatever_the_scale(rng, scale):
    X = blobs(rng, 600, 4, n_clusters=12, spread=3)
    expected = KMeans(12, refine=True, random_state=0).fit(X)
    assert_array_equal(KMeans(12, refine=True, random_state=0).fit(X * scale).labels_, expected.labels_)


def test_sparse_rows_and_directions(rng):
    sparse = pytest.importorskip("scipy.sparse")
    X = np.abs(blobs(rng, 500, 6, n_clusters=9, spread=3)) * (rng.uniform(size=(500, 6)) < 0.7)
    X[:, 0] += 0.1
    for metric in "euclidean", "cosine":
        model = KMeans(9, refine=True, metric=metric, random_state=1)
        dense = model.fit(X).inertia_
        np.testing.assert_allclose(model.fit(sparse.csr_array(X)).inertia_, dense, rtol=1e-9)
        assert dense <= KMeans(9, metric=metric, random_state=1, tol=0).fit(X).inertia_ * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_where_there_is_nothing_to_refine(rng):
    X = rng.normal(size=(7, 2))
    assert KMeans(7, refine=True, random_state=0).fit(X).inertia_ == 0
    np.testing.assert_allclose(KMeans(1, refine=True).fit(X).inertia_, ((X - X.mean(axis=0)) ** 2).sum())
    assert KMeans(3, refine=True).fit(np.repeat(X[:2], 5, axis=0)).inertia_ == 0
    assert KMeans(2, refine=True, random_state=0).fit(np.repeat(X[:2], 5, axis=0)).inertia_ == 0


def test_it_contradicts_bounded_sizes(rng):
    X, model = rng.normal(size=(20, 2)), KMeans(2, refine=True, size_max=12)
    with pytest.raises(ValueError, match="refine=True moves centers where rows are free"):
        model.fit(X)
    assert not hasattr(model, "cluster_centers_")


def test_the_use_of_a_center_is_what_the_inertia_would_grow_by(rng):
    X, weights = rng.normal(size=(200, 3)), rng.uniform(size=200)
    centers = rng.normal(size=(8, 3))
    with open_data(X, weights, Purpose(8)) as data:
        frame = frame_of(data)
        use = use_of(frame.enter(centers), X, weights, frame)
    squares = brute_force(X, centers)
    less = [weights @ np.delete(squares, center, axis=1).min(axis=1) for center in range(8)]
    np.testing.assert_allclose(use, less - weights @ squares.min(axis=1), rtol=1e-9, atol=1e-9)


def test_two_neighbors_do_not_go_together():
    centers = np.array([[0.0], [1.0], [10.0], [30.0], [31.0]])
    assert_array_equal(without(2, centers, np.array([1.0, 2.0, 9.0, 3.0, 4.0])), [1, 2, 4])
    assert_array_equal(without(1, centers, np.array([5.0, 5.0, 5.0, 5.0, 4.0])), [0, 1, 2, 3])


def test_what_is_not_better_is_not_kept(rng):
    X = hard_blobs(rng, 300, 5)
    fitted = KMeans(5, random_state=0).fit(X)
    with open_data(X, None, Purpose(5)) as data:
        frame = frame_of(data)
        runs = []

        class Result:
            centers, labels, weights, inertia = fitted.cluster_centers_, fitted.labels_, fitted.cluster_sizes_, 1.0

        def iterate(centers, max_iter):
            runs.append(centers.shape[0])
            worse = Result()
            worse.centers, worse.inertia = frame.leave(centers), 1.0
            return worse

        first = Result()
        assert breathe(iterate, X, np.ones(300), first, frame, np.random.RandomState(0)) is first
    assert runs == [10, 5, 7, 5, 6, 5]
