"""Dask arrays: the same answers as in memory, whatever the chunks and the scheduler."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import blobs, load, moments
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics, passes, seeding, steps
from kmeans_xp.algorithms import ALGORITHMS
from kmeans_xp.data import dask as dask_source
from kmeans_xp.data.source import Block, Job
from kmeans_xp.metric import EUCLIDEAN

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

pytestmark = [
    # Of a worker process that is ended on purpose, and of the loop of the client
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def unknown(X):
    """The same array, whose partitions are of unknown size."""
    parts = [da.from_delayed(part, (np.nan, X.shape[1]), X.dtype) for part in X.to_delayed().ravel()]
    return da.concatenate(parts, allow_unknown_chunksizes=True)


CHUNKS = {
    "one": (-1, -1),
    "equal": (7000, -1),
    "uneven": ((1, 20_000, 3999, 1_000, 5_000), -1),
    "columns too": (4000, 3),
}


def assert_same_fit(ours, expected):
    assert isinstance(ours.labels_, da.Array)
    assert ours.labels_.dtype == np.int32
    assert_array_equal(ours.labels_.compute(), expected.labels_)
    assert_allclose(ours.cluster_centers_, expected.cluster_centers_, rtol=1e-6, atol=1e-6)
    assert ours.cluster_centers_.dtype == expected.cluster_centers_.dtype
    assert ours.inertia_ == pytest.approx(expected.inertia_, rel=1e-9)
    assert ours.n_iter_ == expected.n_iter_


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_equals_the_fit_in_memory(rng, chunks, dtype):
    X = blobs(rng, 30_000, 6, n_clusters=7, spread=4).astype(dtype)
    lazy = da.from_array(X, chunks=CHUNKS[chunks])
    ours, expected = (KMeans(6, random_state=3).fit(rows) for rows in (lazy, X))
    assert_same_fit(ours, expected)
    distances = ours.transform(lazy)
    assert distances.shape == (30_000, 6)
    assert distances.dtype == expected.transform(X).dtype
    assert_allclose(distances.compute(), expected.transform(X), rtol=1e-5, atol=1e-5)
    assert ours.score(lazy) == pytest.approx(expected.score(X), rel=1e-9)
    assert_array_equal(ours.predict(X), expected.labels_)


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("init", ["k-means++", "random", "array", "callable"])
def test_small_data_weights_and_inits(rng, init):
    """Also unknown and empty partitions."""
    X = blobs(rng, 3000, 4, n_clusters=5)
    weights = rng.integers(0, 3, size=3000).astype(float)
    given = {"array": X[:5], "callable": lambda X, k, random_state: np.asarray(X[:k])}.get(init, init)
    lazy = da.from_array(X, chunks=((500, 0, 1500, 1000), -1))
    job = {"n_clusters": 5, "init": given, "n_init": 1, "random_state": 0, "tol": 0}
    expected = KMeans(**job).fit(X, sample_weight=weights)
    lazy_weights = da.from_array(weights, chunks=((500, 0, 1500, 1000),))
    for rows, w in [(lazy, weights), (lazy, lazy_weights.rechunk(999)), (unknown(lazy), lazy_weights)]:
        if init == "callable" and rows is not lazy:
            continue
        ours = KMeans(**job).fit(rows, sample_weight=w)
        assert_same_fit(ours, expected)
        assert ours.score(rows, sample_weight=w) == pytest.approx(-expected.inertia_, rel=1e-9)


@pytest.mark.usefixtures("scheduler")
def test_out_init_and_weights_of_a_partition(rng):
    """Results written where they are wanted, lazy centers, scalars and partitions without weight."""
    X = blobs(rng, 3000, 4, n_clusters=3)
    lazy, weights = da.from_array(X, chunks=(1000, 4)), np.repeat([0.0, 1.0, 2.0], 1000)
    model = KMeans(3, init=lazy[:3]).fit(lazy, sample_weight=weights)
    assert model.score(lazy, sample_weight=weights) == pytest.approx(-model.inertia_, rel=1e-9)
    out = np.empty(3000, dtype="int32")
    assert model.predict(lazy, out=out) is out
    assert_array_equal(out, model.predict(X))
    doubled = KMeans(3, init=X[:3]).fit(lazy, sample_weight=2.0)
    assert doubled.inertia_ == pytest.approx(2 * KMeans(3, init=X[:3]).fit(X).inertia_)
    assert KMeans(3, init=X[:3]).fit(X, sample_weight=da.from_array(weights)).inertia_ == pytest.approx(model.inertia_)
    with pytest.raises(ValueError, match="at least one non-zero"):
        model.score(lazy, sample_weight=0 * weights)


def test_what_does_not_travel_is_not_sent(rng):
    lock = threading.Lock()
    X = rng.normal(size=(100, 2))
    model = KMeans(2, init=X[:2], on_iteration=lambda iteration: lock.locked()).fit(da.from_array(X, chunks=(50, 2)))
    pickle.dumps(model.labels_)


@pytest.mark.usefixtures("scheduler")
def test_empty_clusters_find_the_farthest_rows_of_all_partitions(rng):
    X = blobs(rng, 4000, 3, n_clusters=4)
    X[[5, 2005, 3999]] += [[300], [300], [200]]
    X[3000] = X[5]
    init = np.concatenate((X[100:104], np.full((3, 3), -1e5)))
    ours, expected = (KMeans(7, init=init, tol=0).fit(rows) for rows in (da.from_array(X, chunks=(900, -1)), X))
    assert_same_fit(ours, expected)


@pytest.mark.usefixtures("scheduler")
def test_fewer_distinct_rows_than_clusters():
    X = np.tile(np.eye(3), (50, 1))
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\) found smaller than n_clusters \(5\)"):
        model = KMeans(5, random_state=0).fit(da.from_array(X, chunks=(20, -1)))
    assert model.inertia_ < 1e-28


def test_only_small_things_come_to_the_client(rng):
    """No result of a task that is fetched is larger than the sample of the seeding."""
    X = blobs(rng, 60_000, 8, n_clusters=3, dtype="float32")
    sizes = []

    class Watch(dask.callbacks.Callback):
        def _posttask(self, key, value, dsk, state, worker_id):
            if isinstance(value, tuple):
                sizes.append(sum(np.asarray(part).nbytes for part in value if isinstance(part, np.ndarray)))

    with dask.config.set(scheduler="synchronous"), Watch():
        KMeans(3, random_state=0).fit(da.from_array(X, chunks=(6000, -1)))
    assert max(sizes) < X.nbytes / 2


def test_a_copy_with_an_earlier_state_is_noticed(rng):
    """Dask may send a block to another worker, and use that copy again some iterations later."""
    X = blobs(rng, 1000, 3, n_clusters=5)
    weights = np.ones(1000)
    frame = moments(X, weights, 2**20)
    block = Block(X, weights)
    job = Job(1, 0, 5, frame, EUCLIDEAN, ALGORITHMS["elkan"])
    centers = frame.enter(X[:5])
    for number in range(4):
        job = replace(job, step=number)
        sums, mass, *_ = passes.step(block, job, centers)
        if number == 1:
            earlier = pickle.loads(pickle.dumps(block))
        last, centers = centers, sums / mass[:, None]
    assert_allclose(passes.update(earlier, job, last)[0], sums, rtol=1e-12, atol=1e-9)
    assert_array_equal(passes.labels(earlier, job, last), steps.assign(X, last, frame))


def test_processes(rng):
    """Their blocks lose their state in every iteration: slower, and the same."""
    X = blobs(rng, 2000, 3, n_clusters=4)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool, dask.config.set(scheduler="processes", pool=pool):
        ours = KMeans(4, init=X[:4]).fit(da.from_array(X, chunks=(1000, -1)))
        assert_same_fit(ours, KMeans(4, init=X[:4]).fit(X))


def test_on_a_cluster(cluster, rng):
    X = blobs(rng, 50_000, 6, n_clusters=8, spread=3)
    ours = KMeans(8, random_state=0).fit(da.from_array(X, chunks=(9000, -1)))
    assert_same_fit(ours, KMeans(8, random_state=0).fit(X))


def test_a_worker_that_dies_costs_time_only(rng):
    """It is killed after the third iteration, with the state of its rows."""
    X = blobs(rng, 40_000, 6, n_clusters=12, spread=2)
    job = {"n_clusters": 12, "init": X[:12], "tol": 1e-5}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)

        def kill(iteration):
            if iteration.number == 3:
                os.kill(next(iter(pids.values())), signal.SIGKILL)

        ours = KMeans(**job, on_iteration=kill).fit(da.from_array(X, chunks=(5000, -1)))
        assert set(client.run(os.getpid).values()) != set(pids.values())
        assert_same_fit(ours, KMeans(**job).fit(X))


def test_results_are_written_on_the_client(cluster, rng, tmp_path, monkeypatch):
    """Not into copies that workers in other processes have; some partitions at a time."""
    X = blobs(rng, 5000, 3, n_clusters=4)
    model = KMeans(4, random_state=0).fit(X)
    monkeypatch.setattr("kmeans_xp.data.dask.WRITTEN_BYTES", 4 * 2500)
    for chunks in ((1000, -1), ((0, 2000, 2000, 0, 1000), 2)):
        lazy = da.from_array(X, chunks=chunks)
        labels = np.full(5000, -1, dtype=np.int32)
        assert model.predict(lazy, out=labels) is labels
        assert_array_equal(labels, model.labels_)
        distances = np.memmap(tmp_path / "distances", dtype="float64", mode="w+", shape=(5000, 4))
        model.transform(lazy, out=distances)
        assert_allclose(distances, model.transform(X))


def fail(X, error):
    if X.shape[0] and X[0, 0] == 1:
        raise error
    return X


@pytest.mark.usefixtures("scheduler")
def test_bad_input_names_the_partition(rng):
    X = rng.normal(size=(4000, 3))
    X[2500, 1] = np.nan
    lazy = da.from_array(X, chunks=(1000, -1))
    with pytest.raises(ValueError, match=r"Partition 2 of X: Input X contains NaN"):
        KMeans(2).fit(lazy)
    weights = np.ones(4000)
    weights[3500] = -1
    with pytest.raises(ValueError, match=r"Partition 3 of X: Negative values"):
        KMeans(2).fit(da.nan_to_num(lazy), sample_weight=weights)
    with pytest.raises(ValueError, match="at least one non-zero"):
        KMeans(2).fit(da.nan_to_num(lazy), sample_weight=0 * np.ones(4000))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\), expected \(4000,\)"):
        KMeans(2).fit(lazy, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="partitions of unknown size"):
        KMeans(2).fit(unknown(lazy), sample_weight=np.ones(4000))
    with pytest.raises(ValueError, match="should be >= n_clusters"):
        KMeans(5000).fit(da.nan_to_num(lazy))
    with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3"):
        KMeans(2).fit(da.nan_to_num(lazy)).predict(lazy[:, :2])


def answered(X, change):
    """X in four partitions, of which the third is `change(rows)`, unknown to Dask."""
    parts = np.split(X, 4)
    parts = [dask.delayed(change if i == 2 else np.asarray)(part) for i, part in enumerate(parts)]
    return da.concatenate([da.from_delayed(part, (len(X) // 4, X.shape[1]), X.dtype) for part in parts])


def takers(model, rows):
    """Everything that computes with the partitions of a Dask array, by name."""
    weights = np.ones(rows.shape[0]) if not np.isnan(rows.shape[0]) else None
    return {
        "fit": lambda: KMeans(2, random_state=0).fit(rows),
        "cosine": lambda: KMeans(2, random_state=0, metric="cosine").fit(rows),
        "weighted fit": lambda: KMeans(2, random_state=0).fit(rows, sample_weight=weights),
        "predict": lambda: model.predict(rows).compute(),
        "transform": lambda: model.transform(rows).compute(),
        "score": lambda: model.score(rows),
        "weighted score": lambda: model.score(rows, sample_weight=weights),
        "out": lambda: model.predict(rows, out=np.empty(rows.shape[0], dtype=np.int32)),
        "sweep": lambda: KMeansSweep([2, 3], random_state=0).fit(rows),
    }


TAKERS = list(takers(None, np.empty((4, 3))))


def with_nan(rows):
    rows = rows.copy()
    rows[7, 1] = np.nan
    return rows


SHAPE = r"Expected an array of shape \(1000, 3\), as X says, got one of shape "
UNEXPECTED = {
    "narrower": (lambda rows: rows[:, :2], ValueError, SHAPE + r"\(1000, 2\)"),
    "wider": (lambda rows: np.hstack((rows, rows)), ValueError, SHAPE + r"\(1000, 6\)"),
    "shorter": (lambda rows: rows[:-1], ValueError, SHAPE + r"\(999, 3\)"),
    "longer": (lambda rows: np.vstack((rows, rows)), ValueError, SHAPE + r"\(2000, 3\)"),
    "one row": (lambda rows: rows[:1], ValueError, SHAPE + r"\(1, 3\)"),
    "empty and narrower": (lambda rows: rows[:0, :2], ValueError, SHAPE + r"\(0, 2\)"),
    "one dimension": (lambda rows: rows[:, 0], ValueError, SHAPE + r"\(1000,\)"),
    "three dimensions": (lambda rows: rows[:, :, None], ValueError, SHAPE + r"\(1000, 3, 1\)"),
    "a list": (lambda rows: rows.tolist(), TypeError, r"Expected an array of shape \(1000, 3\), got a list"),
    "nothing": (lambda rows: None, TypeError, r"Expected an array of shape \(1000, 3\), got a NoneType"),
    "words": (lambda rows: np.full(rows.shape, "word"), ValueError, "could not convert string"),
    "objects": (lambda rows: np.full(rows.shape, None), (ValueError, TypeError), "NaN|NoneType"),
    "complex": (lambda rows: rows + 1j, ValueError, "Complex data not supported"),
    "NaN": (with_nan, ValueError, "Input X contains NaN"),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("unexpected", UNEXPECTED)
def test_partitions_must_be_what_the_array_announced(rng, taker, unexpected):
    X = rng.normal(size=(4000, 3))
    change, kind, message = UNEXPECTED[unexpected]
    model = KMeans(2, random_state=0).fit(X)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(kind, match=rf"(?s)Partition 2 of X: .*({message})"),
    ):
        takers(model, answered(X, change))[taker]()


@pytest.mark.parametrize("taker", ["fit", "predict", "score"])
def test_partitions_of_unknown_size_have_the_features_of_the_array(rng, taker):
    X = rng.normal(size=(4000, 3))
    model = KMeans(2, random_state=0).fit(X)
    with dask.config.set(scheduler="synchronous"):
        takers(model, unknown(answered(X, lambda rows: rows[:-1])))[taker]()
        with pytest.raises(ValueError, match=r"Partition 2 of X: Expected an array of shape \(nan, 3\)"):
            takers(model, unknown(answered(X, lambda rows: rows[:, :2])))[taker]()
        with pytest.raises(ValueError, match="X has an unknown number of features"):
            KMeans(2).fit(da.from_array(X, chunks=(1000, -1))[:, da.from_array(np.ones(3, bool))])


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("extreme", [np.nan, np.inf])
def test_rows_that_go_bad_during_the_fit_name_the_partition(rng, algorithm, extreme):
    """The partitions are views of memory that somebody writes to."""
    X = rng.normal(size=(40_000, 40))
    parts = [dask.delayed(lambda i: X[i : i + 10_000])(i) for i in range(0, 40_000, 10_000)]
    lazy = da.concatenate([da.from_delayed(part, (10_000, 40), X.dtype) for part in parts])

    def spoil(iteration):
        if iteration.number == 3:
            X[25_000:25_100, 5] = extreme

    model = KMeans(4, init=X[:4].copy(), algorithm=algorithm, tol=0, max_iter=20, on_iteration=spoil)
    with pytest.raises(ValueError, match=r"Partition 2 of X: Input X contains (NaN|infinity)"):
        model.fit(lazy)
    assert not hasattr(model, "cluster_centers_")


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("n_samples", [4000, 25_000], ids=["few rows", "more than a sample"])
def test_a_new_seeding_is_used(rng, monkeypatch, n_samples):
    def first_rows(data, n_clusters, frame, rng, refine=None):
        return frame.enter(data.take(np.arange(n_clusters)))

    monkeypatch.setitem(seeding.METHODS, "first", seeding.Seeding(first_rows, "the first rows"))
    X = rng.normal(size=(n_samples, 3))
    assert_same_fit(KMeans(2, init="first").fit(da.from_array(X, chunks=(1000, -1))), KMeans(2, init=X[:2]).fit(X))


@pytest.fixture
def table(rng):
    """A data frame in memory."""
    return pd.DataFrame(blobs(rng, 30_000, 3, n_clusters=4), columns=list("abc"))


def as_frame(table, n_partitions=5, watch=lambda rows: None):
    """The same of Dask."""

    def load(rows):
        watch(rows)
        return rows

    return (
        pytest.importorskip("dask.dataframe")
        .from_pandas(table, npartitions=n_partitions)
        .map_partitions(load, meta=table.iloc[:0])
    )


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize(
    "dtypes", ["float32", "float64", {"a": "int64", "b": "float32"}, {"a": "i4", "b": "i2", "c": "i1"}]
)
def test_a_data_frame_is_clustered_where_its_partitions_lie(table, dtypes):
    """As its array, without a warning, and with the names of its columns."""
    table = table.astype(dtypes)
    ours, expected = (KMeans(4, random_state=0).fit(rows) for rows in (as_frame(table), table))
    assert_same_fit(ours, expected)
    assert_array_equal(ours.feature_names_in_, ["a", "b", "c"])
    assert type(ours.cluster_centers_) is np.ndarray
    assert isinstance(ours.transform(as_frame(table)), da.Array)
    assert ours.transform(as_frame(table)).dtype == expected.transform(table).dtype
    assert_allclose(ours.transform(as_frame(table)).compute(), expected.transform(table), rtol=1e-5, atol=1e-5)
    assert ours.score(as_frame(table)) == pytest.approx(expected.score(table), rel=1e-9)
    assert_array_equal(ours.fit_predict(as_frame(table)).compute(), expected.labels_)
    assert_array_equal(as_frame(table).assign(cluster=ours.labels_).compute()["cluster"], expected.labels_)


def test_a_data_frame_does_not_come_to_the_client(table):
    """Nor is it read more often than an array: once for the fit, once for the labels."""
    n_rows, sizes = [], []

    class Watch(dask.callbacks.Callback):
        def _posttask(self, key, value, dsk, state, worker_id):
            if isinstance(value, tuple):
                sizes.append(sum(np.asarray(part).nbytes for part in value if isinstance(part, np.ndarray)))

    frame = as_frame(table, watch=lambda rows: n_rows.append(len(rows)))
    with dask.config.set(scheduler="synchronous"), Watch():
        model = KMeans(4, random_state=0).fit(frame)
        assert sum(n_rows) == len(table)
        model.labels_.compute()
    assert sum(n_rows) == 2 * len(table)
    assert max(sizes) < table.to_numpy().nbytes


@pytest.mark.usefixtures("scheduler")
def test_weights_of_a_data_frame(table, rng):
    """A series or an array of Dask of as many partitions; one of another kind needs their sizes."""
    weights = pd.Series(rng.integers(0, 3, size=len(table)).astype(float))
    expected = KMeans(4, random_state=0).fit(table, sample_weight=weights)
    frame, lazy = as_frame(table), pytest.importorskip("dask.dataframe").from_pandas(weights, npartitions=5)
    array = frame.to_dask_array(lengths=True)
    for rows, given in ((frame, lazy), (frame, lazy.to_dask_array()), (array, lazy), (array, weights)):
        ours = KMeans(4, random_state=0).fit(rows, sample_weight=given)
        assert_same_fit(ours, expected)
        assert ours.score(rows, sample_weight=given) == pytest.approx(-expected.inertia_, rel=1e-9)
    assert KMeans(4, random_state=0).fit(frame, sample_weight=2.0).inertia_ > 0
    with pytest.raises(
        ValueError, match=r"unknown size.*sample_weight that is not of Dask.*to_dask_array\(lengths=True\)"
    ):
        KMeans(4).fit(frame, sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight has 3 partitions and X has 5"):
        KMeans(4).fit(frame, sample_weight=lazy.repartition(npartitions=3))
    with pytest.raises(ValueError, match=r"Partition \d of X: sample_weight.shape == \(5999,\), expected \(6000,\)"):
        KMeans(4).fit(array, sample_weight=lazy.map_partitions(lambda part: part[1:], meta=lazy._meta))
    assert_same_fit(KMeans(4, random_state=0).fit(array, sample_weight=lazy), expected)
    assert KMeans(4, random_state=0).fit(table, sample_weight=lazy).inertia_ == expected.inertia_  # X in memory


@pytest.mark.usefixtures("scheduler")
def test_columns_of_a_data_frame_must_be_those_of_the_fit(table):
    model = KMeans(4, random_state=0).fit(as_frame(table))
    for method in (model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match="must be in the same order"):
            method(as_frame(table[["b", "a", "c"]]))
        with pytest.raises(ValueError, match="feature names should match"):
            method(as_frame(table[["a", "b"]]))
    assert_array_equal(model.predict(as_frame(table)).compute(), model.predict(table))


def test_a_model_of_named_columns_warns_once_of_rows_without(table):
    """Not in each partition."""
    model = KMeans(4, random_state=0).fit(table)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.warns(UserWarning, match="does not have valid feature names") as caught,
    ):
        labels = model.predict(da.from_array(table.to_numpy(), chunks=(5000, -1))).compute()
    assert len(caught) == 1
    assert_array_equal(labels, model.labels_)


def test_a_sweep_over_a_data_frame(table):
    with dask.config.set(scheduler="synchronous"):
        sweep = KMeansSweep([3, 4, 5], random_state=0).fit(as_frame(table))
    assert sweep.best_n_clusters_ == KMeansSweep([3, 4, 5], random_state=0).fit(table).best_n_clusters_
    assert_array_equal(sweep.feature_names_in_, ["a", "b", "c"])


@pytest.mark.parametrize("column", [["x"] * 30_000, [True] * 30_000, pd.array([1.0, None] * 15_000, dtype="Float64")])
def test_columns_that_are_no_numbers(table, column):
    with pytest.raises(ValueError, match="dtype object is not supported: use real numbers"):
        KMeans(2).fit(as_frame(table.assign(d=column)))


def test_results_of_unknown_length_cannot_be_written(table):
    model = KMeans(4, random_state=0).fit(table)
    out = np.full(len(table), -1, dtype=np.int32)
    with pytest.raises(ValueError, match=r"unknown size, which must be known to write into out. Use 'X.compute_chunk"):
        model.predict(as_frame(table), out=out)
    named = as_frame(table).to_dask_array(lengths=True)
    with pytest.warns(UserWarning, match="valid feature names"):
        model.predict(named, out=out)
    assert_array_equal(out, model.labels_)


def lazy_things(table):
    """Collections of Dask that hold rows."""
    from dask import bag

    frame = as_frame(table)
    return {
        "array": frame.to_dask_array(lengths=True),
        "dataframe": frame,
        "bag": bag.from_sequence([[0.0, 1.0], [1.0, 0.0]]),
        "delayed": dask.delayed(np.asarray)(table),
        "series": frame["a"],
    }


@pytest.mark.parametrize("kind", ["array", "dataframe", "bag", "delayed", "series"])
def test_nothing_is_gathered_as_a_batch(table, kind):
    X = lazy_things(table)[kind]

    def no_work(*args, **kwargs):
        raise AssertionError("computed")

    with (
        dask.config.set(scheduler=no_work),
        pytest.raises(TypeError, match=rf"A dask {kind}\w* was passed for X, but data in memory is required"),
    ):
        MiniBatchKMeans(2).partial_fit(X)


def computed(value):
    return [np.asarray(part) for part in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.usefixtures("scheduler")
def test_what_is_asked_of_rows_in_memory_can_be_asked_of_partitions(table):
    """Neighbours, metrics and k-means++ alone, of an array; of a data frame, of unknown sizes, what needs none."""
    X = table.to_numpy()
    model, labels, weights = KMeans(4, random_state=0).fit(X), np.arange(len(X)) % 3, 1.0 + np.arange(len(X)) % 2
    lazy = da.from_array(X, chunks=(7000, -1))
    for take in (
        lambda X: model.nearest_rows(X, 3),
        lambda X: model.nearest_centers(X, 2),
        lambda X: model.nearest_centers(X, 2, return_distance=False),
        lambda X: kmeans_plusplus(X, 5, random_state=0),
        lambda X: metrics.davies_bouldin_score(X, labels),
        lambda X: metrics.calinski_harabasz_score(X, labels, weights),
        lambda X: metrics.bic_score(X, labels, weights),
        lambda X: metrics.cluster_inertias(X, labels, weights),
        lambda X: metrics.silhouette_score(X, labels, metric="sqeuclidean", sample_weight=weights),
        lambda X: metrics.silhouette_samples(X, labels, metric="sqeuclidean"),
        lambda X: metrics.simplified_silhouette_samples(X, labels),
    ):
        for ours, theirs in zip(computed(take(lazy)), computed(take(X)), strict=True):
            assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
            assert ours.dtype == theirs.dtype
    for ours, theirs in zip(computed(model.nearest_centers(unknown(lazy))), model.nearest_centers(X), strict=True):
        assert_allclose(ours, theirs)
    for take in (model.nearest_rows, lambda X: metrics.bic_score(X, labels)):
        with pytest.raises(ValueError, match="X has partitions of unknown size, which must be known"):
            take(unknown(lazy))


@pytest.mark.usefixtures("scheduler")
def test_mini_batches_of_partitions(table):
    X = table.to_numpy()[:3000]
    lazy, weights = da.from_array(X, chunks=(700, -1)), 1.0 + np.arange(3000) % 2
    for sample_weight in (None, weights):
        job = {"n_clusters": 4, "random_state": 0, "max_iter": 1, "batch_size": 500}
        ours, theirs = (MiniBatchKMeans(**job).fit(rows, sample_weight=sample_weight) for rows in (lazy, X))
        assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
        assert_array_equal(ours.labels_.compute(), theirs.labels_)
        assert ours.inertia_ == pytest.approx(theirs.inertia_)
    scaled = MiniBatchKMeans(**job, compute_labels=False).fit(lazy, sample_weight=2.0)
    assert scaled.inertia_ == MiniBatchKMeans(**job, compute_labels=False).fit(X, sample_weight=2.0).inertia_
    for wrong in (np.nan, -1.0, 0.0):
        with pytest.raises(ValueError, match=r"NaN|Negative|non-zero"):
            MiniBatchKMeans(**job, compute_labels=False).fit(lazy, sample_weight=wrong)
    computed = []
    once = lazy.map_blocks(lambda part: computed.append(len(part)) or part, dtype=lazy.dtype)
    MiniBatchKMeans(**job, compute_labels=False).fit(once)
    assert sum(computed) == len(X)
    with pytest.raises(ValueError, match="unknown size, which must be known to draw batches"):
        MiniBatchKMeans(4).fit(unknown(lazy))


def test_all_rows_are_gathered_where_they_are_few_only(table):
    lazy, labels = da.from_array(table.to_numpy(), chunks=(7000, -1)), np.arange(len(table)) % 3
    expected = metrics.silhouette_score(table[:1000], labels[:1000])
    assert metrics.silhouette_score(lazy[:1000], labels[:1000]) == pytest.approx(expected)
    many = da.zeros((2**20, 100), chunks=(2**18, 100))
    with pytest.raises(ValueError, match=r"All rows of X are needed in memory here, and they take 800 MiB"):
        metrics.silhouette_samples(many, np.arange(2**20) % 2)


@pytest.mark.parametrize("kind", ["bag", "delayed", "series"])
def test_what_is_no_table_of_dask_is_refused(table, kind):
    """As X and as weights, without being computed."""
    model, thing = KMeans(4, random_state=0).fit(table), lazy_things(table)[kind]

    def no_work(*args, **kwargs):
        raise AssertionError("computed")

    message = "Expected 2D data, got 1D" if kind == "series" else rf"A dask {kind}\w* was passed for X: use an array or"
    with dask.config.set(scheduler=no_work):
        for take in (KMeans(2).fit, model.predict, model.transform, model.score, KMeansSweep([2]).fit):
            with pytest.raises((TypeError, ValueError), match=message):
                take(thing)
        if kind != "series":
            for rows in (table, as_frame(table)):
                with pytest.raises(TypeError, match=rf"A dask {kind}\w* was passed for sample_weight"):
                    KMeans(2).fit(rows, sample_weight=thing)


@pytest.mark.usefixtures("scheduler")
def test_a_worker_without_memory_names_the_partition(rng, monkeypatch):
    def no_memory(block, *args):
        if block.index == 2:
            raise MemoryError("Unable to allocate 9 GiB")
        return step(block, *args)

    step = passes.step
    monkeypatch.setattr(passes, "step", no_memory)
    X = da.from_array(rng.normal(size=(4000, 3)), chunks=(1000, -1))
    with pytest.raises(MemoryError, match=r"Partition 2 of X, 1000 rows: Unable to allocate 9 GiB"):
        KMeans(2, random_state=0).fit(X)


def greedy_for_memory(block, block_info=None):
    if block_info[0]["chunk-location"][0] == 2:
        hog = np.ones(2**27)  # 1 GiB
        time.sleep(2)
        return block + hog[:1]
    return block


def test_workers_killed_for_memory_name_the_partition(rng):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="700MiB", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
    ):
        X = da.from_array(rng.normal(size=(4000, 3)), chunks=(1000, -1)).map_blocks(greedy_for_memory, dtype=float)
        with pytest.raises(MemoryError, match=r"Partition 2 of X: all workers that were given it died"):
            KMeans(2, random_state=0).fit(X)


@pytest.mark.gpu
def test_partitions_on_a_gpu(rng):
    cupy = load("cupy").xp
    X = blobs(rng, 3000, 4, n_clusters=5, dtype="float32")
    lazy = da.from_array(X, chunks=(1000, -1)).map_blocks(cupy.asarray, meta=cupy.empty((0, 0), "float32"))
    with dask.config.set(scheduler="synchronous"):
        model = KMeans(5, init=X[:5]).fit(lazy)
        labels = model.labels_.compute()
    assert isinstance(labels, cupy.ndarray)
    assert isinstance(model.cluster_centers_, cupy.ndarray)
    assert_array_equal(cupy.asnumpy(labels), KMeans(5, init=X[:5]).fit(X).labels_)


def test_a_device_is_refused(rng):
    """Partitions stay where they lie; a fit that is paid for must not fail at its labels."""
    X = rng.normal(size=(100, 3))
    for device in ("cuda", "cuda:1", "gpu"):
        with pytest.raises(ValueError, match=rf"device='{device}' is not possible for Dask"):
            KMeans(3, device=device).fit(da.from_array(X, chunks=(50, 3)))
        model = KMeans(3, random_state=0).fit(X).set_params(device=device)
        with pytest.raises(ValueError, match=rf"device='{device}' is not possible for Dask"):
            model.predict(da.from_array(X, chunks=(50, 3)))


def test_what_travels_is_on_the_host_and_has_no_entry_for_each_row(table, monkeypatch):
    """Workers need not have the library of the model; each gets the labels of its own rows."""
    torch = load("torch").xp
    X = table.to_numpy()
    model, lazy = KMeans(4, random_state=0).fit(torch.tensor(X)), da.from_array(X, chunks=(7000, -1))
    graph = pickle.dumps(dict(model.predict(lazy).dask))
    assert b"torch" not in graph
    assert_array_equal(pickle.loads(graph) and model.predict(lazy).compute(), model.predict(X))
    sizes, run = [], dask_source._run

    def watched(function, block, common, entries, n_clusters):
        sizes.append((len(pickle.dumps(common)), 0 if entries is None else len(entries.values[0])))
        return run(function, block, common, entries, n_clusters)

    monkeypatch.setattr(dask_source, "_run", watched)
    with dask.config.set(scheduler="synchronous"):
        metrics.davies_bouldin_score(lazy, np.arange(len(X)) % 3)
    assert max(common for common, _ in sizes) < 3000
    assert {entries for _, entries in sizes} == {0, 7000, 2000}


def test_no_rows_at_all(rng):
    X = rng.normal(size=(300, 3))
    none = da.from_array(X, chunks=(70, 3))
    none = none[none[:, 0] > 1e9]
    for take in (KMeans.from_centers(X[:3]).score, KMeans(1).fit):
        with pytest.raises(ValueError, match=r"all partitions are empty|should be >= n_clusters"):
            take(none)
    zeros = da.zeros((300, 3), chunks=(70, 3))
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
        KMeans(2, metric="cosine").fit(zeros, sample_weight=np.zeros(300))
