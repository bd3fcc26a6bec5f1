"""The CUDA path through CuPy, on a GPU or on the stand-in for one (CONTRIBUTING.md)."""

import argparse
import warnings

import numpy as np
import pytest
from conftest import blobs, moments, unbounded
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from test_bounds import SHAPES, check_bounded_step

from benchmarks import gpu, gpu_constants, gpu_peers, gpu_problems, gpu_run, gpu_variants
from kmeans_xp import KMeans, KMeansSweep, arrays, bounds, cuda, devices, kmeans_plusplus, steps
from kmeans_xp.algorithms import ALGORITHMS, Bounded
from kmeans_xp.frame import frame_at
from kmeans_xp.metric import EUCLIDEAN, Cosine

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]


@pytest.fixture(params=["tf32", "float16"])
def products(backend, request, monkeypatch):
    """What tensor cores multiply."""
    monkeypatch.setattr(backend._cuda, "PRODUCTS", request.param)
    return request.param


def job(cupy, rng, shape, dtype, tile_bytes=2**28):
    n, d, k = shape
    X = cupy.asarray((blobs(rng, n, d, n_clusters=6) + 5).astype(dtype))
    weights = cupy.asarray(rng.uniform(size=n))
    frame = moments(X, weights, tile_bytes)
    return X, weights, frame, frame.enter(X[rng.integers(n, size=k)])


def assert_close(ours, theirs, dtype):
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        one, other = one.get(), other.get()
        scale = max(1, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=scale * (1e-12 if dtype == "float64" else 1e-6))


# Rows, features and clusters around the sizes of the tiles in the kernels
KERNEL_SHAPES = [
    *((1, 1, 1), (2, 300, 1), (127, 15, 2), (128, 16, 32), (129, 17, 33), (257, 3, 31), (1000, 2, 300), (700, 40, 129)),
    *((5000, 1, 4), (64, 64, 64), (65, 33, 65)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", KERNEL_SHAPES, ids=str)
def test_steps_equal_the_portable_ones(cupy, backend, rng, shape, dtype):
    X, weights, frame, centers = job(cupy, rng, shape, dtype)
    labels = steps.assign(X, centers, frame)
    twin = steps.assign.portable(X, centers, frame)
    squares = [steps.sq_distances_to_own.portable(X, of, centers, frame).get() for of in (labels, twin)]
    tie = (1e-13 if dtype == "float64" else 1e-5) * frame.spread * shape[1]
    np.testing.assert_allclose(*squares, rtol=0, atol=tie, err_msg="labels that differ are ties")
    assert labels.dtype == cupy.int32
    assert cupy.mean(labels == twin) > 0.99
    assert_close(
        [steps.sq_distances_to_own(X, twin, centers, frame)],
        [steps.sq_distances_to_own.portable(X, twin, centers, frame)],
        "float64",
    )
    k = shape[2]
    assert_close(steps.update(X, weights, twin, k, frame), steps.update.portable(X, weights, twin, k, frame), dtype)
    result = steps.lloyd_step(X, weights, centers, frame)
    cupy.testing.assert_array_equal(result[0], labels)
    assert_close(result[1:], steps.update(X, weights, labels, k, frame), dtype)


def without_tensor_cores(backend, monkeypatch):
    return monkeypatch.setattr(backend.passes, "CERTAIN", dict.fromkeys(backend.passes.CERTAIN, lambda *_: None))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(1000, 33, 50), (5, 1, 1), (129, 150, 300), (3000, 8, 20)], ids=str)
def test_labels_of_tensor_cores_are_those_without_them(cupy, backend, rng, shape, dtype, products, monkeypatch):
    """They find most labels, and no other ones."""
    X, weights, frame, centers = job(cupy, rng, shape, dtype)
    kernels = backend._kernels(X, frame.distance_dtype)
    assert any(name.startswith("relabel_half") for name in kernels) == (products == "float16")
    state = unbounded(X, weights)
    before = np.zeros(shape[2])
    assert backend.passes.CERTAIN[products](kernels, centers, frame, cupy.asarray(before)) is not None
    found, slack = (array.copy() for array in state)
    counts = backend.passes.compare(kernels, X, centers, frame, found, slack, cupy.asarray(before))
    assert [int(count) for count in counts] == [shape[0], shape[0]]
    without_tensor_cores(backend, monkeypatch)
    expected, exact_slack = (array.copy() for array in state)
    backend.passes.compare(kernels, X, centers, frame, expected, exact_slack, cupy.asarray(before))
    cupy.testing.assert_array_equal(found, expected)
    small = (1e-12 if dtype == "float64" else 1e-4) * frame.spread**0.5
    assert (slack <= exact_slack + small).all()


@pytest.mark.parametrize("shape", [(1000, 33, 50), (129, 150, 300)], ids=str)
def test_labels_are_the_same_when_the_tiles_of_the_centers_take_turns(cupy, backend, rng, shape, monkeypatch):
    X, _, frame, centers = job(cupy, rng, shape, "float32")
    expected = steps.assign(X, centers, frame)
    width, (_, stay), shared = backend._cuda.plan_certain(
        backend.passes.device(), *shape[1:], np.dtype(frame.distance_dtype)
    )
    monkeypatch.setattr(backend._cuda, "plan_certain", lambda *_: (width, (1, stay), shared))
    cupy.testing.assert_array_equal(steps.assign(X, centers, frame), expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("d", "k", "dtype"), [(5, 9, "float64"), (40, 33, "float32"), (100, 130, "float16"), (150, 20, "float32")]
)
def test_fits_by_float16_are_those_by_tf32(cupy, backend, rng, d, k, dtype, monkeypatch):
    X, fits = cupy.asarray(blobs(rng, 900, d).astype(dtype)), []
    for products in ("tf32", "float16"):
        monkeypatch.setattr(backend._cuda, "PRODUCTS", products)
        fits.append(KMeans(k, random_state=0, max_iter=10).fit(X))
    cupy.testing.assert_array_equal(fits[0].labels_, fits[1].labels_)
    cupy.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e7])
def test_float16_leaves_no_more_rows_to_the_exact_kernel_than_tf32(cupy, backend, rng, scale):
    X, _, frame, centers = job(cupy, rng, (1000, 20, 40), "float32")
    X, frame, centers = (X * scale).astype("float32"), moments(X * scale, cupy.ones(1000), 2**28), centers * scale
    left = []
    for products, certain in backend.passes.CERTAIN.items():
        kernels = backend._kernels_on(0, np.dtype("float32"), products)
        uncertain, labels = (cupy.full(1000, -1, dtype="int32") for _ in range(2))
        n_uncertain, counts = (cupy.zeros(n, dtype="uint64") for n in (1, 2))
        label = certain(kernels, centers, frame, cupy.zeros(40))
        label(X, (None, None), (labels, None), counts, (uncertain, n_uncertain))
        assert int(cupy.count_nonzero(labels < 0)) == int(n_uncertain[0])
        left.append(int(n_uncertain[0]))
    assert left[1] <= left[0] < 500


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_bounds_are_their_portable_twin(rng, dtype, d, k):
    check_bounded_step(rng, dtype, d, k, "cupy")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("counts", [("int32", "int64"), ("uint64", "float64"), ("int64", "int32")])
@pytest.mark.parametrize("spread", [1e4, 0.0])
@pytest.mark.parametrize("metric", [EUCLIDEAN, Cosine(False)], ids=["euclidean", "cosine"])
def test_the_move_is_its_portable_twin(cupy, rng, counts, spread, metric):
    """Counts of any type; sums that are columns of others; an empty cluster; an inertia that rounding made negative."""
    old = cupy.asarray(rng.normal(size=(9, 5)))
    frame = frame_at(cupy.asarray(rng.normal(size=5)), spread, cupy.zeros((1, 5), dtype="float32"), 2**20)
    weights = cupy.asarray(np.array([0.0, *rng.uniform(size=8)]))
    sums = cupy.asarray(rng.normal(size=(9, 12)))[:, 1:11:2] * weights[:, None]
    counts = [cupy.asarray(1503, dtype=dtype) for dtype in counts]
    ours, theirs = (move(sums, weights, old, *counts, frame, metric) for move in (steps.move, steps.move.portable))
    cupy.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6 if metric.spherical else 0, atol=0)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12)


@pytest.mark.usefixtures("backend")
def test_weights_that_are_not_contiguous(cupy, rng):
    X, both = cupy.asarray(blobs(rng, 600, 8)), cupy.asarray(rng.uniform(size=(600, 2)))
    fits = [KMeans(8, random_state=0).fit(X, sample_weight=w) for w in (both[:, 0], both[:, 0].copy())]
    cupy.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_float64_rows_far_from_zero(cupy, rng, offset):
    """Tensor cores must not see them rounded before the origin is subtracted."""
    X = rng.normal(size=(900, 20)) + offset
    init = X[:30]
    ours, expected = (KMeans(30, init=x[:30], max_iter=3, tol=1e9).fit(x) for x in (cupy.asarray(X), X))
    np.testing.assert_array_equal(ours.labels_.get(), expected.labels_)
    np.testing.assert_allclose(ours.inertia_, expected.inertia_)
    assert ours.inertia_ < 900 * 20
    np.testing.assert_array_equal(ours.predict(init), expected.predict(init))


@pytest.mark.usefixtures("products")
def test_equal_centers_give_the_lowest_label(cupy, backend):
    """Exact ties: whole numbers, and every center many times, over the lanes and tiles of the kernel."""
    X = cupy.arange(400, dtype="float64").reshape(-1, 2) % 7
    frame = frame_at(cupy.zeros(2), 1.0, X, 2**28)
    centers = cupy.tile(cupy.asarray([[3.0, 1.0], [1.0, 5.0], [6.0, 6.0]]), (100, 1))
    assert set(steps.assign(X, centers, frame).get()) == {0, 1, 2}


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("view", ["columns", "strided rows", "transposed", "misaligned"])
def test_rows_as_they_lie(cupy, rng, view):
    base = rng.normal(size=(300, 12)).astype("float32")
    views = {
        "columns": lambda x: x[:, 3:8],
        "strided rows": lambda x: x[::3],
        "transposed": lambda x: x.T,
        "misaligned": lambda x: x.ravel()[1:3001].reshape(300, 10),
    }
    X = views[view](cupy.asarray(base))
    both = rng.uniform(size=2 * len(X))
    device_weights, weights = cupy.asarray(both)[::2], both[::2]
    init = base.ravel()[: 4 * X.shape[1]].reshape(4, -1)
    ours = KMeans(4, init=init, max_iter=5, tol=1e9).fit(X, sample_weight=device_weights)
    theirs = KMeans(4, init=init, max_iter=5, tol=1e9).fit(
        np.ascontiguousarray(views[view](base)), sample_weight=weights
    )
    np.testing.assert_array_equal(ours.labels_.get(), theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_.get(), theirs.cluster_centers_, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("products")
def test_small_tiles_give_the_same(cupy, backend, rng, monkeypatch):
    monkeypatch.setattr(backend._cuda, "MIN_TILE", 64)
    X, weights, frame, centers = job(cupy, rng, (1000, 5, 9), "float64")
    small = moments(X, weights, 100 * backend._cuda.ROW_BYTES)
    one, other = (steps.lloyd_step(X, weights, centers, of) for of in (frame, small))
    cupy.testing.assert_array_equal(one[0], other[0])
    assert_close(one[1:], other[1:], "float64")


@pytest.mark.usefixtures("products")
def test_the_same_bits_from_run_to_run(cupy, rng):
    X = cupy.asarray(blobs(rng, 3000, 6, dtype="float32"))
    first, second = (KMeans(20, random_state=0, max_iter=8, tol=1e9).fit(X) for _ in range(2))
    cupy.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    assert first.inertia_ == second.inertia_


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("sums", ["all", "moved"])
@pytest.mark.parametrize("by", ["graphs", "launches"])
@pytest.mark.parametrize(("algorithm", "n_launches", "of_a_look"), [("lloyd", 8, 3), ("elkan", 10, 4)])
def test_waits_and_launches_of_iterations(
    cupy, backend, rng, request, sums, algorithm, n_launches, of_a_look, by, monkeypatch
):
    """Counted by the stand-in: copies from the device, which stall the host, after 2, 4, 8, 16, 24, ... iterations.

    A graph has two iterations: it is captured at the third look, and takes the place of all launches from there on.
    """
    gpusim = pytest.importorskip("gpusim")
    moved = request.getfixturevalue("moved") if sums == "moved" else []
    if by == "launches":
        monkeypatch.setattr(backend._cupy_runs, "WORTH_A_GRAPH", 99)
    X = cupy.asarray(rng.uniform(size=(3000, 6)))
    init = X[:20]

    def asked(max_iter):
        model = KMeans(20, init=init, tol=0, max_iter=max_iter, algorithm=algorithm)
        with gpusim.sync_counts() as counts, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X)
        assert model.n_iter_ == max_iter
        return np.array([counts.to_host, counts.waits, counts.launches, counts.to_device, counts.graphs])

    asked(24)  # compiles, and checks what was compiled
    moved.clear()
    one, two, eight, many = map(asked, (1, 2, 8, 24))
    np.testing.assert_array_equal((two - one)[[0, 1, 3, 4]], 0)
    np.testing.assert_array_equal((eight - two)[[0, 1, 3]], [2, 2, 0])
    launched, graphs = (16 * n_launches + 2 * of_a_look, 0) if by == "launches" else (2 * (of_a_look + 3), 8)
    np.testing.assert_array_equal(many - eight, [2, 2, launched, 0, graphs])
    assert eight[4] == (2 if by == "graphs" else 0)
    n_moved = 28 if by == "launches" else 8  # of each fit two are launched and two are captured
    assert len(moved) == (n_moved if sums == "moved" else 0), "from the third iteration on"


def test_no_more_is_launched_than_takes_a_moment(backend):
    """Whatever the size of the data; and looks are at the same iterations, whatever makes a run stop in between."""
    frame = argparse.Namespace(distance_dtype="float32")

    def launched(done, n_clusters=9, most=10**6, dense_left=0, size=10**6):
        state = argparse.Namespace(n_done=done, dense_left=dense_left)
        return backend._cupy_runs._n_to_launch(state, argparse.Namespace(size=size), n_clusters, frame, most)

    assert [launched(done) for done in range(10)] == [2, 1, 2, 1, 4, 3, 2, 1, 8, 7]
    assert [launched(done) for done in (15, 16, 17, 31, 32, 40)] == [1, 8, 7, 1, 8, 8]
    assert launched(16, most=3) == launched(16, dense_left=3) == 3
    assert launched(16, size=2**31, n_clusters=1000) == 1
    assert launched(16, size=2**27, n_clusters=192) == 4


def by_parts(backend, monkeypatch):
    """One iteration at a time, by the portable function."""
    monkeypatch.delattr(backend, "iterations")


RESULTS = "labels_", "cluster_centers_", "inertia_", "cluster_sizes_", "n_iter_", "converged_"


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("kind", ["blobs", "grid", "empty clusters", "weights", "float16", "cosine"])
@pytest.mark.parametrize("stopping", [{"tol": 0}, {"tol": 1e-2}, {"tol": 0, "max_iter": 5}, {"max_iter": 1}], ids=str)
@pytest.mark.filterwarnings("ignore:KMeans did not converge", "ignore:Number of distinct clusters")
def test_several_iterations_at_a_time_are_one_at_a_time(cupy, backend, rng, algorithm, kind, stopping, monkeypatch):
    """The same bits, also where what has been launched goes on beyond the end; and for those who watch."""
    X, weights, init = rows_of(kind, rng)
    weights = None if weights is None else cupy.asarray(weights)
    if kind == "float16":
        X, init = X.astype("float16"), init.astype("float32")
    X, rounds, launched = cupy.asarray(X), [], backend._cupy_runs._n_to_launch
    metric = "cosine" if kind == "cosine" else "euclidean"
    model = KMeans(9, init=init, algorithm=algorithm, metric=metric, zero_rows="raise", **stopping)
    noting = lambda *given: rounds.append(launched(*given)) or rounds[-1]  # noqa: E731
    monkeypatch.setattr(backend._cupy_runs, "_n_to_launch", noting)
    found = clone(model).fit(X, sample_weight=weights)
    assert max(rounds) == min(8, stopping.get("max_iter", 8)) or found.n_iter_ <= 8
    watched = clone(model).set_params(on_iteration=lambda _: None).fit(X, sample_weight=weights)
    by_parts(backend, monkeypatch)
    expected = clone(model).fit(X, sample_weight=weights)
    for name in RESULTS:
        for other in found, watched:
            np.testing.assert_array_equal(*(cupy.asnumpy(getattr(m, name)) for m in (other, expected)), err_msg=name)
    for name in ("inertia", "center_shift", "n_changed"):
        assert found.history_[name] == watched.history_[name] == expected.history_[name]


@pytest.fixture
def moved(backend, monkeypatch):
    """Sums by the rows that change cluster from the third iteration on: how often."""
    seen, brought = [], backend.passes.brought_up_to_date
    monkeypatch.setattr(backend._cupy_runs, "MANY_NUMBERS", 0)
    monkeypatch.setattr(backend._cupy_runs, "FEW_CHANGED", 1.0)
    monkeypatch.setattr(backend.passes, "brought_up_to_date", lambda *given: seen.append(1) or brought(*given))
    return seen


def rows_of(kind, rng):
    """Rows, weights, first centers."""
    X, weights = blobs(rng, 1500, 3, n_clusters=9, spread=2), None
    if kind == "grid":
        X = rng.integers(0, 4, size=(1500, 3)).astype(float)
    if kind == "far apart":
        X = X * 10.0 ** rng.integers(-30, 9, size=X.shape)
    if kind == "outlier":
        X[5] = 1e6
    init = X[:9].copy()
    if kind == "empty clusters":
        init[6:] += 1e4
    if kind == "weights":
        weights = rng.uniform(size=1500) * (rng.uniform(size=1500) < 0.3) * 10.0 ** rng.integers(-12, 3, 1500)
    return (X.astype("float32"), weights, init.astype("float32")) if kind == "float32" else (X, weights, init)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("stopping", [{"tol": 0}, {"tol": 0, "max_iter": 5}, {}], ids=str)
@pytest.mark.parametrize(
    "kind", ["blobs", "float32", "grid", "empty clusters", "weights", "cosine", "far apart", "outlier"]
)
@pytest.mark.filterwarnings("ignore:KMeans did not converge", "ignore:Number of distinct clusters")
def test_sums_of_rows_that_change_cluster(cupy, backend, rng, algorithm, stopping, kind, moved, monkeypatch):
    """Fits find what they find by sums of all rows, to the bit; and on the way there, up to rounding."""
    X, weights, init = rows_of(kind, rng)
    metric = "cosine" if kind == "cosine" else "euclidean"
    model = KMeans(9, init=init, algorithm=algorithm, metric=metric, zero_rows="raise", **stopping)
    job = cupy.asarray(X), None, None if weights is None else cupy.asarray(weights)
    found = clone(model).fit(*job)
    assert moved or found.n_iter_ <= 2
    watched = clone(model).set_params(on_iteration=lambda _: None).fit(*job)
    monkeypatch.setattr(backend._cupy_runs, "MANY_NUMBERS", 2**40)
    n_moved = len(moved)
    expected = clone(model).fit(*job)
    assert len(moved) == n_moved
    for name in RESULTS:
        for other in found, watched:
            np.testing.assert_array_equal(*(cupy.asnumpy(getattr(m, name)) for m in (other, expected)), err_msg=name)
    for name in ("inertia", "center_shift", "n_changed"):
        assert found.history_[name] == watched.history_[name]
    assert found.history_["n_changed"] == expected.history_["n_changed"]
    np.testing.assert_allclose(found.history_["inertia"], expected.history_["inertia"], rtol=1e-9)


@pytest.mark.usefixtures("backend")
def test_rows_are_summed_anew_when_many_change(cupy, backend, rng, moved, monkeypatch):
    """What decides are the numbers of rows at the looks."""
    monkeypatch.setattr(backend._cupy_runs, "FEW_CHANGED", 1 / 32)
    monkeypatch.setattr(backend._cupy_runs, "WORTH_A_GRAPH", 99)  # whose ways are not seen
    X = cupy.asarray(blobs(rng, 3000, 3, n_clusters=9, spread=2))
    ways, totals = [], backend.passes.totals
    monkeypatch.setattr(backend.passes, "totals", lambda *given: ways.append("all") or totals(*given))
    brought = backend.passes.brought_up_to_date
    monkeypatch.setattr(backend.passes, "brought_up_to_date", lambda *given: ways.append("moved") or brought(*given))
    model = KMeans(30, init=X[:30], tol=0, algorithm="lloyd").fit(X)
    few, expected = [n <= 3000 / 32 for n in model.history_["n_changed"]], []
    assert model.n_iter_ > 24
    for i in range(24):
        if i in (2, 4, 8, 16):
            way = "moved" if few[i - 1] else "all"
        expected.append("all" if i < 2 else way)
    assert ways[1:25] == expected, "the first are those of the frame"
    assert len(set(expected)) == 2


@pytest.mark.usefixtures("backend")
def test_sums_in_tiles_and_without_memory(cupy, backend, rng, moved, monkeypatch):
    """Tiles give the same, and where there is no memory for more, all rows are summed."""
    X = cupy.asarray(blobs(rng, 3000, 3, n_clusters=9, spread=2))
    model = KMeans(9, init=X[:9], tol=0)
    expected, n_moved = clone(model).fit(X), len(moved)
    monkeypatch.setattr(backend._cuda, "MIN_TILE", 500)
    with monkeypatch.context() as patch:
        patch.setattr(backend._cuda, "MOST_ROWS", 700)
        tiled = clone(model).fit(X[:, ::-1])
    assert len(moved) > n_moved
    np.testing.assert_array_equal(tiled.labels_.get(), clone(model).fit(X[:, ::-1]).labels_.get())

    def short_of_memory(*_):
        raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)

    n_moved = len(moved)
    monkeypatch.setattr(backend.passes, "scales", short_of_memory)
    found = clone(model).fit(X)
    assert len(moved) == n_moved
    for name in RESULTS:
        np.testing.assert_array_equal(*(cupy.asnumpy(getattr(m, name)) for m in (found, expected)), err_msg=name)


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize("bad", [np.nan, 1e200])
def test_x_that_goes_bad_while_sums_are_brought_up_to_date(cupy, backend, rng, bad, monkeypatch):
    X, looks = cupy.asarray(blobs(rng, 3000, 3, n_clusters=9, spread=2)), []
    several = backend.iterations

    def spoiling(X, *args):
        if len(looks) == 2:
            X[7, 1] = bad
        looks.append(several(X, *args))
        return looks[-1]

    monkeypatch.setattr(backend, "iterations", spoiling)
    trouble = "in row 7: it was changed while" if np.isnan(bad) else "too large"
    with pytest.raises(ValueError, match=trouble):
        KMeans(9, init=X[:9].copy(), tol=0).fit(X)


@pytest.mark.usefixtures("backend")
def test_bounds_that_do_not_pay_are_left(cupy, backend, rng, monkeypatch):
    """All rows are compared once, then twice, and then bounds are tried until the next look."""
    X, bounded = cupy.asarray(rng.uniform(size=(2000, 9))), []
    compare = backend.passes.compare

    def noting(kernels, X, centers, frame, labels, slack=None, path=None, look=None):
        bounded.append(slack is not None)
        return compare(kernels, X, centers, frame, labels, slack, path, look)

    monkeypatch.setattr(backend.passes, "compare", noting)
    monkeypatch.setattr(backend._cupy_runs, "WORTH_A_GRAPH", 99)
    monkeypatch.setattr(ALGORITHMS["elkan"].__class__, "start", Bounded(0.01).start)
    model = KMeans(300, init=X[:300], algorithm="elkan", tol=0, max_iter=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    assert "".join("b" if one else "-" for one in bounded[:10]) == "bb-bbbbb--"


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_an_interruption_among_several_iterations(cupy, backend, rng, algorithm, monkeypatch):
    """What was given before is kept, and of what was not given nothing."""
    X = cupy.asarray(blobs(rng, 1500, 3, n_clusters=9, spread=2))
    several, given = backend.iterations, []

    def interrupted(X, sample_weight, centers, state, *args):
        if sum(given) == 8:
            state.labels[::2] = 0
            raise KeyboardInterrupt
        found = several(X, sample_weight, centers, state, *args)
        given.append(len(found[4]))
        return found

    model = KMeans(9, init=X[:9], tol=0, keep_interrupted=True, algorithm=algorithm)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "iterations", interrupted)
        with pytest.warns(ConvergenceWarning, match="interrupted after 8 iterations"):
            model.fit(X)
    assert given == [2, 2, 4]
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        expected = clone(model).set_params(max_iter=8).fit(X)
    for name in ("labels_", "cluster_centers_", "inertia_"):
        np.testing.assert_array_equal(*(cupy.asnumpy(getattr(m, name)) for m in (model, expected)))


@pytest.mark.usefixtures("backend")
def test_x_that_goes_bad_among_several_iterations_is_named(cupy, backend, rng, monkeypatch):
    X, looks = cupy.asarray(blobs(rng, 3000, 3, n_clusters=9, spread=2).astype("float32")), []
    several = backend.iterations

    def spoiling(X, *args):
        if len(looks) == 2:
            X[7, 1] = np.nan
        looks.append(several(X, *args))
        return looks[-1]

    monkeypatch.setattr(backend, "iterations", spoiling)
    with pytest.raises(ValueError, match="X contains NaN or infinity in row 7: it was changed while"):
        KMeans(9, init=X[:9].copy(), tol=0).fit(X)
    assert len(looks[-1][4]) == 1, "the device notes it at once"


def test_kernels_that_do_not_compile_give_one_warning(cupy, backend, rng, monkeypatch):
    def broken(**_):
        raise RuntimeError("Failed to find CUDA headers")

    caches = backend._kernels_on, backend._plain_kernels
    for cache in caches:
        cache.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(cupy, "RawModule", broken)
            X = cupy.asarray(blobs(rng, 200, 3))
            with pytest.warns(RuntimeWarning, match="Failed to find CUDA headers") as seen:
                model = KMeans(4, random_state=0).fit(X)
        assert len(seen) == 1
        np.testing.assert_allclose(model.inertia_, KMeans(4, random_state=0).fit(X.get()).inertia_)
    finally:
        for cache in caches:
            cache.cache_clear()


def broken(grid, block, arguments, **_):
    """A kernel that writes something else into its last arrays, other than counts."""
    for result in [x for x in arguments if hasattr(x, "fill") and x.ndim and x.dtype != "uint64"][-2:]:
        result[...] = (arrays.namespace(result).arange(result.size) * 0.618 % 5).reshape(result.shape)


broken.max_dynamic_shared_size_bytes = 2**20


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_kernels_that_compute_something_else_are_noticed(backend, dtype, products):
    dtype = np.dtype(dtype)
    kernels = backend._kernels_on(0, dtype, products)
    assert backend._cuda_check.difference(backend.PASSES, kernels, dtype) is None
    narrow = backend._cuda.NARROW["float64" if dtype == "float64" else "float32"]
    others = ["stale_rows", "add_runs", "scale_columns", "add_moved"]
    if dtype != "float16":
        others += [f"move_problems_{dtype.name}", "sum_up_problems"]
    others += [f"tile_centers_{width}" for width in (narrow, 80) if products == "tf32"]
    names = {*backend._cuda.instances(dtype.name, products), *others} - {"tile_halves"}  # or nothing would be certain
    for name in sorted(names):
        assert "wrong" in backend._cuda_check.difference(backend.PASSES, {**kernels, name: broken}, dtype), name


@pytest.mark.parametrize(
    "name",
    [
        *("move_centers_float64", "sum_up", "weigh_trials", "choose_trial", "coefficients_float32"),
        *("shifts", "advance_paths", *cuda.SORT),
    ],
)
def test_plain_kernels_that_compute_something_else_are_noticed(backend, name):
    kernels = backend._plain_kernels(0)
    assert backend._cuda_check.plain_difference(backend.PASSES, kernels) is None
    assert "wrong" in backend._cuda_check.plain_difference(backend.PASSES, {**kernels, name: broken})


def test_a_tile_without_memory_is_halved(cupy, backend, rng, monkeypatch):
    monkeypatch.setattr(backend._cuda, "MIN_TILE", 100)
    X, weights, frame, centers = job(cupy, rng, (1000, 5, 9), "float64")
    expected = steps.lloyd_step(X, weights, centers, frame)
    allowed, sums = 300, backend.passes.sums

    def short_of_memory(kernels, tile, *rest):
        if len(tile) > allowed:
            raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)
        return sums(kernels, tile, *rest)

    monkeypatch.setattr(backend.passes, "sums", short_of_memory)
    assert_close(steps.lloyd_step(X, weights, centers, frame), expected, "float64")
    allowed = 50
    with pytest.raises(MemoryError, match="100 rows at a time: some 4800 bytes are needed"):
        steps.lloyd_step(X, weights, centers, frame)


def test_a_portable_step_without_memory_takes_fewer_rows(cupy, rng, monkeypatch):
    """Seeding and `transform` have no kernels of their own."""
    X = cupy.asarray(blobs(rng, 1000, 5))
    model = KMeans(9, random_state=0).fit(X)
    expected, squares, allowed = model.transform(X), steps.sq_distances, 40

    def short_of_memory(tile, centers):
        if max(tile.shape[0], centers.shape[0]) > allowed:
            raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)
        return squares(tile, centers)

    monkeypatch.setattr(steps, "sq_distances", short_of_memory)
    cupy.testing.assert_allclose(model.transform(X), expected, rtol=1e-12)
    rows, expected = (kmeans_plusplus(x, 9, random_state=0)[1] for x in (X, X.get()))
    cupy.testing.assert_array_equal(rows, expected)
    allowed = 8
    with pytest.raises(MemoryError, match="for a single row of 5 features"):
        model.transform(X)


@pytest.mark.usefixtures("backend")
def test_half_precision_is_read_as_it_is(cupy, rng):
    X = cupy.asarray(blobs(rng, 3000, 6).astype("float16"))
    init = X[:20].astype("float32")
    for algorithm in ("lloyd", "elkan"):
        half, single = (KMeans(20, init=init, algorithm=algorithm).fit(x) for x in (X, X.astype("float32")))
        cupy.testing.assert_array_equal(half.labels_, single.labels_)
        cupy.testing.assert_array_equal(half.cluster_centers_, single.cluster_centers_)
        assert half.inertia_ == single.inertia_
        assert half.transform(X).dtype == "float32"
    on_host = KMeans(20, init=init, device="cpu").fit(X)
    assert on_host.transform(X).dtype == on_host.cluster_centers_.dtype == "float32"
    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes()
    half.predict(X)
    assert pool.total_bytes() - before < X.size * 4


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_other_device(cupy, rng, metric):
    """A fit there, of rows that are not contiguous here; a sweep of rows there."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    X = cupy.asarray(blobs(rng, 400, 6))[:, ::2]
    model = KMeans(4, random_state=0, metric=metric, device="cuda:1").fit(X)
    expected = KMeans(4, random_state=0, metric=metric).fit(X)
    for name in ("labels_", "cluster_centers_", "cluster_sizes_"):
        assert getattr(model, name).device.id == 0
        cupy.testing.assert_allclose(getattr(model, name), getattr(expected, name))
    for method in ("predict", "transform", "nearest_rows"):
        for one, other in zip(getattr(model, method)(X), getattr(expected, method)(X), strict=True):
            cupy.testing.assert_allclose(one, other, atol=1e-12)
    single = X.astype("float32")
    model = KMeans(4, random_state=0, metric=metric, device="cuda:1").fit(single)
    assert {part.device.id for part in (*model.nearest_centers(single, 2), *model.nearest_rows(single, 2))} == {0}
    there = devices.to_device(X, "cuda:1")
    criteria = {"criterion": "gap", "criteria": ["bic"], "n_references": 2}
    sweeps = [
        KMeansSweep([2, 3, 4], estimator=KMeans(metric=metric), random_state=0, **criteria).fit(x) for x in (X, there)
    ]
    assert sweeps[1].cluster_centers_.device.id == 1
    np.testing.assert_allclose(sweeps[0].results_["bic"], sweeps[1].results_["bic"])
    np.testing.assert_allclose(sweeps[0].results_["gap"], sweeps[1].results_["gap"])


def test_scratch_memory_is_what_was_estimated(cupy, backend, rng):
    """Measured with CuPy's pool (what a sort needs is the stand-in's there); bounded for any number of rows."""
    X = cupy.asarray(rng.normal(size=(200_000, 5)), dtype="float32")
    weights, n = cupy.ones(200_000), 200_000
    frame = moments(X, weights, 2**28)
    centers = frame.enter(X[:30])
    state = unbounded(X, weights)
    cupy.arange(8).sum(), steps.lloyd_step(X, weights, centers, frame)  # what stays: kernels, constants
    used = gpu.peak_bytes(lambda: bounds.bounded_step(X, weights, centers, (*state, cupy.zeros(30)), (0, 0), frame))
    assert used <= backend.scratch_bytes(n, 5, 30, frame.tile_bytes)
    for shape in ((10**7, 128, 1024), (10**9, 2, 8)):
        assert backend.scratch_bytes(*shape, arrays._DEVICE_TILE_BYTES) < 2**28 + 2**26


def measured(module, tmp_path, capsys, **options):
    """What a benchmark of tiny sizes writes. Times are not looked at, results are."""
    module.main(argparse.Namespace(quick=True, json=tmp_path / "results", **options))
    lines = gpu_run.read(tmp_path / "results")
    assert "these times mean nothing" in capsys.readouterr().out
    assert lines[0]["kind"] == "machine"
    assert gpu_run.case(lines[1]) in gpu_run.table(lines) or "problem" in lines[1]
    return lines[1:]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("backend")
def test_the_benchmark_runs(capsys, tmp_path):
    (found,) = measured(gpu, tmp_path, capsys)
    assert found["kind"] == "case"
    assert found["n_iter"] > 0
    assert found["torch_in"] is None or all(ratio > 0 for ratio in found["torch_in"].values())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("peer", ["plain CuPy", "torch"])
def test_the_benchmark_of_a_peer_runs(peer, capsys, tmp_path):
    if gpu_peers.missing(gpu_peers.PEERS[peer].module):
        pytest.skip(f"no {peer} on CUDA")
    (found,) = measured(gpu_peers, tmp_path, capsys, peer=peer)
    assert found["inertia"] == pytest.approx(1, abs=1e-4)
    assert found["fit_inertia"] > 0.9


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("backend")
def test_a_peer_that_fails_in_a_case_is_named(capsys, tmp_path, monkeypatch):
    peer = gpu_peers.Peer("cupy", lambda X, start, n_iter: 1 / 0, None)
    monkeypatch.setitem(gpu_peers.PEERS, "one", peer)
    (found,) = measured(gpu_peers, tmp_path, capsys, peer="one")
    assert found["problem"] == "ZeroDivisionError: division by zero"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_benchmark_of_constants_runs(backend, capsys, tmp_path, monkeypatch):
    values = {("cuda", "PRODUCTS"): ("float16",), ("runs", "MANY_NUMBERS"): (0,)}
    assert values.keys() < gpu_constants.VALUES.keys()
    used = backend._cuda.PRODUCTS, backend._cupy_runs.MANY_NUMBERS
    monkeypatch.setattr(gpu_constants, "VALUES", values)
    lines = measured(gpu_constants, tmp_path, capsys)
    assert [(line["constant"], line["value"]) for line in lines] == [
        ("cuda.PRODUCTS", "float16"),
        ("runs.MANY_NUMBERS", 0),
    ]
    assert all(line["inertia"] == pytest.approx(1) for line in lines)
    assert used == (backend._cuda.PRODUCTS, backend._cupy_runs.MANY_NUMBERS)


@pytest.mark.usefixtures("backend")
def test_the_benchmark_of_problems_runs(capsys, tmp_path):
    (found,) = measured(gpu_problems, tmp_path, capsys)
    assert found["same"]


def test_constants_that_are_measured_exist(backend):
    for module, name in gpu_constants.VALUES:
        modules = {
            "cuda": backend._cuda,
            "backend": backend,
            "runs": backend._cupy_runs,
            "seeding": backend._cupy_seeding,
        }
        assert hasattr(modules[module], name)


def test_the_benchmark_of_variants_runs(backend, capsys, tmp_path):
    for case in measured(gpu_variants, tmp_path, capsys):
        assert case["float16"]["uncertain"] <= case["tf32"]["uncertain"]
    assert backend._cuda.PRODUCTS == "tf32"


def test_pruning_is_used(cupy, backend, rng, monkeypatch):
    monkeypatch.setattr(backend, "PRUNING_SIZE", 0)
    X = cupy.asarray(blobs(rng, 4000, 8, n_clusters=20))
    weights = cupy.ones(4000)
    frame = moments(X, weights, 2**28)
    state = ALGORITHMS["auto"].start(X, weights, 20, frame)
    centers, active = frame.enter(X[:20]), []
    for _ in range(12):
        sums, mass, _, n_active = state.step(X, weights, centers, frame)
        labels = state.labels
        state.looked_at(int(n_active))
        active.append(int(n_active))
        cupy.testing.assert_array_equal(labels, steps.assign(X, centers, frame))
        centers = cupy.where(mass[:, None] > 0, sums / cupy.maximum(mass, 1)[:, None], centers)
    assert active[0] == 4000
    assert active[-1] < 1000


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "bool", "float16"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_narrow_rows_of_numpy_are_widened_on_the_device(cupy, rng, dtype, metric):
    """As kernels have them: with the results of float64, in whose place they are sent."""
    X = np.clip(20 * blobs(rng, 2000, 5) + (128 if dtype == "uint8" else 0), -128 if dtype != "uint8" else 0, 127)
    X = (X > 0) if dtype == "bool" else X.astype(dtype)
    X[~X.any(axis=1)] = True
    found, expected = (
        KMeans(6, random_state=0, metric=metric, device="cuda").fit(rows) for rows in (X, X.astype("float64"))
    )
    for name in ("cluster_centers_", "labels_", "inertia_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert type(found.cluster_centers_) is np.ndarray
    assert found.cluster_centers_.dtype == found.transform(X).dtype == np.float64
    np.testing.assert_array_equal(found.predict(X), expected.labels_)
    seen = []
    KMeans(3, n_init=1, device="cuda", init=lambda X, k, random_state: seen.append(X) or X[:k] * 2).fit(X)
    assert seen[0].dtype == np.float64


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "bool"])
def test_integers_of_cupy_become_float64(cupy, rng, dtype):
    X = cupy.asarray((20 * blobs(rng, 2000, 5)).astype("int64").astype(dtype))
    found, expected = (KMeans(6, random_state=0).fit(rows) for rows in (X, X.astype("float64")))
    assert found.cluster_centers_.dtype == cupy.float64
    cupy.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
    cupy.testing.assert_array_equal(found.predict(X), expected.labels_)
