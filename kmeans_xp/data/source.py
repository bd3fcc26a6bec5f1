"""What a source of rows is: blocks of rows, and a way to have passes made over them."""

import itertools
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from kmeans_xp import passes
from kmeans_xp.algorithms import Algorithm, Iterated, Limits, moved
from kmeans_xp.arrays import asarray_like, is_foreign
from kmeans_xp.devices import finish


class Source(Protocol):
    """Rows and their weights, wherever they lie: one block in memory, or several in a file or on a cluster.

    A pass (see `passes`) is a function of a block. What it is given besides moves to where the block is.
    """

    shape: tuple[int, int]  # of all rows
    like: Any  # array (of no rows, perhaps) of the library, dtype and device that centers are computed with
    shown: Any  # array (of no rows, perhaps) of the library and on the device of what callables of the user are given
    home: Any  # array (of no rows, perhaps) of the library and on the device of what the user gets
    in_blocks: bool  # whether there may be more than one
    weight_unit: float  # that the weights of a fit are divided by
    lost: tuple[int, float]  # rows, and their weight, that the metric leaves out of a fit; from `passes.moments` on
    masses: dict[int, tuple[float, float]]  # of each block, see `passes.spread`; from `passes.moments` on

    @property
    def given(self) -> Any:
        """What a callable of the user is given for X."""

    def reduce(self, function: Any, combine: Any, *args: Any) -> Any:
        """`combine` of `function(block, *args)` for all blocks, in their order; it is associative."""

    def write(self, out: Any, function: Any, *args: Any, dtype: Any = None, more_shape: tuple[int, ...] = ()) -> Any:
        """`function(block, *args)`, (n_rows, *more_shape), of all rows: `out`, or what the user gets if it is None.

        dtype, of NumPy, is that of the result where it is made before it is known; None for that of the rows.
        """

    def iterate(self, job: "Job", centers: Any, limits: Limits) -> Iterated:
        """At least one iteration of a run, from centers."""

    def labels(self, job: "Job", centers: Any) -> Any:
        """Clusters that the last iteration, which was from `centers`, gave the rows; None where they are lazy."""

    def n_rows(self, purpose: str) -> int:
        """How many rows there are, where that must be known for some purpose."""

    def all_rows(self) -> tuple[Any, Any]:
        """Rows and weights, in memory."""

    def take(self, numbers: Any) -> Any:
        """Rows by their numbers (NumPy), which may repeat, in memory."""

    def host_weights(self) -> Any:
        """The weights that the user gave, NumPy's (n_samples,); None for 1 each."""

    def suited(self, algorithm: Algorithm, n_clusters: int, frame: Any) -> Algorithm:
        """What the algorithm comes to for these rows."""


new_run = itertools.count(1).__next__  # the number of a run, by which blocks know theirs


@dataclass(frozen=True)
class Job:
    """What all blocks need to know of a run."""

    run: int
    step: int
    n_clusters: int
    frame: Any
    metric: Any
    algorithm: Algorithm


class PerRow:
    """An argument of a pass that has an entry for each row, (n_samples,) NumPy: a block is given those of its rows."""

    def __init__(self, values):
        self.values = values


def beside(args, rows, like):
    """Arguments of a pass as the block of these rows is given them, whose arrays are as `like`."""
    return [asarray_like(arg.values[rows], like) if isinstance(arg, PerRow) else arg for arg in args]


def moved_to(like, value):
    """`value` with its arrays in the library and on the device of `like`."""
    return map_arrays(value, partial(asarray_like, like=like))


class Block:
    """Rows in memory, and what the run that goes on remembers of them: if that is lost, a dense pass makes it anew."""

    def __init__(self, X, sample_weight, index=0, start=0, lost=(0, 0.0)):
        self.index = index  # among the blocks
        self.start = start  # number of its first row
        self.lost = lost  # rows, and weight, that the metric leaves out
        self.drawing = None  # what a seeding remembers of the rows
        self._run = self._step = self._state = self._frame = None
        self._shifted = None, None
        self.put(X, sample_weight)

    def put(self, X, sample_weight, active=None):
        """Have the rows in memory, or only those whose numbers are `active`."""
        self.X, self.sample_weight, self.active = X, sample_weight, active
        if self._run is not None:
            self._shift()

    def drop(self):
        """Keep nothing but what is remembered of the rows."""
        self.X = self.sample_weight = self.active = None
        self._shifted = None, None

    def state(self, job):
        """What the run remembers of the rows: from the beginning, where nothing is known of it."""
        if not self.knows(job):
            self._state = job.algorithm.start(self.X, self.sample_weight, job.n_clusters, job.frame)
            self._run, self._step, self._frame = job.run, None, job.frame
            self.drawing = None  # the seeding is over
            self._shift()
        return self._state

    def knows(self, job):
        """Whether there is a state of this run."""
        return self._run == job.run

    def is_labeled(self, job):
        """Whether it is that of the last step: Dask may have kept a copy of an earlier one."""
        return self.knows(job) and self._step == job.step

    def begun(self, job):
        """What the run remembers of the rows, with a step begun; the rows and the frame as the step sees them."""
        state, self._step = self.state(job), job.step
        return state, *self._shifted

    def step(self, job, centers):
        """Label the rows: sums and weights of the clusters, counts of labels changed and rows looked at."""
        state, X, frame = self.begun(job)
        return state.step(X, self.sample_weight, centers, frame, self.active)

    def labeled(self, job, centers):
        """The state after the last step, which was from `centers`."""
        if not self.is_labeled(job):
            self.step(job, centers)
        return self._state

    def _shift(self):
        """What steps see of the rows: few of them are shifted once."""
        self._shifted = self.X, self._frame
        if self.active is None:
            self._shifted = self._frame.shift_once(self.X, self._frame.distance_dtype)

    def __sizeof__(self):
        """Bytes, for Dask's account of a worker's memory: the rows, their weights, labels and bounds."""
        rows = 0 if self.X is None else self.X.nbytes + 20 * self.X.shape[0]
        return super().__sizeof__() + rows


def prepared(X, sample_weight, start, metric, fitting):
    """Rows as the metric sees them, from row `start` of all; their weights, and what it leaves out of a fit."""
    X, lost = metric.prepare(X, start), (0, 0.0)
    if fitting:
        sample_weight, lost = metric.weigh(X, sample_weight)
    return X, sample_weight, lost


def iterate_over_blocks(source, job, centers, limits):
    """`Source.iterate` where there may be several blocks: one iteration."""
    found = source.reduce(passes.step, passes.add, job, centers)
    return moved(found, centers, job.frame, job.metric, not job.algorithm.prunes)


def gathered(source):
    """`Source.all_rows` where there may be several blocks."""
    return tuple(map(passes.join, source.reduce(passes.all_rows, passes.add)))


def map_arrays(value, move):
    """`value` with `move` applied to the arrays in it."""
    if isinstance(value, np.ndarray) or is_foreign(value):
        return move(value)
    if isinstance(value, (tuple, list)):
        return type(value)(map_arrays(part, move) for part in value)
    if is_dataclass(value):
        return replace(value, **{field.name: map_arrays(getattr(value, field.name), move) for field in fields(value)})
    return value


def started(pool, function, *args):
    """A call that a thread makes meanwhile: a function that gives its result."""
    try:
        return pool.submit(function, *args).result
    except RuntimeError:  # no thread can be started: by a limit, or as the main thread has ended
        return partial(function, *args)


class HostBlocks:
    """Abstract: a source in blocks whose results are NumPy arrays: what does not depend on where the blocks lie."""

    in_blocks = True
    iterate = iterate_over_blocks

    def labels(self, job, centers):
        return self.write(None, passes.labels, job, centers, dtype=np.int32)

    def n_rows(self, purpose):
        return self.shape[0]

    def all_rows(self):
        return gathered(self)

    def host_weights(self):
        return self._sample_weight

    def settled(self, value, here, gathers):
        """What a thread found, once the device of `here` has done it; if that `gathers`, where results are added up.

        Threads launch in streams of their own, for which others do not wait.
        """
        finish(here)
        if gathers:
            value = moved_to(self.like, value)
            finish(self.like)
        return value
