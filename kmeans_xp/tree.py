"""A tree of clusters that were split in two: rows go down it to theirs. A pass over them, as those in `prediction`."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmeans_xp.arrays import asarray_like, collect, data_decide_shapes, device, namespace, tile_bytes, to_numpy
from kmeans_xp.frame import frame_at
from kmeans_xp.prediction import Model
from kmeans_xp.rows.array import take_rows
from kmeans_xp.steps import assign, one_cluster


@dataclass(frozen=True)
class Tree:
    """Splits, each of a side of an earlier one; the first is of all rows."""

    centers: Any  # (n_splits, 2, n_features), of the two sides, relative to zero
    origins: Any  # (n_splits, n_features), of the frames of the splits, and their spreads
    spreads: tuple[float, ...]
    sides: tuple[tuple[int, int], ...]  # where the rows of each side go: to another split or, as ~i, to cluster i


@dataclass(frozen=True)
class TreeModel(Model):
    """Centers of a tree."""

    tree: Tree | None  # None: there is one cluster


def labels(block, model):
    """Clusters that the rows come to down the tree, (n_rows,) int32."""
    X = block.X
    if model.tree is None:
        return one_cluster(X)
    (_, frame), split_at = model.seen_from(X), splits_for(X, model)
    # In tiles, as rows are copied on their way
    tiles = frame.map_rows(lambda rows, X: clusters_of(X, model.tree.sides, split_at), X, 2)
    return model.metric.of_zeros(collect(tiles, X.shape[0]), X, 0)


def splits_for(X, model):
    """Function of the number of a split: its centers, relative to the origin of its frame, and the frame."""
    tree, bytes_of_tile = model.tree, tile_bytes(X, model.working_memory)
    centers, origins = asarray_like(tree.centers, X), asarray_like(tree.origins, X)

    @functools.cache  # rows may come to few of many
    def split_at(number):
        frame = frame_at(origins[number, :], tree.spreads[number], X, bytes_of_tile)
        return frame.enter(centers[number, :, :]), frame

    return split_at


def clusters_of(X, sides_of, split_at):
    """Clusters of (few) rows, (n_rows,) int32."""
    members, ahead = [], [(0, None)]
    while ahead:
        place, rows = ahead.pop()
        if place < 0:
            members.append((~place, rows))
            continue
        sides = assign(X if rows is None else take_rows(X, rows), *split_at(place))
        for side, next_place in enumerate(sides_of[place]):
            chosen = among(rows, sides == side)
            if chosen.shape[0]:
                ahead.append((next_place, chosen))
    return labels_of(members, X)


def among(rows, mask):
    """Numbers of the rows where the mask is true, ascending; None stands for all rows."""
    xp = namespace(mask)
    if data_decide_shapes(mask):
        (chosen,) = xp.nonzero(mask)
    else:
        chosen = asarray_like(np.flatnonzero(to_numpy(mask)), mask)
    return chosen if rows is None else xp.take(rows, chosen)


def labels_of(members, X):
    """Labels of the rows of X, (n_samples,) int32: `members` are pairs of a label and numbers, None for all."""
    xp, where = namespace(X), device(X)
    if len(members) == 1:
        return xp.full(X.shape[0], members[0][0], dtype=xp.int32, device=where)
    if xp is namespace(np.empty(0)):
        labels = np.empty(X.shape[0], dtype=np.int32)
        for label, rows in members:
            labels[rows] = label
        return labels
    # The standard cannot write to places by their numbers
    labels = xp.concat([xp.full(rows.shape[0], label, dtype=xp.int32, device=where) for label, rows in members])
    return xp.take(labels, xp.argsort(xp.concat([rows for _, rows in members])))
