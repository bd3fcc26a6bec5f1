"""Give rows to clusters of bounded sizes, at the least sum of costs: a transport problem with one node a cluster.

Each cluster has a price, and each row goes where its cost plus the price is least. The prices are right when the sizes
are within the bounds, a price above 0 has its cluster full, and one below 0 has it at its least size: no other
assignment within the bounds costs less then (complementary slackness). A row that moves from one cluster to another is
an arc between two nodes, as long as that adds to the cost, so that rows too many reach the places that are free by
shortest paths (R. Ahuja, T. Magnanti, J. Orlin, "Network flows", 1993, chapter 9). One more node, the ground, takes
and gives what a cluster may have more or less within its bounds.

All of it is NumPy on the host, whatever the library of the rows is: so the labels are the same everywhere.
"""

import heapq
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kmeans_xp.backends import replaceable


class Choices(NamedTuple):
    """Clusters that some rows may be given to; all other rows stay where they are."""

    begin: Any  # (n_rows + 1,) int64, where the choices of each row begin
    clusters: Any  # (n_choices,) int32
    costs: Any  # (n_choices,) float64
    n_staying: Any  # (n_clusters,) int64, of the rows that stay


class Given(NamedTuple):
    """What rows were given."""

    chosen: Any  # (n_rows,) int64, the choice that each row got
    prices: Any  # (n_clusters,) float64
    is_done: bool  # whether the sizes are within the bounds, at the least cost


def lowest(choices, prices):
    """Of each row the lowest sum of cost and price, and the first choice that has it."""
    sums = choices.costs + prices[choices.clusters]
    least = np.minimum.reduceat(sums, choices.begin[:-1]) if len(sums) else sums
    n_each = np.diff(choices.begin)
    (equal,) = np.nonzero(sums == np.repeat(least, n_each))
    rows = np.repeat(np.arange(len(n_each)), n_each)[equal]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = rows[1:] != rows[:-1]
    return least, equal[first]


def sizes_of(choices, chosen):
    """Rows of each cluster, (n_clusters,) int64."""
    n_clusters = len(choices.n_staying)
    return choices.n_staying + np.bincount(choices.clusters[chosen], minlength=n_clusters)


def wanted_sizes(prices, sizes, low, high):
    """Sizes within the bounds that go with the prices; where a price is 0, the nearest to those there are."""
    return np.where(prices > 0, high, np.where(prices < 0, low, np.clip(sizes, low, high)))


def duality_gap(choices, chosen, prices, low, high):
    """By how much the cost of what was chosen may exceed the least possible: what the prices prove, at least 0."""
    excess = choices.costs[chosen] + prices[choices.clusters[chosen]] - lowest(choices, prices)[0]
    bound = np.maximum(prices * high, prices * low)
    return float(excess.sum() + np.maximum(bound - prices * sizes_of(choices, chosen), 0).sum())


@replaceable
def mend(costs, choices, prices, low, high, reach):
    """Choose by cost and price, and move rows along shortest paths until all sizes are within the bounds: `Given`.

    Parameters
    ----------
    costs : array of shape (n_choices,), float64
        Those of the choices once more, by whose library a backend is found.

    choices : Choices

    prices : array of shape (n_clusters,), float64
        To start from; any will do, and good ones leave few rows to be moved.

    low, high : arrays of shape (n_clusters,), int64
        Bounds of the sizes, which can be met.

    reach : float
        How far the changes of two prices may be apart, for choices that were left out not to matter. Where that would
        be exceeded it ends, not done, with prices from which to go on.
    """
    return _Mending(choices, prices, low, high).run(reach)


class _Mending:
    """Rows on their way. The nodes are the clusters, and the ground as the last."""

    def __init__(self, choices, prices, low, high):
        self._choices, self._low, self._high = choices, low, high
        self._start = prices
        self._prices = np.append(prices, 0.0)
        self._chosen = lowest(choices, prices)[1]
        self._row_of = np.repeat(np.arange(len(self._chosen)), np.diff(choices.begin))
        sizes = sizes_of(choices, self._chosen)
        self._wanted = wanted_sizes(prices, sizes, low, high)
        self._surplus = np.append(sizes - self._wanted, self._wanted.sum() - sizes.sum())
        self._order_moves()

    def _order_moves(self):
        """Moves between each two clusters, the cheapest first: those of the start, and those that come up later."""
        k, (_, clusters, costs, _) = len(self._low), self._choices
        own = self._chosen[self._row_of]
        (moves,) = np.nonzero(np.arange(len(costs)) != own)
        lengths = costs[moves] - costs[own[moves]]
        pairs = clusters[own[moves]].astype(np.int64) * k + clusters[moves]
        order = np.lexsort((moves, lengths, pairs))
        self._moves, self._lengths = moves[order], lengths[order]
        ends = np.searchsorted(pairs[order], np.arange(k * k + 1))
        self._next, self._end = ends[:-1].copy(), ends[1:]
        self._later = {}
        self._shortest = np.full((k + 1, k + 1), np.inf)
        for cluster in range(k):
            self._look_from(cluster)
            self._look_at_ground(cluster)

    def _best(self, pair):
        """Length and choice of the cheapest move between two clusters; None where there is none."""
        k, (_, clusters, _, _) = len(self._low), self._choices
        origin = pair // k

        def is_here(move):
            return clusters[self._chosen[self._row_of[move]]] == origin

        at, end = self._next[pair], self._end[pair]
        while at < end and not is_here(self._moves[at]):
            at += 1
        self._next[pair] = at
        later = self._later.get(pair, [])
        while later and not is_here(later[0][1]):
            heapq.heappop(later)
        first = (self._lengths[at], self._moves[at]) if at < end else None
        return min(filter(None, (first, later[0] if later else None)), default=None)

    def _look_from(self, cluster):
        k = len(self._low)
        for other in range(k):
            best = self._best(cluster * k + other) if other != cluster else None
            self._shortest[cluster, other] = np.inf if best is None else best[0]

    def _look_at_ground(self, cluster):
        self._shortest[cluster, -1] = 0 if self._wanted[cluster] < self._high[cluster] else np.inf
        self._shortest[-1, cluster] = 0 if self._wanted[cluster] > self._low[cluster] else np.inf

    def run(self, reach):
        """Until nothing is too many anywhere."""
        while (self._surplus > 0).any():
            path = self._shortest_path(reach)
            if path is None or np.ptp(self._prices[:-1] - self._start) > reach:
                return Given(self._chosen, self._from_ground(), False)
            self._send_along(path)
        return Given(self._chosen, self._from_ground(), True)

    def _from_ground(self):
        """Prices, relative to that of the ground or, where all sizes are fixed, to the first."""
        is_fixed = (self._low == self._high).all()
        return self._prices[:-1] - (self._prices[0] if is_fixed else self._prices[-1])

    def _shortest_path(self, reach):
        """Nodes from one that has too many to one that has too few, by Dijkstra's algorithm; prices follow.

        None where there is no way: then it is longer than the reach, which the prices of all nodes on this side take.
        """
        prices = self._prices
        distances = np.where(self._surplus > 0, 0.0, np.inf)
        before, is_open, farthest = np.full(len(prices), -1), np.ones(len(prices), dtype=bool), 0.0
        while True:
            node = int(np.argmin(np.where(is_open, distances, np.inf)))
            nearest = distances[node]
            if not (is_open[node] and nearest < np.inf):
                prices -= np.minimum(distances, farthest + reach if reach < np.inf else 0)
                return None
            is_open[node], farthest = False, nearest
            if self._surplus[node] < 0:
                break
            lengths = nearest + np.maximum(self._shortest[node] + prices - prices[node], 0)
            nearer = is_open & (lengths < distances)
            distances[nearer], before[nearer] = lengths[nearer], node
        prices -= np.minimum(distances, nearest)
        path = [node]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        return path[::-1]

    def _send_along(self, path):
        """One row more at the end of the path, one less at its beginning."""
        k, ground = len(self._low), len(self._low)
        moves = [(a, b, None if ground in (a, b) else self._best(a * k + b)[1]) for a, b in pairwise(path)]
        self._surplus[path[0]] -= 1
        self._surplus[path[-1]] += 1
        for origin, target, move in moves:
            if target == ground:
                self._wanted[origin] += 1
            elif origin == ground:
                self._wanted[target] -= 1
            else:
                self._give(self._row_of[move], move)
        for node in path:
            if node != ground:
                self._look_from(node)
                self._look_at_ground(node)

    def _give(self, row, move):
        """Give a row its choice, from which it may move on."""
        k, (begin, clusters, costs, _) = len(self._low), self._choices
        self._chosen[row] = move
        for other in range(begin[row], begin[row + 1]):
            if other != move:
                pair = int(clusters[move]) * k + int(clusters[other])
                heapq.heappush(self._later.setdefault(pair, []), (costs[other] - costs[move], other))
