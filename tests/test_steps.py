"""Each step against brute force in float64, on every library."""

import dataclasses
import threading

import numpy as np
import pytest
from conftest import blobs, brute_force, load, moments

from kmeans_xp import steps
from kmeans_xp.arrays import to_numpy
from kmeans_xp.frame import Frame, frame_at
from kmeans_xp.metric import EUCLIDEAN

SHAPES = [(1, 1, 1), (7, 3, 2), (300, 5, 11), (257, 1, 3), (64, 40, 64)]
TILES = [1, 5_000, 2**24]


def frame_and_centers(lib, X, k, tile_bytes=2**20):
    X = lib.asarray(X)
    weights = lib.asarray(np.linspace(0.5, 2, X.shape[0]))
    frame = moments(X, weights, tile_bytes)
    return X, weights, frame, frame.enter(X[:k, :])


@pytest.mark.parametrize("tile_bytes", TILES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_lloyd_step(lib, rng, shape, tile_bytes, dtype):
    n, d, k = shape
    host = blobs(rng, n, d, dtype=dtype)
    X, weights, frame, centers = frame_and_centers(lib, host, k, tile_bytes)

    labels, sums, cluster_weights = steps.lloyd_step(X, weights, centers, frame)

    lib.assert_owns(labels, "int32")
    lib.assert_owns(sums, "float64")
    lib.assert_owns(cluster_weights, "float64")
    squares = brute_force(host, host[:k])
    chosen = squares[np.arange(n), to_numpy(labels)]
    np.testing.assert_allclose(chosen, squares.min(axis=1), atol=1e-4 if dtype == "float32" else 1e-12)
    w, origin = to_numpy(weights), to_numpy(frame.origin)
    for j in range(k):
        mine = to_numpy(labels) == j
        expected = (w[mine, None] * (host[mine].astype("float64") - origin)).sum(axis=0)
        np.testing.assert_allclose(to_numpy(sums)[j], expected, atol=1e-4 if dtype == "float32" else 1e-10)
        np.testing.assert_allclose(to_numpy(cluster_weights)[j], w[mine].sum(), rtol=1e-12)


@pytest.mark.parametrize("tile_bytes", TILES)
def test_assign_and_update_are_the_halves_of_lloyd_step(lib, rng, tile_bytes):
    X, weights, frame, centers = frame_and_centers(lib, blobs(rng, 200, 3), 9, tile_bytes)
    labels, sums, cluster_weights = steps.lloyd_step(X, weights, centers, frame)
    np.testing.assert_array_equal(to_numpy(steps.assign(X, centers, frame)), to_numpy(labels))
    again = steps.update(X, weights, labels, 9, frame)
    np.testing.assert_array_equal(to_numpy(again[0]), to_numpy(sums))
    np.testing.assert_array_equal(to_numpy(again[1]), to_numpy(cluster_weights))


@pytest.mark.parametrize("tile_bytes", TILES)
def test_distances(lib, rng, tile_bytes):
    host = blobs(rng, 150, 6)
    X, _, frame, centers = frame_and_centers(lib, host, 10, tile_bytes)
    labels = steps.assign(X, centers, frame)
    squares = brute_force(host, host[:10])

    own = steps.sq_distances_to_own(X, labels, centers, frame)
    np.testing.assert_allclose(to_numpy(own), squares.min(axis=1), rtol=1e-10, atol=1e-28)
    all_distances = to_numpy(steps.distances(X, centers, frame))
    np.testing.assert_allclose(all_distances, np.sqrt(squares), rtol=1e-7)
    assert (all_distances[np.arange(10), np.arange(10)] == 0).all(), "a row on its center is at distance 0"


@pytest.mark.parametrize("offset", [0, 1e8])
def test_moments(lib, rng, offset):
    host = blobs(rng, 300, 4) + offset
    weights = rng.uniform(size=300)
    frame = moments(lib.asarray(host), lib.asarray(weights), 2_000)
    mean = np.average(host - offset, axis=0, weights=weights)
    np.testing.assert_allclose(to_numpy(frame.origin) - offset, mean, atol=1e-7 if offset else 1e-12)
    variance = np.average((host - offset - mean) ** 2, axis=0, weights=weights).sum()
    np.testing.assert_allclose(frame.spread, variance, rtol=1e-6)


def test_ties_go_to_the_first_center(lib):
    X = lib.asarray([[0.0], [1.0], [2.0]])
    frame = frame_at(lib.asarray([1.0]), 1.0, X, 2**20)
    labels = steps.assign(X, frame.enter(lib.asarray([[2.0], [0.0], [0.0], [2.0]])), frame)
    assert to_numpy(labels).tolist() == [1, 0, 0]


def test_distinct(lib):
    for labels, expected in (([3, 1, 3, 3], {1, 3}), ([5], {5})):
        assert set(to_numpy(steps.distinct(lib.asarray(labels, dtype="int32"))).tolist()) == expected


@pytest.mark.parametrize("k", [5, 16, 17, 300])
def test_numpys_scores_find_the_two_nearest_centers(rng, k):
    """Along rows and along centers, the latter in blocks, and with ties: whole numbers, and every center twice."""
    blocks = pytest.importorskip("kmeans_xp.backends._blocks")
    X = rng.integers(-3, 4, size=(700, 2)).astype("float64")
    centers = np.resize(rng.integers(-3, 4, size=(-(-k // 2), 2)), (k, 2)).astype("float64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CENTERS", 128)
        nearest = blocks._Nearest(-2 * centers, np.vecdot(centers, centers), 1e-12)
        labels, in_doubt, gap = nearest.with_gap(X, (0.0, 0.0))
        for found, expected in zip(nearest(X), (labels, in_doubt), strict=True):
            np.testing.assert_array_equal(found, expected)
    two = np.sort(brute_force(X, centers), axis=1)[:, :2]
    np.testing.assert_array_equal(in_doubt, np.flatnonzero(two[:, 0] == two[:, 1]))
    distances = np.sqrt(brute_force(X, centers))
    np.testing.assert_array_equal(labels, distances.argmin(axis=1))
    nearest, second = np.sort(distances, axis=1)[:, :2].T
    np.testing.assert_allclose(gap, second - nearest, atol=1e-12)


def test_passes_run_on_threads(monkeypatch, rng):
    """Same labels on any number of threads; the setting of the BLAS is put back, also after an error."""
    threads = pytest.importorskip("kmeans_xp.backends._threads")
    controller = threads.blas._controller  # not of a BLAS that a peer of the benchmark brought in since
    monkeypatch.setattr("kmeans_xp.backends._blocks.BLOCK", 1_000)
    monkeypatch.setattr("kmeans_xp.backends._blocks.SMALL_BLOCK", 1_000)
    monkeypatch.setattr("kmeans_xp.backends.numpy.PARALLEL_WORK", 0)
    monkeypatch.setattr(threads, "PARALLEL_WORK", 0)
    X, weights = blobs(rng, 3000, 3), np.ones(3000)
    frame = moments(X, weights, 20_000)
    centers = frame.enter(X[:20])
    results, users = [], set()
    for n_threads in (1, 2, 7):
        monkeypatch.setattr(threads.blas, "n_threads", lambda n=n_threads: n)
        before = [pool["num_threads"] for pool in controller.info()]
        with steps.own_threads(X, 20):
            assert {pool["num_threads"] for pool in controller.info()} == {1}
            results.append(steps.lloyd_step(X, weights, centers, frame))
            list(frame.map_tiles(lambda rows, tile: users.add(threading.get_ident()), X, 20))

        def fail(rows, tile):
            assert rows.start < 1000, "no"

        with pytest.raises(AssertionError, match="no"):
            list(frame.map_tiles(fail, X, 20))
        assert [pool["num_threads"] for pool in controller.info()] == before
    assert len(users) > 1
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_concurrent_fits_share_the_limit_of_the_blas():
    threads = pytest.importorskip("kmeans_xp.backends._threads")
    controller = threads.blas._controller  # not of a BLAS that a peer of the benchmark brought in since
    before = [pool["num_threads"] for pool in controller.info()]
    first, second = threads.blas.one_thread(), threads.blas.one_thread()
    first.__enter__()
    second.__enter__()
    assert {pool["num_threads"] for pool in controller.info()} == {1}
    assert threads.blas.n_threads() == max(before), "what it was outside"
    first.__exit__(None, None, None)
    assert {pool["num_threads"] for pool in controller.info()} == {1}
    second.__exit__(None, None, None)
    assert [pool["num_threads"] for pool in controller.info()] == before


def test_a_backend_may_decline(monkeypatch):
    labels = np.array([3, 1, 3], dtype="int32")
    calls = []

    class Declining:
        @staticmethod
        def distinct(*args):
            calls.append(args)
            return NotImplemented

    monkeypatch.setattr("kmeans_xp.backends.backend_for", lambda library: Declining)
    assert set(steps.distinct(labels)) == {1, 3}
    assert len(calls) == 1


def test_the_dense_pass_reads_only_whether_labels_are_in_doubt(monkeypatch, rng):
    """Once a tile."""
    X, weights, frame, centers = frame_and_centers(load("strict"), blobs(rng, 1000, 3), 4)
    frame = dataclasses.replace(frame, tile_bytes=20_000)
    n_tiles = len(list(frame.map_rows(lambda *_: None, X, 4)))
    assert n_tiles > 3
    asked = []
    array, is_true = type(X), type(X).__bool__
    monkeypatch.setattr(array, "__bool__", lambda self: asked.append("bool") or is_true(self))
    for name in ("__float__", "__int__", "__index__"):
        monkeypatch.setattr(array, name, lambda self: pytest.fail("read"))
    labels, _, _ = steps.lloyd_step(X, weights, centers, frame)
    assert asked == ["bool"] * n_tiles
    assert labels.shape == (1000,)


def test_what_follows_the_labels_never_reads_a_value(rng):
    """torch's meta device has shapes and no values: whatever asks for one raises."""
    torch = pytest.importorskip("torch")
    X = torch.empty((100, 3), device="meta", dtype=torch.float64)
    weights = torch.empty(100, device="meta", dtype=torch.float64)
    centers = torch.empty((5, 3), device="meta", dtype=torch.float64)
    frame = Frame(centers[0, :], 1.0, torch.float64, torch.float64, 2_000, 100)
    labels = torch.empty(100, device="meta", dtype=torch.int32)
    sums, cluster_weights = steps.update(X, weights, labels, 5, frame)
    assert steps.means(sums, cluster_weights, centers, frame, EUCLIDEAN).shape == (5, 3)
    assert steps.inertia_of(centers, sums, cluster_weights, frame, EUCLIDEAN).shape == ()
    assert steps.distances(X, centers, frame).shape == (100, 5)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(sums[0, 0])


def test_the_dense_pass_needs_no_data_dependent_shapes(rng):
    xp = pytest.importorskip("array_api_strict")
    lib = load("strict-device1")
    with xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
        X, weights, frame, centers = frame_and_centers(lib, blobs(rng, 60, 3), 4)
        labels, _, _ = steps.lloyd_step(X, weights, centers, frame)
        steps.sq_distances_to_own(X, labels, centers, frame)
        steps.distances(X, centers, frame)
