"""A tree that grows: clusters in memory that are split in two, each by a run on copies of its rows alone."""

import math
from dataclasses import dataclass
from typing import Any

from kmeans_xp import arrays
from kmeans_xp.data import working_memory
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators.callbacks import UNWATCHED
from kmeans_xp.estimators.runs import results_of
from kmeans_xp.frame import frame_at
from kmeans_xp.lloyd import is_better
from kmeans_xp.rows.array import take_rows
from kmeans_xp.steps import one_cluster, sq_distances_to_own
from kmeans_xp.tree import Tree, among, labels_of

EQUAL = 1e-9  # relative difference of what rounding may have made different, from library to library


@dataclass
class Leaf:
    """A cluster."""

    rows: Any  # their numbers, ascending; None for all
    center: Any  # (n_features,) relative to zero, in the dtype of X
    squares: float  # weighted sum of the squared distances of the rows from the center
    weight: float
    is_whole: bool = False  # whether it cannot be split


@dataclass
class Split:
    """What became of a cluster."""

    centers: Any  # (2, n_features) relative to zero
    frame: Any
    sides: list[Any]  # each a leaf or a split


class Splitter:
    """Splits clusters of the rows of a source by runs of `model`, which has two clusters."""

    def __init__(self, model, data, frame, rng):
        self._model, self._data, self._frame, self._rng = model, data, frame, rng

    def root(self):
        """The cluster of all rows."""
        (X, sample_weight), frame, metric = self._data.all_rows(), self._frame, self._model._metric
        xp = arrays.namespace(frame.origin)
        mean = xp.zeros_like(frame.origin)[None, :]
        center = metric.settle(mean, mean, frame)
        squares = sq_distances_to_own(X, one_cluster(X), center, frame)
        found = arrays.to_floats(xp.sum(sample_weight * squares), xp.sum(sample_weight))
        return Leaf(None, frame.leave(center)[0, :], *found)

    def split(self, leaf):
        """The split of a cluster, and the result of its run; None and that if its rows stay together."""
        X, sample_weight = self._data.all_rows()
        if leaf.rows is not None:
            X = take_rows(X, leaf.rows)
            sample_weight = arrays.namespace(sample_weight).take(sample_weight, leaf.rows)
        frame = self._frame_of(leaf)
        result = self._best_run(X, sample_weight, leaf, frame)
        xp = arrays.namespace(sample_weight)
        weighted = sample_weight * sq_distances_to_own(X, result.labels, frame.enter(result.centers), frame)
        on = [result.labels == side for side in (0, 1)]
        squares = [xp.sum(xp.where(mask, weighted, xp.zeros_like(weighted))) for mask in on]
        *squares, first, second = arrays.to_floats(*squares, result.weights[0], result.weights[1])
        if not (first > 0 and second > 0):
            return None, result
        sides = [
            Leaf(among(leaf.rows, mask), result.centers[side, :], squares[side], weight)
            for side, (mask, weight) in enumerate(zip(on, (first, second), strict=True))
        ]
        return Split(result.centers, frame, sides), result

    def _frame_of(self, leaf):
        """About the center of the cluster, which keeps digits of rows far from others: it is known from the split."""
        if leaf.rows is None:
            return self._frame
        xp, like = arrays.namespace(self._frame.origin), self._data.like
        origin = xp.astype(leaf.center, self._frame.origin.dtype)
        return frame_at(origin, leaf.squares / leaf.weight, like, arrays.tile_bytes(like, working_memory()))

    def _best_run(self, X, sample_weight, leaf, frame):
        """Result of lowest inertia among `n_init` runs."""
        model = self._model
        rows = InMemory(X, sample_weight, model._metric, lender=self._lender(X), fitting=False)
        rows.masses = {0: (frame.spread * leaf.weight, leaf.weight)}
        best, *others = results_of(model.n_init, model, rows, frame, self._rng)
        for result in others:
            if is_better(result, best):
                best = result
        return best

    def _lender(self, X):
        """The rows for a callable of the user, where that has another library than ours."""
        if not callable(self._model.init) or self._data.shown is self._data.like:
            return None
        return arrays.asarray_like(X, self._data.shown)


class Grown:
    """A tree that grows."""

    def __init__(self, root):
        self.leaves, self._splits = [root], []  # from left to right; in the order in which they were made
        self.n_iter = self.n_unfinished = 0

    def add(self, leaf, split):
        """Have a split in the place of a leaf."""
        for earlier in self._splits:
            earlier.sides = [len(self._splits) if side is leaf else side for side in earlier.sides]
        self._splits.append(split)
        place = next(place for place, other in enumerate(self.leaves) if other is leaf)
        self.leaves[place : place + 1] = split.sides

    def labels(self, like):
        """Cluster of each of the rows, (n_samples,) int32."""
        return labels_of([(number, leaf.rows) for number, leaf in enumerate(self.leaves)], like)

    def centers(self, n_clusters):
        """Centers, (n_clusters, n_features): that of the first leaf again, where leaves are missing."""
        centers = [leaf.center for leaf in self.leaves]
        return arrays.namespace(centers[0]).stack(centers + centers[:1] * (n_clusters - len(centers)))

    def weights(self, n_clusters):
        """Weights of the clusters, a list."""
        return [leaf.weight for leaf in self.leaves] + [0.0] * (n_clusters - len(self.leaves))

    def squares(self):
        """Weighted sum of the squared distances of the rows from the centers of their clusters."""
        return math.fsum(leaf.squares for leaf in self.leaves)

    def tree(self, home):
        """What rows go down, in the library of `home`; None, if there is one cluster."""
        if not self._splits:
            return None
        xp = arrays.namespace(self._splits[0].centers)
        numbers = {id(leaf): ~number for number, leaf in enumerate(self.leaves)}
        return Tree(
            arrays.asarray_like(xp.stack([split.centers for split in self._splits]), home),
            arrays.asarray_like(xp.stack([split.frame.origin for split in self._splits]), home),
            tuple(split.frame.spread for split in self._splits),
            tuple(tuple(numbers.get(id(side), side) for side in split.sides) for split in self._splits),
        )


def grow(splitter, n_clusters, score, verbose=0, task=UNWATCHED):
    """A tree of `n_clusters` leaves, or as many as can be told apart: that of the highest score is split next."""
    grown = Grown(splitter.root())
    while len(grown.leaves) < n_clusters:
        candidates = [leaf for leaf in grown.leaves if leaf.squares > 0 and not leaf.is_whole]
        if not candidates:
            break
        highest = max(map(score, candidates))
        leaf = next(leaf for leaf in candidates if score(leaf) >= highest * (1 - EQUAL))
        split, result = splitter.split(leaf)
        if split is None:
            leaf.is_whole = True
            continue
        grown.add(leaf, split)
        grown.n_iter += result.n_iter
        grown.n_unfinished += not result.converged
        if verbose:
            left, right = split.sides
            weights = f"weights {left.weight} and {right.weight}"
            print(f"{len(grown.leaves)} of {n_clusters} clusters: one was split into {weights}.", flush=True)
        if task.tell("split", None):
            break
    return grown
