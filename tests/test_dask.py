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
import pytest
from conftest import blobs, load
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, partitions, steps

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
    frame = steps.moments(X, weights, 5, 2**20)
    block = partitions.Block(X, weights, 0, 0)
    job = partitions.Job(1, 0, 5, frame, "elkan")
    centers = frame.enter(X[:5])
    for number in range(4):
        job = replace(job, step=number)
        sums, mass, *_ = partitions.step(block, job, centers)
        if number == 1:
            earlier = pickle.loads(pickle.dumps(block))
        last, centers = centers, sums / mass[:, None]
    assert_allclose(partitions.update(earlier, job, last)[0], sums, rtol=1e-12, atol=1e-9)
    assert_array_equal(partitions.labels(earlier, job, last), steps.assign(X, last, frame))


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
    with pytest.raises(ValueError, match="needs data in memory"):
        KMeans(2, init="k-means||").fit(da.nan_to_num(lazy))
    with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3"):
        KMeans(2).fit(da.nan_to_num(lazy)).predict(lazy[:, :2])


@pytest.mark.usefixtures("scheduler")
def test_a_worker_without_memory_names_the_partition(rng, monkeypatch):
    def no_memory(block, *args):
        if block.index == 2:
            raise MemoryError("Unable to allocate 9 GiB")
        return step(block, *args)

    step = partitions.step
    monkeypatch.setattr(partitions, "step", no_memory)
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
