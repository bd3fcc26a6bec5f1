"""Passes over CuPy's sparse rows: launches of the kernels in cuda/sparse_*.cu.

`stored` are four arrays: the numbers, their columns, and where the numbers of each row begin and end in these. Choosing
rows changes the last two only. Nothing here waits for the device, but where it says so. CuPy's own functions
(cuSPARSE) make no promise that results are the same bits from run to run.
"""

import functools

import cupy
from cupyx.scipy.sparse import csr_matrix

from kmeans_xp import cuda as _cuda
from kmeans_xp.cuda import blocks, power_of_2

WARPS = 8  # of a block
MOST_NUMBERS = 2**23  # that are sorted at a time, at some 50 bytes each
MOST_DENSE = 2**24  # of sparse points that are made dense, a few of them at a time
MOST_CLUSTERS = 512  # whose sums a block has, for each of its warps: 32 KiB of shared memory


def multiply(stored, dense):
    """Rows times a dense matrix, (n_rows, n_columns)."""
    dense = cupy.ascontiguousarray(dense, dtype=cupy.float64)
    n_rows, n_columns = len(stored[2]), dense.shape[1]
    product = cupy.empty((n_rows, n_columns))
    lanes, each = power_of_2(n_columns, 32), 4 if n_columns > 32 else 1
    grid = blocks(n_rows, WARPS), blocks(n_columns, lanes * each)
    job = *stored, dense, n_rows, n_columns, product
    _launch(f"multiply_{each}", stored, grid, (lanes, 32 // lanes, WARPS), *job)
    return product


def multiply_sparse(stored, others, n_features):
    """Rows times other rows, (n_rows, n_others), a few of the others being made dense at a time."""
    n_at_a_time = max(1, MOST_DENSE // n_features)
    product = cupy.empty((len(stored[2]), len(others[2])))
    for start in range(0, len(others[2]), n_at_a_time):
        few = slice(start, start + n_at_a_time)
        columns = dense((*others[:2], *(places[few] for places in others[2:])), n_features, transposed=True)
        product[:, few] = multiply(stored, columns)
    return product


def dense(stored, n_features, transposed=False):
    """The rows as an array, (n_rows, n_features) or transposed."""
    n_rows = len(stored[2])
    rows = cupy.zeros((n_features, n_rows) if transposed else (n_rows, n_features))
    strides = (1, n_rows) if transposed else (n_features, 1)
    _launch_rows("scatter", stored, *stored, n_rows, *strides, rows)
    return rows


def sq_distances_to_own(stored, origin, labels, centers, rounding):
    """Squared distances of rows from the centers of their clusters, which are relative to the origin: (n_rows,)."""
    n_rows, n_features = len(stored[2]), centers.shape[1]
    squares = cupy.empty(n_rows)
    labels, centers = cupy.ascontiguousarray(labels, dtype=cupy.int32), cupy.ascontiguousarray(centers)
    sq_norms = cupy.sum((centers + origin) ** 2, axis=1)
    job = *stored, origin, labels, centers, sq_norms, rounding, n_rows, n_features, squares
    _launch_rows("sq_distances_to_own", stored, *job)
    return squares


def largest(stored):
    """Largest absolute value in each row, (n_rows,)."""
    data, _, begin, end = stored
    values = cupy.empty(len(begin), dtype=data.dtype)
    _launch_rows("largest", stored, data, begin, end, len(begin), values)
    return values


def divided(stored, by):
    """The numbers of rows divided by one number each."""
    data, _, begin, end = stored
    numbers = cupy.empty_like(data)
    _launch_rows("divide", stored, data, begin, end, cupy.ascontiguousarray(by, dtype=data.dtype), len(begin), numbers)
    return numbers


def gathered(stored):
    """Numbers of rows one after the other, their columns, and rows; and where those of each row begin, and the end."""
    data, indices, begin, end = stored
    places = cupy.zeros(len(begin) + 1, dtype=cupy.int64)
    cupy.cumsum(end - begin, out=places[1:])
    count = int(places[-1])  # synchronises
    found = cupy.empty(count, data.dtype), cupy.empty(count, indices.dtype), cupy.empty(count, cupy.int32)
    _launch_rows("gather", stored, *stored, places, len(begin), *found)
    return *found, places


def matrix(stored, n_features):
    """Rows as a CSR matrix."""
    values, columns, _, places = gathered(stored)
    return csr_matrix((values, columns, places), shape=(len(places) - 1, n_features))


def canonical(data, indices, indptr):
    """The stored form of a CSR matrix, in which equal rows are stored alike. Synchronises."""
    values, columns, rows, _ = gathered((data, indices, indptr[:-1], indptr[1:]))
    if len(values):
        order = cupy.lexsort(cupy.stack((columns, rows.astype(columns.dtype))))
        values, columns, rows = values[order], columns[order], rows[order]
        merged, stored = cupy.empty_like(values), (values, columns)
        grid = blocks(len(values), 32 * WARPS)
        _launch("merge", stored, (grid,), (32 * WARPS,), values, columns, rows, len(values), merged)
        kept = merged != 0
        values, columns, rows = merged[kept], columns[kept], rows[kept]
    places = cupy.searchsorted(rows, cupy.arange(len(indptr), dtype=rows.dtype))
    return values, columns, places[:-1], places[1:]


def sorted_by_column(stored, n_features):
    """Numbers of rows sorted by column, the rows of each, and where the numbers of each column begin, and the end."""
    values, columns, rows, _ = gathered(stored)
    order = cupy.argsort(columns)  # a radix sort, stable
    starts = cupy.searchsorted(columns[order], cupy.arange(n_features + 1, dtype=columns.dtype))
    return values[order], rows[order], starts


def add_sums(by_column, labels, sample_weight, totals):
    """Add the sums of the rows of each cluster, and its weight, to totals, (n_clusters, n_features + 1)."""
    n_clusters, n_columns = totals.shape
    width = min(n_clusters, MOST_CLUSTERS)
    labels, sample_weight = cupy.ascontiguousarray(labels, dtype=cupy.int32), cupy.ascontiguousarray(sample_weight)
    job = *by_column, labels, sample_weight, len(labels), n_columns - 1, n_clusters, width, totals
    grid = n_columns, blocks(n_clusters, width)
    _launch("sum_columns", by_column, grid, (32, WARPS), *job, shared_mem=8 * WARPS * width)


def _launch_rows(name, stored, *arguments):
    """Launch a kernel in which each warp has a row."""
    _launch(name, stored, (blocks(len(stored[2]), WARPS),), (32, WARPS), *arguments)


def _launch(name, stored, grid, block, *arguments, shared_mem=0):
    """Launch the instance of a kernel for numbers and indices like those stored; Python's int is `long long`."""
    data, indices = stored[:2]
    kernel = _kernels_on(cupy.cuda.Device().id, data.dtype.name, indices.dtype.name)[name]
    kernel(grid, block, arguments, shared_mem=shared_mem)


@functools.cache
def _kernels_on(device_id, number, index):
    """The kernels by name, compiled once a device."""
    return _cuda.compiled(cupy.RawModule, _cuda.SPARSE, _cuda.sparse_instances(number, index))
