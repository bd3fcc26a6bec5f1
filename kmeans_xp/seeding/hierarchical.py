"""First centers of many clusters, in two levels: rows are divided among coarse clusters, and centers chosen in each.

k-means++ compares each new center with all rows, so of thousands of clusters it takes longer than all iterations.
Within about sqrt(n_clusters) coarse clusters, of which each gets about as many centers, it takes little.
"""

import math

import numpy as np

from kmeans_xp.arrays import asarray_like, namespace, to_numpy
from kmeans_xp.passes import join
from kmeans_xp.rows.array import take_rows
from kmeans_xp.seeding.greedy import MAX_DISTANCES, greedy, sample_size
from kmeans_xp.steps import assign, sq_distances_to, sq_distances_to_own

MANY = 2000  # clusters; up to these one level finds better ones
MORE = 2.0  # times the centers that a coarse cluster is expected to get: so many are chosen in it
UNEVEN = 4  # times the average: a coarse cluster that is expected to get more centers is divided


def hierarchical(X, sample_weight, n_clusters, frame, rng, order=None, refine=None):
    """Centers for rows X: in each coarse cluster the first that greedy k-means++ chooses, the more the more they gain.

    `refine(X, sample_weight, centers)` iterates, on coarse clusters and within them. Draws run through the rows in
    `order`.
    """
    weighted = to_numpy(sample_weight) > 0
    order = np.arange(X.shape[0]) if order is None else to_numpy(order)
    order = order[weighted[order]]
    if len(order) < n_clusters:
        return frame.enter(take_rows(X, greedy(X, sample_weight, n_clusters, frame, rng)))
    iterate = refine or (lambda X, sample_weight, centers: centers)
    parts = list(divided(X, sample_weight, order, n_clusters, math.sqrt(n_clusters), frame, rng, iterate))
    most = [min(len(numbers), math.ceil(MORE * expected)) for numbers, expected in parts]
    if sum(most) < n_clusters:
        most = [len(numbers) for numbers, _ in parts]
    chosen, gains = [], []
    for (numbers, _), n in zip(parts, most, strict=True):
        part = some(X, sample_weight, numbers)
        rows = greedy(*part, n, frame, rng)
        chosen.append(numbers[to_numpy(rows)])
        gains.append(gains_of(*part, rows, frame))
    centers = []
    for (numbers, _), rows, n in zip(parts, chosen, allotted(gains, n_clusters), strict=True):
        first, _ = some(X, sample_weight, rows[:n])
        centers.append(iterate(*some(X, sample_weight, numbers), frame.enter(first)))
    return join(centers)


def some(X, sample_weight, numbers):
    """Rows and weights by their numbers, which NumPy has."""
    numbers = asarray_like(numbers, sample_weight, namespace(sample_weight).int64)
    return take_rows(X, numbers), namespace(sample_weight).take(sample_weight, numbers)


def divided(X, sample_weight, order, n_expected, size, frame, rng, iterate):
    """Coarse clusters for `size` centers each: the numbers of their rows, in order, and how many centers to expect.

    That is by their share of the weight or, where it is larger, of the inertia.
    """
    n_coarse = round(n_expected / size)
    few = some(X, sample_weight, order[:: max(1, len(order) // sample_size(n_coarse))])
    centers = iterate(*few, frame.enter(take_rows(few[0], greedy(*few, n_coarse, frame, rng))))
    is_all = len(order) == X.shape[0]
    rows, weight = (X, sample_weight) if is_all else some(X, sample_weight, order)
    labels = assign(rows, centers, frame)
    inertia = weight * sq_distances_to_own(rows, labels, centers, frame)
    labels, weight, inertia = (to_numpy(values)[order if is_all else ...] for values in (labels, weight, inertia))
    shares = [np.bincount(labels, values, n_coarse) / (values.sum() or 1.0) for values in (weight, inertia)]
    ends = np.cumsum(np.bincount(labels, minlength=n_coarse))
    parts = np.split(order[np.argsort(labels, kind="stable")], ends[:-1])
    for numbers, n in zip(parts, n_expected * np.maximum(*shares), strict=True):
        if n > UNEVEN * size and len(numbers) < len(order):
            yield from divided(X, sample_weight, numbers, n, size, frame, rng, iterate)
        elif len(numbers) > 0:
            yield numbers, n


def gains_of(X, sample_weight, rows, frame):
    """By how much each of the rows, chosen one after the other, lowers the inertia, (n_rows,) NumPy; infinite at first.

    The first is to be a center in any case.
    """
    xp, closest, inertia = namespace(sample_weight), None, []
    n, at_a_time = rows.shape[0], max(1, MAX_DISTANCES // X.shape[0])
    for begin in range(0, n, at_a_time):
        squares = sq_distances_to(X, rows[begin : min(begin + at_a_time, n)], frame)
        for i in range(squares.shape[0]):
            closest = squares[i, :] if closest is None else xp.minimum(closest, squares[i, :])
            inertia.append(closest @ sample_weight)
    return np.concatenate(([np.inf], -np.diff(to_numpy(xp.stack(inertia)))))


def allotted(gains, n):
    """How many of the n largest numbers are in each of some arrays, where those that differ by rounding are equal."""
    whose, gains = np.repeat(np.arange(len(gains)), list(map(len, gains))), np.concatenate(gains)
    scale = np.max(gains, where=gains < np.inf, initial=0.0) or 1.0
    largest = np.argsort(-np.float32(gains / scale), kind="stable")[:n]
    return np.bincount(whose[largest])
