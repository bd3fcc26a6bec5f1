"""The CUDA kernels for sparse rows one by one, on the CPU, as test_kernels.py has those for dense rows."""

import functools

import numpy as np
import pytest
import test_kernels
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from kmeans_xp import cuda as _cuda

NUMBERS = {"float32": "float", "float64": "double"}
INDICES = {"int32": "int", "int64": "long long"}


@functools.cache
def module(seed):
    test_kernels.module(seed)  # skips where kernels cannot be tested
    from kernelsim import Module

    both = "sq_distances_to_own", "scatter", "gather", "merge"
    names = [f"{name}<{number}>" for name in ("largest", "divide", "sum_columns") for number in NUMBERS.values()]
    for number in NUMBERS.values():
        for index in INDICES.values():
            names += [f"{name}<{number}, {index}>" for name in both]
            names += [f"multiply<{number}, {index}, {columns}>" for columns in (1, 4)]
    return Module(code=_cuda.source(_cuda.SPARSE, test_kernels.FOLDER), name_expressions=names, seed=seed)


@pytest.fixture(params=[0, 1, 2], ids="order{}".format)
def launch(request):
    """Launch a kernel by name; Python's int is `long long`, as in rows/_cupy_kernels.py."""
    kernels = module(request.param)

    def launch(name, grid, block, *arguments, shared_mem=0):
        kernels.get_function(name)(grid, block, arguments, shared_mem=shared_mem)

    return launch


@pytest.fixture(params=["near", "far"])
def first(request):
    """How many numbers seem to lie before those of the rows: beyond 2^31 too."""
    return {"near": 0, "far": 2**33}[request.param]


class Rows:
    """Random rows in an order of their own, one without numbers and one with all; and as an array."""

    def __init__(self, rng, n, d, dtype, index, first=0):
        dense = np.where(rng.uniform(size=(n, d)) < 0.4, rng.integers(-9, 9, size=(n, d)) / 4, 0)
        dense[n // 2], dense[n // 3] = 0, 1
        csr = sparse.csr_array(dense.astype(dtype))
        self.data, self.indices = csr.data, csr.indices.astype(index)
        order = rng.permutation(n)
        self.begin, self.end = (csr.indptr[order + i].astype(np.int64) + first for i in (0, 1))
        self.dense = dense[order]
        at = [np.uintp(x.ctypes.data - first * x.itemsize) for x in (self.data, self.indices)]
        self.stored, self.numbers = (*at, self.begin, self.end), (at[0], self.begin, self.end)
        self.types = f"{NUMBERS[dtype]}, {INDICES[index]}"


SHAPES = [(1, 1), (9, 3), (17, 40), (30, 100)]
shapes = pytest.mark.parametrize(("n", "d"), SHAPES)
dtypes = pytest.mark.parametrize("dtype", list(NUMBERS))
indices = pytest.mark.parametrize("index", list(INDICES))


def by_rows(n):
    """Grid and block where each warp has a row, one more block than there is work for."""
    return -(-n // 8) + 1, (32, 8)


@shapes
@dtypes
@indices
@pytest.mark.parametrize("k", [1, 3, 8, 32, 33, 128, 200])
def test_multiply(launch, rng, n, d, k, dtype, index, first):
    rows = Rows(rng, n, d, dtype, index, first)
    dense, product = rng.normal(size=(d, k)), np.full((n, k), np.nan)
    lanes, each = min(32, 1 << (k - 1).bit_length()), 4 if k > 32 else 1
    grid = -(-n // 8) + 1, -(-k // (lanes * each))
    launch(f"multiply<{rows.types}, {each}>", grid, (lanes, 32 // lanes, 8), *rows.stored, dense, n, k, product)
    assert_allclose(product, rows.dense @ dense, atol=1e-12)


@shapes
@dtypes
@indices
def test_sq_distances_to_own(launch, rng, n, d, dtype, index, first):
    rows = Rows(rng, n, d, dtype, index, first)
    origin, centers = rng.normal(size=d), rng.normal(size=(5, d))
    centers[3] = rows.dense[0] - origin
    labels, squares = rng.integers(5, size=n).astype(np.int32), np.full(n, np.nan)
    labels[0] = 3
    sq_norms = ((centers + origin) ** 2).sum(axis=1)
    job = *rows.stored, origin, labels, centers, sq_norms, 1e-14, n, d, squares
    launch(f"sq_distances_to_own<{rows.types}>", *by_rows(n), *job)
    assert_allclose(squares, ((rows.dense - origin - centers[labels]) ** 2).sum(axis=1), rtol=1e-10, atol=1e-12)


@shapes
@dtypes
def test_largest_and_divide(launch, rng, n, d, dtype, first):
    rows = Rows(rng, n, d, dtype, "int32", first)
    values, quotients = np.full(n, np.nan, dtype=dtype), np.full_like(rows.data, np.nan)
    launch(f"largest<{NUMBERS[dtype]}>", *by_rows(n), *rows.numbers, n, values)
    assert_array_equal(values, np.abs(rows.dense).max(axis=1))
    by = rng.uniform(1, 2, size=n).astype(dtype)
    divided = np.uintp(quotients.ctypes.data - first * quotients.itemsize)
    launch(f"divide<{NUMBERS[dtype]}>", *by_rows(n), *rows.numbers, by, n, divided)
    stored = np.lexsort((rows.end, rows.begin))
    row_of_each = np.repeat(stored, (rows.end - rows.begin)[stored])
    assert_array_equal(quotients, rows.data / by[row_of_each])


@shapes
@dtypes
@indices
def test_scatter_and_gather(launch, rng, n, d, dtype, index, first):
    rows = Rows(rng, n, d, dtype, index, first)
    for shape, strides in (((n, d), (d, 1)), ((d, n), (1, n))):
        dense = np.zeros(shape)
        launch(f"scatter<{rows.types}>", *by_rows(n), *rows.stored, n, *strides, dense)
        assert_array_equal(dense if shape == (n, d) else dense.T, rows.dense)
    places = np.cumsum([0, *(rows.end - rows.begin)])
    found = np.full_like(rows.data, np.nan), np.full_like(rows.indices, -1), np.full(len(rows.data), -1, dtype=np.int32)
    launch(f"gather<{rows.types}>", *by_rows(n), *rows.stored, places, n, *found)
    expected = sparse.csr_array(rows.dense)
    for one, other in zip(found, (expected.data, expected.indices, expected.tocoo().row), strict=True):
        assert_array_equal(one, other)


@dtypes
@indices
@pytest.mark.parametrize("n", [1, 5, 700])
def test_merge(launch, rng, dtype, index, n):
    rows, columns = (np.sort(rng.integers(4, size=n)).astype(t) for t in (np.int32, index))
    values, merged = rng.integers(-3, 4, size=n).astype(dtype), np.full(n, np.nan, dtype=dtype)
    types = f"{NUMBERS[dtype]}, {INDICES[index]}"
    launch(f"merge<{types}>", -(-n // 256) + 1, 256, values, columns, rows, n, merged)
    _, starts, run = np.unique(np.stack((rows, columns)), axis=1, return_index=True, return_inverse=True)
    expected = np.zeros(n)
    expected[starts] = np.bincount(run.ravel(), values)
    assert_array_equal(merged, expected)


@dtypes
@pytest.mark.parametrize(("n", "d", "k", "width"), [(1, 1, 1, 1), (300, 3, 7, 7), (40, 30, 70, 32), (700, 2, 5, 2)])
@pytest.mark.parametrize("clusters", ["even", "one"])
def test_sums_of_columns(launch, rng, dtype, n, d, k, width, clusters):
    """Added to what is there; clusters in several blocks, and columns longer than a warp reads at a time."""
    rows = Rows(rng, n, d, dtype, "int32")
    columns = sparse.csc_array(rows.dense.astype(dtype))
    labels, weights = test_kernels.labels_of(rng, clusters, n, k), rng.uniform(size=n)
    before = rng.normal(size=(k, d + 1))
    totals, grid = before.copy(), (d + 1, -(-k // width))
    job = columns.data, columns.indices.astype(np.int32), columns.indptr.astype(np.int64), labels, weights
    launch(f"sum_columns<{NUMBERS[dtype]}>", grid, (32, 8), *job, n, d, k, width, totals, shared_mem=64 * width)
    test_kernels.assert_sums(totals - before, labels, weights, rows.dense)
