"""Rows that lie in several blocks: every pass is a map over the blocks and a sum.

Where the blocks come from is a `source`: a file that is read block by block (`streaming.Stream`), or the workers of a
cluster (`dask.Cluster`). Its `reduce(function, combine, *args)` is `combine` of `function(block, *args)` for all
blocks, in their order, where `combine` is associative. It also has `shape`, and `like`, an empty array in the library
and dtype of the rows, and `weight_unit`, which the weights in its blocks are divided by.
"""

import math
import operator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kmeans_xp import lloyd, seeding, steps
from kmeans_xp.arrays import accumulator, asarray_like, device, namespace, to_floats, to_numpy
from kmeans_xp.lloyd import Rows

MOST_ROUNDS = 20  # of drawing, for rows that have nearly all the weight


class Block:
    """Rows in memory, and the state of the run that goes on: lost, it is made anew at the cost of a dense pass."""

    def __init__(self, X, sample_weight, index, start, lost=(0, 0.0)):
        self.index = index  # among the blocks
        self.start = start  # number of its first row
        self._run = self._step = None
        self.lost = lost  # rows, and weights, that the metric leaves out
        self.given_weight = None  # before that, while the rows are in memory
        self.put(X, sample_weight)

    def put(self, X, sample_weight, active=None):
        """Have the rows in memory, or only those whose numbers are `active`."""
        self.X, self.sample_weight, self.active = X, sample_weight, active
        if self._run is not None and active is None:
            self._rows.place(X, sample_weight)

    def drop(self):
        """Keep nothing but the state."""
        self.put(None, None)

    def rows(self, job):
        """The rows and what the iterations of the run remember of them."""
        if not self.knows(job):
            self._rows = Rows(self.X, self.sample_weight, job.n_clusters, job.frame, job.algorithm)
            self._run = job.run
        return self._rows

    def __sizeof__(self):
        """Bytes, for Dask's account of a worker's memory: the rows, their weights, labels and bounds."""
        return super().__sizeof__() + self.X.nbytes + 20 * self.X.shape[0]

    def knows(self, job):
        """Whether there is a state of this run."""
        return self._run == job.run

    def is_labeled(self, job):
        """Whether it is that of the last step: Dask may have kept a copy of an earlier one."""
        return self.knows(job) and self._step == job.step

    def step(self, job, centers):
        """Label the rows: sums and weights of the clusters, counts of labels changed and rows looked at."""
        rows = self.rows(job)
        if self.active is None:
            *totals, n_active = rows.step(centers)
        else:
            *totals, n_active = rows.step_on(self.active, self.X, self.sample_weight, centers)
        rows.looked_at(float(n_active))
        self._step = job.step
        return *totals, n_active

    def labeled(self, job, centers):
        """The rows with the labels of the last step, which was to `centers`."""
        if not self.is_labeled(job):
            self.step(job, centers)
        return self._rows


@dataclass(frozen=True)
class Job:
    """What all blocks need to know of a run."""

    run: int
    step: int
    n_clusters: int
    frame: Any
    algorithm: str


class Partitioned:
    """Data of a fit that come from a source. The same methods as `memory.InMemory`."""

    in_blocks = True

    def __init__(self, source):
        self._source = source
        self.shape, self.like, self.weight_unit = source.shape, source.like, source.weight_unit

    def moments(self, n_clusters, tile_bytes):
        """The frame of the fit."""
        frame, self._blocks, self.lost = moments(self._source, n_clusters, tile_bytes)
        return frame

    def initial_centers(self, init, n_clusters, frame, rng, stopping):
        """Centers, relative to the origin, by the method called `init`."""
        return initial_centers(self._source, init, n_clusters, frame, self._blocks, rng, stopping)

    def sample(self, n_clusters, frame, rng):
        """A weighted sample of the rows, or all of them if they are few: rows, weights."""
        if self.shape[0] <= seeding.sample_size(n_clusters):
            return gather(self._source)
        return coreset(self._source, n_clusters, frame, self._blocks, rng)

    def rows(self, n_clusters, frame, algorithm):
        """What `lloyd` iterates over."""
        return PartitionedRows(self._source, n_clusters, frame, algorithm if self._source.keeps_bounds else "lloyd")


class PartitionedRows:
    """`lloyd.Rows` of a source."""

    def __init__(self, source, n_clusters, frame, algorithm):
        self._source = source
        self.prunes = algorithm != "lloyd"
        self._job = Job(0, 0, n_clusters, frame, algorithm)
        self.forget()

    def forget(self):
        self._job = replace(self._job, run=self._source.new_run())

    @property
    def labels(self):
        return self._source.labels(self._job, self._centers)

    def step(self, centers):
        self._centers = centers
        self._job = replace(self._job, step=self._job.step + 1)
        return self._source.reduce(step, add, self._job, centers)

    def looked_at(self, n_active):
        """Each block has taken note of it."""

    def update(self):
        return self._source.reduce(update, add, self._job, self._centers)

    def farthest(self, centers, n_rows):
        return self._source.reduce(farthest, partial(farther, n_rows), self._job, centers, n_rows)

    def relocate(self, keys, clusters):
        return self._source.reduce(relocate, add, self._job, self._centers, keys, clusters)

    def check_finite(self):
        self._source.reduce(check_finite, lambda *_: None)

    def inertia(self, centers):
        return self._source.reduce(inertia, add, self._job, centers)[0]

    def count_distinct(self):
        return len(self._source.reduce(distinct, set.union, self._job, self._centers))


# What a pass does with a block


def step(block, job, centers):
    """Sums and weights of the clusters, counts of labels changed and rows looked at."""
    return block.step(job, centers)


def _needed_by_step(block, job, centers):
    """Numbers of the rows that a step must look at, or None for all of them."""
    return block.rows(job).stale(centers) if block.knows(job) else None


step.needed = _needed_by_step


def update(block, job, centers):
    """Sums and weights of the clusters, anew."""
    return block.labeled(job, centers).update()


def farthest(block, job, centers, n_rows):
    """Distances of the rows farthest from their centers, by key."""
    return block.labeled(job, centers).farthest(centers, n_rows)


def relocate(block, job, centers, keys, clusters):
    """Sums and weights when the rows with some keys belong to clusters."""
    return block.labeled(job, centers).relocate(keys, clusters)


def inertia(block, job, centers):
    """Sum of the squared distances from the centers."""
    return (block.labeled(job, centers).inertia(centers),)


def labels(block, job, centers):
    """Clusters of the rows."""
    return block.labeled(job, centers).labels


def distinct(block, job, centers):
    """Set of the labels."""
    return set(np.flatnonzero(np.bincount(to_numpy(labels(block, job, centers)))).tolist())


def _no_rows(block, job, centers):
    """Numbers of the rows that must be at hand to know their labels."""
    return np.empty(0, dtype=np.int64) if block.is_labeled(job) else None


labels.needed = distinct.needed = _no_rows


def check_finite(block):
    """Raise an error that names the rows with a number that is not finite."""
    lloyd.check_finite(block.X, block.start)


def total(block, frame):
    """Sum of the rows, sum of their weights, and what the metric leaves out."""
    sums, weights = steps.update(block.X, block.sample_weight, steps.one_cluster(block.X), 1, frame)
    return sums[0, :], weights[0], *block.lost


def squares_and_weight(block, frame):
    """Weighted sum of the squared distances from the origin, and the weight, under the number of the block."""
    origin = namespace(block.X).zeros_like(frame.origin)[None, :]
    squares = steps.sq_distances_to_own(block.X, steps.one_cluster(block.X), origin, frame)
    xp = namespace(block.X)
    return {block.index: to_floats(xp.sum(block.sample_weight * squares), xp.sum(block.sample_weight))}


def drawn(block, frame, per_weight, per_square, targets, places):
    """Rows of the block that are drawn, in lists: places among the targets, row numbers, densities, rows.

    A row has the probability weight * density, density = per_weight + per_square * squared distance from the origin.
    `targets` are places along the sum of these over all rows; those of block i begin and end at `places[i]`.
    """
    begin, end = places[block.index]
    (which,) = np.nonzero((targets >= begin) & (targets < end))
    if len(which) == 0:
        return [], [], [], []
    squares = seeding.sq_distances_to_mean(block.X, block.sample_weight, frame)
    density = per_weight + per_square * squares
    cumulative = namespace(density).cumulative_sum(block.sample_weight * density)
    rows = seeding.places(cumulative, asarray_like(targets[which] - begin, density, density.dtype))
    density = namespace(density).take(density, rows)
    return [which], [to_numpy(rows) + block.start], [density], [steps.take_rows(block.X, rows)]


def all_rows(block):
    """Copies of rows and weights, in lists."""
    xp = namespace(block.X)
    return [xp.asarray(block.X, copy=True)], [xp.asarray(block.sample_weight, copy=True)]


# How results of blocks are combined


def add(these, those):
    """Sums of the entries of two tuples."""
    return tuple(this + that for this, that in zip(these, those, strict=True))


def farther(n_rows, these, those):
    """The `n_rows` farthest of two results of `lloyd.farthest`; of equally far ones the last."""
    both = {**those, **{key: distance for key, distance in these.items() if distance > those.get(key, 0)}}
    return dict(sorted(both.items(), key=lambda item: -item[1])[:n_rows])


# The passes before the iterations


def moments(source, n_clusters, tile_bytes):
    """The frame around the weighted mean of the rows, for each block its squares about the mean and weight, `lost`."""
    xp = namespace(source.like)
    zero = xp.zeros(source.shape[1], dtype=accumulator(source.like), device=device(source.like))
    about = partial(steps.frame_at, like=source.like, work=math.prod(source.shape) * n_clusters, tile_bytes=tile_bytes)
    sums, weight, *lost = source.reduce(total, add, about(zero, 0.0))
    if to_floats(weight)[0] == 0 and not lost[0]:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    mean = sums / weight
    if not math.isfinite(*to_floats(namespace(mean).sum(mean))):
        return about(mean, math.nan), {}, lost
    blocks = source.reduce(squares_and_weight, operator.or_, about(mean, 0.0))
    squares, weights = (math.fsum(values) for values in zip(*blocks.values(), strict=True))
    return about(mean, squares / weights), blocks, lost


def initial_centers(source, init, n_clusters, frame, blocks, rng, stopping):
    """Centers, relative to the origin, by the method called `init`. `blocks` come from `moments`."""
    if init not in METHODS:
        raise ValueError(
            f"init={init!r} needs data in memory. Use {', '.join(map(repr, METHODS))} or an array of centers."
        )
    if source.shape[0] > seeding.sample_size(n_clusters):
        return METHODS[init](source, n_clusters, frame, blocks, rng, stopping)
    X, sample_weight = gather(source)
    return frame.enter(steps.take_rows(X, seeding.METHODS[init](X, sample_weight, n_clusters, frame, rng)))


def k_means_plus_plus(source, n_clusters, frame, blocks, rng, stopping):
    """Centers, relative to the origin, chosen on a weighted sample, and iterated on it if that is little work."""
    refine = seeding.repays_refinement(source.shape[0], n_clusters)
    sample = coreset(source, n_clusters, frame, blocks, rng)
    return seeding.start_from_sample(*sample, n_clusters, frame, rng, refine, **stopping)


def gather(source):
    """All rows, if they are few, and their weights."""
    return tuple(map(join, source.reduce(all_rows, add)))


def coreset(source, n_clusters, frame, blocks, rng):
    """Rows and weights: `seeding.coreset` of a source."""
    n_sample = seeding.sample_size(n_clusters)
    squares, weights = np.asarray(list(blocks.values())).T
    per_weight, per_square = 0.5 / weights.sum(), 0.5 / (squares.sum() or 1.0)
    total = per_weight * weights + per_square * squares
    targets = seeding.stratified(n_sample, rng) * total.sum()
    job = frame, per_weight, per_square, targets, _places(blocks, total)
    _, _, density, X = map(join, source.reduce(drawn, add, *job))
    return X, 1 / (n_sample * density)


def random_rows(source, n_clusters, frame, blocks, rng, stopping):
    """Centers, relative to the origin, that are different rows, with probability proportional to their weights.

    They are drawn with replacement, and repetitions dropped.
    """
    weights = np.asarray([weight for _, weight in blocks.values()])
    total, places = weights.sum(), _places(blocks, weights)
    seen, rows = set(), []
    for _ in range(MOST_ROUNDS):
        targets = rng.uniform(size=n_clusters) * total
        which, numbers, _, X = map(join, source.reduce(drawn, add, frame, 1.0, 0.0, targets, places))
        for place in np.argsort(which):
            if numbers[place] not in seen and len(rows) < n_clusters:
                seen.add(numbers[place])
                rows.append(X[int(place), :][None, :])
        if len(rows) == n_clusters:
            break
    return frame.enter(join([rows[i % len(rows)] for i in range(n_clusters)]))


# Those of `seeding.METHODS` that need not look at all rows at once
METHODS = {"k-means++": k_means_plus_plus, "random": random_rows}


def _places(blocks, masses):
    """Where each of the blocks begins and ends along the sum of their masses."""
    ends = np.cumsum(masses)
    begins = ends - masses
    last = np.flatnonzero(masses)[-1]
    ends[last:] = np.inf  # rounding must lose no target
    begins[last + 1 :] = np.inf
    return dict(zip(blocks, zip(begins.tolist(), ends.tolist(), strict=True), strict=True))


def join(arrays):
    """A list of arrays as one."""
    return namespace(arrays[0]).concat(arrays, axis=0)
