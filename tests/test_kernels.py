"""The CUDA kernels one by one, on the CPU: their source behind a shim (ci/gpusim), threads in several orders.

`ci/cuda` runs this again under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and `ci/mutants` with
faults in a copy of the sources, whose folder is then in KMEANS_XP_CU.
"""

import functools
import math
import os
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REQUIRED, brute_force

from kmeans_xp import cuda as _cuda
from kmeans_xp.bounds import advance
from kmeans_xp.seeding.greedy import choose

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("KMEANS_XP_CU", _cuda.FOLDER))
SIMULATOR = ROOT / "ci" / "gpusim"
SHAPES = {
    "float32": [(128, 128, 8, 8), (256, 32, 8, 4)],
    "float64": [(64, 64, 4, 4), (128, 32, 4, 4)],
}
SHAPES |= dict.fromkeys(("float16", "bfloat16"), SHAPES["float32"])
TYPES = {"float32": "float", "float64": "double", "float16": "Half", "bfloat16": "Bfloat16"}
WIDTHS = [(dtype, width) for dtype in TYPES for width in (32 if dtype == "float64" else 40, 80)]
COMPUTED = {"float32": "float32", "float64": "float64", "float16": "float32", "bfloat16": "float32"}
RELABEL = [(dtype, shape) for dtype, shapes in SHAPES.items() for shape in shapes]


def simulator():
    """Make kernelsim importable, or skip."""
    if not (SIMULATOR.exists() and sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("g++")):
        assert "cupy" not in REQUIRED, "to test the kernels, Linux on x86-64, g++ and ci/gpusim are required"
        pytest.skip("needs Linux on x86-64, g++ and ci/gpusim")
    sys.path.insert(0, str(SIMULATOR))


@functools.cache
def module(seed):
    simulator()
    from kernelsim import Module

    names = [name(*instance) for instance in RELABEL]
    own = "sum_runs", "sum_few", "largest_terms", "move_rows", "sq_distances_to", "sq_distances_to_own"
    names += [f"{kernel}<{kind}>" for kernel in own for kind in TYPES.values()]
    names += [f"relabel_certain<{TYPES[dtype]}, {width}>" for dtype, width in WIDTHS]
    names += [f"tile_centers<{width}>" for width in (32, 40, 80)]
    names += [f"{kernel}<{kind}>" for kernel in ("coefficients", "move_centers") for kind in ("float", "double")]
    return Module(code=_cuda.source(_cuda.DENSE, FOLDER), name_expressions=names, seed=seed)


def name(dtype, shape):
    return f"relabel<{TYPES[dtype]}, {TYPES[COMPUTED[dtype]]}, {', '.join(map(str, shape))}>"


def narrowed(x, dtype):
    """An array as rows of a type, and the numbers that they stand for; NumPy has no bfloat16."""
    if dtype != "bfloat16":
        x = x.astype(dtype)
        return x, x.astype(COMPUTED[dtype])
    bits = (x.astype("float32").view("uint32") >> 16).astype("uint16")
    return bits, (bits.astype("uint32") << 16).view("float32")


def launching(kernels):
    """A function that launches a kernel by name; Python's int is `int`, as in cuda/__init__.py."""

    def launch(name, grid, block, *arguments, shared_mem=0):
        arguments = tuple(np.int32(x) if isinstance(x, int) else x for x in arguments)
        kernel = kernels.get_function(name)
        kernel.max_dynamic_shared_size_bytes = max(shared_mem, 48 * 1024)
        kernel(grid, block, arguments, shared_mem=shared_mem)

    return launch


@pytest.fixture(params=[0, 1, 2], ids="order{}".format)
def launch(request):
    return launching(module(request.param))


def job(rng, n, d, k, dtype):
    """Rows of a type and the numbers that they stand for, origin, centers, path."""
    computed = COMPUTED[dtype]
    return (
        *narrowed(rng.normal(size=(n, d)), dtype),
        rng.normal(size=d).astype(computed),
        rng.normal(size=(k, d)).astype(computed),
        rng.uniform(size=k),
    )


def relabel(launch, dtype, shape, X, origin, centers, path, labels, slack=None, rows=None, first=0, blocks=2):
    """Run the kernel. With `first`, the rows are numbered from there, as if that many more lay before them."""
    n, d = X.shape
    itemsize = X.dtype.itemsize
    sq_norms, computed = np.vecdot(centers, centers), centers.dtype
    coefficient = computed.type(20 * (d + 8) * np.finfo(computed).eps)
    n_changed = np.zeros(1, dtype=np.uint64)
    at = [np.uintp(x.ctypes.data - first * size) for x, size in ((X, itemsize * d), (labels, 4))]
    slack = None if slack is None else np.uintp(slack.ctypes.data - 8 * first)
    if rows is not None:
        rows, n_rows = (rows + first).astype(np.int32), np.array([len(rows)], dtype=np.uint64)
    job = at[0], origin, -2 * centers, sq_norms, path, rows, None if rows is None else n_rows, n, d, len(centers)
    launch(name(dtype, shape), blocks, 256, *job, coefficient, sq_norms.max(keepdims=True), at[1], slack, n_changed)
    return int(n_changed[0])


@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (130, 3, 5), (257, 16, 33), (65, 17, 129), (128, 40, 64), (70, 5, 300)]
)
@pytest.mark.parametrize(("dtype", "shape"), RELABEL, ids=str)
@pytest.mark.parametrize("first", [0, 2**30], ids=["near", "far"])
def test_relabel(launch, rng, dtype, shape, n, d, k, first):
    """All rows, then some of them, far beyond 2^31 elements too: labels, slack as bounds.sure_gap, counts."""
    X, numbers, origin, centers, path = job(rng, n, d, k, dtype)
    distances = np.sqrt(brute_force(numbers.astype(float) - origin, centers))
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
    np.testing.assert_allclose(found, gap[some], atol=1e-9 if dtype == "float64" else 2e-2)


def tiled(launch, centers, width):
    """The centers as `relabel_certain` has them, and the largest squared norm."""
    k, d = centers.shape
    tiles = np.full((-(-k // width), -(-d // 16), width * 17), np.nan, dtype=np.float32)
    largest = np.zeros(1, dtype=np.float32)
    launch(f"tile_centers<{width}>", len(tiles) * width // 8, (32, 8), centers.astype(float), k, d, tiles, largest)
    np.testing.assert_allclose(largest, np.vecdot(centers, centers).max().astype(np.float32), rtol=1e-6)
    return tiles, largest


def relabel_certain(launch, dtype, width, X, origin, centers, path, labels, slack, rows, room, stay, first=0):
    """Run the kernel: rows changed, and the list of those that are uncertain."""
    n, d = X.shape
    at = [np.uintp(x.ctypes.data - first * size) for x, size in ((X, X.itemsize * d), (labels, 4))]
    slack = None if slack is None else np.uintp(slack.ctypes.data - 8 * first)
    listed = None if rows is None else ((rows + first).astype(np.int32), np.array([len(rows)], dtype=np.uint64))
    tiles, largest = tiled(launch, centers, width)
    room = min(room, tiles.shape[0] * tiles.shape[1])
    n_changed, n_uncertain = np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    uncertain = np.full(n, -5, dtype=np.int32)
    coefficient = np.float32(20 * (d + 8) * np.finfo(np.float32).eps)
    given = at[0], origin.astype(float), tiles, path, *(listed or (None, None)), n, d, len(centers)
    job = *given, coefficient, largest, at[1], slack, n_changed, room, int(stay), uncertain, n_uncertain
    n_groups = tiles.shape[1]
    shared = room * width * 68 + (128 if dtype == "float64" else 64) * n_groups + stay * n_groups * 2**14
    launch(f"relabel_certain<{TYPES[dtype]}, {width}>", 2, 256, *job, shared_mem=shared)
    found = int(n_uncertain[0])
    assert (uncertain[found:] == -5).all()
    return int(n_changed[0]), uncertain[:found] - first


@pytest.mark.parametrize(
    ("n", "d", "k", "room", "stay"),
    [
        (1, 1, 1, 9, False),
        (130, 3, 5, 9, False),
        (600, 16, 33, 9, False),
        (65, 17, 129, 3, True),
        (70, 36, 90, 2, False),
    ],
)
@pytest.mark.parametrize(("dtype", "width"), WIDTHS)
@pytest.mark.parametrize("first", [0, 2**30], ids=["near", "far"])
def test_relabel_certain(launch, rng, dtype, width, n, d, k, room, stay, first):
    """Rows are labelled as they should be, or listed. With all tiles at once or in turns, all rows or a list."""
    X, numbers, origin, centers, path = job(rng, n, d, k, dtype)
    if dtype == "float64":  # whose difference float32 would lose
        X, numbers, origin = X + 1e8, numbers + 1e8, origin + 1e8
    distances = np.sqrt(brute_force(numbers.astype(float) - origin, centers))
    nearest, ordered = distances.argmin(axis=1), np.sort(distances, axis=1)
    gap = ordered[:, 1] - ordered[:, 0] if k > 1 else np.full(n, np.inf)
    # Doubtful is at most what 2^-10 of the product of the norms can turn, and some float32 rounding
    norms = np.linalg.norm(numbers - origin, axis=1), np.linalg.norm(centers, axis=1).max()
    doubt = 2 * (2.1 / 1024 * norms[0] * norms[1] + 1e-5 * (d + 8) * (norms[0] ** 2 + norms[1] ** 2))
    some = rng.permutation(n)[: n // 2 + 1]
    for rows in (None, some) if first == 0 else (some,):
        looked_at = np.arange(n) if rows is None else rows
        labels = np.where(rng.uniform(size=n) < 0.5, nearest, -1).astype(np.int32)
        before, slack = labels.copy(), np.full(n, -7.0)
        given = X, origin, centers, path, labels, None if rows is None else slack, rows, room, stay, first
        n_changed, uncertain = relabel_certain(launch, dtype, width, *given)
        assert len(np.unique(uncertain)) == len(uncertain)
        assert set(uncertain) <= set(looked_at)
        certain = np.setdiff1d(looked_at, uncertain)
        np.testing.assert_array_equal(labels[certain], nearest[certain])
        assert (gap[uncertain] * (ordered[uncertain, :2].sum(axis=1)) <= 2 * doubt[uncertain]).all()
        others = np.setdiff1d(np.arange(n), certain)
        np.testing.assert_array_equal(labels[others], before[others])
        np.testing.assert_array_equal(slack[others], -7)
        assert n_changed == np.count_nonzero(labels != before)
        if rows is not None:
            found = slack[certain] - path[labels[certain]]
            assert (found <= gap[certain] + 1e-12).all()
            if k > 1:
                np.testing.assert_allclose(found, gap[certain], atol=0.15)


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25], ids="scale {:g}".format)
def test_nothing_is_certain_about_ties_or_beyond_the_range(launch, width, scale):
    X = (np.arange(12.0).reshape(6, 2) * scale).astype(np.float32)
    centers = np.repeat(X[::-1], 1 if scale != 1 else 50, axis=0).astype(float)
    labels = np.full(6, -1, dtype=np.int32)
    given = X, np.zeros(2), centers, np.zeros(len(centers)), labels, None, None, 99, False
    with np.errstate(over="ignore", under="ignore"):
        n_changed, uncertain = relabel_certain(launch, "float32", width, *given)
    assert n_changed == 0
    np.testing.assert_array_equal(np.sort(uncertain), np.arange(6))


@pytest.mark.parametrize(("dtype", "shape"), RELABEL, ids=str)
def test_ties_go_to_the_lowest_label(launch, dtype, shape):
    """Among the centers of a thread, of the threads of a row, and of the tiles."""
    X, numbers = narrowed(np.arange(12.0).reshape(6, 2), dtype)
    centers = np.repeat(numbers[::-1], 50, axis=0)
    labels = np.full(6, -1, dtype=np.int32)
    relabel(launch, dtype, shape, X, np.zeros_like(centers[0]), centers, np.zeros(300), labels)
    np.testing.assert_array_equal(labels, [250, 200, 150, 100, 50, 0])


@pytest.mark.parametrize("n", [1, 31, 256, 1000])
def test_stale_rows(launch, rng, n):
    labels = rng.integers(-1, 4, size=n).astype(np.int32)
    slack, path = rng.integers(0, 3, size=n).astype(float), np.array([0.0, 1.0, 2.0, -1.0])
    stale = np.flatnonzero((labels < 0) | (slack <= path[labels]))
    for most, expected in (None, stale), (2**40, stale), (n, stale), (0, []):
        rows, count, active = (
            np.full(n, -5, dtype=np.int32),
            np.zeros(1, dtype=np.uint64),
            np.full(1, 3, dtype=np.uint64),
        )
        most_rows = None if most is None else np.array([most], dtype=np.uint64)
        launch("stale_rows", -(-n // 256) + 1, 256, labels, slack, path, n, most_rows, rows, count, active)
        assert count == len(expected)
        assert active == 3 + len(expected)
        np.testing.assert_array_equal(np.sort(rows[: len(expected)]), expected)
        assert (rows[len(expected) :] == -5).all()


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("first", [0, 2**31 - 2**10], ids=["near", "far"])
@pytest.mark.parametrize("clusters", ["even", "one large", "one"])
@pytest.mark.parametrize(
    ("n", "d", "k", "chunk", "columns"), [(1, 1, 1, 32, 2), (500, 3, 7, 32, 4), (333, 40, 20, 5, 16)]
)
def test_sums(launch, rng, dtype, clusters, n, d, k, chunk, columns, first):
    """Runs of clusters in chunks, and their totals, in float64; rows numbered far beyond 2^31 elements."""
    X, numbers, origin, _, _ = job(rng, n, d, k, dtype)
    origin = origin.astype(float)
    labels, weights = labels_of(rng, clusters, n, k), rng.uniform(size=n)
    order = np.argsort(labels, kind="stable").astype(np.int32)
    starts = np.searchsorted(labels[order], np.arange(k + 1))
    n_chunks = -(-n // chunk)
    at = [np.uintp(x.ctypes.data - first * size) for x, size in ((X, X.itemsize * d), (weights, 8))]
    runs = np.full((n_chunks + k, d + 1), np.nan)
    grid, block = (-(-n_chunks // (256 // columns)), -(-d // columns)), (columns, 256 // columns)
    given = at[0], origin, order + first, labels[order], at[1], n, d, chunk, runs
    launch(f"sum_runs<{TYPES[dtype]}>", grid, block, *given)
    totals = np.full((k, d + 1), np.nan)
    launch("add_runs", (k, -(-(d + 1) // 32)), (32, 8), runs, starts, d + 1, chunk, totals)
    assert_sums(totals, labels, weights, numbers - origin)


@pytest.mark.parametrize("clusters", ["even", "one large", "one"])
@pytest.mark.parametrize(
    ("n", "k", "size"), [(1, 1, 256), (700, 3, 64), (1000, 1, 7), (3000, 700, 40), (2999, 255, 3000), (100, 1000, 33)]
)
def test_rows_sorted_by_label(launch, rng, clusters, n, k, size):
    labels, n_parts = labels_of(rng, clusters, n, k), -(-n // size)
    counts, starts = np.zeros((k, n_parts), dtype=np.int32), np.full(k + 1, -5, dtype=np.int64)
    order, found = np.full(n, -5, dtype=np.int32), np.full(n, -5, dtype=np.int32)
    launch("count_labels", n_parts, 256, labels, n, size, counts)
    of_parts = np.split(labels, range(size, n, size))
    np.testing.assert_array_equal(counts.T, [np.bincount(part, minlength=k) for part in of_parts])
    launch("scan_parts", -(-(k + 1) // 8), (32, 8), k, n_parts, counts, starts)
    np.testing.assert_array_equal(starts, np.bincount(labels, minlength=k + 1))
    launch("scan_labels", 1, 256, k + 1, starts)
    launch("place_rows", -(-n_parts // 8), (32, 8), labels, starts, n, size, n_parts, counts, order, found)
    np.testing.assert_array_equal(order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(found, labels[order])
    np.testing.assert_array_equal(starts, np.searchsorted(found, np.arange(k + 1)))


def labels_of(rng, clusters, n, k):
    return {
        "even": rng.integers(k, size=n),
        "one large": np.where(rng.uniform(size=n) < 0.9, k // 2, rng.integers(k, size=n)),
        "one": np.full(n, k - 1),
    }[clusters].astype(np.int32)


def assert_sums(totals, labels, weights, rows):
    members = (labels == np.arange(len(totals))[:, None]) * weights
    np.testing.assert_allclose(totals[:, :-1], members @ rows, atol=1e-11)
    np.testing.assert_allclose(totals[:, -1], members.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("clusters", ["even", "one"])
@pytest.mark.parametrize(
    ("n", "d", "k", "chunk", "columns"),
    [(1, 1, 1, 128, 2), (500, 3, 7, 200, 4), (333, 40, 20, 64, 16), (90, 9, 24, 7, 4)],
)
def test_sums_of_few(launch, rng, dtype, clusters, n, d, k, chunk, columns):
    """Parts of the sums, of chunks that are no multiple of the rows that a block takes at a time, too."""
    X, numbers = narrowed(rng.normal(size=(n, d)) * 10.0 ** rng.integers(-7, 2, size=(n, d)), dtype)  # subnormal too
    origin = rng.normal(size=d)
    labels, weights = labels_of(rng, clusters, n, k), rng.uniform(size=n)
    parts = np.full((-(-n // chunk), k, d + 1), np.nan)
    grid, block = (len(parts), -(-d // columns)), (columns, 128 // columns)
    given = X, origin, labels, weights, n, d, k, chunk, parts
    launch(f"sum_few<{TYPES[dtype]}>", grid, block, *given, shared_mem=8 * k * (128 + block[1]))
    assert_sums(parts.sum(axis=0), labels, weights, numbers - origin)


class Moving:
    """Sums of clusters by the rows that change cluster, and a slow twin of what is added: whole numbers of Python."""

    def __init__(self, launch, dtype, X, numbers, origin, weights, k, columns):
        self.launch, self.dtype, self.X, self.weights, self.k = launch, dtype, X, weights, k
        self.origin, (self.n, self.d) = origin, X.shape
        self.bits = 62 - self.n.bit_length()
        largest, self.scales = np.zeros(self.d + 1), np.full(self.d + 1, np.nan)
        grid, block = (2, -(-(self.d + 1) // columns)), (columns, 256 // columns)
        launch(f"largest_terms<{TYPES[dtype]}>", grid, block, X, origin, weights, self.n, self.d, largest)
        launch("scale_columns", 2, 256, largest, self.d + 1, self.bits, self.scales)
        with np.errstate(invalid="ignore"):
            self.terms = np.column_stack((weights[:, None] * (numbers.astype(float) - origin), weights))
        np.testing.assert_array_equal(largest, abs(self.terms).max(axis=0))
        self.totals, self.labels = np.zeros((k, self.d + 1)), np.zeros(self.n, dtype=np.int32)
        self.totals[0] = self.terms.sum(axis=0)
        self.base, self.moved = self.totals.copy(), np.zeros((2, k, self.d + 1), dtype=np.uint64)

    def move(self, labels):
        """Sums of clusters, which rows have come to."""
        before, sums = self.labels, np.full_like(self.totals, np.nan)
        self.labels = before.copy()
        job = self.X, self.origin, self.weights, labels, self.n, self.d, self.k, self.bits, self.scales
        self.launch(f"move_rows<{TYPES[self.dtype]}>", 2, 256, *job, self.labels, self.totals, self.moved)
        np.testing.assert_array_equal(self.labels, labels)
        job = self.totals, self.moved, self.scales, self.k, self.d + 1, self.bits, sums
        self.launch("add_moved", -(-sums.size // 256) + 1, 256, *job)
        return sums

    def expected(self, labels):
        """The same, and the integers."""
        moved, terms = np.zeros((2, self.k, self.d + 1), dtype=object), self.terms * self.scales
        whole = np.rint(terms)
        parts = whole, np.rint((terms - whole) * 2.0**self.bits)
        for row in np.flatnonzero(labels):
            for part, numbers in zip(moved, parts, strict=True):
                part[labels[row]] += [int(number) for number in numbers[row]]
                part[0] -= [int(number) for number in numbers[row]]
        whole, rest = moved.astype(float)
        return self.base + (whole + rest * 2.0**-self.bits) / self.scales, moved


MOVED = [(1, 1, 2, 2), (500, 3, 7, 4), (333, 40, 20, 16), (90, 9, 24, 256)]


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("n", "d", "k", "columns"), MOVED)
@pytest.mark.parametrize("kind", ["ordinary", "far apart", "weights"])
def test_rows_that_change_cluster(launch, rng, dtype, n, d, k, columns, kind):
    """Back and forth; numbers from 1e-30 to 1e30, or what the type has, in a column; weights of 0, and tiny ones."""
    X, weights, origin = rng.normal(size=(n, d)), rng.uniform(size=n), rng.normal(size=d)
    if kind == "far apart":
        span = {"float16": 4, "bfloat16": 30, "float32": 30, "float64": 30}[dtype]
        X, origin = X * 10.0 ** rng.integers(-span, span, size=(n, d)), origin * 0
    if kind == "weights":
        weights = weights * rng.integers(2, size=n) * 10.0 ** rng.integers(-20, 1, size=n)
        weights[0] = 1e-300
    X, numbers = narrowed(X, dtype)
    moving = Moving(launch, dtype, X, numbers, origin, weights, k, columns)
    few, many = (np.where(rng.uniform(size=n) < p, rng.integers(k, size=n), 0).astype(np.int32) for p in (0.1, 0.9))
    back = np.zeros(n, dtype=np.int32)
    by_turns = []
    for labels in (few, many, few, back, many):
        sums = moving.move(labels)
        expected, integers = moving.expected(labels)
        np.testing.assert_array_equal(moving.moved.view(np.int64), integers.astype(np.int64))
        np.testing.assert_array_equal(sums, expected)
        by_turns.append(sums)
    np.testing.assert_array_equal(by_turns[2], by_turns[0])
    np.testing.assert_array_equal(by_turns[3], moving.base)
    members = labels == np.arange(k)[:, None]
    exact = np.array([[math.fsum(moving.terms[rows, f]) for f in range(d + 1)] for rows in members])
    largest = abs(moving.terms).max(axis=0)
    assert (
        abs(sums - exact) <= 1e-15 * (abs(exact) + n * abs(moving.base)) + 2.0 ** (4 - 2 * moving.bits) * n * largest
    ).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e5])
def test_a_row_that_went_bad_makes_sums_that_are_none(launch, rng, bad):
    X = rng.normal(size=(300, 3))
    moving = Moving(launch, "float64", X, X, np.zeros(3), np.ones(300), 4, 4)
    X[7, 1] = bad
    labels = rng.integers(2, size=300).astype(np.int32)
    labels[7] = 3
    sums = moving.move(labels)
    assert np.isnan(sums[3, 1])
    assert np.isfinite(sums[:3]).all()


def test_scales_are_within_the_range_of_numbers(launch):
    """Of columns of zeros, of subnormal and of very large numbers, and where the largest is none."""
    largest = np.array([0.0, 5e-324, 1e-300, 1.0, 1.5, 1e300, np.inf, np.nan])
    scales = np.full(8, np.nan)
    launch("scale_columns", 1, 256, largest, 8, 40, scales)
    assert (scales[:6] > 0).all()
    assert np.isfinite(scales[:6]).all()
    assert (largest[:6] * scales[:6] < 2.0**40).all()
    np.testing.assert_array_equal(scales[3:5], 2.0**39)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("n", "d", "lanes"), [(1, 1, 1), (100, 3, 4), (77, 32, 32), (40, 100, 32)])
def test_sq_distances_to_own(launch, rng, dtype, n, d, lanes):
    X, numbers, origin, centers, _ = job(rng, n, d, 9, dtype)
    labels, squares = rng.integers(9, size=n).astype(np.int32), np.full(n, np.nan)
    origin, centers = origin.astype(float), centers.astype(float)
    block = lanes, 256 // lanes
    kernel = f"sq_distances_to_own<{TYPES[dtype]}>"
    launch(kernel, -(-n // block[1]) + 1, block, X, origin, labels, centers, n, d, squares)
    np.testing.assert_allclose(squares, ((numbers - origin - centers[labels]) ** 2).sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("n", "d", "n_points"), [(1, 1, 1), (130, 17, 40), (64, 32, 32)])
def test_sq_distances_to(launch, rng, dtype, n, d, n_points):
    """Of rows in the midst of others."""
    X, numbers, origin, _, _ = job(rng, n, d, 1, dtype)
    points, squares = rng.normal(size=(n_points, d)), np.full((n_points, n + 5), np.nan)
    origin, grid = origin.astype(float), (-(-n // 64), -(-n_points // 32))
    given = X, origin, points, n, d, n_points, np.uintp(n + 5), np.uintp(squares[:, 2:].ctypes.data)
    launch(f"sq_distances_to<{TYPES[dtype]}>", grid, 128, *given)
    np.testing.assert_allclose(squares[:, 2 : n + 2], brute_force(points + origin, numbers), rtol=1e-11)
    assert np.isnan(squares[:, [0, 1, -3, -2, -1]]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (9, 33), (50, 3)])
def test_coefficients(launch, rng, dtype, k, d):
    centers = rng.normal(size=(k, d))
    minus_2_centers, sq_norms = np.full((k, d), np.nan, dtype), np.full(k, np.nan, dtype)
    largest = np.zeros(1, dtype)
    job = centers, k, d, minus_2_centers, sq_norms, largest
    launch(f"coefficients<{TYPES[dtype]}>", -(-k // 8) + 1, (32, 8), *job)
    np.testing.assert_array_equal(minus_2_centers, (-2 * centers).astype(dtype))
    np.testing.assert_allclose(sq_norms, (centers**2).sum(axis=1), rtol=1e-6 if dtype == "float32" else 1e-13)
    assert largest == sq_norms.max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", [np.inf, np.nan, -np.nan])
def test_the_largest_number_may_be_none(launch, dtype, number):
    centers = np.ones((20, 3))
    centers[7, 1] = number
    sq_norms, largest = np.full(20, np.nan, dtype), np.zeros(1, dtype)
    launch(f"coefficients<{TYPES[dtype]}>", 3, (32, 8), centers, 20, 3, np.empty((20, 3), dtype), sq_norms, largest)
    np.testing.assert_array_equal(largest, [abs(number)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (9, 33), (50, 3)])
def test_centers_move_to_the_means(launch, rng, dtype, k, d):
    """Sums with one more column; some clusters are empty."""
    sums, old, origin = rng.normal(size=(k, d + 1)), rng.normal(size=(k, d)), rng.normal(size=d)
    weights = rng.integers(0, 3, size=k).astype(float)
    centers, parts, numbers = np.full((k, d), np.nan), np.full((k, 2), np.nan), np.full(5, np.nan)
    both = np.stack((weights, np.full(k, np.nan)), axis=1)  # with a stride
    strides = np.uintp(d + 1), np.uintp(1), np.uintp(2)
    launch(
        f"move_centers<{TYPES[dtype]}>",
        *(-(-k // 8) + 1, (32, 8)),
        *(sums, both, old, origin, k, d, *strides, 0, None, centers, parts),
    )
    launch("sum_up", 1, 32, *summed_up(parts, both), None, numbers)
    means = np.where(weights[:, None] > 0, sums[:, :-1] / np.maximum(weights, 1)[:, None], old)
    np.testing.assert_array_equal(centers, (means + origin).astype(dtype).astype(float) - origin)
    inertia = 1e3 * weights.sum() - (2 * old * sums[:, :-1] - weights[:, None] * old**2).sum()
    expected = 7, 5, ((centers - old) ** 2).sum(), max(inertia, 0), np.count_nonzero(weights == 0)
    np.testing.assert_allclose(numbers, expected, rtol=1e-11)


@pytest.mark.parametrize(("k", "d"), [(3, 1), (9, 33), (50, 3)])
def test_centers_of_directions_move_to_the_sphere(launch, rng, k, d):
    """Where the sums have no direction, they stay."""
    sums, old, origin = rng.normal(size=(k, d)), rng.normal(size=(k, d)), rng.normal(size=d)
    weights = np.array([0.0, 1.0, *rng.uniform(0.5, 2, size=k - 2)])
    sums[1] = -origin
    centers, parts = np.full((k, d), np.nan), np.full((k, 2), np.nan)
    job = sums, weights, old, origin, k, d, np.uintp(d), np.uintp(1), np.uintp(1), 1, None
    launch("move_centers<double>", -(-k // 8), (32, 8), *job, centers, parts)
    places = np.where(weights[:, None] > 0, sums / np.maximum(weights, 0.5)[:, None], old) + origin
    norms = np.linalg.norm(places, axis=1)[:, None]
    expected = np.where(norms > 0, places / np.maximum(norms, 1e-9) - origin, old)
    np.testing.assert_allclose(centers, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(parts[:, 0], ((expected - old) ** 2).sum(axis=1), rtol=1e-11, atol=1e-30)


def summed_up(parts, weights, n_changed=7, spread=1e3, tol=0.0, faint=0.0):
    """Arguments of `sum_up`."""
    counts = (np.array([count], dtype=np.uint64) for count in (n_changed, 5))
    return (
        parts,
        weights,
        np.uintp(2),
        *counts,
        np.float64(spread),
        len(parts),
        np.float64(tol),
        np.float64(faint),
        np.float64(1),
    )


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, False),
        ({"n_changed": 0}, True),
        ({"tol": 6.0}, True),
        ({"tol": 5.9}, False),
        ({"spread": np.inf}, True),
        ({"spread": np.nan}, True),
        ({"shift": np.nan}, True),
        ({"weight": 0.0}, True),
        ({"weight": 1e-8}, False),
        ({"weight": 1e-8, "faint": 1e-7}, True),
        ({"weight": -1e-20, "faint": 1e-9}, True),
    ],
)
def test_a_run_ends(launch, changes, ends):
    """And then numbers, centers and paths stay as they are."""
    changes = dict(changes)
    shift, weight = changes.pop("shift", 3.0), changes.pop("weight", 2.0)
    parts, weights = np.array([[shift, 1.0], [3.0, 0.5]]), np.array([[weight, np.nan], [2.0, np.nan]])
    most_rows, numbers = np.array([1000, 0], dtype=np.uint64), np.full(5, np.nan)
    given = summed_up(parts, weights, **changes)
    launch("sum_up", 1, 32, *given, most_rows, numbers)
    assert numbers[0] == changes.get("n_changed", 7)
    np.testing.assert_array_equal(most_rows, [0 if ends else 1000, 1])
    if not ends:
        return
    numbers[:] = -1
    launch("sum_up", 1, 32, *given, most_rows, numbers)
    centers, path = np.full((2, 1), -7.0), np.ones(2)
    job = np.ones((2, 1)), weights, np.ones((2, 1)), np.zeros(1), 2, 1, np.uintp(1), np.uintp(1), np.uintp(2)
    launch("move_centers<double>", 1, (32, 8), *job, 0, most_rows, centers, parts)
    launch("advance_paths", 1, 32, parts, 2, most_rows, path)
    assert {*numbers, *centers.ravel()} == {-1, -7}
    assert (path == 1).all()


@pytest.mark.parametrize("k", [1, 2, 9, 31, 32, 33, 200])
@pytest.mark.parametrize("moves", ["all", "few", "alike", "none"])
def test_paths_are_those_of_the_portable_step(launch, rng, k, moves):
    """One of the centers moves most, or several do."""
    old = rng.normal(size=(k, 3))
    moved = {"all": rng.normal(size=(k, 3)), "few": (rng.uniform(size=(k, 1)) < 0.1) * rng.normal(size=(k, 3))}
    centers = old + moved.get(moves, float(moves == "alike"))
    parts, path = np.full((k, 2), np.nan), rng.uniform(size=k)
    expected = advance(path, centers, old)
    launch("shifts", -(-k // 8) + 1, (32, 8), centers, old, k, 3, parts)
    launch("advance_paths", 1, 32, parts, k, np.array([1], dtype=np.uint64), path)
    np.testing.assert_allclose(path, expected, rtol=2e-12)
    assert (path >= expected * (1 - 1e-15)).all()


@pytest.mark.parametrize(
    ("n", "n_draws", "n_trials", "n_most"), [(1, 3, 3, 1), (300, 40, 4, 10), (700, 100, 3, 5), (90, 33, 16, 2)]
)
@pytest.mark.parametrize("accepted", ["all", "few"])
def test_choices_are_those_of_the_portable_step(launch, rng, n, n_draws, n_trials, n_most, accepted):
    squares, mass = rng.uniform(size=(n_draws, n)), rng.uniform(size=n)
    closest, draws = np.full(n, 0.9), rng.integers(n, size=n_draws)
    squares[np.arange(n_draws), draws] = 0
    uniforms = np.full(n_draws, 0.0) if accepted == "all" else rng.uniform(size=n_draws)
    expected, rows = choose.portable(closest, squares, mass, draws, uniforms, n_trials, n_most)
    choice, chosen = np.array([-1] + [0] * 19, dtype=np.int32), np.full(n_most, -5)
    thresholds, parts, found = uniforms * closest[draws], np.full((2, n_trials), np.nan), closest.copy()
    given = draws, thresholds, n, n_draws, n_trials, 2, choice, chosen
    weigh = squares, mass, n, n_trials, choice, found, parts
    launch("choose_trial", 1, 32, squares, found, None, *given)
    for _ in range(min(n_most, n_draws // n_trials)):
        launch("weigh_trials", 2, 256, *weigh)
        launch("choose_trial", 1, 32, squares, found, parts, *given)
    launch("weigh_trials", 2, 256, *weigh)
    assert choice[1] == len(rows)
    np.testing.assert_array_equal(chosen[: len(rows)], rows)
    np.testing.assert_array_equal(found, expected)
