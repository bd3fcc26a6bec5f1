"""Whole fits in one call, of one set of rows or of many side by side, where a backend makes them.

What they consist of stands in `passes.moments`, `seeding.greedy` and `lloyd.lloyd`: a backend comes to the same, and
NumPy's to the same bits. What it finds of a problem does not depend on those beside it.
"""

from typing import Any, NamedTuple

from kmeans_xp.algorithms import Limits
from kmeans_xp.backends import replaceable
from kmeans_xp.passes import normal_numbers
from kmeans_xp.seeding.greedy import Greedy, method


class Fitting(NamedTuple):
    """How rows are fitted: by greedy k-means++ on all of them, and runs of which the best is kept."""

    greedy: Greedy
    direction: Any  # (n_features,) of `passes.key_direction`
    n_runs: int
    prunes: bool  # whether the algorithm has bounds
    limits: Limits  # of a run; `tol` is relative to the mean variance of the columns


class Found(NamedTuple):
    """What a fit found; or several, and then each array has an axis of them before its own."""

    origin: Any  # (n_features,) of the frame
    spread: Any
    centers: Any  # (n_clusters, n_features), relative to the origin
    labels: Any  # (n_samples,); of several fits one after the other
    weights: Any  # (n_clusters,)
    run: Any  # numbers of its iterations as in `algorithms.Iterated`, (n_iter, 5), sum of the squared distances, how
    # many clusters have rows, whether it converged; None where the fit must be made by its parts


def fitting(n_clusters, n_features, n_runs, algorithm, limits):
    """`Fitting` for rows of so many features, by an algorithm of `ALGORITHMS`."""
    direction = normal_numbers(n_features)
    return Fitting(method(n_clusters, direction), direction, n_runs, algorithm.prunes, limits)


@replaceable
def fits_at_once(X, sample_weight, begins, how, uniforms):
    """Fits of problems, whose rows stand one after the other in X: `Found`. None for all to be made by their parts.

    Problem i has the rows from `begins[i]` to `begins[i + 1]`, and its next n random numbers in [0, 1) are
    `uniforms(i, n)`.
    """
