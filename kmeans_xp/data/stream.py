"""Rows that are read block by block: from a file larger than memory, or into a GPU with less memory than the host.

A block is read by a thread while the one before it is computed with, and several GPUs take turns. Of a block whose rows
are settled (see `bounds`) nothing is read, and of one with few rows left only those, where X takes numbers of rows.
"""

import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from kmeans_xp.algorithms import Dense
from kmeans_xp.arrays import (
    asarray_like,
    check_file,
    float_dtype,
    on_device,
    takes_numbers,
    to_numpy,
    write_rows,
)
from kmeans_xp.data.source import Block, HostBlocks, beside, moved_to, prepared, started
from kmeans_xp.devices import finish, slots, to_device
from kmeans_xp.steps import computing, in_unit

BLOCK_BYTES = 2**26  # of a block, where working memory allows
PAGE = 4096  # bytes that reading a row costs at least
SPARSE = 4  # rows are read one by one if that is this many times less to read
CHECKED_BYTES = 2**18  # copied and summed at a time: the sum finds them in the processor's cache
TOGETHER_BYTES = 2**20  # of rows of which some are wanted, where X gives slices only


class Reader:
    """Reads rows of anything with shape, dtype and row slicing: finite numbers, or an error that names the rows.

    They are copied, so that what was checked is what is computed with, whatever becomes of the file.
    """

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, tuple(X.shape), float_dtype(X)
        self._one_at_a_time = threading.Lock()  # X need not be made for threads
        self._row_bytes = self.shape[1] * self.dtype.itemsize

    def read(self, rows, out=None):
        """The rows of a slice, or those of ascending numbers where X takes them, in `dtype`: `out`, or a new array."""
        numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return self._checked(self._found(rows, numbers), numbers, out)

    def take(self, numbers):
        """Rows by their numbers, which may repeat, in any order: they are read in that of the file."""
        numbers, places = np.unique(numbers, return_inverse=True)
        if takes_numbers(self._X):
            with contextlib.suppress(OSError):  # part by part, the error is about fewer rows
                return self.read(numbers)[places]
        part_of_each = numbers // max(1, TOGETHER_BYTES // self._row_bytes)
        parts = np.split(numbers, np.flatnonzero(np.diff(part_of_each)) + 1)
        return np.concatenate([self._some(part) for part in parts])[places]

    def _some(self, numbers):
        """Rows with ascending numbers that lie near each other, from one slice."""
        rows = slice(int(numbers[0]), int(numbers[-1]) + 1)
        return self._checked(self._found(rows, range(rows.start, rows.stop))[numbers - rows.start], numbers)

    def _found(self, rows, numbers):
        """What X has for rows: real numbers, in an array of the shape that X announced."""
        if tuple(self._X.shape) != self.shape:
            raise ValueError(f"X changed its shape from {self.shape} to {tuple(self._X.shape)} while it was read.")
        try:
            check_file(self._X)
            with self._one_at_a_time:
                found = self._X[rows] if isinstance(rows, slice) else getattr(self._X, "oindex", self._X)[rows, :]
            if np.ma.isMaskedArray(found):  # what is masked is missing
                found = np.ma.filled(found.astype(self.dtype), np.nan)
            found = np.asarray(found)
        except Exception as error:
            raise OSError(f"Reading {_named(numbers)} of X failed: {error}") from error
        shape = len(numbers), self.shape[1]
        if found.shape != shape or found.dtype.kind not in "fiub":
            raise ValueError(
                f"X gave an array of shape {found.shape} and dtype {found.dtype} for {_named(numbers)}, expected "
                f"{shape} and real numbers."
            )
        return found

    def _checked(self, found, numbers, out=None):
        """What was found, in `dtype`; the error names the first row that is not finite."""
        out = np.empty(found.shape, self.dtype) if out is None else out
        n_rows = max(1, CHECKED_BYTES // self._row_bytes)
        with np.errstate(all="ignore"):
            for start in range(0, len(found), n_rows):
                piece = out[start : start + n_rows]
                piece[...] = found[start : start + n_rows]
                # A sum without an extreme is finite. That of `einsum` takes a third of the time of `sum`
                if not math.isfinite(np.einsum("ij->", piece)):
                    self._refuse_extremes(piece, start, numbers)
        return out

    def _refuse_extremes(self, piece, start, numbers):
        """Raise if a row of the piece, which begins at `start` of the numbers, is not finite."""
        (bad,) = np.nonzero(~np.isfinite(piece).all(axis=1))
        if len(bad):
            what = "NaN" if np.isnan(piece[bad[0]]).any() else f"infinity or a value too large for {self.dtype}"
            raise ValueError(
                f"Input X contains {what}: row {numbers[start + bad[0]]} is the first one of {_named(numbers)}."
            )


def _named(numbers):
    """Rows, by ascending numbers, as errors speak of them."""
    first, last = numbers[0], numbers[-1]
    which = "rows" if last - first + 1 == len(numbers) else f"{len(numbers)} rows from"
    return f"{which} {first} to {last}"


class Stream(HostBlocks):
    """Source (see `source`) of anything with shape, dtype and row slicing.

    The blocks are NumPy arrays (place None), or CuPy's on CUDA devices (places by name), which take turns: what they
    find is added up in the order of the blocks, as if it were one device. sample_weight (n_samples,) is a NumPy array
    or None.
    """

    def __init__(self, X, sample_weight, purpose, working_memory, places):
        self._X, self._purpose, n_clusters = X, purpose, purpose.n_clusters
        self.given, self.home, self.lost, self.masses = X, np.empty(0), (0, 0.0), {}
        self._sample_weight, self.weight_unit = sample_weight, 1.0
        if purpose.fitting and sample_weight is not None:
            self._sample_weight, self.weight_unit = in_unit(sample_weight)
        self._reader = Reader(X)
        self.shape, self._dtype = self._reader.shape, self._reader.dtype
        row_bytes = self.shape[1] * self._dtype.itemsize
        # Each block keeps float64 sums of its clusters: larger blocks where these would weigh
        block_bytes = max(BLOCK_BYTES, 32 * 8 * n_clusters * self.shape[1])
        self._n_rows = max(1, min(block_bytes, working_memory // 4) // row_bytes)
        starts = range(0, self.shape[0], self._n_rows)
        self._blocks = [Block(None, None, index, start) for index, start in enumerate(starts)]
        shape = min(self._n_rows, self.shape[0]), self.shape[1]
        self._places = places[: len(self._blocks)]
        self._slots = [slots(2, shape, self._dtype, place) for place in self._places]
        self._likes = [turns[0].take(0) for turns in self._slots]  # an array of no rows in each place
        self.like = self.shown = self._likes[0]
        state_bytes = 12 * self.shape[0] + 8 * n_clusters * self.shape[1] * len(self._blocks)
        self._keeps_bounds = state_bytes <= working_memory

    def reduce(self, function, combine, *args):
        result = None
        for _, value in self._found(function, args, gathers=True):
            result = value if result is None else combine(result, value)
        return result

    def write(self, out, function, *args, dtype=None, more_shape=()):
        if out is None:
            dtype = to_numpy(self.like).dtype if dtype is None else dtype
            out = np.empty((self.shape[0], *more_shape), dtype)
        for block, value in self._found(function, args):
            write_rows(out, self._rows(block), value)
        return out

    def take(self, numbers):
        X = self._reader.take(numbers)
        return X if self._places[0] is None else to_device(X, self._places[0])

    def suited(self, algorithm, n_clusters, frame):
        return algorithm.on(self.like, n_clusters, frame) if self._keeps_bounds else Dense()

    @property
    def _takes_turns(self):
        return len(self._places) > 1

    def _found(self, function, args, gathers=False):
        """Yield the blocks and `function(block, *args)`, in their order, while the next ones are read.

        One block at a time, or one in each place by a thread.
        """
        n, args_of_places = len(self._places), [args]
        if self._takes_turns:
            finish(self.like)  # what made the arguments
            args_of_places = [moved_to(like, args) for like in self._likes]
            for like in self._likes:
                finish(like)
        with ThreadPoolExecutor(n) as readers, ThreadPoolExecutor(n) as pool:
            reading = []
            for first in range(0, len(self._blocks) + n, n):
                ready = reading
                blocks = self._blocks[first : first + n]
                reading = [self._begun(readers, block, function, args_of_places[block.index % n]) for block in blocks]
                if not self._takes_turns:
                    yield from ((block, self._computed(block, *job)) for block, *job in ready)
                    continue
                finish(self.like)  # what is made of the last values, whose memory the next ones may take
                values = [started(pool, self._settled, gathers, *job) for job in ready]
                for (block, *_), value in zip(ready, values, strict=True):
                    yield block, value()

    def _begun(self, readers, block, function, args):
        """The job of `_computed`, of which the rows are being read."""
        turn, place = divmod(block.index, len(self._places))
        slot = self._slots[place][turn % 2]
        with on_device(self._likes[place]):
            active = self._needed(block, function, args)
        if self._takes_turns:
            finish(self._likes[place])  # other threads will read them
        return block, slot, active, started(readers, self._read, block, slot, active), function, args

    def _computed(self, block, slot, active, read, function, args):
        """What the function finds, while the rows of the block are in memory."""
        like, rows = self._likes[block.index % len(self._places)], self._rows(block)
        with computing(like, self._purpose.n_clusters):
            X = slot.take(read())
            if self._sample_weight is None:
                weights = np.ones(X.shape[0])
            else:
                weights = self._sample_weight[rows]
                weights = weights if active is None else weights[to_numpy(active)]
            weights = asarray_like(weights, X)
            if X.shape[0]:
                job = self._purpose.metric, self._purpose.fitting
                X, weights, block.lost = prepared(X, weights, block.start, *job)
            block.put(X, weights, active)
            found = function(block, *beside(args, rows, like))
            block.drop()
            slot.release()
            return found

    def _settled(self, gathers, block, *job):
        """The same by a thread, where others may have it."""
        return self.settled(self._computed(block, *job), self._likes[block.index % len(self._places)], gathers)

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
        n_rows = rows.stop - rows.start
        if active is not None:
            rows, n_rows = rows.start + to_numpy(active), len(active)
        if n_rows:
            slot.fill(n_rows, partial(self._reader.read, rows))
        return n_rows
