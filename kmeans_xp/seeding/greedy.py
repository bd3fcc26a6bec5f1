"""Greedy k-means++, on a weighted sample of many rows."""

import math
from typing import Any, NamedTuple

import numpy as np

from kmeans_xp.arrays import asarray_like, device, namespace, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.passes import canonical_order
from kmeans_xp.rows.array import dense, take_rows
from kmeans_xp.seeding.draws import (
    Law,
    draw,
    nearer,
    places_by,
    rounding_of_distances,
    rounding_of_squares,
    stratified,
    without_rounding,
)
from kmeans_xp.steps import sq_distances_to

MIN_SAMPLE = 20_000  # see sample_size
SAMPLE_PER_CLUSTER = 50
MAX_DISTANCES = 2**21  # numbers, 16 MiB, that greedy k-means++ holds at a time
TIE = 1e-9  # relative difference of potentials that are equal; the same in cuda/seeding.cu
STALENESS = 3  # greedy k-means++ draws for a third as many centers as it has before it measures distances anew


class Greedy(NamedTuple):
    """How rows are chosen."""

    n_clusters: int
    n_trials: int  # candidates for each center
    most_distances: int  # of candidates that are measured together
    staleness: float  # see STALENESS
    tie: float
    rounding: float  # squared distances of rows from centers up to this times that from the origin are 0


class Sample(NamedTuple):
    """Rows that stand for all of them."""

    X: Any
    weights: Any
    numbers: Any  # of the rows; None for all of them


def choose_rows(data, n_clusters, frame, rng):
    """A sample, or all rows if they are few, and the row numbers in it that greedy k-means++ chooses."""
    sample = sample_of(data, n_clusters, frame, rng)
    return sample, greedy(sample.X, sample.weights, n_clusters, frame, rng, order_of(data, sample, frame))


def order_of(data, sample, frame):
    """In which order draws run through a sample: that of the rows' values, if it is all of them; else as it stands."""
    if sample.numbers is not None:
        return None
    return canonical_order(sample.X, frame) if data.in_blocks else data.order(frame)


def sample_of(data, n_clusters, frame, rng, n_sample=None):
    """A weighted sample of the rows, of `sample_size` by default, or all of them if they are few."""
    n_sample = n_sample or sample_size(n_clusters)
    return Sample(*data.all_rows(), None) if data.shape[0] <= n_sample else coreset(data, n_sample, frame, rng)


def sample_size(n_clusters):
    """Rows that k-means++ looks at: at this size the final inertia is that of all rows within the noise of seeds."""
    return max(MIN_SAMPLE, SAMPLE_PER_CLUSTER * int(n_clusters))  # which may be of a narrow type of NumPy


def coreset(data, n_sample, frame, rng):
    """Sample of rows whose weighted inertia is close to that of all rows for any centers.

    Half by weight, half by weight times squared distance from the mean, each row weighted by the inverse of its
    probability (Bachem et al., "Scalable k-means clustering via lightweight coresets", 2018). One draw in each of
    `n_sample` equal parts of the total probability, in the order of the rows.
    """
    squares, weights = (math.fsum(values) for values in zip(*data.masses.values(), strict=True))
    law = Law(0.5 / weights, 0.5, [frame.origin[None, :]], frame, total=squares or 1.0)
    mass_of = {index: law.mass(weight, square) for index, (square, weight) in data.masses.items()}
    X, numbers, density = draw(data, law, mass_of, stratified(n_sample, rng))
    return Sample(X, 1 / (n_sample * density), numbers)


def greedy(X, sample_weight, n_clusters, frame, rng, order=None):
    """Rows chosen one after the other with probability proportional to weight times squared distance to the nearest.

    Of 2 + log(n_clusters) candidates each time the one that lowers the sum of squared distances most (Arthur and
    Vassilvitskii, "k-means++: the advantages of careful seeding", 2007, as in scikit-learn).

    Candidates for several centers are drawn at once, so that one pass serves them all. Distances shrink as centers are
    chosen, so a candidate is then accepted with probability `distance now / distance when drawn`: exactly the law of a
    draw made now. Draws run through the rows in `order`. -> (n_clusters,) int64
    """
    return greedy_rows(X, sample_weight, frame, method(n_clusters, frame.origin), rng.random_sample, order)


def method(n_clusters, origin):
    """`Greedy` for rows of as many features as an origin has."""
    return Greedy(int(n_clusters), count_trials(n_clusters), MAX_DISTANCES, STALENESS, TIE, rounding_of_squares(origin))


def count_trials(n_clusters):
    """Candidates for each center."""
    return 2 + int(math.log(n_clusters))


@replaceable
def greedy_rows(X, sample_weight, frame, how, uniforms, order):
    """The rows of `greedy`, for random numbers in [0, 1) that `uniforms(n)` draws."""
    xp = namespace(X)
    X, frame = frame.shift_once(X, frame.origin.dtype)
    rows = [places_by(sample_weight, order, uniforms(1))]
    n_chosen, most_together = 1, max(1, how.most_distances // (X.shape[0] * how.n_trials))
    least = rounding_of_distances(X, sample_weight, frame)
    closest = sq_distances_to(X, rows[0], frame)[0, :]
    while n_chosen < how.n_clusters:
        closest = without_rounding(closest, least)
        n_draws = how.n_trials * min(how.n_clusters - n_chosen, 1 + int(n_chosen / how.staleness), most_together)
        candidates = places_by(_mass(sample_weight, closest), order, uniforms(n_draws))
        squares = sq_distances_to(X, candidates, frame)  # (n_draws, n_samples)
        given = squares, sample_weight, candidates, uniforms(n_draws), how.n_trials
        closest, chosen = choose(closest, *given, how.n_clusters - n_chosen)
        rows.append(chosen)
        n_chosen += chosen.shape[0]
    return xp.concat(rows)


@replaceable
def choose(closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """Choose centers from candidates drawn by `closest`, as long as `n_trials` of them are left and accepted.

    -> `closest` to those chosen too, and their rows, (n_chosen,) int64 with 1 <= n_chosen <= n_most
    """
    xp = namespace(closest)
    thresholds = uniforms * to_numpy(xp.take(closest, candidates))
    rows = []
    while len(rows) < n_most:
        accepted = np.flatnonzero(thresholds <= to_numpy(xp.take(closest, candidates)))
        if len(accepted) < n_trials:
            break
        trials = asarray_like(accepted[:n_trials], candidates, candidates.dtype)
        lowered = xp.minimum(xp.take(squares, trials, axis=0), closest[None, :])
        best = first_lowest(lowered @ sample_weight)
        closest = xp.take(lowered, best, axis=0)[0, :]
        rows.append(xp.take(candidates, xp.take(trials, best)))
        thresholds[: accepted[n_trials - 1] + 1] = np.inf  # had their turn
    return closest, xp.concat(rows)


def first_lowest(potentials):
    """Index of the first potential that is the lowest but for rounding, which depends on the order of rows: (1,)."""
    xp = namespace(potentials)
    is_lowest = potentials <= xp.min(potentials) * (1 + TIE)
    return xp.reshape(xp.argmax(xp.astype(is_lowest, xp.int32)), (1,))


def added(X, sample_weight, centers, n_clusters, frame, rng):
    """`centers`, which are relative to zero, and as many rows more as there shall be, by greedy k-means++.

    -> all of them, and the numbers of the rows, (n_clusters - n_centers,)
    """
    xp = namespace(X)
    closest = nearer(X, centers, xp.full_like(sample_weight, math.inf), frame)
    n_trials, rows = count_trials(n_clusters), []
    for _ in range(n_clusters - centers.shape[0]):
        candidates = places_by(_mass(sample_weight, closest), None, rng.uniform(size=n_trials))
        lowered = xp.minimum(sq_distances_to(X, candidates, frame), closest[None, :])
        best = first_lowest(lowered @ sample_weight)
        closest = xp.take(lowered, best, axis=0)[0, :]
        rows.append(xp.take(candidates, best))
    if not rows:
        return centers, xp.zeros(0, dtype=xp.int64, device=device(X))
    rows = xp.concat(rows)
    return xp.concat((centers, dense(take_rows(X, rows)))), rows


def _mass(sample_weight, closest):
    """Probability of a row, not normalised: its share of the inertia, or its weight once every row is a center."""
    xp = namespace(closest)
    mass = sample_weight * closest
    return xp.where(xp.sum(mass) > 0, mass, sample_weight)
