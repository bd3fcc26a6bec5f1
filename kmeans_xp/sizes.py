"""Clusters of bounded sizes: an algorithm (see `algorithms`) whose steps give the rows to the centers within bounds.

A step is a transport problem (see `transport`), whose prices make of it what a step is otherwise: each row goes to the
center of lowest squared distance plus price. Few rows must be looked at more closely: those for which another center is
nearly as good, by no more than prices may still change, the `reach`. They and these centers, the contenders, go to the
host. Where the prices change by more than that, the rows are looked at once more, with the new prices.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kmeans_xp.algorithms import DenseState, unlabeled
from kmeans_xp.arrays import asarray_like, data_decide_shapes, namespace, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.frame import doubt_in
from kmeans_xp.nearest import TOO_LARGE, row_sums
from kmeans_xp.rows import StoredRows
from kmeans_xp.rows.array import sq_distances_of_tile, sq_norms, take_rows
from kmeans_xp.steps import update
from kmeans_xp.transport import Choices, Given, duality_gap, mend

FEW = 2**17  # rows times clusters up to which all centers contend for each row
MOST = 2**21  # contenders, unless there are more ties
SHARE = 0.2  # of the rows, for which there is more than one contender at the first look


@dataclass
class Looks:
    """What a backend remembers of looks at the same rows, to leave out some of them."""

    seen: Any = None


class Proof(NamedTuple):
    """What shows that no other assignment within the bounds costs less."""

    prices: Any  # (n_clusters,) float64 NumPy, of squared distances
    gap: float  # between the sum of squared distances and what the prices prove it to be at least


@dataclass(frozen=True)
class Sized:
    """Rows go to the centers at the least sum of squared distances with which the sizes are within bounds."""

    low: Any  # (n_clusters,) int64 NumPy
    high: Any

    prunes = False

    def on(self, X, n_clusters, frame):
        return self

    def start(self, X, sample_weight, n_clusters, frame):
        return SizedState(unlabeled(X), self.low, self.high)

    def for_sample(self, n_sample, n_samples):
        """The same for so many rows of so many: bounds that they can keep."""
        low, high = self.low * n_sample // n_samples, -(-self.high * n_sample // n_samples)
        return Sized(low, high)


class SizedState(DenseState):
    """Labels, and the prices from which the next step starts."""

    def __init__(self, labels, low, high):
        super().__init__(labels)
        self._low, self._high = low, high
        self._prices, self._reach, self.proof = None, None, None
        self._looks = Looks()

    def step(self, X, sample_weight, centers, frame, active=None):
        xp, k = namespace(centers), centers.shape[0]
        if self._prices is None:
            self._prices, self._reach = first_prices(X, centers, frame, self._low, self._high)
        bounds, start = (self._low, self._high), (self._prices, self._reach)
        labels, self.proof, self._reach = assign_within(X, centers, frame, bounds, start, self._looks)
        self._prices = self.proof.prices
        n_changed = xp.count_nonzero(labels != self.labels)
        self.labels = labels
        return *update(X, sample_weight, labels, k, frame), n_changed, xp.zeros_like(n_changed)

    def memory(self, centers):
        return None


def first_prices(X, centers, frame, low, high):
    """Prices to start from, and the reach: those of some rows, from which those of more rows start."""
    n_samples, k = X.shape[0], centers.shape[0]
    if n_samples * k <= FEW:
        return np.zeros(k), math.inf
    n_rows = max(FEW // k, 1)
    prices, reach = np.zeros(k), math.inf
    while 4 * n_rows <= n_samples or reach == math.inf:
        X_some = take_rows(X, asarray_like(spaced(n_samples, n_rows), centers))
        sized = Sized(low, high).for_sample(n_rows, n_samples)
        bounds = sized.low, sized.high
        _, proof, _ = assign_within(X_some, centers, frame, bounds, (prices, reach), Looks())
        prices, reach = proof.prices, reach_of_share(X_some, centers, proof.prices, frame)
        n_rows *= 8
    return prices, reach


def spaced(n_samples, n_rows):
    """Numbers of rows, spread evenly, (n_rows,) int64."""
    return np.arange(n_rows) * n_samples // n_rows


def reach_of_share(X, centers, prices, frame):
    """By how much more the second lowest cost plus price is than the lowest, of those rows for which that is little."""
    if centers.shape[0] == 1:
        return 0.0
    leads = []
    for _, scores in scored(X, centers, prices, frame):
        two = np.partition(to_numpy(scores), 1, axis=1)
        leads.append(two[:, 1] - two[:, 0])
    return float(np.quantile(np.concatenate(leads), SHARE))


def assign_within(X, centers, frame, bounds, start, looks):
    """Labels within the bounds at the least cost, (n_samples,) int32, with the proof; and a reach for the next time.

    `bounds` are the least and the largest sizes, `start` are prices and the reach.
    """
    k, most, (low, high), (prices, reach) = centers.shape[0], MOST, bounds, start
    while True:
        found = contenders(X, centers, prices, reach, most, looks, frame)
        while found is None:
            reach, most = reach / 4, 2 * most  # more each time, so that there is an end
            found = contenders(X, centers, prices, reach, most, looks, frame)
        labels, rows, clusters = found
        costs = sq_distances_of_pairs(X, rows, clusters, centers, frame)
        if not np.isfinite(costs).all():
            raise ValueError(TOO_LARGE)
        new_row = np.ones(len(rows), dtype=bool)
        new_row[1:] = rows[1:] != rows[:-1]
        begin = np.append(np.nonzero(new_row)[0], len(rows))
        looked_at = rows[begin[:-1]]
        labels = np.array(to_numpy(labels))
        n_staying = np.bincount(labels, minlength=k) - np.bincount(labels[looked_at], minlength=k)
        choices = Choices(begin, clusters, costs, n_staying)
        given = Given(*mend(costs, choices, prices, low, high, reach))
        moved = float(np.ptp(given.prices - prices))
        prices = given.prices
        if given.is_done:
            break
        if reach == math.inf:
            raise ValueError(TOO_LARGE)
        reach = max(2 * reach, 1e-9 * frame.spread)
    labels[looked_at] = clusters[given.chosen]
    proof = Proof(prices, duality_gap(choices, given.chosen, prices, low, high))
    if 4 * moved < reach < math.inf:
        reach = max(4 * moved, reach / 4)
    return asarray_like(labels, centers, namespace(centers).int32), proof, reach


def scored(X, centers, prices, frame):
    """Slices of rows, and their costs and prices, less what is the same for all centers, (n_rows, n_clusters)."""
    _, scores_of = scoring(centers, prices)
    return frame.map_tiles(lambda rows, tile: scores_of(tile), X, centers.shape[0], centers.dtype)


def scoring(centers, prices):
    """What scores have of the centers and prices alone, (n_clusters,), and the function of rows that gives scores."""
    terms = namespace(centers).vecdot(centers, centers) + asarray_like(prices, centers, centers.dtype)
    return terms, lambda tile: tile @ (-2 * centers.T) + terms[None, :]


@replaceable
def contenders(X, centers, prices, reach, most, looks, frame):
    """The centers of lowest cost plus price for each row, if another comes near: labels, rows, clusters.

    labels (n_samples,) int32 are right where a row does not stand in `rows`: the numbers of others, ascending, each as
    often as there are centers whose cost plus price is above the lowest by no more than `reach` and rounding. These are
    the clusters; both of NumPy. None if they are more than `most`, and the reach can be less. Looks at the same rows
    share one object.
    """
    xp, (terms, scores_of) = namespace(centers), scoring(centers, prices)
    size = terms + 2 * asarray_like(np.abs(prices), centers, centers.dtype)
    doubt = 2 * doubt_in(frame.origin.dtype, frame.origin)
    largest = xp.max(size)

    def of_tile(rows, tile):
        scores = scores_of(tile)
        labels = xp.astype(xp.argmin(scores, axis=1), xp.int32)
        bound = xp.min(scores, axis=1) + reach + doubt * (sq_norms(tile) + largest)
        near = scores <= bound[:, None]
        near = near & (xp.count_nonzero(near, axis=1) > 1)[:, None]
        some, clusters = map(to_numpy, xp.nonzero(near)) if data_decide_shapes(near) else np.nonzero(to_numpy(near))
        return labels, some + rows.start, clusters

    labels, rows, clusters, n_found = [], [], [], 0
    for _, found in frame.map_tiles(of_tile, X, centers.shape[0], centers.dtype):
        labels.append(found[0])
        rows.append(found[1])
        clusters.append(found[2].astype(np.int32))
        n_found += len(found[1])
        if most < n_found and 0 < reach < math.inf:
            return None
    return xp.concat(labels), np.concatenate(rows), np.concatenate(clusters)


@replaceable
def sq_distances_of_pairs(X, rows, clusters, centers, frame):
    """Squared distances of rows, by their ascending numbers, from centers, (n_pairs,) float64 NumPy.

    The same bits on every library for rows in arrays.
    """
    squares, n_at_once = [np.empty(0)], max(1, frame.tile_bytes // (32 * centers.shape[1]))
    for start in range(0, len(rows), n_at_once):
        some = slice(start, start + n_at_once)
        labels = asarray_like(clusters[some], centers)
        tile = frame.shift(take_rows(X, asarray_like(rows[some], centers)), centers.dtype)
        if isinstance(tile, StoredRows):
            found = sq_distances_of_tile(tile, labels, centers)
        else:
            apart = tile - namespace(centers).take(centers, labels, axis=0)
            found = row_sums(apart * apart)
        squares.append(to_numpy(found).astype(np.float64, copy=False))
    return np.concatenate(squares)
