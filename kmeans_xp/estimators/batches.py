"""A batch of mini-batch k-means: how its rows are drawn, how it moves the centers, when batches no longer help."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmeans_xp import arrays
from kmeans_xp.backends import replaceable
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.rows.array import take_rows
from kmeans_xp.steps import in_unit, lloyd_step, means, sq_distances_to_own


@dataclass(frozen=True)
class Batch:
    """What one batch did, for callbacks."""

    number: int  # from 1
    centers: Any  # (n_clusters, n_features) after it
    inertia: float  # of the centers that it started from, mean of its rows
    smoothed_inertia: float  # that of the batches before as well, which decides when to stop
    center_shift: float  # sum of the squared distances that the centers moved
    seconds: float


class State:
    """Centers, relative to the origin of the frame, and the weight that each has seen."""

    def __init__(self, centers, frame, counts, n_since):
        self.centers, self.frame, self.counts = centers, frame, counts
        self.n_since = n_since  # rows since clusters were reassigned

    @classmethod
    def unseen(cls, centers, frame):
        """The state before the first batch."""
        return cls(centers, frame, arrays.namespace(centers).zeros_like(centers[:, 0]), 0)

    def step(self, X, sample_weight, reassignment_ratio, rng):
        """Move the centers by a batch: its inertia before that, and the squared distances that the centers moved."""
        self.centers, self.counts, numbers = batch_step(X, sample_weight, self.centers, self.counts, self.frame)
        inertia, shift, least_before, least, most = numbers
        self.n_since += X.shape[0]
        if reassignment_ratio > 0 and (least_before == 0 or self.n_since >= 10 * self.centers.shape[0]):
            self.n_since = 0
            if least < min(reassignment_ratio * most, most):
                self._reassign(X, reassignment_ratio, rng)
        return inertia, shift

    def _reassign(self, X, ratio, rng):
        """Move clusters that have little weight to random rows of the batch."""
        counts = arrays.to_numpy(self.counts).copy()
        small = np.flatnonzero((counts < ratio * counts.max()) & (counts < counts.max()))
        small = small[np.argsort(counts[small], kind="stable")][: X.shape[0] // 2]
        rows = rng.choice(X.shape[0], size=len(small), replace=False)
        others = np.delete(counts, small)
        counts[small] = others.min()  # else they would be reassigned again at once
        centers = arrays.to_numpy(self.centers).copy()
        taken = take_rows(X, arrays.asarray_like(rows, X, arrays.namespace(X).int64))
        centers[small] = arrays.to_numpy(self.frame.enter(taken))
        self.centers = arrays.asarray_like(centers, self.centers)
        self.counts = arrays.asarray_like(counts, self.counts)


@replaceable
def batch_step(X, sample_weight, centers, counts, frame):
    """Centers and what each has seen after a batch, of which each center is the mean of all rows it was ever given.

    And as floats the inertia of the batch, the squared distances that the centers moved, the least count before and
    after it, and the largest after it.
    """
    xp = arrays.namespace(X)
    labels, sums, weights = lloyd_step(X, sample_weight, centers, frame)
    squares = sq_distances_to_own(X, labels, centers, frame)
    seen = counts + weights
    moved = means(sums + counts[:, None] * centers, seen, centers, frame, EUCLIDEAN)
    inertia, shift = xp.sum(sample_weight * squares), xp.sum((moved - centers) ** 2)
    return moved, seen, arrays.to_floats(inertia, shift, xp.min(counts), xp.min(seen), xp.max(seen))


class Monitor:
    """Decides when batches no longer help."""

    def __init__(self, max_no_improvement, tol):
        self._max_no_improvement, self._tol = max_no_improvement, tol
        self._n_steps = self._n_worse = 0
        self._lowest = math.inf
        self.smoothed = None  # mean inertia of a row
        self.latest = None
        self.reason = None  # to stop

    def stops(self, inertia, shift, smoothing):
        """Take note of a batch; whether to stop. The first one shows what the seeding was worth."""
        self._n_steps += 1
        self.latest = inertia
        if self.smoothed is None or self._n_steps == 2:
            self.smoothed = inertia
        else:
            self.smoothed += smoothing * (inertia - self.smoothed)
        if self._n_steps == 1:
            return False
        if self._tol > 0 and shift <= self._tol:
            self.reason = "small centers change"
            return True
        self._n_worse = 0 if self.smoothed < self._lowest else self._n_worse + 1
        self._lowest = min(self._lowest, self.smoothed)
        if self._max_no_improvement is not None and self._n_worse >= self._max_no_improvement:
            self.reason = "lack of improvement in inertia"
            return True
        return False

    def __str__(self):
        return f"mean batch inertia: {self.latest}, ewa inertia: {self.smoothed}"


class Batches:
    """Draws batches of a source, with probability proportional to weight."""

    def __init__(self, data):
        self._data, self._draw = data, Draw(data.n_rows("to draw batches"), data.host_weights())
        self.total_weight = self._draw.total_weight

    def draw(self, n_rows, rng):
        """Rows and their weights, all 1."""
        X = self._data.take(self._draw(n_rows, rng))
        return X, unit_weights(X)

    def sample(self, n_rows, rng):
        """Rows to choose centers from and their weights: all, if that is not more."""
        if n_rows < self._data.shape[0]:
            return self.draw(n_rows, rng)
        X, sample_weight = self._data.all_rows()
        return X, in_unit(sample_weight)[0]


def unit_weights(X):
    """1 for each row: a draw has taken account of the weights. Not checked, as that would wait for the device."""
    return arrays.namespace(X).ones(X.shape[0], dtype=arrays.accumulator(X), device=arrays.device(X))


class Draw:
    """Draws row numbers with replacement, with probability proportional to weight, without looking at all weights.

    sample_weight (n_samples,) or None for weights of 1. Equal weights are as good as none.
    """

    def __init__(self, n_samples, sample_weight):
        self._n_samples, self._cumulative = n_samples, None
        self.total_weight = float(n_samples)
        if sample_weight is not None:
            weights = arrays.to_numpy(sample_weight)
            cumulative = np.cumsum(weights)
            self.total_weight = float(cumulative[-1])
            if (weights != weights[0]).any():
                # Rounding may carry a target up to the total: the last row that has weight
                self._cumulative, self._last = cumulative, np.searchsorted(cumulative, self.total_weight)

    def __call__(self, n_rows, rng):
        if self._cumulative is None:
            return rng.randint(0, self._n_samples, n_rows)
        places = np.searchsorted(self._cumulative, rng.uniform(size=n_rows) * self.total_weight, side="right")
        return np.minimum(places, self._last)
