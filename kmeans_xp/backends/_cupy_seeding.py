"""Greedy k-means++ on CuPy arrays: rounds of draws, of which the host knows beforehand how many numbers they take.

It draws those for several rounds where it does not matter how many rows each of them chooses, and looks only then.
"""

import cupy

from kmeans_xp import cuda as _cuda
from kmeans_xp.backends import _cupy_passes as passes
from kmeans_xp.backends._cupy_graph import Repeated

MOST_TOGETHER = 8  # rounds between two looks at what they chose
WORTH_A_GRAPH = 3  # rounds that are alike


def greedy_rows(kernels, X, sample_weight, frame, how, uniforms, order):
    """`greedy.greedy_rows`."""
    seeding, n_chosen, k = Seeding(kernels, X, sample_weight, frame, how, order, uniforms(1)), 1, how.n_clusters
    most_together = max(1, how.most_distances // (X.shape[0] * how.n_trials))
    while n_chosen < k:
        wanted = min(k - n_chosen, 1 + int(n_chosen / how.staleness), most_together)
        # Rounds that want as many rows, even if those before find all that they want; each finds one at least
        n_alike = (k - n_chosen) // wanted if wanted == most_together else 1
        n_draws, n_rounds = how.n_trials * wanted, min(n_alike, MOST_TOGETHER)
        seeding.go_on(cupy.asarray([[uniforms(n_draws), uniforms(n_draws)] for _ in range(n_rounds)]), n_alike)
        n_chosen = int(seeding.choice[1])  # waits
    return seeding.rows


class Seeding:
    """Rows that are chosen, and what rounds of draws read and write."""

    def __init__(self, kernels, X, sample_weight, frame, how, order, uniform):
        n = X.shape[0]
        self._kernels, self._X, self._frame, self._how, self._order = kernels, X, frame, how, order
        self._sample_weight = cupy.ascontiguousarray(sample_weight)
        self.rows = cupy.empty(how.n_clusters, dtype=cupy.int64)
        self.choice = cupy.zeros(_cuda.CHOICE, dtype=cupy.int32)
        self.rows[:1] = _places(self._sample_weight, order, cupy.asarray(uniform))
        self.choice[1] = 1
        middle = cupy.zeros(n, dtype=cupy.int32), cupy.zeros((1, X.shape[1]))
        self._least = how.rounding * passes.sq_distances_to_own(kernels, X, *middle, frame)
        self._closest = passes.sq_distances_to(kernels, X, self.rows[:1], frame)[0]
        self._draws = None  # of the round, (2, n_draws)

    def go_on(self, draws, n_alike):
        """Rounds for these random numbers, (n_rounds, 2, n_draws), the first of `n_alike`."""
        if self._draws is None or self._draws.shape != draws.shape[1:]:
            self._draws, self._rounds = cupy.empty(draws.shape[1:]), Repeated(WORTH_A_GRAPH, period=1)
        for i, of_round in enumerate(draws):
            self._draws[...] = of_round
            self._rounds.launch(self._choose, 1, n_alike - i - 1)

    def _choose(self, _):
        """A round: draw candidates, and choose some of them. Distances shrink with each choice."""
        closest, weight = self._closest, self._sample_weight
        # Rows that are centers would be chosen again by what rounding left
        closest[...] = cupy.where(closest > self._least, closest, 0.0)
        mass = weight * closest
        mass = cupy.where(mass.sum() > 0, mass, weight)
        candidates = _places(mass, self._order, self._draws[0])
        squares = passes.sq_distances_to(self._kernels, self._X, candidates, self._frame)
        n_trials, thresholds = self._how.n_trials, self._draws[1] * closest[candidates]
        given = closest, squares, weight, candidates, thresholds, n_trials
        passes.make_choices(self._kernels, *given, self.choice, self.rows, len(candidates) // n_trials)


def _places(mass, order, uniforms):
    """`draws.places_by`, of numbers on the device."""
    cumulative = cupy.cumsum(mass if order is None else mass[order])
    places = cupy.searchsorted(cumulative, uniforms * cumulative[-1], side="right")
    places = cupy.minimum(places, len(mass) - 1)
    return places if order is None else order[places]
