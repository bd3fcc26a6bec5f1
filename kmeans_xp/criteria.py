"""How good a clustering is: criteria of clusters, weighted, as passes over the rows wherever they lie.

Everything but the exact silhouette follows from sums over the clusters: O(n_samples * n_features * n_clusters) at most.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmeans_xp import arrays, steps
from kmeans_xp.data import PerRow, frame_of
from kmeans_xp.frame import frame_at
from kmeans_xp.passes import add
from kmeans_xp.rows.array import sq_distances, take_rows
from kmeans_xp.steps import sq_distances_to_own
from kmeans_xp.validation import check_labels


class UndefinedCriterionError(ValueError):
    """The criterion says nothing about these labels."""


@dataclass(frozen=True)
class Sums:
    """What most criteria are made of: of each cluster, an entry."""

    frame: Any  # around the mean of all rows
    weights: Any
    centers: Any  # means, relative to the origin of the frame
    inertias: Any = None
    distances: Any = None  # mean distances of the rows from their center


class Clusters:
    """Rows of a source with labels, and sums over the clusters."""

    def __init__(self, data, labels):
        self.data, self.n_features = data, data.shape[1]
        self.n_clusters, labels = check_labels(labels, data.like, data.n_rows("where each row has a label"))
        self.labels, self.xp = PerRow(labels), arrays.namespace(data.like)
        frame = frame_of(data)
        sums, weights = data.reduce(sums_of_rows, add, self.labels, self.n_clusters, frame)
        if self.float(self.xp.min(weights)) == 0:
            raise ValueError("A cluster has no weight: leave its rows out.")
        means = Sums(frame, weights, sums / weights[:, None])
        inertias, distances = data.reduce(sums_of_distances, add, self.labels, means)
        self.sums = Sums(frame, weights, means.centers, inertias, distances / weights)

    def require(self, fewest=2):
        """At least so many clusters, and fewer than rows: their weights count as so many."""
        if not fewest <= self.n_clusters < self.float(self.xp.sum(self.sums.weights)):
            raise UndefinedCriterionError(
                f"Number of labels is {self.n_clusters}. Valid values are {fewest} to n_samples - 1 (inclusive); with "
                "sample_weight, n_samples is the sum of the weights, as a weight says how often a row stands there."
            )
        return self

    def float(self, value):
        """A 0-d array as a Python float."""
        return arrays.to_floats(value)[0]


# Passes


def sums_of_rows(block, labels, n_clusters, frame):
    """Sums of the rows of each cluster, and its weight."""
    return steps.update(block.X, block.sample_weight, labels, n_clusters, frame)


def sums_of_distances(block, labels, sums):
    """Sums of the squared distances of the rows of each cluster from its center, and of the distances."""
    squares = sq_distances_to_own(block.X, labels, sums.centers, sums.frame)
    xp = arrays.namespace(squares)

    def total(values):
        column = xp.reshape(values, (-1, 1))
        frame = frame_at(xp.zeros_like(column[0, :]), 0.0, column, sums.frame.tile_bytes)
        return steps.update(column, block.sample_weight, labels, sums.weights.shape[0], frame)[0][:, 0]

    return total(squares), total(xp.sqrt(squares))


def simplified_silhouettes(block, labels, sums):
    """Silhouettes of the rows by their distances from the centers."""
    xp = arrays.namespace(block.X)
    return _from_centers(block, labels, sums, 0 * sums.weights, xp.sqrt, exclude_self=False)


def sq_silhouettes(block, labels, sums):
    """Silhouettes of the rows by mean squared distances from the rows of clusters."""
    return _from_centers(block, labels, sums, sums.inertias / sums.weights, lambda squares: squares, exclude_self=True)


def _from_centers(block, labels, sums, extra, root, *, exclude_self):
    """Silhouettes from `root(squared distance from the center + extra)` as the mean distance from a cluster."""

    def of_tile(rows, tile):
        means = root(sq_distances(tile, sums.centers) + extra[None, :])
        return own_and_others(labels[rows], means)

    tiles = sums.frame.map_tiles(of_tile, block.X, sums.weights.shape[0], sums.frame.origin.dtype)
    found = arrays.collect(tiles, block.X.shape[0])
    return silhouettes(found, labels, sums.weights, exclude_self=exclude_self)


def mean_of(block, function, labels, sums):
    """Weighted sum of what another pass finds for the rows, and their weight."""
    xp = arrays.namespace(block.sample_weight)
    return xp.vecdot(function(block, labels, sums), block.sample_weight), xp.sum(block.sample_weight)


def own_and_others(labels, means):
    """Of mean distances from all clusters those from the own and the nearest other, (n_rows, 2)."""
    xp = arrays.namespace(means)
    numbers = xp.arange(means.shape[1], dtype=labels.dtype, device=arrays.device(labels))
    is_own = labels[:, None] == numbers[None, :]
    own = xp.sum(xp.where(is_own, means, xp.zeros_like(means)), axis=1)
    others = xp.min(xp.where(is_own, xp.full_like(means, xp.inf), means), axis=1)
    return xp.stack((own, others), axis=1)


def silhouettes(own_and_others, labels, weights, *, exclude_self):
    """(b - a) / max(a, b) of each row. Its own mean distance may count the row itself, which is to be left out."""
    xp = arrays.namespace(weights)
    own, others = own_and_others[:, 0], own_and_others[:, 1]
    weights = xp.take(weights, labels)
    alone = weights <= 1
    if exclude_self:
        own = own * weights / xp.where(alone, xp.ones_like(weights), weights - 1)
    larger = xp.maximum(own, others)
    score = (others - own) / xp.where(larger > 0, larger, xp.ones_like(larger))
    return xp.where(alone, xp.zeros_like(score), score)


# Criteria


def calinski_harabasz(clusters):
    """Variance between clusters over variance within them."""
    clusters.require()
    xp, k = clusters.xp, clusters.n_clusters
    within = clusters.float(xp.sum(clusters.sums.inertias))
    between = clusters.float(xp.sum(clusters.sums.weights * xp.vecdot(clusters.sums.centers, clusters.sums.centers)))
    total = clusters.float(xp.sum(clusters.sums.weights))
    return 1.0 if within == 0 else between / within * (total - k) / (k - 1)


def davies_bouldin(clusters):
    """Mean over clusters of how much each overlaps with its worst neighbour."""
    clusters.require()
    xp, spread = clusters.xp, clusters.sums.distances
    worst = []
    for i in range(clusters.n_clusters):  # one after the other: n_clusters² numbers may be many
        between = xp.linalg.vector_norm(clusters.sums.centers - clusters.sums.centers[i, :][None, :], axis=1)
        apart = between > 0  # two clusters at one place say nothing, as in scikit-learn
        ratios = (spread + spread[i]) / xp.where(apart, between, xp.ones_like(between))
        worst.append(xp.max(xp.where(apart, ratios, xp.zeros_like(ratios))))
    return clusters.float(xp.mean(xp.stack(worst)))


def bic(clusters):
    """Bayesian information criterion."""
    clusters.require(fewest=1)
    xp, k, d = clusters.xp, clusters.n_clusters, clusters.n_features
    within, n = arrays.to_floats(xp.sum(clusters.sums.inertias), xp.sum(clusters.sums.weights))
    if n <= k or within == 0:
        raise UndefinedCriterionError(
            "BIC needs rows that differ from the means of their clusters, and more rows than clusters."
        )
    variance = within / (d * (n - k))
    shares = clusters.float(xp.sum(clusters.sums.weights * xp.log(clusters.sums.weights / n)))
    log_likelihood = shares - n * d / 2 * math.log(2 * math.pi * variance) - within / (2 * variance)
    return -2 * log_likelihood + math.log(n) * k * (d + 1)


def exact_silhouettes(clusters):
    """From the distances between all rows, which are taken into memory: of each row."""
    xp, frame, n_clusters = clusters.xp, clusters.sums.frame, clusters.n_clusters
    (X, weights), labels = clusters.data.all_rows(), clusters.labels.values
    order = xp.argsort(labels, stable=True)  # the rows of a cluster one after the other
    X = frame.shift(take_rows(X, order), frame.origin.dtype)
    weights, labels = xp.take(weights, order), xp.take(labels, order)
    sizes = np.bincount(arrays.to_numpy(labels), minlength=n_clusters)
    ends = np.concatenate(([0], np.cumsum(sizes)))
    numbers = xp.arange(X.shape[0], device=arrays.device(X))
    height = max(1, min(X.shape[0], 1024))  # rows in a tile, and as many columns as fit beside them
    width = max(1, int(frame.tile_bytes // (8 * 4 * height)))
    found = []
    for start in range(0, X.shape[0], height):
        rows = slice(start, min(start + height, X.shape[0]))
        sums = []
        for cluster in range(n_clusters):
            total = xp.zeros_like(weights[rows])
            for first in range(ends[cluster], ends[cluster + 1], width):
                columns = slice(first, min(first + width, int(ends[cluster + 1])))
                squares = sq_distances(X[rows, :], X[columns, :])
                itself = numbers[rows][:, None] == numbers[columns][None, :]
                total = total + xp.sqrt(xp.where(itself, xp.zeros_like(squares), squares)) @ weights[columns]
            sums.append(total)
        means = xp.stack(sums, axis=1) / clusters.sums.weights[None, :]
        found.append(own_and_others(labels[rows], means))
    found = xp.take(xp.concat(found), xp.argsort(order), axis=0)
    return silhouettes(found, clusters.labels.values, clusters.sums.weights, exclude_self=True)


def mean_silhouette(clusters):
    """Weighted mean of the exact silhouettes."""
    found, (_, weights) = exact_silhouettes(clusters.require()), clusters.data.all_rows()
    return clusters.float(clusters.xp.vecdot(found, weights) / clusters.xp.sum(weights))


def mean_by(function):
    """Criterion: the weighted mean of the silhouettes that a pass finds."""

    def mean(clusters):
        clusters.require()
        total, weight = clusters.data.reduce(mean_of, add, function, clusters.labels, clusters.sums)
        return clusters.float(total / weight)

    return mean


# What a sweep over the number of clusters may go by: name, function of the clusters, sign of a better value
CRITERIA = {
    "calinski_harabasz": (calinski_harabasz, 1),
    "davies_bouldin": (davies_bouldin, -1),
    "simplified_silhouette": (mean_by(simplified_silhouettes), 1),
    "sq_silhouette": (mean_by(sq_silhouettes), 1),
    "silhouette": (mean_silhouette, 1),
    "bic": (bic, -1),
}
