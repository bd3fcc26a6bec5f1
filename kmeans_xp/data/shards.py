"""Rows in the memory of several CUDA devices of one process: a block on each, computed with at the same time."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kmeans_xp.arrays import asarray_like, float_dtype, to_numpy, write_rows
from kmeans_xp.data.source import Block, HostBlocks, beside, moved_to, prepared, started
from kmeans_xp.devices import every_cuda_device, finish, to_device
from kmeans_xp.steps import computing, in_unit


def dealt(X):
    """The CUDA devices, by name, and the rows of each: parts of about one size, in order."""
    names = every_cuda_device()[: len(X)]
    ends = [len(X) * i // len(names) for i in range(len(names) + 1)]
    return [(name, slice(*pair)) for name, pair in zip(names, itertools.pairwise(ends), strict=True)]


class Shards(HostBlocks):
    """Source (see `source`) of a NumPy array, whose rows are dealt out to all devices in parts of about one size.

    Results of the devices are added up in their order, on the first one. sample_weight (n_samples,) is a NumPy array
    or None; `parts` as they are `dealt`.
    """

    def __init__(self, X, sample_weight, purpose, parts):
        self.given, self.home, self.lost, self.masses = X, np.empty(0), (0, 0.0), {}
        self.shape, self._dtype, self._n_clusters = X.shape, float_dtype(X), purpose.n_clusters
        self._sample_weight, self.weight_unit = sample_weight, 1.0
        weights = np.ones(len(X)) if sample_weight is None else sample_weight
        if purpose.fitting and sample_weight is not None:
            weights, self.weight_unit = in_unit(weights)
        names, self._rows = zip(*parts, strict=True)
        self._first = names[0]
        self._blocks = [self._placed(i, name, weights, purpose) for i, name in enumerate(names)]
        self.like = self.shown = self._blocks[0].X[:0]

    def _placed(self, index, name, weights, purpose):
        """The block of rows on a device."""
        rows = self._rows[index]
        X = to_device(self.given[rows].astype(self._dtype, copy=False), name)
        with computing(X, self._n_clusters):
            X, weights, lost = prepared(X, asarray_like(weights[rows], X), rows.start, purpose.metric, purpose.fitting)
            return Block(X, weights, index, rows.start, lost)

    def reduce(self, function, combine, *args):
        result = None
        for value in self._found(function, args, gathers=True):
            result = value if result is None else combine(result, value)
        return result

    def write(self, out, function, *args, dtype=None, more_shape=()):
        if out is None:
            out = np.empty((self.shape[0], *more_shape), self._dtype if dtype is None else dtype)
        for rows, value in zip(self._rows, self._found(function, args), strict=True):
            write_rows(out, rows, value)
        return out

    def take(self, numbers):
        return to_device(self.given[to_numpy(numbers)].astype(self._dtype, copy=False), self._first)

    def suited(self, algorithm, n_clusters, frame):
        return algorithm.on(self.like, n_clusters, frame)

    def _found(self, function, args, gathers=False):
        """`function(block, *args)` of all blocks, in their order, each by a thread that waits for its device."""
        finish(self.like)  # what made the arguments
        with ThreadPoolExecutor(len(self._blocks)) as pool:
            jobs = [started(pool, self._run, block, function, args, gathers) for block in self._blocks]
            return [result() for result in jobs]

    def _run(self, block, function, args, gathers):
        with computing(block.X, self._n_clusters):
            args = moved_to(block.X, beside(args, self._rows[block.index], block.X))
            return self.settled(function(block, *args), block.X, gathers)
