"""What the estimators minimise: squared Euclidean distances, or cosine distances of rows that are scaled to norm 1.

A metric is a value: `EUCLIDEAN`, or `Cosine(...)`, whose rows and centers have norm 1.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kmeans_xp.arrays import device, first_few, namespace, to_floats, to_numpy
from kmeans_xp.rows.array import largest, scaled


class Metric(Protocol):
    """How rows are compared."""

    @property
    def spherical(self) -> bool:
        """Whether only directions count."""

    def prepare(self, X: Any, first: int = 0) -> Any:
        """The rows that are compared. The number of the first is `first`."""

    def weigh(self, X: Any, sample_weight: Any) -> tuple[Any, tuple[int, float]]:
        """Weights for prepared rows. And how many rows have none although they had, and how much that was."""

    def settle(self, centers: Any, centers_old: Any, frame: Any) -> Any:
        """Means of rows, relative to the origin, as centers."""

    def cost(self, sq_distances: Any) -> Any:
        """What is minimised, by squared distances."""

    def distance(self, sq_distances: Any) -> Any:
        """Distances in the metric."""

    def of_zeros(self, values: Any, X: Any, value: Any) -> Any:
        """What a pass found for each of the rows (or for each, and something more), but `value` for those of zeros."""


@dataclass(frozen=True)
class Euclidean:
    """Rows are compared as they are."""

    spherical = False

    def prepare(self, X, first=0):
        return X

    def weigh(self, X, sample_weight):
        return sample_weight, (0, 0.0)

    def settle(self, centers, centers_old, frame):
        return frame.rounded(centers)

    def cost(self, sq_distances):
        return sq_distances

    def distance(self, sq_distances):
        return namespace(sq_distances).sqrt(sq_distances)

    def of_zeros(self, values, X, value):
        return values


EUCLIDEAN = Euclidean()


@dataclass(frozen=True)
class Cosine:
    """Directions are compared. Rows of zeros have none: they weigh nothing, or are refused."""

    refuses_zeros: bool

    spherical = True

    def prepare(self, X, first=0):
        return unit_rows(X, first, self.refuses_zeros, "X")

    def weigh(self, X, sample_weight):
        xp = namespace(X)
        zero = largest(X) == 0
        lost = xp.where(zero, sample_weight, xp.zeros_like(sample_weight))
        n_lost, weight = to_floats(xp.count_nonzero(zero), xp.sum(lost))
        return (sample_weight - lost, (int(n_lost), weight)) if n_lost else (sample_weight, (0, 0.0))

    def settle(self, centers, centers_old, frame):
        """Scaled to norm 1; one in the middle of the sphere has no direction and stays."""
        xp = namespace(centers)
        centers = centers + frame.origin
        norms = xp.linalg.vector_norm(centers, axis=1)[:, None]
        scaled = centers / xp.where(norms > 0, norms, xp.ones_like(norms)) - frame.origin
        return frame.rounded(xp.where(norms > 0, scaled, centers_old))

    def cost(self, sq_distances):
        """1 - cos, which is half the squared distance."""
        return sq_distances / 2

    distance = cost

    def of_zeros(self, values, X, value):
        """They are as far from any center: 1, half of the squared distance 2, and the first label."""
        xp = namespace(values)
        zero = xp.reshape(largest(X) == 0, (-1,) + (1,) * (values.ndim - 1))
        return xp.where(zero, xp.astype(xp.asarray(value, device=device(values)), values.dtype), values)


def unit_rows(X, first=0, refuses_zeros=True, name="the centers"):
    """Rows scaled to norm 1, a new array of float32 or float64; those of zeros stay as they are, or are refused."""
    xp = namespace(X)
    most = largest(X)
    low, high = to_floats(xp.min(most), xp.max(most))
    if not math.isfinite(high):
        raise ValueError("Input X contains NaN or infinity.")
    if low == 0 and refuses_zeros:
        zeros = np.flatnonzero(to_numpy(most) == 0) + first
        raise ValueError(
            f"metric='cosine' compares directions, and rows of zeros have none: row {first_few(zeros)} of {name}. "
            + ("Leave them out, or set zero_rows='warn'." if name == "X" else "Leave them out.")
        )
    return scaled(X, most)
