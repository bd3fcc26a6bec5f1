"""Rows in memory: a source of one block."""

import copy

from kmeans_xp import arrays, passes
from kmeans_xp.algorithms import Iterated, iterations, run_at_once
from kmeans_xp.data.source import Block, PerRow
from kmeans_xp.rows.array import as_given, take_rows
from kmeans_xp.steps import in_unit


class InMemory:
    """Source (see `source`) of rows and weights that are arrays of one library on one device.

    X is what the metric has prepared, `given_weights` what the user gave; `home` is an array of the user's library, and
    so is `lender`, whose memory NumPy or CuPy computes with.
    """

    in_blocks = False

    def __init__(self, X, sample_weight, metric, *, home=None, lender=None, given_weights=None, fitting=True):
        self.weight_unit, self.lost, self.masses = 1.0, (0, 0.0), {}
        if fitting:
            if given_weights is not None:
                sample_weight, self.weight_unit = in_unit(sample_weight)
            sample_weight, self.lost = metric.weigh(X, sample_weight)
        self.block = Block(X, sample_weight, lost=self.lost)
        self.shape, self.like, self.home = X.shape, X, X if home is None else home
        self.shown = X if lender is None else lender
        self._given_weights, self._is_scaled, self._order = given_weights, metric.spherical, None

    def beside(self):
        """The same rows for a run beside others."""
        other = copy.copy(self)
        other.block = Block(self.block.X, self.block.sample_weight, lost=self.lost)
        return other

    @property
    def given(self):
        if self.shown is self.like:
            return as_given(self.like)
        return as_given(arrays.asarray_like(self.like, self.shown) if self._is_scaled else self.shown)

    def reduce(self, function, combine, *args):
        return function(self.block, *map(self._beside, args))

    def write(self, out, function, *args, dtype=None, more_shape=()):
        result = function(self.block, *map(self._beside, args))
        if out is None:
            return arrays.asarray_like(result, self.home)
        arrays.write_rows(out, slice(None), result)
        return out

    def iterate(self, job, centers, limits):
        state, X, frame = self.block.begun(job)
        return Iterated(*iterations(X, self.block.sample_weight, centers, state, frame, job.metric, limits))

    def run_at_once(self, job, centers, limits):
        """`algorithms.run_at_once`."""
        self.block.drawing = None  # the seeding is over
        given = centers, job.algorithm.prunes, job.frame, job.metric, limits
        return run_at_once(self.block.X, self.block.sample_weight, *given)

    def labels(self, job, centers):
        return arrays.asarray_like(passes.labels(self.block, job, centers), self.home)

    def n_rows(self, purpose):
        return self.shape[0]

    def all_rows(self):
        return self.block.X, self.block.sample_weight

    def take(self, numbers):
        return take_rows(self.like, arrays.asarray_like(numbers, self.like, arrays.namespace(self.like).int64))

    def order(self, frame):
        """Row numbers in the order that depends on their values alone, the same for all runs of a fit."""
        if self._order is None:
            self._order = passes.canonical_order(self.like, frame)
        return self._order

    def host_weights(self):
        return None if self._given_weights is None else arrays.to_numpy(self._given_weights)

    def suited(self, algorithm, n_clusters, frame):
        return algorithm.on(self.like, n_clusters, frame)

    def _beside(self, value):
        """An argument of a pass as the block is given it."""
        return arrays.asarray_like(value.values, self.like) if isinstance(value, PerRow) else value
