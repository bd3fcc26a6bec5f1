"""AFK-MC²: the law of k-means++ by Markov chains, in a few passes whatever the number of clusters."""

import operator

from kmeans_xp.arrays import to_numpy
from kmeans_xp.data.source import new_run
from kmeans_xp.passes import join
from kmeans_xp.rows.array import row_size, sq_distances
from kmeans_xp.seeding.draws import Law, by_weight, draw, masses, rounding_of_distances, without_rounding

CHAIN = 200  # rows that a chain looks at, as in the experiments of the paper
MOST_NUMBERS = 2**23  # of the rows that are drawn in one pass


def afk_mc2(data, n_clusters, frame, rng, refine=None):
    """Centers chosen one after the other, nearly with probability proportional to weight times squared distance.

    O. Bachem et al., "Fast and provably good seedings for k-means", 2016. Rows are drawn once, half by weight and half
    by weight times squared distance from the first center. For each further center a chain walks over CHAIN of them,
    and goes from one to the next by chance, by the ratio of their distances from the nearest center so far.
    """
    weight = data.reduce(masses, operator.or_, by_weight(frame))
    first, _, _ = draw(data, by_weight(frame), weight, rng.uniform(size=1))
    squares = data.reduce(masses, operator.or_, Law(0.0, 1.0, [first], frame))
    law = Law(0.5 / sum(weight.values()), 0.5, [first], frame, total=sum(squares.values()) or 1.0)
    mass_of = {index: law.mass(weight[index], squares[index]) for index in weight}
    centers, known, run = frame.enter(first), [], new_run()
    at_a_time = max(1, MOST_NUMBERS // (CHAIN * row_size(first)))
    for done in range(1, n_clusters, at_a_time):
        n_chains = min(at_a_time, n_clusters - done)
        X, _, density = draw(data, law, mass_of, rng.uniform(size=CHAIN * n_chains))
        least, density = to_numpy(rounding_of_distances(X, density, frame)), to_numpy(density)
        for begin in range(0, CHAIN * n_chains, CHAIN):
            chain = slice(begin, begin + CHAIN)
            tile = frame.shift(X[chain, :], frame.origin.dtype)
            closest = without_rounding(to_numpy(sq_distances(tile, centers)).min(axis=1), least[chain])
            if closest.any():
                place = begin + last_of_chain(closest / density[chain], rng.uniform(size=CHAIN))
                found = X[place : place + 1, :]
            else:  # all of them are centers
                known.append(frame.leave(centers[sum(points.shape[0] for points in known) :, :]))
                mass = data.reduce(masses, operator.or_, Law(0.0, 1.0, list(known), frame, run))
                if sum(mass.values()) == 0:  # and all rows, so that any will do
                    rest, _, _ = draw(data, by_weight(frame), weight, rng.uniform(size=n_clusters - centers.shape[0]))
                    return join([centers, frame.enter(rest)])
                found, _, _ = draw(data, Law(0.0, 1.0, list(known), frame, run), mass, rng.uniform(size=1))
            centers = join([centers, frame.enter(found)])
    return centers


def last_of_chain(ratios, uniforms):
    """Where a Metropolis-Hastings chain ends that goes from row to row by the ratio of probability and proposal."""
    place = 0  # the first has no say where it is a center
    for candidate in range(1, len(ratios)):
        if ratios[candidate] > uniforms[candidate] * ratios[place]:
            place = candidate
    return place
