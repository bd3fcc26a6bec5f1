"""The best clusters of numbers: in one dimension k-means can be solved exactly.

The best clusters of sorted numbers are intervals of them, and where the last of them begins moves up with its end
(X. Wu, "Optimal quantization by matrix searching", 1991; A. Grønlund et al., "Fast exact k-means, k-medians and Bregman
divergence clustering in 1D", arXiv 1701.07204). On the host: numbers of other devices are fetched.
"""

from typing import NamedTuple

import numpy as np

from kmeans_xp.arrays import asarray_like, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.passes import sorted_rows
from kmeans_xp.rows.array import dense


def optimal_centers(data, counts, frame):
    """Centers of the best clusters of the rows for each number of clusters, from ascending ones: a dict.

    They are (n_clusters, 1), ascending, relative to the origin; of rows that have fewer different numbers all of them,
    the first again and again.
    """
    X, sample_weight = data.all_rows()
    numbers = to_numpy(frame.shift(dense(X), frame.origin.dtype))[:, 0].astype(np.float64)
    numbers, weights = different(numbers, to_numpy(sample_weight).astype(np.float64))
    fewer, centers = [k for k in counts if k < len(numbers)], {}
    if fewer:
        scaled = np.ldexp(numbers, -int(np.frexp(np.abs(numbers).max())[1]))  # whose squares are in range
        for k, begins in zip(fewer, best_intervals(scaled, weights, fewer), strict=True):
            centers[k] = means_of_intervals(numbers, weights, begins)
    for k in counts[len(fewer) :]:
        centers[k] = np.concatenate((numbers, np.full(k - len(numbers), numbers[0])))
    return {k: asarray_like(found[:, None], frame.origin, frame.origin.dtype) for k, found in centers.items()}


def different(numbers, weights):
    """The different numbers that have weight, ascending, and the weight of each."""
    order = sorted_rows(numbers)
    numbers, weights = numbers[order], weights[order]
    begins = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    numbers, weights = numbers[begins], np.add.reduceat(weights, begins)
    return numbers[weights > 0], weights[weights > 0]


def means_of_intervals(numbers, weights, begins):
    """Weighted mean of the numbers of each interval: about the first of them, so that digits are kept."""
    starts, sizes = begins[:-1], np.diff(begins)
    first = numbers[starts]
    sums = np.add.reduceat(weights * (numbers - np.repeat(first, sizes)), starts)
    return first + sums / np.add.reduceat(weights, starts)


@replaceable
def best_intervals(numbers, weights, counts):
    """Where the best clusters of ascending numbers begin, and the last of them ends, (n_clusters + 1,) int64.

    A list of that for each number of clusters, from ascending ones, of which none is above that of numbers. The sum of
    weight times squared distance from the mean of the cluster is the lowest.
    """
    sums, n = Sums.up_to(numbers, weights), len(numbers)
    before = np.concatenate(([0.0], sums.cost(np.zeros(n, dtype=np.int64), np.arange(1, n + 1))))
    kept = [np.zeros(n + 1, dtype=np.int64)]
    for m in range(2, counts[-1] + 1):
        before, last = best_last_intervals(sums, before, m - 1, n)
        kept.append(last)
    return [traced_back(kept[:k], n) for k in counts]


def traced_back(kept, end):
    """Where intervals up to the end begin, by where the last of so many begins for each end; and the end."""
    begins = [end]
    for last in reversed(kept):
        begins.append(last[begins[-1]])
    return np.asarray(begins[::-1])


def best_last_intervals(sums, before, least, n):
    """Costs of the best intervals up to each place beyond `least`, and where the last of them begins; (n + 1,) each.

    Places ascend, so that those found already are bounds for those between, of which each round finds half.
    """
    costs, last = np.full(n + 1, np.inf), np.full(n + 1, least)
    step = 1 << (n - least).bit_length() - 1
    while step > 0:
        ends = np.arange(least + step, n + 1, 2 * step)
        first = np.where(ends - step > least, last[ends - step], least)
        known = ends + step <= n
        until = np.minimum(np.where(known, last[np.where(known, ends + step, 0)], n), ends - 1)
        counts = until - first + 1
        starts = np.cumsum(counts) - counts
        begins = np.arange(counts.sum()) + np.repeat(first - starts, counts)
        whole = before[begins] + sums.cost(begins, np.repeat(ends, counts))
        costs[ends] = np.minimum.reduceat(whole, starts)
        hits = np.flatnonzero(whole == np.repeat(costs[ends], counts))
        last[ends] = begins[hits[np.searchsorted(hits, starts)]]
        step //= 2
    return costs, last


class Pair(NamedTuple):
    """Numbers in two parts, of which the second is what rounding left of the first."""

    high: np.ndarray
    low: np.ndarray

    def __sub__(self, other):
        high = sum_of(self.high, -other.high)
        return Pair(high.high, high.low + (self.low - other.low))

    def __getitem__(self, places):
        return Pair(self.high[places], self.low[places])

    def times(self, factor):
        """Times numbers of one part."""
        product = product_of(factor, self.high)
        return Pair(product.high, product.low + factor * self.low)


class Sums(NamedTuple):
    """Sums of weights, of weight times number and times its square up to each place: pairs, (n + 1,) each."""

    weights: Pair
    numbers: Pair
    squares: Pair

    @classmethod
    def up_to(cls, numbers, weights):
        """Of numbers."""
        weighted = product_of(weights, numbers)
        terms = Pair(weights, np.zeros_like(weights)), weighted, weighted.times(numbers)
        return cls(*map(running, terms))

    def cost(self, begins, ends):
        """Sum of weight times squared distance from the mean, for numbers from each begin to its end.

        Q - m (2 S - m W), m being the mean.
        """
        weight, total, squares = (Pair(*sums)[ends] - Pair(*sums)[begins] for sums in self)
        with np.errstate(all="ignore"):  # of weights that vanish beside the others, which cost nothing
            mean = (total.high + total.low) / (weight.high + weight.low)  # the higher parts may be equal
            inner = Pair(2 * total.high, 2 * total.low) - weight.times(mean)
            cost = squares - inner.times(mean)
            cost = cost.high + cost.low
        return np.where(cost > 0, cost, 0.0)


def sum_of(a, b):
    """Exact sum (D. Knuth): a pair."""
    high = a + b
    rest = high - a
    return Pair(high, (a - (high - rest)) + (b - rest))


def product_of(a, b):
    """Exact product, by halves of 26 bits (T. Dekker): a pair."""
    high, (a1, a2), (b1, b2) = a * b, _halves(a), _halves(b)
    return Pair(high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2)


def _halves(a):
    far = a * 134217729.0
    first = far - (far - a)
    return first, a - first


def running(terms):
    """Sums of pairs up to each place, 0 before the first."""
    highs, lows = [0.0], [0.0]
    for high, low in zip(terms.high.tolist(), terms.low.tolist(), strict=True):
        total = sum_of(highs[-1], high)
        total = sum_of(total.high, total.low + (lows[-1] + low))
        highs.append(total.high)
        lows.append(total.low)
    return Pair(np.asarray(highs), np.asarray(lows))
