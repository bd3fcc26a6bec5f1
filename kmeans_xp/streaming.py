"""Rows that are read block by block: from a file larger than memory, or into a GPU with less memory than the host.

A block is read by a thread while the one before it is computed with. Of a block whose rows are settled (see `bounds`)
nothing is read, and of one with few rows left only those, where the data can be indexed row by row.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from kmeans_xp import partitions
from kmeans_xp.arrays import OtherRows, asarray_like, float_dtype, on_device, slots, to_numpy
from kmeans_xp.steps import own_threads

BLOCK_BYTES = 2**26  # of a block, where working memory allows
PAGE = 4096  # bytes that reading a row costs at least
SPARSE = 4  # rows are read one by one if that is this many times less to read


class Stream:
    """Source of blocks (see `partitions`) from anything with shape, dtype and row slicing.

    The blocks are NumPy arrays, or CuPy's on a CUDA device. sample_weight (n_samples,) is a NumPy array or None.
    `prepare(rows, first)` gives the rows that are computed with, the number of the first being `first`.
    """

    def __init__(self, X, sample_weight, n_clusters, working_memory, device=None, prepare=lambda rows, first: rows):
        self._prepare = prepare
        self._X, self._sample_weight, self._n_clusters = X, sample_weight, n_clusters
        self.shape = tuple(X.shape)
        self._dtype = float_dtype(X)
        row_bytes = self.shape[1] * self._dtype.itemsize
        # Each block keeps float64 sums of its clusters: larger blocks where these would weigh
        block_bytes = max(BLOCK_BYTES, 32 * 8 * n_clusters * self.shape[1])
        self._n_rows = max(1, min(block_bytes, working_memory // 4) // row_bytes)
        starts = range(0, self.shape[0], self._n_rows)
        self._blocks = [partitions.Block(None, None, index, start) for index, start in enumerate(starts)]
        shape = min(self._n_rows, self.shape[0]), self.shape[1]
        self._slots = slots(2, shape, self._dtype, device)
        self.like = self._slots[0].take(0)
        state_bytes = 12 * self.shape[0] + 8 * n_clusters * self.shape[1] * len(self._blocks)
        self.keeps_bounds = state_bytes <= working_memory
        self._n_runs = 0

    def new_run(self):
        self._n_runs += 1
        return self._n_runs

    def reduce(self, function, combine, *args):
        result = None
        for block in self._at_hand(function, args):
            value = function(block, *args)
            result = value if result is None else combine(result, value)
        return result

    def labels(self, job, centers):
        return self.write(np.empty(self.shape[0], dtype=np.int32), partitions.labels, job, centers)

    def write(self, out, function, *args):
        """`out`, in which `function(block, *args)` is written to where the rows of the block stand."""
        for block in self._at_hand(function, args):
            out[self._rows(block)] = to_numpy(function(block, *args))
        return out

    def _at_hand(self, function, args):
        """Yield the blocks, each while what `function` needs of its rows is in memory."""
        with ThreadPoolExecutor(1) as reader:
            reading = None
            for block in [*self._blocks, None]:
                ready = reading
                if block is not None:
                    job = block, self._slots[block.index % 2], self._needed(block, function, args)
                    reading = *job, _begun(reader, self._read, *job)
                if ready is not None:
                    yield from self._loaded(*ready)

    def _loaded(self, block, slot, active, read):
        """Yield the block while its rows are in memory."""
        X = slot.take(read())
        if self._sample_weight is None:
            weights = np.ones(X.shape[0])
        else:
            weights = self._sample_weight[self._rows(block)]
            weights = weights if active is None else weights[to_numpy(active)]
        with on_device(X), own_threads(X, self._n_clusters):
            X = self._prepare(X, block.start) if X.shape[0] else X
            block.put(X, asarray_like(weights, X), active)
            yield block
            block.drop()
        slot.release()

    def _rows(self, block):
        return slice(block.start, min(block.start + self._n_rows, self.shape[0]))

    def _needed(self, block, function, args):
        """Numbers within the block of the rows to read, or None for all."""
        active = function.needed(block, *args) if hasattr(function, "needed") else None
        if active is None or len(active) == 0:
            return active
        by_rows = len(active) * max(PAGE, self.shape[1] * self._dtype.itemsize)
        by_block = self._n_rows * self.shape[1] * self._dtype.itemsize
        return active if isinstance(self._X, np.ndarray) and SPARSE * by_rows <= by_block else None

    def _read(self, block, slot, active):
        """Fill the slot with the rows of a block, or some of them: how many."""
        rows = self._rows(block)
        n_rows = rows.stop - rows.start if active is None else len(active)
        if n_rows:
            if tuple(self._X.shape) != self.shape:
                raise ValueError(f"X changed its shape from {self.shape} to {tuple(self._X.shape)} while it was read.")
            try:
                _check_file(self._X)
                found = np.asarray(self._X[rows] if active is None else self._X[rows.start + to_numpy(active)])
            except Exception as error:
                raise OSError(f"Reading rows {rows.start} to {rows.stop - 1} of X failed: {error}") from error
            if tuple(found.shape) != (n_rows, self.shape[1]):
                raise ValueError(
                    f"X gave an array of shape {tuple(found.shape)} for rows {rows.start} to {rows.stop - 1}, "
                    f"expected {(n_rows, self.shape[1])}."
                )
            slot.fill(found)
        return n_rows


def _begun(reader, function, *args):
    """A call that the reader makes meanwhile: a function that gives its result."""
    try:
        return reader.submit(function, *args).result
    except RuntimeError:  # no thread can be started: by a limit, or as the main thread has ended
        return partial(function, *args)


class SlicedRows(OtherRows):
    """Rows that a pass reads tile by tile, from anything with shape, dtype and row slicing."""

    def __init__(self, X):
        super().__init__(tuple(X.shape), float_dtype(X), np.empty(0))
        self._X = X

    def __getitem__(self, rows_and_all):
        return np.asarray(self._X[rows_and_all[0]], dtype=self.dtype)

    def has_nan(self, frame):
        """Whether a number is NaN."""
        return any(found for _, found in frame.map_rows(lambda rows, X: bool(np.isnan(X).any()), self, 1))

    def take_rows(self, rows):
        """Some rows, in memory."""
        return np.concatenate([self[row : row + 1, :] for row in rows.tolist()])


def _check_file(X):
    """A mapped file that has become shorter would end the process with a bus error."""
    if isinstance(X, np.memmap) and X.filename is not None and os.path.exists(X.filename):
        while isinstance(X.base, np.memmap):  # the map that X is a part of
            X = X.base
        size = os.path.getsize(X.filename)
        if size < X.offset + X.nbytes:
            raise OSError(f"{X.filename} has {size} bytes and should have {X.offset + X.nbytes}")
