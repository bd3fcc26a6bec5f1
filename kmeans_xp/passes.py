"""Passes over the rows, each once: a function of a block, and how the results of two blocks add up.

Here are those of a fit; what fitted centers say of rows is in `prediction` and `neighbors`, and how good clusters are
in `criteria`.

Blocks are made by the sources in `data`, which also move what else a pass is given to where the block is.
"""

import functools
import math
import operator
from functools import partial

import numpy as np

from kmeans_xp import steps
from kmeans_xp.arrays import accumulator, asarray_like, collect, device, first_few, namespace, to_floats, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.frame import frame_at
from kmeans_xp.nearest import row_sums
from kmeans_xp.rows import primitive
from kmeans_xp.rows.array import joined, largest, take_rows
from kmeans_xp.steps import sq_distances_to_own


def add(these, those):
    """Sums of the entries of two tuples."""
    return tuple(this + that for this, that in zip(these, those, strict=True))


def join(parts):
    """Arrays, or rows stored otherwise, one after the other."""
    return joined(*parts)


# Of the rows alone


def check_finite(block):
    """Raise an error that names the rows with a number that is not finite."""
    rows = np.flatnonzero(~np.isfinite(to_numpy(largest(block.X)))) + block.start
    if len(rows) > 0:
        raise ValueError(f"X contains NaN or infinity in row {first_few(rows)}: it was changed while it was clustered.")


def total(block, frame):
    """Sum of the rows, sum of their weights, and what the metric leaves out."""
    return *steps.sum_of_rows(block.X, block.sample_weight, frame), *block.lost


def spread(block, frame):
    """Weighted sum of the squared distances from the origin, and the weight, under the number of the block."""
    return {block.index: steps.spread_of_rows(block.X, block.sample_weight, frame)}


def moments(data, tile_bytes):
    """The frame around the weighted mean of the rows. The source learns its `lost` and `masses`."""
    xp, dtype = namespace(data.like), accumulator(data.like)
    zero = xp.zeros(data.shape[1], dtype=dtype, device=device(data.like))
    about = partial(frame_at, like=data.like, tile_bytes=tile_bytes)
    sums, weight, *data.lost = data.reduce(total, add, about(zero, 0.0))
    (weight,) = to_floats(weight)
    if weight == 0:
        if not data.lost[1]:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        raise ValueError("All rows that have weight are zeros, and metric='cosine' compares directions.")
    mean = sums / weight
    if not math.isfinite(*to_floats(xp.sum(mean))):
        return about(mean, math.nan)
    data.masses = data.reduce(spread, operator.or_, about(mean, 0.0))
    return about(mean, math.fsum(squares for squares, _ in data.masses.values()) / weight)


def all_rows(block):
    """Copies of rows and weights, in lists."""
    xp = namespace(block.X)
    return [xp.asarray(block.X, copy=True)], [xp.asarray(block.sample_weight, copy=True)]


# Of a run


def step(block, job, centers):
    """Sums and weights of the clusters, counts of labels changed and rows looked at, of an iteration from centers."""
    *found, n_active = block.step(job, centers)
    block.state(job).looked_at(float(n_active))
    return *found, n_active


def _needed_by_step(block, job, centers):
    """Numbers of the rows that a step must look at, or None for all of them."""
    return block.state(job).stale(centers) if block.knows(job) else None


step.needed = _needed_by_step


def update(block, job, centers):
    """Sums and weights of the clusters, anew, from which the next step goes on."""
    state = block.labeled(job, centers)
    return state.renew(*steps.update(block.X, block.sample_weight, state.labels, job.n_clusters, job.frame))


def inertia(block, job, centers):
    """Sum of the squared distances from the centers that the rows were last assigned to, in a tuple."""
    labels = block.labeled(job, centers).labels
    return (job.metric.cost(steps.inertia_of_clusters(block.X, block.sample_weight, labels, centers, job.frame)),)


def labels(block, job, centers):
    """Clusters of the rows."""
    return block.labeled(job, centers).labels


def proof(block, job, centers):
    """What shows that labels within bounds of sizes are the best."""
    return block.labeled(job, centers).proof


def distinct(block, job, centers):
    """Set of the labels."""
    return set(to_numpy(steps.distinct(labels(block, job, centers))).tolist())


def _no_rows(block, job, centers):
    """Numbers of the rows that must be at hand to know their labels."""
    return np.empty(0, dtype=np.int64) if block.is_labeled(job) else None


labels.needed = distinct.needed = _no_rows


def farthest(block, job, centers, n_rows):
    """At most `n_rows` different rows that are farthest from their centers, and not on them: n_rows, and a dict.

    It has squared distances by the keys of the rows, the farthest first; of equally far rows the last first. Rows
    without weight don't count.
    """
    X, frame, labels = block.X, job.frame, block.labeled(job, centers).labels
    xp = namespace(X)
    distances = sq_distances_to_own(X, labels, centers, frame)
    apart = distances > xp.take(frame.sq_rounding(centers), labels)
    distances = xp.where(apart & (block.sample_weight > 0), distances, xp.zeros_like(distances))
    order = xp.flip(xp.argsort(distances, stable=True))
    found, begin, end = {}, 0, 2 * n_rows
    while len(found) < n_rows and begin < X.shape[0]:
        some = order[begin : min(end, X.shape[0])]
        keys, values = row_keys(take_rows(X, some), frame), xp.take(distances, some)
        for key, distance in zip(to_numpy(keys).tolist(), to_numpy(values).tolist(), strict=True):
            if distance > 0:
                found.setdefault(key, distance)
        begin, end = end, 2 * end  # there may be many equal rows
        if distance == 0:
            break
    return n_rows, dict(list(found.items())[:n_rows])


def farther(these, those):
    """The farthest of two results of `farthest`; of equally far ones the last."""
    (n_rows, these), (_, those) = these, those
    both = {**those, **{key: distance for key, distance in these.items() if distance > those.get(key, 0)}}
    return n_rows, dict(sorted(both.items(), key=lambda item: -item[1])[:n_rows])


def relocate(block, job, centers, keys, clusters):
    """Sums and weights when the rows with each of the keys, ascending, belong to one of the clusters."""
    labels, xp = block.labeled(job, centers).labels, namespace(block.X)
    mine = row_keys(block.X, job.frame)
    keys = asarray_like(keys, mine, mine.dtype)
    places = xp.searchsorted(keys, mine)
    places = xp.minimum(places, xp.full_like(places, keys.shape[0] - 1))
    clusters = asarray_like(clusters, labels, labels.dtype)
    labels = xp.where(xp.take(keys, places) == mine, xp.take(clusters, places), labels)
    return steps.update(block.X, block.sample_weight, labels, job.n_clusters, job.frame)


def row_keys(X, frame):
    """Numbers that are equal for equal rows, (n_samples,) float64, whatever the library, the layout and the block.

    They are projections on a fixed direction: rows whose keys are equal by chance differ by less than rounding.
    """
    return projected(X, key_direction(frame), frame)


def key_direction(frame):
    """The direction, (n_features,)."""
    return asarray_like(normal_numbers(frame.origin.shape[0]), frame.origin, frame.origin.dtype)


@functools.lru_cache(8)
def normal_numbers(n):
    """The same numbers each time, (n,) float64 of NumPy."""
    return np.random.RandomState(0).standard_normal(n)


@replaceable
def projected(X, direction, frame):
    """Projections of all rows, (n_samples,) float64, the same bits on every library and in any layout."""
    keys = frame.map_tiles(lambda rows, tile: projections(tile, direction), X, 1, direction.dtype)
    return collect(keys, X.shape[0])


def canonical_order(X, frame):
    """Row numbers sorted by the rows' keys: the same points in any order of the rows."""
    return sorted_rows(row_keys(X, frame))


@replaceable
def sorted_rows(keys):
    """Row numbers sorted by their keys, equal ones as they stand."""
    return namespace(keys).argsort(keys)


@primitive
def projections(tile, direction):
    """Of rows on a direction: equal rows get equal numbers."""
    return row_sums(tile * direction)
