"""CUDA graphs: what is launched by them is what is launched one by one, and their memory is nobody else's."""

import importlib
import threading
import warnings

import numpy as np
import pytest
from conftest import blobs, moments
from sklearn.base import clone

from kmeans_xp import KMeans, kmeans_plusplus
from kmeans_xp.lloyd import Run
from kmeans_xp.seeding import greedy

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

RESULTS = "labels_", "cluster_centers_", "inertia_", "cluster_sizes_", "n_iter_", "converged_"
NEVER = 10**9


@pytest.fixture
def graphs(backend, monkeypatch):
    """Graphs that were captured."""
    seen, captured = [], _cupy_graph().captured
    monkeypatch.setattr(_cupy_graph(), "captured", lambda function: seen.append(captured(function)) or seen[-1])
    return seen


def _cupy_graph():
    return importlib.import_module("kmeans_xp.backends._cupy_graph")


def without_graphs(backend, patch):
    for module in (backend._cupy_seeding, backend._cupy_runs, backend._cupy_problems):
        patch.setattr(module, "WORTH_A_GRAPH", NEVER)


def assert_same(cupy, found, expected):
    for name in RESULTS:
        np.testing.assert_array_equal(
            *(cupy.asnumpy(getattr(model, name)) for model in (found, expected)), err_msg=name
        )
    assert found.history_["inertia"] == expected.history_["inertia"]


@pytest.mark.parametrize("max_iter", [8, 13, 40])
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize(
    "kind", ["contiguous", "transposed", "float16", "tiles", "weights with strides", "many clusters"]
)
def test_fits_with_and_without(cupy, backend, graphs, rng, kind, algorithm, max_iter, monkeypatch):
    X = cupy.asarray(blobs(rng, 3000, 6, spread=3, dtype="float16" if kind == "float16" else "float32"))
    weights = cupy.asarray(rng.uniform(size=6000))[::2] if kind.startswith("weights") else None
    if kind == "transposed":
        X = cupy.ascontiguousarray(X.T).T
    if kind == "tiles":
        monkeypatch.setattr(backend._cuda, "MOST_ROWS", 700)
    k = 400 if kind == "many clusters" else 20
    model = KMeans(k, init=X[:k].astype("float32"), tol=0, max_iter=max_iter, algorithm=algorithm)
    found = clone(model).fit(X, sample_weight=weights)
    assert found.n_iter_ > 4
    assert graphs
    assert None not in graphs
    without_graphs(backend, monkeypatch)
    n_graphs = len(graphs)
    assert_same(cupy, found, clone(model).fit(X, sample_weight=weights))
    assert len(graphs) == n_graphs


def test_nobody_is_given_what_a_graph_writes_to(cupy, backend, graphs, rng, monkeypatch):
    """Between two looks all memory that is free is taken, and written to; a fit leaves none behind."""
    X, several = cupy.asarray(blobs(rng, 3000, 6, spread=3)), backend.iterations
    model = KMeans(20, init=X[:20], tol=0, max_iter=40)
    with monkeypatch.context() as patch:
        without_graphs(backend, patch)
        expected = clone(model).fit(X)

    def disturbed(*given):
        found = several(*given)
        kept = [array.copy() for array in found[:4]]
        for size in 2 ** np.arange(3, 17):
            blocks = [cupy.full(size, np.nan) for _ in range(20)]
            del blocks
        for one, another in zip(found, kept, strict=False):
            cupy.testing.assert_array_equal(one, another)
        return found

    monkeypatch.setattr(backend, "iterations", disturbed)
    assert_same(cupy, clone(model).fit(X), expected)
    assert len(graphs) == 1
    graphs.clear()
    used = cupy.get_default_memory_pool().used_bytes()
    for _ in range(3):
        clone(model).fit(X)
        graphs.clear()
    assert cupy.get_default_memory_pool().used_bytes() == used


def test_results_of_a_fit_stay_when_the_next_one_runs(cupy, graphs, rng):
    X = cupy.asarray(blobs(rng, 3000, 6, spread=3))
    models = [KMeans(20, init=X[i : i + 20], tol=0, max_iter=20).fit(X) for i in (0, 20)]
    again = KMeans(20, init=X[:20], tol=0, max_iter=20).fit(X)
    assert len(graphs) == 3
    assert_same(cupy, models[0], again)


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("kind", ["blobs", "few different rows", "weights, some 0", "order as it stands"])
def test_rounds_of_k_means_plus_plus(cupy, backend, graphs, rng, kind, together, monkeypatch):
    """The same rows, and as many random numbers, however many rounds come between two looks."""
    X, weights = blobs(rng, 1200, 6, n_clusters=100), rng.uniform(size=1200)
    order = None if kind.startswith("order") else cupy.asarray(rng.permutation(1200))
    if kind.startswith("few"):
        X = np.repeat(X[:150], 8, axis=0)
    if kind.startswith("weights"):
        weights[::3] = 0
    X, weights = cupy.asarray(X), cupy.asarray(weights)
    frame, how = moments(X, weights, 2**28), greedy.method(110, cupy.zeros(6))._replace(most_distances=1200 * 6 * 5)
    drawn = [np.random.RandomState(0), np.random.RandomState(0)]
    monkeypatch.setattr(backend._cupy_seeding, "MOST_TOGETHER", together)
    found = greedy.greedy_rows(X, weights, frame, how, drawn[0].random_sample, order)
    assert len(graphs) == 1
    expected = greedy.greedy_rows.portable(X, weights, frame, how, drawn[1].random_sample, order)
    cupy.testing.assert_array_equal(found, expected)
    assert drawn[0].uniform() == drawn[1].uniform()
    without_graphs(backend, monkeypatch)
    again = greedy.greedy_rows(X, weights, frame, how, np.random.RandomState(0).random_sample, order)
    cupy.testing.assert_array_equal(found, again)
    assert len(graphs) == 1


def test_waits_of_k_means_plus_plus(cupy, rng, monkeypatch):
    """Once for several rounds, as soon as all of these draw as many candidates."""
    gpusim = pytest.importorskip("gpusim")
    monkeypatch.setattr(greedy, "MAX_DISTANCES", 2000 * 5 * 8)
    X, waits = cupy.asarray(rng.uniform(size=(2000, 6))), []
    for k in (50, 150, 250):
        kmeans_plusplus(X, k, random_state=0)
        with gpusim.sync_counts() as counts:
            kmeans_plusplus(X, k, random_state=0)
        waits.append(counts.waits)
    assert waits[0] <= 25
    assert waits[2] - waits[1] <= 6, "more than 12 rounds"


def test_fits_in_threads(cupy, graphs, rng):
    """Each captures in a stream of its own, and launches in that which is current for it."""
    X = cupy.asarray(blobs(rng, 3000, 6, spread=3))
    model = KMeans(20, random_state=0, tol=0, max_iter=20)
    expected, found = clone(model).fit(X), []

    def fit():
        with cupy.cuda.Stream(non_blocking=True) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(clone(model).fit(X))
            stream.synchronize()

    cupy.cuda.Device().synchronize()
    threads = [threading.Thread(target=fit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        assert_same(cupy, one, expected)


def test_where_there_is_no_memory_for_a_graph(cupy, backend, rng, monkeypatch):
    """Iterations are launched one by one."""
    X = cupy.asarray(blobs(rng, 3000, 6, spread=3))
    model = KMeans(20, init=X[:20], tol=0, max_iter=40)
    expected = clone(model).fit(X)
    pool, asked = cupy.cuda.MemoryPool, []

    def exhausted(allocator):
        def none(n_bytes):
            asked.append(n_bytes)
            raise cupy.cuda.memory.OutOfMemoryError(n_bytes, 0, 0)

        return pool(none)

    monkeypatch.setattr(cupy.cuda, "MemoryPool", exhausted)
    assert_same(cupy, clone(model).fit(X), expected)
    assert asked


def test_memory_of_an_allocator_that_has_one_block_for_all(cupy, backend, graphs, rng, monkeypatch):
    """What it gives begins amid the block."""
    rows = blobs(rng, 3000, 6, spread=3)
    model = KMeans(20, init=rows[:20], tol=0, max_iter=20)
    expected = clone(model).fit(cupy.asarray(rows))
    block, n_given = cupy.cuda.Memory(2**27), [0]

    def take(n_bytes):
        n_given.append(n_given[-1] + -(-n_bytes // 512) * 512)
        return cupy.cuda.MemoryPointer(block, n_given[-2])

    graphs.clear()
    with cupy.cuda.using_allocator(take):
        X = cupy.asarray(rows)
        found = clone(model).fit(X)
        assert_same(cupy, found, expected)
        np.testing.assert_array_equal(X.get(), rows)
    assert graphs
    assert None not in graphs


def test_a_graph_is_gone_when_its_run_is_over(cupy, backend, graphs, rng, monkeypatch):
    """What comes after the iterations has its memory."""
    X, left = cupy.asarray(blobs(rng, 3000, 6, spread=3)), []
    monkeypatch.setattr(_cupy_graph().Graph, "__del__", lambda graph: left.append("graph"))
    inertia = Run.inertia
    monkeypatch.setattr(Run, "inertia", lambda run: (graphs.clear(), left.append("inertia"), inertia(run))[-1])
    KMeans(20, init=X[:20], tol=0, max_iter=40).fit(X)
    assert left == ["graph", "inertia"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_captured_function_raises(cupy, backend, error):
    """It is raised, and the allocator and the stream are those of before."""
    before = cupy.cuda.get_current_stream(), cupy.cuda.get_allocator()
    used = cupy.get_default_memory_pool().used_bytes()

    def failing():
        cupy.zeros(3)
        raise error

    with pytest.raises(error):
        _cupy_graph().captured(failing)
    assert (cupy.cuda.get_current_stream(), cupy.cuda.get_allocator()) == before
    assert cupy.get_default_memory_pool().used_bytes() == used
    cupy.testing.assert_array_equal(cupy.zeros(3) + 1, [1, 1, 1])


def test_a_function_that_asks_for_results_cannot_be_captured(cupy, backend):
    """That is an error of ours, not one to go on from."""
    x = cupy.zeros(3)
    with pytest.raises(RuntimeError, match="captur"):
        _cupy_graph().captured(x.get)


def test_an_interruption_while_a_graph_is_captured(cupy, backend, rng, monkeypatch):
    X, compare, n_calls = cupy.asarray(blobs(rng, 3000, 6, spread=3)), backend.passes.compare, []

    def interrupted(*given):
        n_calls.append(1)
        if len(n_calls) == 5:  # four are launched before
            assert cupy.cuda.get_current_stream().is_capturing()
            raise KeyboardInterrupt
        return compare(*given)

    model = KMeans(20, init=X[:20], tol=0, keep_interrupted=True)
    expected = clone(model).set_params(max_iter=4).fit(X)
    monkeypatch.setattr(backend.passes, "compare", interrupted)
    found = clone(model).fit(X)
    for name in ("labels_", "cluster_centers_", "inertia_", "n_iter_"):
        np.testing.assert_array_equal(*(cupy.asnumpy(getattr(m, name)) for m in (found, expected)), err_msg=name)
