"""k-means in one dimension, exactly."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from conftest import without
from numpy.testing import assert_allclose, assert_array_equal

from kmeans_xp import KMeans, KMeansSweep, kmeans_batch, optimal
from kmeans_xp.arrays import to_numpy
from kmeans_xp.optimal import best_intervals


def cost(numbers, weights, begins):
    """Without rounding."""
    total = Fraction(0)
    for begin, end in itertools.pairwise(begins):
        x, w = ([Fraction(value) for value in values[begin:end].tolist()] for values in (numbers, weights))
        mean = sum(map(Fraction.__mul__, w, x)) / sum(w)
        total += sum(weight * (number - mean) ** 2 for weight, number in zip(w, x, strict=True))
    return total


@pytest.fixture(params=["native", "portable"])
def way(request, monkeypatch):
    if request.param == "portable":
        without(monkeypatch, "best_intervals")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scales", [(0, 1), (-8, 9), (6, 7)], ids=["alike", "of any scale", "far from zero"])
def test_no_other_intervals_cost_less(rng, scales):
    for _ in range(70):
        n_numbers = int(rng.integers(2, 11))
        n_clusters = int(rng.integers(1, n_numbers + 1))
        numbers = rng.normal(size=n_numbers) * 10.0 ** rng.integers(*scales, size=n_numbers)
        numbers = np.unique(numbers + 1e9 if scales == (6, 7) else numbers)
        weights = rng.uniform(0.1, 3, size=n_numbers) * 10.0 ** rng.integers(-4, 5, size=n_numbers)
        found = best_intervals(numbers, weights, [n_clusters])[0]
        assert (found[0], found[-1], len(found)) == (0, n_numbers, n_clusters + 1)
        assert (np.diff(found) > 0).all()
        ends = itertools.combinations(range(1, n_numbers), n_clusters - 1)
        best = min(cost(numbers, weights, (0, *middle, n_numbers)) for middle in ends)
        assert float(cost(numbers, weights, found.tolist())) <= float(best) * (1 + 1e-12)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("heavy", [1e14, 1e16, 1e17, 1e20, 1e25])
def test_weights_that_vanish_beside_others(heavy):
    numbers, weights = np.array([0, 1, 2, 3, 10, 11, 12.0]), np.ones(7)
    for place in range(7):
        weights[:] = 1
        weights[place] = heavy
        found = best_intervals(numbers, weights, [3])[0]
        best = min(cost(numbers, weights, (0, *ends, 7)) for ends in itertools.combinations(range(1, 7), 2))
        assert cost(numbers, weights, found.tolist()) == best


@pytest.mark.usefixtures("way")
def test_weights_of_all_scales(rng):
    numbers, weights = np.unique(rng.normal(size=3000)), 10.0 ** rng.integers(-20, 20, size=3000)
    found = best_intervals(numbers, weights, [50])[0]
    assert (np.diff(found) > 0).all()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("n_numbers", "n_clusters"), [(1500, 7), (1500, 400), (60_000, 9), (3000, 200)])
def test_many_numbers(rng, monkeypatch, n_numbers, n_clusters):
    """Also more than a table of all of them and of all clusters is held of."""
    numbers = np.unique(rng.standard_t(1, size=n_numbers))
    weights = rng.uniform(size=len(numbers))
    found = best_intervals(numbers, weights, [n_clusters])[0]
    sums = optimal.Sums.up_to(numbers, weights)
    without(monkeypatch, "best_intervals")
    expected = best_intervals(numbers, weights, [n_clusters])[0]
    assert_allclose(sums.cost(found[:-1], found[1:]).sum(), sums.cost(expected[:-1], expected[1:]).sum(), rtol=1e-12)


@pytest.mark.parametrize(("n_numbers", "counts"), [(500, [1, 2, 5, 6, 200]), (60_000, [3, 4, 150])])
@pytest.mark.usefixtures("way")
def test_several_numbers_of_clusters(rng, n_numbers, counts):
    """From one table, and where that would be large."""
    numbers, weights = np.unique(rng.normal(size=n_numbers)), rng.uniform(size=n_numbers)
    for n_clusters, found in zip(counts, best_intervals(numbers, weights, counts), strict=True):
        assert_array_equal(found, best_intervals(numbers, weights, [n_clusters])[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_start_leads_to_less_inertia(rng, lib, dtype):
    """The same on every library, also where there are few far from the others, which random starts miss."""
    X = np.concatenate((rng.normal(size=2000), rng.normal(size=10) * 1e3 + 1e4)).astype(dtype)[:, None]
    model = KMeans(16, algorithm="optimal").fit(lib.asarray(X, dtype))
    lib.assert_owns(model.cluster_centers_, dtype)
    lib.assert_owns(model.labels_, "int32")
    found = [KMeans(16, random_state=seed).fit(X).inertia_ for seed in range(5)]
    assert model.inertia_ < min(found)
    assert model.converged_
    assert_array_equal(to_numpy(model.predict(lib.asarray(X, dtype))), to_numpy(model.labels_))
    again = KMeans(16, algorithm="optimal", random_state=3).fit(X)
    assert_allclose(
        to_numpy(model.cluster_centers_), again.cluster_centers_, rtol=1e-5 if dtype == "float32" else 1e-12
    )
    assert (np.diff(again.cluster_centers_[:, 0]) > 0).all()


def test_weights_are_rows(rng):
    X, weights = rng.normal(size=(300, 1)), rng.integers(0, 4, size=300)
    model = KMeans(6, algorithm="optimal").fit(X, sample_weight=weights)
    repeated = KMeans(6, algorithm="optimal").fit(np.repeat(X, weights, axis=0))
    assert_allclose(model.cluster_centers_, repeated.cluster_centers_, rtol=1e-12)
    assert_allclose(model.inertia_, repeated.inertia_, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bool", "int64", "float16"])
def test_numbers_of_any_dtype(rng, dtype):
    X = (rng.normal(size=(500, 1)) * 50).astype(dtype)
    X[::2] = 0
    wide = KMeans(2, algorithm="optimal").fit(X.astype("float64"))
    model = KMeans(2, algorithm="optimal").fit(X)
    assert_array_equal(model.labels_, wide.labels_)
    assert model.inertia_ == wide.inertia_


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e140])
def test_numbers_of_any_scale(rng, scale):
    X = rng.normal(size=(200, 1))
    model, scaled = (KMeans(5, algorithm="optimal").fit(rows) for rows in (X, X * scale))
    assert_array_equal(model.labels_, scaled.labels_)


def test_as_many_clusters_as_numbers():
    X = np.array([[3.0], [1], [2], [1]])
    model = KMeans(3, algorithm="optimal").fit(X)
    assert model.inertia_ == 0
    assert_array_equal(model.cluster_centers_, [[1], [2], [3]])
    with pytest.warns(match="Number of distinct clusters"):
        model = KMeans(4, algorithm="optimal").fit(X)
    assert model.inertia_ == 0
    assert KMeans(1, algorithm="optimal").fit(X).cluster_centers_ == X.mean()


def test_in_batches(rng):
    X = rng.normal(size=(4, 100, 1))
    batch = kmeans_batch(X, 5, algorithm="optimal")
    for x, centers, labels, inertia, _ in zip(X, *batch, strict=True):
        model = KMeans(5, algorithm="optimal").fit(x)
        assert_array_equal(centers, model.cluster_centers_)
        assert_array_equal(labels, model.labels_)
        assert inertia == model.inertia_


def test_a_sweep_finds_all_from_one_table(rng, lib, monkeypatch):
    X, weights = rng.normal(size=(300, 1)).round(1), rng.integers(0, 4, size=300)
    calls = []
    intervals = optimal.best_intervals
    monkeypatch.setattr(optimal, "best_intervals", lambda *job: calls.append(job) or intervals(*job))
    seen = []
    estimator = KMeans(algorithm="optimal", on_iteration=lambda iteration: seen.append(iteration.centers.shape[0]))
    numbers = [1, 2, 5, 9]
    sweep = KMeansSweep(numbers, estimator=estimator, random_state=0).fit(lib.asarray(X), sample_weight=weights)
    assert len(calls) == 1
    assert sorted(set(seen)) == numbers
    for place, n_clusters in enumerate(numbers):
        model = KMeans(n_clusters, algorithm="optimal").fit(lib.asarray(X), sample_weight=weights)
        assert model.inertia_ == sweep.results_["inertia"][place]
    best = sweep.best_estimator_
    assert (best.algorithm, best.init, "_best_centers" in vars(best)) == ("optimal", "k-means++", False)


def test_a_sweep_with_a_gap_and_more_clusters_than_numbers():
    X = np.array([[0.0], [0], [1], [1], [1], [7], [7]])
    with pytest.warns(match="Number of distinct clusters"):
        sweep = KMeansSweep(
            [2, 3, 4], estimator=KMeans(algorithm="optimal"), criteria=["gap"], n_references=2, random_state=0
        ).fit(X)
    np.testing.assert_allclose(sweep.results_["inertia"][1:], 0, atol=1e-20)
    with pytest.raises(ValueError, match="is for rows of one feature, and X has 2"):
        KMeansSweep(3, estimator=KMeans(algorithm="optimal")).fit(np.ones((5, 2)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"init": "random"}, "leave out init"),
        ({"init": np.ones((2, 1))}, "leave out init"),
        ({"refine": True}, "leave out refine"),
        ({"metric": "cosine"}, "leave out metric"),
        ({"size_min": 2}, "leave out size_min"),
        ({"n_clusters": 9}, "should be >= n_clusters"),
    ],
)
def test_parameters_that_contradict_each_other(parameters, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**{"n_clusters": 2, "algorithm": "optimal"} | parameters).fit(np.arange(1.0, 9)[:, None])


def test_rows_of_several_features_are_refused():
    with pytest.raises(ValueError, match="is for rows of one feature, and X has 2"):
        KMeans(2, algorithm="optimal").fit(np.ones((5, 2)))


def test_rows_in_files_are_refused():
    h5py = pytest.importorskip("h5py")
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        rows = file.create_dataset("X", data=np.ones((5, 1)))
        with pytest.raises(ValueError, match="needs all rows in memory"):
            KMeans(2, algorithm="optimal").fit(rows)
