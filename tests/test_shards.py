"""device="cuda:all": rows dealt out to several GPUs give what one gives. Two devices are needed, or the stand-in."""

import time

import numpy as np
import pytest
from conftest import blobs

from kmeans_xp import KMeans, MiniBatchKMeans, devices

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("two_devices")]


@pytest.fixture
def two_devices(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")


def same(models, dtype):
    rtol = 1e-9 if dtype == "float64" else 1e-5
    one, several = models
    np.testing.assert_array_equal(one.labels_, several.labels_)
    np.testing.assert_allclose(one.cluster_centers_, several.cluster_centers_, rtol=rtol, atol=rtol)
    assert several.inertia_ == pytest.approx(one.inertia_)
    assert several.n_iter_ == one.n_iter_
    assert all(type(value) is np.ndarray for value in (several.labels_, several.cluster_centers_))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["lloyd", "auto", "elkan"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_fits_are_those_of_one_device(rng, dtype, algorithm, metric):
    X, weights = blobs(rng, 1501, 6, n_clusters=9).astype(dtype), rng.uniform(0.5, 2, size=1501)
    options = {"init": X[:9].copy(), "algorithm": algorithm, "metric": metric}
    models = [KMeans(9, device=d, **options).fit(X, sample_weight=weights) for d in ("cuda", "cuda:all")]
    same(models, dtype)
    one, several = models
    np.testing.assert_array_equal(one.predict(X[:7]), several.predict(X[:7]))
    np.testing.assert_allclose(one.transform(X), several.transform(X), rtol=1e-4, atol=1e-4)
    assert several.score(X, sample_weight=weights) == pytest.approx(one.score(X, sample_weight=weights))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||"])
def test_seeded_fits_are_the_same_bits_each_time(rng, init, metric):
    X = blobs(rng, 1200, 5, n_clusters=7).astype("float32")
    options = {"init": init, "metric": metric, "n_init": 2, "random_state": 3}
    first, again = (KMeans(7, device="cuda:all", **options).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.cluster_centers_, again.cluster_centers_)
    one = KMeans(7, device="cuda", **options).fit(X)
    assert first.inertia_ == pytest.approx(one.inertia_, rel=1 if init == "random" else 0.2)


def test_each_device_has_a_part_of_the_rows(cupy, rng):
    from kmeans_xp import data

    X = blobs(rng, 11, 3)
    with data.open_data(X, purpose=data.Purpose(device=devices.ALL)) as source:
        found = source.reduce(lambda block: [(block.X.device.id, block.start, len(block.X))], lambda a, b: a + b)
        entries = source.write(None, lambda block, values: values, data.PerRow(np.arange(11.0)))
        assert source.take(np.array([10, 0])).device.id == 0
    n_devices = cupy.cuda.runtime.getDeviceCount()
    ends = [11 * i // n_devices for i in range(n_devices + 1)]
    assert found == [(i, ends[i], ends[i + 1] - ends[i]) for i in range(n_devices)]
    np.testing.assert_array_equal(entries, np.arange(11.0))


def test_fewer_rows_than_devices(rng):
    assert KMeans(1, device="cuda:all").fit([[1.0, 2.0]]).labels_.tolist() == [0]


def test_empty_clusters_are_filled_from_all_devices(rng):
    X = np.concatenate((blobs(rng, 300, 3), [[50.0, 50, 50], [60.0, 60, 60]]))
    init = np.concatenate((X[:3], np.full((2, 3), 1e4)))
    same([KMeans(5, init=init, device=d).fit(X) for d in ("cuda", "cuda:all")], "float64")


def test_mini_batches(rng):
    X = blobs(rng, 2000, 4, n_clusters=5)
    model = MiniBatchKMeans(5, device="cuda:all", random_state=0).fit(X)
    assert model.inertia_ < 1.5 * KMeans(5, random_state=0).fit(X).inertia_


class Rows:
    """What has rows, and gives them to one thread at a time."""

    def __init__(self, X):
        self._X, self.shape, self.dtype, self._busy = X, X.shape, X.dtype, False

    def __getitem__(self, rows):
        assert not self._busy
        self._busy = True
        time.sleep(1e-4)
        found = self._X[rows]
        self._busy = False
        return found


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("kmeans_xp.data.stream.BLOCK_BYTES", 0)  # then what 32 sums per cluster weigh


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["lloyd", "auto", "elkan"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_streams_are_read_into_all_devices_in_turns(rng, dtype, algorithm, metric):
    """The same bits as from one device, as blocks are the same and are added up in their order."""
    X, weights = blobs(rng, 1501, 6, n_clusters=9).astype(dtype), rng.uniform(0.5, 2, size=1501)
    options = {"init": X[:3].copy(), "algorithm": algorithm, "metric": metric}
    one, several = (KMeans(3, device=d, **options).fit(Rows(X), sample_weight=weights) for d in ("cuda", "cuda:all"))
    for name in ("labels_", "cluster_centers_", "inertia_", "n_iter_", "cluster_sizes_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(several, name), err_msg=name)
    np.testing.assert_array_equal(one.predict(Rows(X)), several.predict(Rows(X)))
    np.testing.assert_array_equal(one.transform(Rows(X)), several.transform(Rows(X)))
    assert several.score(Rows(X), sample_weight=weights) == one.score(Rows(X), sample_weight=weights)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||"])
def test_seeded_fits_of_streams(rng, init):
    X = blobs(rng, 1200, 5, n_clusters=4).astype("float32")
    options = {"init": init, "n_init": 2, "random_state": 3}
    one, several = (KMeans(4, device=d, **options).fit(Rows(X)) for d in ("cuda", "cuda:all"))
    np.testing.assert_array_equal(one.labels_, several.labels_)
    np.testing.assert_array_equal(one.cluster_centers_, several.cluster_centers_)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_a_stream_are_on_all_devices(cupy, rng):
    from kmeans_xp import data

    X, n_devices = blobs(rng, 1100, 3), cupy.cuda.runtime.getDeviceCount()
    with data.open_data(Rows(X), purpose=data.Purpose(device=devices.ALL)) as source:
        found = source.reduce(lambda block: [(block.X.device.id, block.start, len(block.X))], lambda a, b: a + b)
        entries = source.write(None, lambda block, values: values, data.PerRow(np.arange(1100.0)))
        assert source.take(np.array([10, 0])).device.id == 0
    assert len(found) > 3 * n_devices
    assert [device for device, _, _ in found] == [i % n_devices for i in range(len(found))]
    assert [start for _, start, _ in found] == np.cumsum([0, *(n for _, _, n in found[:-1])]).tolist()
    np.testing.assert_array_equal(entries, np.arange(1100.0))


@pytest.mark.usefixtures("small_blocks")
def test_rows_of_a_stream_that_are_no_numbers_are_named(rng):
    X = blobs(rng, 1100, 3)
    X[1007, 1] = np.nan
    with pytest.raises(ValueError, match="row 1007 is the first one"):
        KMeans(2, device="cuda:all").fit(Rows(X))


@pytest.mark.usefixtures("small_blocks")
def test_an_array_without_memory_for_its_parts_is_read_in_turns(rng, monkeypatch):
    X = blobs(rng, 1100, 3)
    expected = KMeans(3, device="cuda", init=X[:3]).fit(Rows(X))
    monkeypatch.setattr(devices, "fits_on_device", lambda X, name: name == "cuda:0")
    monkeypatch.setattr("kmeans_xp.data.Shards", None)
    found = KMeans(3, device="cuda:all", init=X[:3]).fit(X)
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)


def test_what_is_not_in_host_memory_is_refused(cupy, rng):
    X = blobs(rng, 50, 3)
    with pytest.raises(ValueError, match="device='cuda:all' needs rows of the host"):
        KMeans(3, device="cuda:all").fit(cupy.asarray(X))
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        KMeans(3, device="cuda:all").fit(bad)
