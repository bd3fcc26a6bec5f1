"""Choosing the first centers. Random numbers are drawn on the host.

Every method picks rows, and distances are float64, so a seed picks the same rows on every library. Random choices run
through the rows in an order that depends on their values alone (`canonical_order`). So k-means|| and, up to
`sample_size` rows, k-means++ pick the same points whatever the order of the rows, and whether a row stands there twice
or has weight 2.
"""

import math
from dataclasses import replace

import numpy as np

from kmeans_xp.arrays import asarray_like, collect, namespace, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.lloyd import Rows, lloyd, row_keys
from kmeans_xp.steps import dense, lloyd_step, relative, sq_distances, sq_distances_to, take_rows

N_ROUNDS = 5  # of k-means||, and its candidates per round for each cluster, as in the experiments of the paper
OVERSAMPLING = 2
MIN_SAMPLE = 20_000  # of k-means++, see sample_size
SAMPLE_PER_CLUSTER = 50
REFINE_FROM = 4  # times the sample: fewer rows go without iterations on the sample
MAX_DISTANCES = 2**21  # numbers, 16 MiB, that greedy k-means++ holds at a time
TIE = 1e-9  # relative difference of potentials that are equal; the same in choose_trial of cupy.cu
STALENESS = 3  # greedy k-means++ draws for a third as many centers as it has before it measures distances anew


def k_means_plus_plus(X, sample_weight, n_clusters, frame, rng):
    """Greedy k-means++, on a weighted sample if there are more rows than `sample_size`. -> (n_clusters,) int64"""
    if X.shape[0] <= sample_size(n_clusters):
        X, frame = frame.shift_once(X, frame.origin.dtype)
        return greedy(X, sample_weight, n_clusters, frame, rng, canonical_order(X, frame))
    rows, weights = coreset(X, sample_weight, sample_size(n_clusters), frame, rng)
    return namespace(X).take(rows, greedy(take_rows(X, rows), weights, n_clusters, frame, rng, None))


def refined_start(X, sample_weight, n_clusters, frame, rng, **stopping):
    """Centers, relative to the origin: k-means++ on a weighted sample, then Lloyd's iteration on that sample.

    Iterations on the sample cost little, and leave fewer for all rows (Bradley and Fayyad, "Refining initial points for
    k-means clustering", 1998).
    """
    rows, weights = coreset(X, sample_weight, sample_size(n_clusters), frame, rng)
    return start_from_sample(take_rows(X, rows), weights, n_clusters, frame, rng, True, **stopping)


def start_from_sample(X, sample_weight, n_clusters, frame, rng, refine, *, algorithm, max_iter, tol):
    """Centers, relative to the origin: k-means++ on all rows of a coreset and, to refine, Lloyd's iteration on it."""
    centers = frame.enter(take_rows(X, greedy(X, sample_weight, n_clusters, frame, rng, None)))
    if not refine:
        return centers
    rows = Rows(X, sample_weight, n_clusters, frame, algorithm)
    return frame.enter(lloyd(rows, centers, frame, max_iter=max_iter, tol=tol).centers)


def continued_start(X, sample_weight, centers, n_clusters, frame, rng, **stopping):
    """Centers, relative to the origin: the better on this sample of a fresh start and one that adds to `centers`."""
    starts = [take_rows(X, greedy(X, sample_weight, n_clusters, frame, rng, None))]
    if centers is not None:
        starts.append(added(X, sample_weight, frame.leave(centers), n_clusters, frame, rng))
    algorithm = stopping.pop("algorithm")
    runs = [
        lloyd(Rows(X, sample_weight, n_clusters, frame, algorithm), frame.enter(start), frame, **stopping)
        for start in starts
    ]
    return frame.enter(min(runs, key=lambda run: run.inertia).centers)


def added(X, sample_weight, centers, n_clusters, frame, rng):
    """`centers` and as many rows more, by greedy k-means++, as there shall be."""
    xp = namespace(X)
    closest = nearer(X, centers, xp.full_like(sample_weight, math.inf), frame)
    n_trials = 2 + int(math.log(n_clusters))
    while centers.shape[0] < n_clusters:
        candidates = draw(_mass(sample_weight, closest), None, rng.uniform(size=n_trials))
        lowered = xp.minimum(sq_distances_to(X, candidates, frame), closest[None, :])
        best = first_lowest(lowered @ sample_weight)
        closest = xp.take(lowered, best, axis=0)[0, :]
        centers = xp.concat((centers, dense(take_rows(X, xp.take(candidates, best)))))
    return centers


def sample_size(n_clusters):
    """Rows that k-means++ looks at: at this size the final inertia is that of all rows within the noise of seeds."""
    return max(MIN_SAMPLE, SAMPLE_PER_CLUSTER * n_clusters)


def repays_refinement(n_samples, n_clusters):
    """Whether the sample is small enough beside all rows for iterations on it to be cheap."""
    return n_samples >= REFINE_FROM * sample_size(n_clusters)


def coreset(X, sample_weight, n_sample, frame, rng):
    """Sample of rows whose weighted inertia is close to that of all rows for any centers: rows, weights.

    Half by weight, half by weight times squared distance from the mean, each row weighted by the inverse of its
    probability (Bachem et al., "Scalable k-means clustering via lightweight coresets", 2018). One draw in each of
    `n_sample` equal parts of the total probability, in the order of the rows.
    """
    xp = namespace(X)
    squares = sq_distances_to_mean(X, sample_weight, frame)
    total = sample_weight @ squares
    density = 0.5 / xp.sum(sample_weight) + 0.5 * squares / xp.where(total > 0, total, xp.ones_like(total))
    rows = draw(sample_weight * density, None, stratified(n_sample, rng))
    return rows, 1 / (n_sample * xp.take(density, rows))


def sq_distances_to_mean(X, sample_weight, frame):
    """Squared distance of each row from the origin of the frame, (n_samples,)."""
    return nearer(X, frame.origin[None, :], namespace(X).full_like(sample_weight, math.inf), frame)


def rounding_of_distances(X, sample_weight, frame):
    """What the squared distance of a row from an equal one may come to by rounding, (n_samples,)."""
    rounding = 2 * replace(frame, distance_dtype=frame.origin.dtype).doubt
    return rounding * sq_distances_to_mean(X, sample_weight, frame)


def without_rounding(closest, least):
    """0 for rows that are centers: by what rounding left them, they would be chosen again instead of others."""
    return namespace(closest).where(closest > least, closest, namespace(closest).zeros_like(closest))


def stratified(n, rng):
    """Uniform random numbers, ascending, one in each of n equal parts of [0, 1)."""
    return (np.arange(n) + rng.uniform(size=n)) / n


def greedy(X, sample_weight, n_clusters, frame, rng, order):
    """Rows chosen one after the other with probability proportional to weight times squared distance to the nearest.

    Of 2 + log(n_clusters) candidates each time the one that lowers the sum of squared distances most (Arthur and
    Vassilvitskii, "k-means++: the advantages of careful seeding", 2007, as in scikit-learn).

    Candidates for several centers are drawn at once, so that one pass serves them all. Distances shrink as centers are
    chosen, so a candidate is then accepted with probability `distance now / distance when drawn`: exactly the law of a
    draw made now. -> (n_clusters,) int64
    """
    xp = namespace(X)
    X, frame = frame.shift_once(X, frame.origin.dtype)
    n_trials = 2 + int(math.log(n_clusters))
    most = max(1, MAX_DISTANCES // (X.shape[0] * n_trials))  # centers whose candidates are measured together
    rows = [draw(sample_weight, order, rng.uniform(size=1))]
    n_chosen = 1
    least = rounding_of_distances(X, sample_weight, frame)
    closest = sq_distances_to(X, rows[0], frame)[0, :]
    while n_chosen < n_clusters:
        closest = without_rounding(closest, least)
        n_draws = n_trials * min(n_clusters - n_chosen, 1 + int(n_chosen / STALENESS), most)
        candidates = draw(_mass(sample_weight, closest), order, rng.uniform(size=n_draws))
        squares = sq_distances_to(X, candidates, frame)  # (n_draws, n_samples)
        given = squares, sample_weight, candidates, rng.uniform(size=n_draws), n_trials
        closest, chosen = choose(closest, *given, n_clusters - n_chosen)
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


def k_means_parallel(X, sample_weight, n_clusters, frame, rng):
    """k-means||: a few rounds of many draws at once, then k-means++ on those candidates, weighted by their clusters.

    Bahmani et al., "Scalable k-means++", 2012, with exactly 2 * n_clusters draws in each of 5 rounds.
    -> (n_clusters,) int64
    """
    xp = namespace(X)
    order = canonical_order(X, frame)
    rows = [draw(sample_weight, order, rng.uniform(size=1))]
    closest = xp.full_like(sample_weight, xp.inf)
    least = rounding_of_distances(X, sample_weight, frame)
    for _ in range(N_ROUNDS):
        closest = without_rounding(nearer(X, take_rows(X, rows[-1]), closest, frame), least)
        rows.append(draw(_mass(sample_weight, closest), order, rng.uniform(size=OVERSAMPLING * n_clusters)))
    candidates = xp.concat(rows)
    points = take_rows(X, candidates)
    weights = lloyd_step(X, sample_weight, frame.enter(points), frame)[2]
    return xp.take(candidates, greedy(points, weights, n_clusters, frame, rng, canonical_order(points, frame)))


def random_rows(X, sample_weight, n_clusters, frame, rng):
    """Distinct rows, with probability proportional to their weights. -> (n_clusters,) int64"""
    weights = to_numpy(sample_weight)
    n_distinct = min(n_clusters, np.count_nonzero(weights))
    rows = rng.choice(weights.shape[0], size=n_distinct, replace=False, p=weights / weights.sum())
    return asarray_like(np.resize(rows, n_clusters), X, namespace(X).int64)


METHODS = {"k-means++": k_means_plus_plus, "k-means||": k_means_parallel, "random": random_rows}


def canonical_order(X, frame):
    """Row numbers sorted by the rows' keys: the same points in any order of the rows."""
    return namespace(X).argsort(row_keys(X, frame))


def draw(mass, order, uniforms):
    """Rows drawn with replacement with probability proportional to `mass`, for random numbers in [0, 1).

    They run through the rows in `order`, or as they stand if it is None.
    """
    xp = namespace(mass)
    cumulative = xp.cumulative_sum(mass if order is None else xp.take(mass, order))
    positions = places(cumulative, asarray_like(uniforms, mass, mass.dtype) * cumulative[-1])
    return positions if order is None else xp.take(order, positions)


def places(cumulative, targets):
    """Index of the row whose part of the cumulative mass each target falls into."""
    xp = namespace(cumulative)
    # side="right" passes over rows without mass; rounding may carry a target up to the total itself
    positions = xp.searchsorted(cumulative, targets, side="right")
    return xp.minimum(positions, xp.full_like(positions, cumulative.shape[0] - 1))


def nearer(X, points, closest, frame):
    """`closest` (n_samples,) lowered to the squared distance from the nearest of `points`, where that is less."""
    xp = namespace(X)
    points = relative(points, frame.origin, frame.origin.dtype)

    def of_tile(rows, tile):
        return xp.minimum(closest[rows], xp.min(sq_distances(tile, points), axis=1))

    return collect(frame.map_tiles(of_tile, X, points.shape[0], closest.dtype), X.shape[0])


def _mass(sample_weight, closest):
    """Probability of a row, not normalised: its share of the inertia, or its weight once every row is a center."""
    xp = namespace(closest)
    mass = sample_weight * closest
    return xp.where(xp.sum(mass) > 0, mass, sample_weight)
