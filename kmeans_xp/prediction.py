"""What fitted centers say of rows: labels, distances, inertia. Passes over them, as in `passes`."""

import math
from dataclasses import dataclass
from typing import Any

from kmeans_xp.arrays import asarray_like, namespace, tile_bytes, to_floats
from kmeans_xp.backends import replaceable
from kmeans_xp.frame import frame_at, is_ordinary
from kmeans_xp.nearest import TOO_LARGE
from kmeans_xp.steps import assign, in_unit, lloyd_step, sq_distances_to_own
from kmeans_xp.steps import distances as distances_from
from kmeans_xp.validation import has_finite_sum


@dataclass(frozen=True)
class Model:
    """Centers, and how rows are seen from them: as in the fit."""

    centers: Any  # (n_clusters, n_features), relative to zero
    origin: Any  # of the frame of the fit, and its spread
    spread: float
    metric: Any
    working_memory: int  # bytes

    @property
    def is_ordinary(self):
        """Whether distances of float32 rows may be compared in float32."""
        return is_ordinary(self.spread)

    def seen_from(self, X):
        """Centers, relative to the origin, and the frame for rows like X."""
        origin, bytes_of_tile = asarray_like(self.origin, X), tile_bytes(X, self.working_memory)
        frame = frame_at(origin, self.spread, X, bytes_of_tile)
        return frame.enter(asarray_like(self.centers, X)), frame


@replaceable
def labels_at_once(X, model):
    """Labels of an array that nothing is known of, (n_samples,) int32; None unless all its numbers are finite."""
    return assign(X, *model.seen_from(X)) if has_finite_sum(X) else None


@replaceable
def distances_at_once(X, model):
    """The same of Euclidean distances, (n_samples, n_clusters)."""
    return distances_from(X, *model.seen_from(X)) if has_finite_sum(X) else None


def labels(block, model):
    """Labels of the rows, (n_rows,) int32."""
    return model.metric.of_zeros(assign(block.X, *model.seen_from(block.X)), block.X, 0)


def distances(block, model):
    """Distances of the rows from the centers in the metric, (n_rows, n_clusters)."""
    found = distances_from(block.X, *model.seen_from(block.X))
    if not model.metric.spherical:
        return found
    return model.metric.of_zeros(model.metric.cost(found * found), block.X, 1.0)


def inertia_and_weight(block, model):
    """Inertia of the rows, and their weight, floats."""
    (weight,) = to_floats(namespace(block.sample_weight).sum(block.sample_weight))
    return inertia(block.X, block.sample_weight, *model.seen_from(block.X), model.metric), weight


def inertia_and_sizes(block, model):
    """Inertia of the rows, a float, and weights of their clusters, (n_clusters,) float64."""
    sample_weight, unit = in_unit(block.sample_weight)
    centers, frame = model.seen_from(block.X)
    labels, _, weights = lloyd_step(block.X, sample_weight, centers, frame)
    squares = sq_distances_to_own(block.X, labels, centers, frame)
    (total,) = to_floats(namespace(squares).sum(sample_weight * squares))
    if not math.isfinite(total):
        raise ValueError(TOO_LARGE)
    return unit * total, unit * weights


def inertia(X, sample_weight, centers, frame, metric):
    """Weighted sum of the squared distances, or cosine distances, from the nearest centers, as a float."""
    sample_weight, unit = in_unit(sample_weight)
    squares = metric.of_zeros(sq_distances_to_own(X, assign(X, centers, frame), centers, frame), X, 2.0)
    (total,) = to_floats(metric.cost(namespace(squares).sum(sample_weight * squares)))
    if not math.isfinite(total):
        raise ValueError(TOO_LARGE)
    return unit * total
