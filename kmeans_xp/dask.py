"""Rows on a Dask cluster: one task a partition and pass, results summed in a tree.

A partition stays with its worker as a `partitions.Block`, and so does the state of its rows. Only centers, sums of the
clusters and a sample for the seeding travel. A worker that dies takes no result with it: Dask makes its partitions anew
elsewhere, and a block without state compares its rows with all centers once.
"""

import contextlib
import copy
import math
import numbers
import sys
import uuid
from dataclasses import fields, is_dataclass, replace

import dask
import dask.array as da
import numpy as np
from dask import delayed

from kmeans_xp.arrays import (
    as_dask_array,
    asarray_like,
    computing,
    float_dtype,
    is_dask,
    is_foreign,
    namespace,
    refuse_masked,
    to_floats,
    to_numpy,
    write_rows,
)
from kmeans_xp.partitions import Block
from kmeans_xp.rows import StoredRows
from kmeans_xp.steps import own_threads, weight_unit
from kmeans_xp.validation import check_rows, check_sample_weight

FAN_IN = 8  # results that one task combines
WRITTEN_BYTES = 2**28  # of results that are on the client at a time


class Cluster:
    """Source of blocks (see `partitions`) that are the partitions of a Dask array along its rows."""

    keeps_bounds = True

    def __init__(self, X, sample_weight, n_clusters, metric):
        self._n_clusters = n_clusters
        X = rows_together(X)
        rows, weights = _parts(X, sample_weight)
        name = f"kmeans_xp-partition-{uuid.uuid4().hex}"
        blocks = [
            delayed(_block)(x, weight, index, shape, metric, dask_key_name=f"{name}-{index}")
            for index, (x, weight, shape) in enumerate(zip(rows, weights, _shapes(X), strict=True))
        ]
        blocks = dask.persist(*blocks)
        self._name = name
        sizes, largest = zip(*_compute([delayed(_size)(block) for block in blocks]), strict=True)
        self.weight_unit = weight_unit(max(largest))
        if self.weight_unit != 1:
            blocks = dask.persist(
                *(
                    delayed(_in_unit)(block, self.weight_unit, dask_key_name=f"{name}-in_unit-{index}")
                    for index, block in enumerate(blocks)
                )
            )
        self._blocks = {i: block for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)) if size > 0}
        self.shape = sum(sizes), X.shape[1]
        # Centers and sums are NumPy's on the client, whatever library the workers use
        self.like = np.empty((0, X.shape[1]), dtype=float_dtype(X))
        self._n_runs = self._n_passes = 0

    def new_run(self):
        self._n_runs += 1
        return self._n_runs

    def reduce(self, function, combine, *args):
        args = delayed(_Together(args), traverse=False)  # one task: each worker fetches the centers once
        self._n_passes += 1
        name = f"{self._name}-pass-{self._n_passes}"
        values = [
            delayed(_run)(function, block, args, self._n_clusters, dask_key_name=f"{name}-{index}")
            for index, block in self._blocks.items()
        ]
        while len(values) > 1:
            values = [delayed(_combine)(combine, values[i : i + FAN_IN]) for i in range(0, len(values), FAN_IN)]
        return _compute(values)[0]

    def labels(self, job, centers):
        """None: the estimator's `labels_` are lazy, and don't keep the blocks in memory."""


def rows_together(X):
    """X with all features of a row in one partition."""
    if math.isnan(X.shape[1]):
        raise ValueError("X has an unknown number of features. Use 'X.compute_chunk_sizes()' first.")
    return X.rechunk({1: -1}) if X.numblocks[1] > 1 else X


def map_rows(method, X, dtype, n_columns=None):
    """Lazy dask array of `method(rows)`: (n_samples,), or (n_samples, n_columns). `method` is of an estimator."""
    X, model = rows_together(X), _for_workers(method.__self__)
    meta = asarray_like(np.empty((0, n_columns or 1), dtype), X._meta)
    job = model, method.__name__, meta, _shapes(X)
    result = X.map_blocks(_call, *job, dtype=dtype, meta=meta, chunks=(X.chunks[0], meta.shape[1:]))
    return result[:, 0] if n_columns is None else result  # to drop the axis at once, Dask would look into partitions


def write(out, result):
    """Write a lazy array into `out`, on the client: other processes would write into copies of it."""
    parts, ends = result.to_delayed().ravel(), np.cumsum(result.chunks[0])
    largest = max(result.chunks[0]) * math.prod(result.shape[1:]) * result.dtype.itemsize
    at_a_time = max(1, WRITTEN_BYTES // max(1, largest))
    for first in range(0, len(parts), at_a_time):
        rows = slice(first, first + at_a_time)
        for end, part in zip(ends[rows], _compute(parts[rows]), strict=True):
            write_rows(out, slice(end - len(part), end), part)


def score(model, X, sample_weight):
    """Sum of the scores of the partitions."""
    X = rows_together(X)
    rows, weights = _parts(X, sample_weight)
    model, name = _for_workers(model), f"kmeans_xp-score-{uuid.uuid4().hex}"
    scores = [
        delayed(_score)(model, x, weight, index, shape, dask_key_name=f"{name}-{index}")
        for index, (x, weight, shape) in enumerate(zip(rows, weights, _shapes(X), strict=True))
    ]
    scores, weights = zip(*_compute(scores), strict=True)
    if sum(weights) == 0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return sum(scores)


def _for_workers(model):
    """The model without what a prediction does not need and perhaps cannot travel."""
    model = copy.copy(model)
    for name in ("labels_", "feature_names_in_"):  # a partition has no names: those of X have been compared
        vars(model).pop(name, None)
    return model.set_params(**dict.fromkeys({"init", "on_iteration", "random_state"} & set(model.get_params())))


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


def _shapes(X):
    """The shape of each partition, as X announces it: rows of NaN are unknown."""
    return [(n_rows, X.shape[1]) for n_rows in X.chunks[0]]


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


def _block(X, sample_weight, index, shape, metric):
    """A partition as a block of the rows that `metric` makes of it."""
    with _naming(index):
        _check_shape(X, shape)
        if X.shape[0] == 0:
            return Block(X, sample_weight, index, 0)
        X = check_rows(X)
        with computing(X):
            sample_weight = check_sample_weight(sample_weight, X, may_be_zero=True)
            if isinstance(X, StoredRows):
                raise TypeError("Sparse partitions are not supported. Use '.map_blocks(lambda X: X.toarray())'.")
            X = metric.prepare(X)
            sample_weight, lost = metric.weigh(X, sample_weight)
            return Block(X, sample_weight, index, index << 40, lost)


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


def _run(function, block, args, n_clusters):
    """`function(block, *args)`, its arguments moved to the library of the block and its result to the host."""
    X = block.X
    try:
        with computing(X), own_threads(X, n_clusters):
            result = _moved(function(block, *_moved(args.values, lambda value: asarray_like(value, X))), to_numpy)
    except MemoryError as error:
        raise MemoryError(f"Partition {block.index} of X, {X.shape[0]} rows: {error}") from error
    if not _is_finite(result):  # X may be a view of what has changed since the fit began
        with _naming(block.index):
            check_rows(X)
    return result


def _is_finite(result):
    """Whether the numbers that a pass has summed are finite."""
    parts = result if isinstance(result, tuple) else ()
    return all(np.isfinite(part).all() for part in parts if isinstance(part, (np.ndarray, np.floating)))


def _combine(combine, values):
    total = values[0]
    for value in values[1:]:
        total = combine(total, value)
    return total


def _call(X, model, method, nothing, shapes, block_id):
    """A method of the model for the rows of a partition, which may have none: (n_rows, n_columns)."""
    with _naming(block_id[0]):
        _check_shape(X, shapes[block_id[0]])
        if X.shape[0] == 0:
            return nothing
        result = getattr(model, method)(X)
        return namespace(result).reshape(result, (X.shape[0], -1))


def _score(model, X, sample_weight, index, shape):
    """Score and weight of a partition, which may have no rows or weigh nothing."""
    with _naming(index):
        _check_shape(X, shape)
        if X.shape[0] == 0:
            return 0.0, 0.0
        X = check_rows(X)
        with computing(X):
            weights = check_sample_weight(sample_weight, X, may_be_zero=True)
            (total,) = to_floats(namespace(X).sum(weights))
        return (model.score(X, sample_weight=weights), total) if total else (0.0, 0.0)


class _Together:
    """Arguments that Dask is not to look into."""

    def __init__(self, values):
        self.values = values


def _moved(value, move):
    """`value` with `move` applied to the arrays in it."""
    if isinstance(value, np.ndarray) or is_foreign(value):
        return move(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(part, move) for part in value)
    if is_dataclass(value):
        return replace(value, **{field.name: _moved(getattr(value, field.name), move) for field in fields(value)})
    return value
