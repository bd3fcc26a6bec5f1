"""Drawing rows of a source, wherever they lie: one pass sums up their probabilities, another finds those drawn."""

import math
import operator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kmeans_xp.arrays import asarray_like, collect, namespace, to_floats, to_numpy
from kmeans_xp.backends import replaceable
from kmeans_xp.frame import doubt_in
from kmeans_xp.nearest import TOO_LARGE
from kmeans_xp.passes import add, canonical_order, join
from kmeans_xp.rows.array import relative, sq_distances, take_rows


@dataclass(frozen=True)
class Law:
    """Rows are drawn in proportion to weight * density.

    density = per_weight + of_squares * squared distance from the nearest of the points / total.
    """

    per_weight: float
    of_squares: float
    points: list[Any]  # of arrays of points, relative to zero
    frame: Any
    run: int | None = None  # whose blocks remember those distances; a row that is a point is at distance 0 then
    total: float = 1.0  # of the squared distances: no number that they are multiplied by would do, if they are tiny
    in_order: bool = False  # draws run through the rows of the only block in `canonical_order`

    def density(self, block):
        """Density of each row, (n_rows,) float64."""
        if not self.of_squares:
            return namespace(block.X).full_like(block.sample_weight, self.per_weight)
        return self.per_weight + self.of_squares * self._squares(block) / self.total

    def density_of(self, block, rows, X):
        """The same of some rows X of a block, by their numbers. It is found again: to keep that of all takes memory."""
        if not self.of_squares or self.run is None:
            return self.density(Some(X, namespace(X).take(block.sample_weight, rows)))
        squares = namespace(X).take(self._squares(block), rows)
        return self.per_weight + self.of_squares * squares / self.total

    def mass(self, weight, squares):
        """Mass of rows, by their weight and the weighted sum of their squared distances."""
        return self.per_weight * weight + self.of_squares * squares / self.total

    def order(self, block):
        """Row numbers in the order in which draws run through them; None as they stand."""
        if not self.in_order:
            return None
        drawing = self._drawing(block)
        if drawing.order is None:
            drawing.order = canonical_order(block.X, self.frame)
        return drawing.order

    def _squares(self, block):
        """Squared distance of each row from the nearest point, (n_rows,)."""
        drawing = self._drawing(block)
        for points in self.points[drawing.n_known :]:
            drawing.closest = nearer(block.X, points, drawing.closest, self.frame)
            drawing.n_known += 1
            if self.run is not None:
                if drawing.least is None:
                    drawing.least = rounding_of_distances(block.X, block.sample_weight, self.frame)
                drawing.closest = without_rounding(drawing.closest, drawing.least)
        return drawing.closest

    def _drawing(self, block):
        if self.run is not None and block.drawing is not None and block.drawing.run == self.run:
            return block.drawing
        drawing = Drawing(self.run, namespace(block.X).full_like(block.sample_weight, math.inf))
        if self.run is not None:
            block.drawing = drawing
        return drawing


class Some(NamedTuple):
    """Some rows of a block."""

    X: Any
    sample_weight: Any


@dataclass
class Drawing:
    """What a block remembers of the rows while some are drawn in several passes."""

    run: int | None
    closest: Any  # squared distances from the nearest point, (n_rows,)
    n_known: int = 0  # arrays of points
    least: Any = None  # what rounding may make of the distance 0, (n_rows,)
    order: Any = None  # see Law.order


def masses(block, law):
    """Sum of the masses weight * density of the rows, under the number of the block."""
    cumulative, _ = _cumulative(block, law)
    return {block.index: to_floats(cumulative[-1])[0]}


def drawn(block, law, targets, places):
    """Rows of the block that are drawn, in lists: places among the targets, row numbers, densities, rows.

    `targets` are places along the sum of the masses of all rows; those of block i begin and end at `places[i]`.
    """
    begin, end = places[block.index]
    (which,) = np.nonzero((targets >= begin) & (targets < end))
    if len(which) == 0:
        return [], [], [], []
    cumulative, order = _cumulative(block, law)
    rows = _positions(cumulative, asarray_like(targets[which] - begin, cumulative, cumulative.dtype))
    rows = rows if order is None else namespace(order).take(order, rows)
    X = take_rows(block.X, rows)
    return [which], [to_numpy(rows) + block.start], [law.density_of(block, rows, X)], [X]


def _cumulative(block, law):
    """Cumulative masses of the rows, and the order in which these are summed."""
    order, mass = law.order(block), block.sample_weight * law.density(block)
    xp = namespace(mass)
    return xp.cumulative_sum(mass if order is None else xp.take(mass, order)), order


def draw(data, law, mass_of, uniforms):
    """Rows of a source, drawn with replacement for random numbers in [0, 1), in their order: X, numbers, densities.

    `mass_of` are the masses of the blocks, as `masses` finds them.
    """
    total = sum(mass_of.values())
    if not math.isfinite(total):
        raise ValueError(TOO_LARGE)
    targets = uniforms * total
    which, *found = data.reduce(drawn, add, law, targets, _places(mass_of))
    numbers, density, X = map(join, found)
    which = np.concatenate(which)
    if (np.diff(which) < 0).any():
        order = asarray_like(np.argsort(which), density, namespace(density).int64)
        numbers, density, X = numbers[to_numpy(order)], namespace(density).take(density, order), take_rows(X, order)
    return X, numbers, density


def draw_by(data, law, uniforms):
    """The same where the masses are not known yet; by weight alone, where all rows are points."""
    mass_of = data.reduce(masses, operator.or_, law)
    if sum(mass_of.values()) == 0:
        law = replace(law, per_weight=1.0, of_squares=0.0)
        mass_of = data.reduce(masses, operator.or_, law)
    return draw(data, law, mass_of, uniforms)


def by_weight(frame, **options):
    """The law by which rows are drawn by their weights alone."""
    return Law(1.0, 0.0, [], frame, **options)


def _places(mass_of):
    """Where each of the blocks begins and ends along the sum of their masses."""
    mass = np.asarray(list(mass_of.values()))
    ends = np.cumsum(mass)
    begins = np.concatenate(([0.0], ends[:-1]))
    last = np.flatnonzero(mass)[-1]
    ends[last:] = np.inf  # rounding must lose no target
    begins[last + 1 :] = np.inf
    return dict(zip(mass_of, zip(begins.tolist(), ends.tolist(), strict=True), strict=True))


def _positions(cumulative, targets):
    """Index of the row whose part of the cumulative mass each target falls into."""
    xp = namespace(cumulative)
    # side="right" passes over rows without mass; rounding may carry a target up to the total itself
    positions = xp.searchsorted(cumulative, targets, side="right")
    return xp.minimum(positions, xp.full_like(positions, cumulative.shape[0] - 1))


def places_by(mass, order, uniforms):
    """Rows in memory, drawn with replacement with probability proportional to `mass`: (n_draws,) int64.

    Random numbers in [0, 1) run through the rows in `order`, or as they stand if it is None.
    """
    xp = namespace(mass)
    cumulative = xp.cumulative_sum(mass if order is None else xp.take(mass, order))
    positions = _positions(cumulative, asarray_like(uniforms, mass, mass.dtype) * cumulative[-1])
    return positions if order is None else xp.take(order, positions)


def stratified(n, rng):
    """Uniform random numbers, ascending, one in each of n equal parts of [0, 1)."""
    return (np.arange(n) + rng.uniform(size=n)) / n


@replaceable
def nearer(X, points, closest, frame):
    """`closest` (n_samples,) lowered to the squared distance from the nearest of `points`, where that is less."""
    xp = namespace(X)
    points = relative(points, frame.origin, frame.origin.dtype)

    def of_tile(rows, tile):
        return xp.minimum(closest[rows], xp.min(sq_distances(tile, points), axis=1))

    return collect(frame.map_tiles(of_tile, X, points.shape[0], closest.dtype), X.shape[0])


def rounding_of_distances(X, sample_weight, frame):
    """What the squared distance of a row from an equal one may come to by rounding, (n_samples,)."""
    xp = namespace(X)
    squares = nearer(X, frame.origin[None, :], xp.full_like(sample_weight, math.inf), frame)
    return rounding_of_squares(frame.origin) * squares


def rounding_of_squares(origin):
    """The same, relative to the squared distance from the origin, for as many features as that has."""
    return 2 * doubt_in(origin.dtype, origin)


def without_rounding(closest, least):
    """0 for rows that are centers: by what rounding left them, they would be chosen again instead of others."""
    return namespace(closest).where(closest > least, closest, namespace(closest).zeros_like(closest))
