"""The CUDA kernels one by one, on the CPU: their source behind a shim (ci/gpusim), threads in several orders.

`ci/cuda` runs this again under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and `ci/mutants` with
faults in the source, whose path is then in KMEANS_XP_CU.
"""

import functools
import os
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REQUIRED, brute_force

ROOT = Path(__file__).parent.parent
SOURCE = Path(os.environ.get("KMEANS_XP_CU", ROOT / "kmeans_xp" / "backends" / "cupy.cu"))
SIMULATOR = ROOT / "ci" / "gpusim"
SHAPES = {
    "float32": [(128, 128, 8, 8), (256, 32, 8, 4)],
    "float64": [(64, 64, 4, 4), (128, 32, 4, 4)],
}
TYPES = {"float32": "float", "float64": "double"}
PLAIN = ["label_by_scores", "sum_runs", "sq_distances_to_own"]
RELABEL = [(dtype, shape) for dtype, shapes in SHAPES.items() for shape in shapes]


@functools.cache
def module(seed):
    if not (SIMULATOR.exists() and sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("g++")):
        assert "cupy" not in REQUIRED, "to test the kernels, Linux on x86-64, g++ and ci/gpusim are required"
        pytest.skip("needs Linux on x86-64, g++ and ci/gpusim")
    sys.path.insert(0, str(SIMULATOR))
    from kernelsim import Module

    names = [name(*instance) for instance in RELABEL]
    names += [f"{kernel}<{kind}>" for kernel in PLAIN for kind in TYPES.values()]
    return Module(code=SOURCE.read_text(encoding="utf-8"), name_expressions=names, seed=seed)


def name(dtype, shape):
    return f"relabel<{TYPES[dtype]}, {', '.join(map(str, shape))}>"


@pytest.fixture(params=[0, 1, 2], ids="order{}".format)
def launch(request):
    """Launch a kernel by name; Python's int is `int`, as in backends/cupy.py."""
    kernels = module(request.param)

    def launch(name, grid, block, *arguments):
        arguments = tuple(np.int32(x) if isinstance(x, int) else x for x in arguments)
        kernels.get_function(name)(grid, block, arguments)

    return launch


def job(rng, n, d, k, dtype):
    X = rng.normal(size=(n, d)).astype(dtype)
    origin = rng.normal(size=d).astype(dtype)
    centers = rng.normal(size=(k, d)).astype(dtype)
    path = rng.uniform(size=k)
    return X, origin, centers, path


def relabel(launch, dtype, shape, X, origin, centers, path, labels, slack=None, rows=None, first=0):
    """Run the kernel. With `first`, the rows are numbered from there, as if that many more lay before them."""
    n, d = X.shape
    itemsize = X.dtype.itemsize
    sq_norms = np.vecdot(centers, centers)
    coefficient = X.dtype.type(20 * (d + 8) * np.finfo(dtype).eps)
    offset = np.array(coefficient * sq_norms.max())
    n_changed = np.zeros(1, dtype=np.uint64)
    at = [np.uintp(x.ctypes.data - first * size) for x, size in ((X, itemsize * d), (labels, 4))]
    slack = None if slack is None else np.uintp(slack.ctypes.data - 8 * first)
    if rows is not None:
        rows, n_rows = (rows + first).astype(np.int32), np.array([len(rows)], dtype=np.uint64)
    blocks = max(1, -(-(n if rows is None else len(rows)) // shape[0])) + 1  # one more than there is work for
    job = at[0], origin, -2 * centers, sq_norms, path, rows, None if rows is None else n_rows, n, d, len(centers)
    launch(name(dtype, shape), blocks, 256, *job, coefficient, offset, at[1], slack, n_changed)
    return int(n_changed[0])


@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (130, 3, 5), (257, 16, 33), (65, 17, 129), (128, 40, 64), (70, 5, 300)]
)
@pytest.mark.parametrize(("dtype", "shape"), RELABEL, ids=str)
@pytest.mark.parametrize("first", [0, 2**30], ids=["near", "far"])
def test_relabel(launch, rng, dtype, shape, n, d, k, first):
    """All rows, then some of them, far beyond 2^31 elements too: labels, slack as bounds.sure_gap, counts."""
    X, origin, centers, path = job(rng, n, d, k, dtype)
    distances = np.sqrt(brute_force(X.astype(float) - origin, centers))
    nearest, ordered = distances.argmin(axis=1), np.sort(distances, axis=1)
    gap = ordered[:, 1] - ordered[:, 0] if k > 1 else np.full(n, np.inf)
    clear = gap > 1e-3

    labels = np.full(n, -1, dtype=np.int32)
    if first == 0:
        assert relabel(launch, dtype, shape, X, origin, centers, path, labels) == n
        np.testing.assert_array_equal(labels[clear], nearest[clear])

    some = rng.permutation(n)[: n // 2 + 1]
    labels = np.where(rng.uniform(size=n) < 0.5, nearest, -1).astype(np.int32)
    before, slack = labels.copy(), np.full(n, -7.0)
    n_changed = relabel(launch, dtype, shape, X, origin, centers, path, labels, slack, some, first)
    others = np.setdiff1d(np.arange(n), some)
    np.testing.assert_array_equal(labels[some][clear[some]], nearest[some][clear[some]])
    np.testing.assert_array_equal(labels[others], before[others])
    np.testing.assert_array_equal(slack[others], -7)
    assert n_changed == np.count_nonzero(labels != before)
    found = slack[some] - path[labels[some]]
    assert (found <= gap[some] + 1e-12).all()
    np.testing.assert_allclose(found, gap[some], atol=2e-2 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize(("dtype", "shape"), RELABEL, ids=str)
def test_ties_go_to_the_lowest_label(launch, dtype, shape):
    """Among the centers of a thread, of the threads of a row, and of the tiles."""
    X = np.arange(12, dtype=dtype).reshape(6, 2)
    centers = np.repeat(X[::-1], 50, axis=0)
    labels = np.full(6, -1, dtype=np.int32)
    relabel(launch, dtype, shape, X, np.zeros(2, dtype), centers, np.zeros(300), labels)
    np.testing.assert_array_equal(labels, [250, 200, 150, 100, 50, 0])


@pytest.mark.parametrize("n", [1, 31, 256, 1000])
def test_stale_rows(launch, rng, n):
    labels = rng.integers(-1, 4, size=n).astype(np.int32)
    slack, path = rng.integers(0, 3, size=n).astype(float), np.array([0.0, 1.0, 2.0, -1.0])
    rows, count = np.full(n, -5, dtype=np.int32), np.zeros(1, dtype=np.uint64)
    launch("stale_rows", -(-n // 256) + 1, 256, labels, slack, path, n, rows, count)
    stale = np.flatnonzero((labels < 0) | (slack <= path[labels]))
    assert count == len(stale)
    np.testing.assert_array_equal(np.sort(rows[: len(stale)]), stale)
    assert (rows[len(stale) :] == -5).all()


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("first", [0, 2**31], ids=["near", "far"])
@pytest.mark.parametrize("clusters", ["even", "one large", "one"])
@pytest.mark.parametrize(
    ("n", "d", "k", "chunk", "columns"), [(1, 1, 1, 32, 2), (500, 3, 7, 32, 4), (333, 40, 20, 5, 16)]
)
def test_sums(launch, rng, dtype, clusters, n, d, k, chunk, columns, first):
    """Runs of clusters in chunks, and their totals, in float64; rows numbered far beyond 2^31 elements."""
    X, origin, _, _ = job(rng, n, d, k, dtype)
    labels = {
        "even": rng.integers(k, size=n),
        "one large": np.where(rng.uniform(size=n) < 0.9, k // 2, rng.integers(k, size=n)),
        "one": np.full(n, k - 1),
    }[clusters].astype(np.int32)
    weights = rng.uniform(size=n)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(k + 1))
    n_chunks = -(-n // chunk)
    at = [np.uintp(x.ctypes.data - first * size) for x, size in ((X, X.itemsize * d), (labels, 4), (weights, 8))]
    runs = np.full((n_chunks + k, d + 1), np.nan)
    grid, block = (-(-n_chunks // (256 // columns)), -(-(d + 1) // columns)), (columns, 256 // columns)
    launch(f"sum_runs<{TYPES[dtype]}>", grid, block, at[0], origin, order + first, *at[1:], n, d, chunk, runs)
    totals = np.full((k, d + 1), np.nan)
    launch("add_runs", (k, -(-(d + 1) // 32)), (32, 8), runs, starts, d + 1, chunk, totals)
    members = (labels == np.arange(k)[:, None]) * weights
    np.testing.assert_allclose(totals[:, :-1], members @ (X.astype(float) - origin), atol=1e-11)
    np.testing.assert_allclose(totals[:, -1], members.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("n", "d", "lanes"), [(1, 1, 1), (100, 3, 4), (77, 32, 32), (40, 100, 32)])
def test_sq_distances_to_own(launch, rng, dtype, n, d, lanes):
    X, origin, centers, _ = job(rng, n, d, 9, dtype)
    labels, squares = rng.integers(9, size=n).astype(np.int32), np.full(n, np.nan)
    origin, centers = origin.astype(float), centers.astype(float)
    block = lanes, 256 // lanes
    kernel = f"sq_distances_to_own<{TYPES[dtype]}>"
    launch(kernel, -(-n // block[1]) + 1, block, X, origin, labels, centers, n, d, squares)
    np.testing.assert_allclose(squares, ((X - origin - centers[labels]) ** 2).sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (9, 33), (70, 300)])
def test_label_by_scores(launch, rng, dtype, n, k):
    scores, sq_norms = (rng.integers(0, 6, size=size).astype(dtype) for size in ((n, k), k))  # with ties
    labels = np.full(n + 3, -5, dtype=np.int32)
    launch(f"label_by_scores<{TYPES[dtype]}>", n // 8 + 2, (32, 8), scores, sq_norms, n, k, labels)
    np.testing.assert_array_equal(labels[:n], (scores + sq_norms).argmin(axis=1))
    np.testing.assert_array_equal(labels[n:], -5)
