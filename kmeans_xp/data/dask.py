"""Rows on the workers of a Dask cluster: one task a partition and pass, results summed in a tree.

In a fit, a partition stays with its worker as a block, and so does the state of its rows. Only centers, sums of the
clusters and a sample for the seeding travel. A worker that dies takes no result with it: Dask makes its partitions anew
elsewhere, and a block without state compares its rows with all centers once.
"""

import contextlib
import functools
import math
import numbers
import sys
import uuid

import dask
import dask.array as da
import numpy as np
from dask import delayed

from kmeans_xp.arrays import (
    as_dask_array,
    asarray_like,
    float_dtype,
    is_dask,
    namespace,
    refuse_masked,
    to_floats,
    to_numpy,
    widened,
    write_rows,
)
from kmeans_xp.data.source import Block, PerRow, gathered, iterate_over_blocks, map_arrays, prepared
from kmeans_xp.rows import StoredRows
from kmeans_xp.steps import computing, weight_unit
from kmeans_xp.validation import check_rows, check_sample_weight, check_weight_of_source

FAN_IN = 8  # results that one task combines
WRITTEN_BYTES = 2**28  # of results that are on the client at a time


class Partitions:
    """Source (see `source`) of the partitions of a Dask array along its rows."""

    in_blocks = True
    iterate = iterate_over_blocks

    def __init__(self, X, sample_weight, purpose):
        self._X, self._sample_weight = rows_together(X), sample_weight
        self._metric, self._n_clusters, self.weight_unit = purpose.metric, purpose.n_clusters, 1.0
        self._n_passes, self._stays = 0, False
        self.given, self.home, self.lost, self.masses = X, X._meta, (0, 0.0), {}
        # Centers and sums are NumPy's on the client, whatever library the workers use
        self.like = self.shown = np.empty((0, X.shape[1]), dtype=float_dtype(X))
        rows, weights = _parts(self._X, sample_weight)
        self._name = f"kmeans_xp-{uuid.uuid4().hex}"
        self._blocks = {
            index: delayed(_block)(
                *part, index, purpose.metric, purpose.fitting, dask_key_name=f"{self._name}-partition-{index}"
            )
            for index, part in enumerate(zip(rows, weights, _announced(self._X), strict=True))
        }
        self.shape = self._X.shape
        if purpose.fitting:
            self._keep()

    def _keep(self):
        """Have the blocks stay with the workers, those that have rows, with weights in their unit."""
        self._blocks = dict(zip(self._blocks, dask.persist(*self._blocks.values()), strict=True))
        sizes, largest = zip(*_compute([delayed(_size)(block) for block in self._blocks.values()]), strict=True)
        self._blocks = {i: block for (i, block), size in zip(self._blocks.items(), sizes, strict=True) if size > 0}
        self.shape = sum(sizes), self._X.shape[1]
        self.weight_unit = unit = weight_unit(max(largest))
        if unit != 1:
            name = f"{self._name}-in_unit"
            blocks = [delayed(_in_unit)(b, unit, dask_key_name=f"{name}-{i}") for i, b in self._blocks.items()]
            self._blocks = dict(zip(self._blocks, dask.persist(*blocks), strict=True))

    def reduce(self, function, combine, *args):
        # One task: each worker fetches the centers once
        common, entries = delayed(_Together(_for_workers(args)), traverse=False), self._entries(args)
        self._n_passes += 1
        name = f"{self._name}-pass-{self._n_passes}"
        values = [
            delayed(_run)(
                function, block, common, entries.get(index), self._n_clusters, dask_key_name=f"{name}-{index}"
            )
            for index, block in self._blocks.items()
        ]
        while len(values) > 1:
            values = [delayed(_combine)(combine, values[i : i + FAN_IN]) for i in range(0, len(values), FAN_IN)]
        (result,) = _compute(values)
        if result is None:
            raise ValueError("Found data with 0 sample(s) while a minimum of 1 is required: all partitions are empty.")
        return result

    def write(self, out, function, *args, dtype=None, more_shape=()):
        """Lazy where there is no `out`."""
        X = self._X
        meta = asarray_like(np.empty((0, *(more_shape or (1,))), dtype or float_dtype(X)), X._meta)
        per_row = [da.from_array(arg.values[:, None], (X.chunks[0], 1)) for arg in args if isinstance(arg, PerRow)]
        job = _Together((function, _for_workers(args), self._metric, self._n_clusters, _announced(X), meta))
        chunks = X.chunks[0], meta.shape[1:]
        result = X.map_blocks(_rows_of, *per_row, job=job, dtype=meta.dtype, meta=meta, chunks=chunks)
        if more_shape == ():  # to drop the axis at once, Dask would look into partitions
            result = result[:, 0]
        if out is None:
            return result
        _write(out, result)
        return out

    def labels(self, job, centers):
        """None: the estimator's `labels_` are lazy, and don't keep the blocks in memory."""

    def n_rows(self, purpose):
        check_sizes(self._X, purpose)
        return self._X.shape[0]

    def all_rows(self):
        n_bytes = self.like.itemsize * math.prod(self.shape)
        if not n_bytes <= WRITTEN_BYTES:
            raise ValueError(
                f"All rows of X are needed in memory here, and they take {n_bytes / 2**20:,.0f} MiB. Use '.compute()' "
                "if that is what you want, or a sample of the rows."
            )
        return gathered(self)

    def take(self, numbers):
        check_sizes(self._X, "to choose rows")
        if not self._stays:  # they will be chosen from again and again
            self._X, self._stays = self._X.persist(), True
        numbers, places = np.unique(numbers, return_inverse=True)
        return asarray_like(check_rows(_compute([self._X[numbers]])[0]), self.like)[places]

    def host_weights(self):
        if self._sample_weight is None:
            return None
        check_sizes(self._X, "for weights that rows are drawn by")
        return check_weight_of_source(self._sample_weight, self._X)

    def suited(self, algorithm, n_clusters, frame):
        """Each worker decides what it comes to."""
        return algorithm

    def _entries(self, args):
        """By the number of a partition, those of its rows of each argument that has an entry for each row."""
        per_row = [arg.values for arg in args if isinstance(arg, PerRow)]
        if not per_row:
            return {}
        check_sizes(self._X, "where each row has a label")
        slices = [slice(start, start + n_rows) for start, (n_rows, _) in _announced(self._X)]
        return {index: _Together([values[rows] for values in per_row]) for index, rows in enumerate(slices)}


def _for_workers(args):
    """Arguments that all partitions are given alike, on the host: a worker may have another library."""
    return tuple(PerRow(None) if isinstance(arg, PerRow) else map_arrays(arg, to_numpy) for arg in args)


def rows_together(X):
    """X with all features of a row in one partition."""
    if math.isnan(X.shape[1]):
        raise ValueError("X has an unknown number of features. Use 'X.compute_chunk_sizes()' first.")
    return X.rechunk({1: -1}) if X.numblocks[1] > 1 else X


def _write(out, result):
    """Write a lazy array into `out`, on the client: other processes would write into copies of it."""
    parts, ends = result.to_delayed().ravel(), np.cumsum(result.chunks[0])
    largest = max(result.chunks[0]) * math.prod(result.shape[1:]) * result.dtype.itemsize
    at_a_time = max(1, WRITTEN_BYTES // max(1, largest))
    for first in range(0, len(parts), at_a_time):
        rows = slice(first, first + at_a_time)
        for end, part in zip(ends[rows], _compute(parts[rows]), strict=True):
            write_rows(out, slice(end - len(part), end), part)


def _compute(values):
    """Results of delayed values. If the workers that were given a partition died, the error says which one it was."""
    killed = getattr(sys.modules.get("distributed"), "KilledWorker", ())
    try:
        return dask.compute(*values)
    except killed as error:
        # The key of a task: (name, number of the partition, 0), or a name of ours that ends in the number
        key = error.task
        partition = key[1] if isinstance(key, tuple) else str(key).rpartition("-")[2]
        raise MemoryError(
            f"Partition {partition} of X: all workers that were given it died, most likely for lack of memory. Use "
            "smaller chunks, or workers with more memory."
        ) from error


def _parts(X, sample_weight):
    """Rows and weights of each partition, delayed; None for no weights."""
    rows = X.to_delayed().ravel()
    if sample_weight is None or isinstance(sample_weight, numbers.Number):
        return rows, [sample_weight] * len(rows)
    return rows, _weights(sample_weight, X)


def _weights(sample_weight, X):
    """The weights of each partition."""
    if is_dask(sample_weight):
        sample_weight = as_dask_array(sample_weight, "sample_weight")
    else:
        check_sizes(X, "for a sample_weight that is not of Dask")
        refuse_masked(sample_weight, "sample_weight")
        sample_weight = da.from_array(np.asarray(sample_weight), chunks=-1)
    known = not np.isnan([*X.chunks[0], *sample_weight.chunks[0]]).any()
    if sample_weight.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar, got {sample_weight.ndim}D array.")
    if known and sample_weight.shape != X.shape[:1]:
        raise ValueError(f"sample_weight.shape == {sample_weight.shape}, expected {X.shape[:1]}!")
    if known:
        sample_weight = sample_weight.rechunk((X.chunks[0],))
    if sample_weight.numblocks != X.numblocks[:1]:
        raise ValueError(
            f"sample_weight has {sample_weight.numblocks[0]} partitions and X has {X.numblocks[0]}: they must be alike."
        )
    return sample_weight.to_delayed().ravel()


def check_sizes(X, purpose):
    """The partitions of X have known sizes, which are needed for some purpose."""
    if np.isnan(X.chunks[0]).any():
        raise ValueError(
            f"X has partitions of unknown size, which must be known {purpose}. Use 'X.compute_chunk_sizes()' first, or "
            "'X.to_dask_array(lengths=True)' of a data frame."
        )


def _announced(X):
    """What X announces of each partition: the number of its first row, and its shape. NaN rows are unknown."""
    starts = np.cumsum([0, *X.chunks[0][:-1]])
    if np.isnan(X.chunks[0]).any():
        starts = np.arange(len(starts)) << 40  # numbers all the same
    return [(start, (n_rows, X.shape[1])) for start, n_rows in zip(starts.tolist(), X.chunks[0], strict=True)]


# What runs on a worker


@contextlib.contextmanager
def _naming(index):
    """Errors say in which partition they are."""
    try:
        yield
    except (ValueError, TypeError, MemoryError) as error:
        kind = next(kind for kind in (ValueError, TypeError, MemoryError) if isinstance(error, kind))
        raise kind(f"Partition {index} of X: {error}") from error


def _check_shape(X, shape):
    """A partition is an array of the announced shape."""
    if not hasattr(X, "shape"):
        raise TypeError(f"Expected an array of shape {shape}, got a {type(X).__name__}.")
    n_rows, n_features = shape
    if tuple(X.shape) != (X.shape[0] if math.isnan(n_rows) else n_rows, n_features):
        raise ValueError(f"Expected an array of shape {shape}, as X says, got one of shape {tuple(X.shape)}.")


def _block(X, sample_weight, announced, index, metric, fitting):
    """A partition as a block of the rows that `metric` makes of it."""
    start, shape = announced
    with _naming(index):
        _check_shape(X, shape)
        if X.shape[0] == 0:
            return Block(X, sample_weight, index, start)
        X = check_rows(X)
        if isinstance(X, StoredRows):
            raise TypeError("Sparse partitions are not supported. Use '.map_blocks(lambda X: X.toarray())'.")
        with computing(X):
            X = X if type(X) is np.ndarray else widened(X)
            sample_weight = check_sample_weight(sample_weight, X, may_be_zero=True)
            named_from = 0 if math.isnan(shape[0]) else start  # by errors
            X, sample_weight, lost = prepared(X, sample_weight, named_from, metric, fitting)
            return Block(X, sample_weight, index, start, lost)


def _size(block):
    """How many rows a block has, and their largest weight."""
    if block.X.shape[0] == 0:
        return 0, 0.0
    with computing(block.X):
        return block.X.shape[0], *to_floats(namespace(block.sample_weight).max(block.sample_weight))


def _in_unit(block, unit):
    """The block with its weights in a unit."""
    if block.X.shape[0] == 0:
        return block
    with computing(block.X):
        n_lost, lost = block.lost
        return Block(block.X, block.sample_weight / unit, block.index, block.start, (n_lost, lost / unit))


def _run(function, block, common, entries, n_clusters):
    """`function(block, *args)`, its arguments moved to the library of the block and its result to the host."""
    X = block.X
    if X.shape[0] == 0:
        return None
    args = common.values if entries is None else _with_entries(common.values, entries.values)
    try:
        with computing(X, n_clusters):
            result = map_arrays(function(block, *map_arrays(args, lambda value: asarray_like(value, X))), to_numpy)
    except MemoryError as error:
        raise MemoryError(f"Partition {block.index} of X, {X.shape[0]} rows: {error}") from error
    if not _is_finite(result):  # X may be a view of what has changed since the fit began
        with _naming(block.index):
            check_rows(X)
    return result


def _rows_of(X, *per_row, job, block_id):
    """`function(block, *args)` for the rows of a partition, which may have none: (n_rows, n_columns)."""
    function, args, metric, n_clusters, announced, nothing = job.values
    block = _block(X, None, announced[block_id[0]], block_id[0], metric, False)
    if X.shape[0] == 0:
        return nothing
    args = _with_entries(args, [values[:, 0] for values in per_row])
    with _naming(block.index), computing(block.X, n_clusters):
        result = asarray_like(function(block, *map_arrays(args, lambda value: asarray_like(value, block.X))), X)
        return namespace(result).reshape(result, (X.shape[0], -1))


def _with_entries(args, entries):
    """Arguments of which those that have an entry for each row have those of a partition."""
    entries = iter(entries)
    return tuple(next(entries) if isinstance(arg, PerRow) else arg for arg in args)


def _is_finite(result):
    """Whether the numbers that a pass has summed are finite."""
    parts = result if isinstance(result, tuple) else ()
    return all(np.isfinite(part).all() for part in parts if isinstance(part, (np.ndarray, np.floating)))


def _combine(combine, values):
    """Of partitions that have rows."""
    values = [value for value in values if value is not None]
    return functools.reduce(combine, values) if values else None


class _Together:
    """Arguments that Dask is not to look into."""

    def __init__(self, values):
        self.values = values
