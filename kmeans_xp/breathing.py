"""Better clusters than those that Lloyd's iteration ends with: centers come where they are missed, and others go.

B. Fritzke, "The breathing k-means algorithm", 2020 (arXiv 2006.15666). Lloyd's iteration moves centers by small steps,
and never from where there are too many to where there are too few. So some centers are added in the clusters of the
largest inertia, and after a few iterations as many are taken away that are missed least. What is found is kept if it is
better; if it is not much better, fewer centers come and go from then on.

It differs from the paper in speed: there are few iterations amid a breath, a new center is a row and not the old one
moved a little, and the number of centers that come and go grows with that of clusters and is halved, not lowered by 1.
"""

import numpy as np

from kmeans_xp.algorithms import unlabeled
from kmeans_xp.arrays import asarray_like, device, namespace, to_numpy
from kmeans_xp.bounds import bounded_step
from kmeans_xp.lloyd import is_better
from kmeans_xp.passes import canonical_order
from kmeans_xp.rows.array import take_rows
from kmeans_xp.steps import sq_distances_to_own

MOST_AMID, MOST_AFTER = 20, 25  # iterations after centers have come, and after they have gone: the first do most
MUCH = 1e-4  # a breath that lowers the inertia by a smaller share is the last with so many centers
FEWEST_MORE, SHARE = 5, 0.1  # centers that come and go at first: so many or, of many clusters, this share of them
NEIGHBORS = 1.1  # centers are neighbors of one that are up to so many times as far from it as the nearest is


def breathe(iterate, X, sample_weight, result, frame, rng):
    """A `lloyd.Result` of no more inertia than `result` for rows X.

    `iterate(centers, max_iter)` is the result of a run over them.
    """
    n_clusters, order = result.weights.shape[0], to_numpy(canonical_order(X, frame))
    n_more = max(FEWEST_MORE, int(SHARE * n_clusters)) if n_clusters > 1 else 0
    while n_more > 0:
        rows = missed(X, sample_weight, result, frame, n_more, order, rng)
        if len(rows) == 0:
            break
        new = frame.enter(take_rows(X, asarray_like(rows, X, namespace(X).int64)))
        wide = iterate(namespace(new).concat((frame.enter(result.centers), new)), MOST_AMID)
        centers = frame.enter(wide.centers)
        kept = without(len(rows), to_numpy(centers), use_of(centers, X, sample_weight, frame))
        found = iterate(namespace(new).take(centers, asarray_like(kept, X, namespace(X).int64), axis=0), MOST_AFTER)
        if not is_better(found, result, by=MUCH):
            n_more //= 2
        if is_better(found, result):
            result = found
    return result


def missed(X, sample_weight, result, frame, n_more, order, rng):
    """Row numbers: of each of the clusters with the largest inertia one, in proportion to its part of that."""
    squares = sq_distances_to_own(X, result.labels, frame.enter(result.centers), frame)
    labels, masses = to_numpy(result.labels)[order], to_numpy(sample_weight * squares)[order]
    inertias = np.bincount(labels, masses, result.weights.shape[0])
    largest = np.argsort(-inertias, kind="stable")[:n_more]
    largest = np.sort(largest[inertias[largest] > 0])
    by_cluster = np.argsort(labels, kind="stable")
    begins, ends = (np.searchsorted(labels[by_cluster], largest, side) for side in ("left", "right"))
    sums = np.concatenate(([0.0], np.cumsum(masses[by_cluster])))
    targets = sums[begins] + rng.uniform(size=len(largest)) * (sums[ends] - sums[begins])
    places = np.clip(np.searchsorted(sums, targets, "right") - 1, begins, ends - 1)
    return order[by_cluster[places]]


def use_of(centers, X, sample_weight, frame):
    """By how much the inertia would grow without each of the centers, (n_clusters,) NumPy float64."""
    xp = namespace(X)
    slack = xp.full(X.shape[0], -xp.inf, dtype=centers.dtype, device=device(X))
    bounds = unlabeled(X), slack, xp.zeros_like(centers[:, 0])
    labels, farther, *_ = bounded_step(X, sample_weight, centers, bounds, (0, 0), frame.exact)
    squares = sq_distances_to_own(X, labels, centers, frame)
    grows = sample_weight * farther * (2 * xp.sqrt(squares) + farther)  # (d + farther)² - d²
    return np.bincount(to_numpy(labels), to_numpy(grows), centers.shape[0])


def without(n_less, centers, use):
    """Numbers of centers when those of least use have gone, but no two neighbors: one of them has the rows of both."""
    goes, stays = np.zeros(len(centers), dtype=bool), np.zeros(len(centers), dtype=bool)
    for center in np.argsort(use, kind="stable"):
        if goes.sum() == n_less:
            break
        if stays[center]:
            continue
        goes[center] = True
        squares = np.sum((centers - centers[center]) ** 2, axis=1)
        squares[center] = np.inf
        neighbors = (squares <= NEIGHBORS**2 * squares.min()) & ~goes
        if np.count_nonzero(stays | neighbors) <= len(centers) - n_less:
            stays |= neighbors
    return np.flatnonzero(~goes)
