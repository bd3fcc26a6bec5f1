"""A range of numbers of clusters, and which one is recommended."""

import pickle
import re
import tracemalloc

import numpy as np
import pytest
import sklearn
from conftest import blobs, load
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, metrics
from kmeans_xp.arrays import to_numpy
from kmeans_xp.estimators.fits import without_clusters
from kmeans_xp.estimators.sweep import Results, recommend
from kmeans_xp.metrics import CRITERIA


def apart(n=1200, seed=4):
    """Six blobs that lie apart."""
    return blobs(np.random.default_rng(seed), n, 3, n_clusters=6, spread=25)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_finds_blobs_that_lie_apart(criterion):
    sweep = KMeansSweep(range(2, 12), criterion=criterion, random_state=0).fit(apart(500))
    assert sweep.best_n_clusters_ == 6
    assert " 6 clusters" in sweep.reason_
    assert sweep.best_estimator_.n_clusters == 6


def test_the_table_on_every_library(lib):
    X = apart()
    sweep = KMeansSweep([2, 4, 6, 8], criterion="bic", criteria=["davies_bouldin", "sq_silhouette"], random_state=0)
    sweep.fit(lib.asarray(X))
    assert list(sweep.results_) == [
        "n_clusters",
        "inertia",
        "n_iter",
        "seconds",
        "davies_bouldin",
        "sq_silhouette",
        "bic",
    ]
    assert sweep.results_["n_clusters"] == [2, 4, 6, 8]
    lib.assert_owns(sweep.labels_, "int32")
    labels = to_numpy(sweep.labels_)
    at = sweep.results_["n_clusters"].index(sweep.best_n_clusters_)
    assert sweep.results_["bic"][at] == pytest.approx(metrics.bic_score(X, labels), rel=1e-9)
    assert sweep.results_["davies_bouldin"][at] == pytest.approx(metrics.davies_bouldin_score(X, labels), rel=1e-9)
    expected = KMeansSweep([2, 4, 6, 8], criterion="bic", random_state=0).fit(X)
    assert_allclose(sweep.results_["inertia"], expected.results_["inertia"], rtol=1e-9)


def test_no_worse_than_fits_by_themselves(rng):
    """In the mean over the numbers, and the inertia never rises with their number."""
    X = blobs(rng, 30_000, 4, n_clusters=30, spread=3)
    ours = KMeansSweep(range(2, 31, 4), random_state=0).fit(X).results_["inertia"]
    theirs = [sklearn.cluster.KMeans(k, random_state=0).fit(X).inertia_ for k in range(2, 31, 4)]
    assert np.mean(np.log(ours) - np.log(theirs)) <= 0.001
    assert ours == sorted(ours, reverse=True)


def test_weights_are_repetitions(rng):
    X = apart(400)
    weights = rng.integers(1, 4, size=400)
    weighted = KMeansSweep(range(2, 9), random_state=0).fit(X, sample_weight=weights)
    repeated = KMeansSweep(range(2, 9), random_state=0).fit(X.repeat(weights, axis=0))
    assert weighted.best_n_clusters_ == repeated.best_n_clusters_ == 6
    assert weighted.inertia_ == pytest.approx(repeated.inertia_)


def test_in_a_pipeline():
    X = apart()
    pipeline = make_pipeline(StandardScaler(), KMeansSweep(range(2, 10), random_state=0)).fit(X)
    sweep = pipeline[-1]
    assert_array_equal(pipeline.predict(X), sweep.labels_)
    assert pipeline.transform(X).shape == (1200, 6)
    assert pipeline.score(X) == pytest.approx(-sweep.inertia_)
    assert list(sweep.get_feature_names_out()) == [f"kmeans{i}" for i in range(6)]


def test_of_a_dask_array_and_of_a_file(tmp_path):
    """Their criteria are those of a sample, or of all rows if they are few."""
    da = pytest.importorskip("dask.array")
    X = apart(60_000)
    expected = KMeansSweep(range(3, 9), random_state=0).fit(X)
    lazy = KMeansSweep(range(3, 9), random_state=0).fit(da.from_array(X, chunks=(25_000, 3)))
    mapped = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=X.dtype, shape=X.shape)
    mapped[:] = X
    with sklearn.config_context(working_memory=1):
        streamed = KMeansSweep(range(3, 9), random_state=0).fit(mapped)
    for sweep in (lazy, streamed):
        assert sweep.best_n_clusters_ == 6
        assert sweep.inertia_ == pytest.approx(expected.inertia_, rel=1e-9)
        for name in ("calinski_harabasz", "simplified_silhouette"):
            assert_allclose(sweep.results_[name], expected.results_[name], rtol=0.1)


def test_parameters_of_the_estimator():
    sweep = KMeansSweep([2, 3], estimator=KMeans(algorithm="lloyd", tol=0.1)).fit(apart())
    assert sweep.best_estimator_.algorithm == "lloyd"
    assert sweep.best_estimator_.tol == 0.1


def test_fits_are_refined_by_the_random_numbers_of_the_sweep(lib, rng):
    """They find better clusters; the random state of the estimator does not come into it."""
    centers = rng.uniform(-10, 10, size=(30, 3))
    X = lib.asarray(centers[rng.integers(30, size=1500)] + 0.15 * rng.normal(size=(1500, 3)))
    numbers = [10, 20, 34]
    plain, refined = (
        KMeansSweep(numbers, estimator=KMeans(refine=refine), criterion="bic", random_state=0).fit(X)
        for refine in (False, True)
    )
    assert np.all(np.less(refined.results_["inertia"], plain.results_["inertia"]))
    again = KMeansSweep(numbers, estimator=KMeans(refine=True, random_state=7), criterion="bic", random_state=0)
    assert_allclose(again.fit(X).results_["inertia"], refined.results_["inertia"], rtol=1e-9)
    assert_array_equal(to_numpy(again.labels_), to_numpy(refined.labels_))


def test_one_cluster():
    sweep = KMeansSweep([1, 2], random_state=0).fit(apart())
    assert np.isnan(sweep.results_["calinski_harabasz"][0])
    assert sweep.best_n_clusters_ == 2
    assert KMeansSweep([1], criterion="bic", criteria=[]).fit(apart()).best_n_clusters_ == 1
    with pytest.raises(ValueError, match="n_clusters must have a number above 1"):
        KMeansSweep([1]).fit(apart())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_without_a_value_are_passed_over(rng):
    """As many clusters as rows, and rows that are all the same."""
    X = rng.normal(size=(5, 2))
    sweep = KMeansSweep(range(1, 6), criteria=["bic"], random_state=0).fit(X)
    assert np.isnan(sweep.results_["simplified_silhouette"][-1])
    assert sweep.best_n_clusters_ in (2, 3, 4)
    with pytest.raises(ValueError, match="below that of the different rows"):
        KMeansSweep(range(1, 4)).fit(np.ones((9, 2)))


def test_the_scale_of_weights_does_not_matter():
    X = apart()
    weights = np.arange(1200) % 3
    expected = KMeansSweep(range(3, 9), criteria=["bic"], random_state=0).fit(X, sample_weight=weights)
    sweep = KMeansSweep(range(3, 9), criteria=["bic"], random_state=0).fit(X, sample_weight=weights / 1e6)
    assert sweep.best_n_clusters_ == expected.best_n_clusters_ == 6


def test_a_knee():
    results = {"n_clusters": list(range(1, 9)), "inertia": [100.0, 60.0, 30.0, 5.0, 4.0, 3.5, 3.0, 2.8]}
    assert recommend(results, "elbow") == (3, "The inertia bends most at 4 clusters.")


def test_no_knee():
    place, reason = recommend({"n_clusters": [2, 3, 4], "inertia": [3.0, 2.0, 1.0]}, "elbow")
    assert place == 2
    assert reason == "The inertia bends nowhere between 2 and 4 clusters."


@pytest.mark.parametrize("n_clusters", [[], [0, 2], [2, 2], [2.5], "ab"])
def test_bad_numbers(n_clusters):
    with pytest.raises(ValueError, match="must be"):
        KMeansSweep(n_clusters).fit(apart())


def test_bad_criteria():
    with pytest.raises(ValueError, match=r"criteria \['elbows'\] are not known: use \['calinski_harabasz'"):
        KMeansSweep(criteria=["elbows"]).fit(apart())


@pytest.mark.gpu
def test_on_a_gpu():
    cupy = load("cupy").xp
    sweep = KMeansSweep(range(4, 8), random_state=0).fit(cupy.asarray(apart(300)))
    assert sweep.best_n_clusters_ == 6
    assert isinstance(sweep.labels_, cupy.ndarray)


def test_gap_follows_its_definition(lib, rng):
    """Also of one cluster; reference rows are as many as the data, of the same box along the principal axes."""
    X = apart(400)
    sweep = KMeansSweep(range(1, 9), criterion="gap", criteria=(), n_references=4, random_state=0).fit(lib.asarray(X))
    assert sweep.best_n_clusters_ == 6
    assert "gap is highest at 6 clusters" in sweep.reason_
    table = sweep.results_
    axes = np.linalg.svd(X - X.mean(axis=0))[2]
    along = (X - X.mean(axis=0)) @ axes.T
    logs = []
    for _ in range(6):
        rows = rng.uniform(along.min(axis=0), along.max(axis=0), size=X.shape)
        logs.append([np.log(KMeans(k, n_init=3, random_state=0).fit(rows).inertia_) for k in range(1, 9)])
    expected = np.mean(logs, axis=0) - np.log(table["inertia"])
    assert_allclose(table["gap"], expected, atol=0.1)
    assert min(table["gap_error"]) > 0


def test_gap_can_say_one(rng):
    for X in (rng.normal(size=(1000, 5)), rng.normal(size=(400, 1))):
        sweep = KMeansSweep(range(1, 6), criterion="gap", random_state=0).fit(X)
        assert sweep.best_n_clusters_ == 1


def test_gap_of_weights_blocks_and_directions(rng):
    X = apart()
    weights = np.full(len(X), 1e-3)
    one = KMeansSweep([5, 6, 7], criterion="gap", random_state=0).fit(X)
    other = KMeansSweep([5, 6, 7], criterion="gap", random_state=0).fit(X, sample_weight=weights)
    assert_allclose(one.results_["gap"], other.results_["gap"], atol=0.05)
    sphere = KMeansSweep(range(2, 5), criterion="gap", estimator=KMeans(metric="cosine"), random_state=0).fit(X)
    assert np.isfinite(sphere.results_["gap"]).all()


def test_gap_does_not_see_rows_without_weight(rng):
    X = apart(300)
    more, weights = np.concatenate((X, [[1e4, 1e4, 1e4]])), np.append(np.ones(300), 0)
    options = {"criterion": "gap", "criteria": (), "random_state": 0}
    one = KMeansSweep([4, 6, 8], **options).fit(X)
    other = KMeansSweep([4, 6, 8], **options).fit(more, sample_weight=weights)
    assert_allclose(one.results_["gap"], other.results_["gap"], atol=0.1)


def test_gap_of_more_features_than_rows(rng):
    """Their box is flat in all directions but those of the rows: n_features² numbers are not needed."""
    X = apart(90)
    axes = np.linalg.qr(rng.normal(size=(6000, 3)))[0].T
    options = {"criterion": "gap", "criteria": (), "n_references": 5, "random_state": 0}
    few = KMeansSweep([3, 6, 8], **options).fit(X)
    tracemalloc.start()
    try:
        wide = KMeansSweep([3, 6, 8], **options).fit(X @ axes + 7)
        assert tracemalloc.get_traced_memory()[1] < 150 * 2**20, "6000² numbers are 275 MiB"
    finally:
        tracemalloc.stop()
    assert wide.best_n_clusters_ == few.best_n_clusters_ == 6
    assert_allclose(wide.results_["gap"], few.results_["gap"], atol=0.2)


def test_gap_of_more_features_than_rows_follows_the_weights(rng):
    X = rng.normal(size=(20, 50))
    weights = rng.integers(1, 4, size=20)
    rows = without_clusters(X, weights, np.random.RandomState(0))
    repeated = X.repeat(weights, axis=0)
    centered = X - repeated.mean(axis=0)
    axes = np.linalg.svd(repeated - repeated.mean(axis=0), full_matrices=False)[2][:19]
    along, of_rows = (rows - repeated.mean(axis=0)) @ axes.T, centered @ axes.T
    assert (along >= of_rows.min(axis=0) - 1e-9).all()
    assert (along <= of_rows.max(axis=0) + 1e-9).all()
    assert_allclose(along @ axes + repeated.mean(axis=0), rows)


def test_gap_refuses_sparse_rows():
    from scipy import sparse

    with pytest.raises(ValueError, match="'gap' needs dense data"):
        KMeansSweep([2, 3], criterion="gap").fit(sparse.csr_array(apart(100)))


def test_another_criterion():
    sweep = KMeansSweep([2, 6, 9], criteria=["bic"], random_state=0).fit(apart())
    assert sweep.recommend("simplified_silhouette") == (6, sweep.reason_)
    assert sweep.recommend("bic") == (6, f"bic is lowest at 6 clusters: {sweep.results_['bic'][1]:.4g}.")
    for unknown in ("silhouette", "inertia"):
        with pytest.raises(ValueError, match="is not in results_"):
            sweep.recommend(unknown)


def test_recommendation_by_gap():
    results = {"n_clusters": [1, 2, 3, 4], "gap": [0.1, 0.5, 0.52, 0.7], "gap_error": [0.0, 0.0, 0.05, 0.01]}
    assert recommend(results, "gap") == (
        3,
        "gap is highest at 4 clusters, 0.7 with a standard error of 0.01; the first within that is 4 clusters: 0.7.",
    )
    results["gap_error"][3] = 0.19
    assert recommend(results, "gap")[0] == 2


def test_one_number_means_from_two_on():
    sweep = KMeansSweep(4, criterion="bic", criteria=(), random_state=0).fit(apart(100))
    assert sweep.results_["n_clusters"] == [2, 3, 4]
    with pytest.raises(ValueError, match="'n_clusters' parameter of KMeansSweep must be an int in the range"):
        KMeansSweep(1).fit(apart(100))


@pytest.mark.parametrize("criterion", ["bic", "gap"])
def test_fewer_rows_than_clusters_stop_it(rng, criterion):
    X = rng.normal(size=(5, 2))
    sweep = KMeansSweep([2, 4, 6, 8], criterion=criterion, criteria=(), random_state=0)
    with pytest.warns(
        UserWarning, match="X has 5 rows, and n_clusters goes up to 8: no more than 4 clusters are tried"
    ):
        sweep.fit(X)
    assert sweep.results_["n_clusters"] == [2, 4]
    with pytest.raises(ValueError, match="n_samples=5 should be >= n_clusters=6"):
        KMeansSweep([6, 7]).fit(X)


def test_in_batches(lib):
    X = lib.asarray(apart())
    estimator = MiniBatchKMeans(batch_size=200, compute_labels=False, on_iteration=lambda _: None)
    sweep = KMeansSweep(8, criterion="bic", estimator=estimator, random_state=0).fit(X)
    assert sweep.best_n_clusters_ == 6
    assert type(sweep.best_estimator_) is MiniBatchKMeans
    assert to_numpy(sweep.cluster_sizes_).sum() == 1200
    again = KMeansSweep(8, criterion="bic", estimator=estimator, random_state=0).fit(X)
    assert again.results_["inertia"] == sweep.results_["inertia"]
    assert pickle.loads(pickle.dumps(sweep)).estimator.on_iteration is None
    gap = KMeansSweep([5, 6, 7], criterion="gap", n_references=3, estimator=MiniBatchKMeans(), random_state=0).fit(X)
    assert gap.best_n_clusters_ == 6


def test_the_table_is_printed():
    results = Results({"n_clusters": [2, 10], "inertia": [1234567.0, 0.25], "bic": [np.nan, -1.5]})
    assert repr(results) == (
        "n_clusters      inertia   bic\n         2  1.23457e+06   nan\n        10         0.25  -1.5"
    )
    assert pickle.loads(pickle.dumps(results))["inertia"] == results["inertia"]
    sweep = KMeansSweep(4, criterion="bic", random_state=0).fit(apart(100))
    assert [line.split()[0] for line in str(sweep.results_).splitlines()] == ["n_clusters", "2", "3", "4"]


def test_rows_and_sizes_of_the_best():
    X = apart()
    sweep = KMeansSweep(8, random_state=0).fit(X)
    best = sweep.best_estimator_
    assert_array_equal(sweep.cluster_sizes_, np.bincount(sweep.labels_))
    for name in ("nearest_rows", "nearest_centers"):
        for found, expected in zip(getattr(sweep, name)(X, 2), getattr(best, name)(X, 2), strict=True):
            assert_array_equal(found, expected)
        with pytest.raises(NotFittedError):
            getattr(KMeansSweep(), name)(X)
    assert_array_equal(sweep.nearest_rows(X, return_distance=False), best.nearest_rows(X, return_distance=False))


def test_each_number_is_told_of(capsys):
    KMeansSweep(3, criterion="gap", criteria=["bic"], n_references=2, random_state=0, verbose=1).fit(apart(100))
    told = capsys.readouterr().out.splitlines()
    assert [re.sub(r"-?\d[\d.e+-]* s$|(?<=inertia )[\d.e+-]+|(?<=bic )[\d.e+-]+", "*", line) for line in told] == [
        "n_clusters=2: inertia *, *",
        "n_clusters=2: bic *, *",
        "n_clusters=3: inertia *, *",
        "n_clusters=3: bic *, *",
        "gap, reference 1 of 2, n_clusters=2: inertia *, *",
        "gap, reference 1 of 2, n_clusters=3: inertia *, *",
        "gap, reference 2 of 2, n_clusters=2: inertia *, *",
        "gap, reference 2 of 2, n_clusters=3: inertia *, *",
    ]
