"""Exact pruning: a row whose nearest center cannot have changed is not looked at.

Centers move less and less. What a row needs to know is its `slack`: how much farther its second nearest center is than
its own, when the two were measured. As long as its own center and the fastest of the others together moved less than
that, it keeps its label (triangle inequality; G. Hamerly, "Making k-means even faster", 2010). The rows for which that
fails are gathered and compared with all centers at once, so that the work stays a matrix product.

Instead of lowering every slack in every iteration, a slack is stored plus the `path` of its cluster so far: the sum
over the iterations of what the center and the fastest other one moved. Rows that are not looked at are only read.
"""

import math

from kmeans_xp.arrays import device, namespace
from kmeans_xp.backends import replaceable
from kmeans_xp.rows import primitive
from kmeans_xp.steps import cluster_sums, coefficients, lloyd_step, nearest_two, put, sq_norms, take_rows, update


class PrunedStep:
    """`steps.lloyd_step` for one iteration after the other, with bounds while they pay: the state of the rows.

    They pay while few rows must be looked at, so the share of the last iteration decides. If it is too large, the next
    iterations compare all rows with all centers: 1 iteration, then 2, then 4, until bounds are tried again.
    """

    def __init__(self, X, sample_weight, n_clusters, frame, algorithm):
        self.n_clusters = n_clusters
        if algorithm == "auto":
            self._largest_share = share_that_pays(X, n_clusters, frame)
        else:
            self._largest_share = {"lloyd": 0.0, "elkan": 1.0}[algorithm]
        self.prunes = self._largest_share > 0
        self._pause = 1  # iterations
        self._dense_left = 0
        self.labels, slack = unbounded(X, sample_weight)
        self._slack = slack if self.prunes else None
        self._sums, self._weights = 0, 0
        self._centers = None  # of the last bounded step
        self._measured = False  # whether it started from bounds

    def __call__(self, X, sample_weight, centers, frame):
        """Labels the rows. Sums and weights of their clusters; how many labels changed and rows were looked at.

        The counts are 0-d. The caller, who reads them together with what else it needs from the device, reports the
        second one by `looked_at`.
        """
        if self._dense_left > 0 or not self.prunes:
            return self._dense(X, sample_weight, centers, frame)
        self._path = self._path_to(centers)
        self._measured = self._centers is not None
        self.labels, self._slack, self._sums, self._weights, *counts = bounded_step(
            X, sample_weight, centers, self.labels, self._slack, self._path, self._sums, self._weights, frame
        )
        self._centers = centers
        return self._sums, self._weights, *counts

    def renew(self, sums, weights):
        """Go on from these sums and weights of the clusters, which are those of the labels."""
        if self.prunes:
            self._sums, self._weights = sums, weights
        return sums, weights

    def looked_at(self, n_active):
        """Take note of how many rows the last step looked at."""
        if self._measured and n_active > self._largest_share * self.labels.shape[0]:
            self._dense_left = self._pause
            self._pause *= 2

    def stale(self, centers):
        """Numbers of the rows that the next step must look at, or None for all of them."""
        if self._dense_left > 0 or not self.prunes or self._centers is None:
            return None
        xp = namespace(centers)
        return xp.nonzero(self._slack <= xp.take(self._path_to(centers), self.labels))[0]

    def step_on(self, active, X, sample_weight, centers, frame):
        """The step when only the stale rows of X are at hand, on libraries whose arrays can be written to."""
        self._path = self._path_to(centers)
        self._measured, self._centers = True, centers
        n_changed = n_active = namespace(centers).zeros((), dtype=self.labels.dtype, device=device(centers))
        if active.shape[0] > 0:
            labels, slack = self.labels[active], self._slack[active]
            before = update(X, sample_weight, labels, self.n_clusters, frame)
            labels, slack, *after, n_changed, n_active = bounded_step(
                X, sample_weight, centers, labels, slack, self._path, *before, frame
            )
            self.labels[active], self._slack[active] = labels, slack
            self._sums, self._weights = (
                kept + (new - old) for kept, new, old in zip((self._sums, self._weights), after, before, strict=True)
            )
        return self._sums, self._weights, n_changed, n_active

    def _path_to(self, centers):
        if self._centers is None:
            return namespace(centers).zeros_like(centers[:, 0])
        return advance(self._path, centers, self._centers)

    def _dense(self, X, sample_weight, centers, frame):
        xp = namespace(centers)
        labels_old = self.labels
        self.labels, *totals = lloyd_step(X, sample_weight, centers, frame)
        if self.prunes:
            self._sums, self._weights = totals
            self._dense_left -= 1
        if self._centers is not None:  # the last step had bounds
            self._slack, self._centers, self._measured = xp.full_like(self._slack, -math.inf), None, False
        n_changed = xp.count_nonzero(self.labels != labels_old)
        return *totals, n_changed, xp.zeros_like(n_changed)


def unbounded(X, sample_weight):
    """Labels and slack of rows that nothing is known about, each (n_samples,)."""
    xp = namespace(X)
    labels = xp.full(X.shape[0], -1, dtype=xp.int32, device=device(X))
    return labels, xp.full_like(sample_weight, -xp.inf)


def advance(path, centers, centers_old):
    """`path` (n_clusters,) after centers moved."""
    xp = namespace(centers)
    moved = xp.linalg.vector_norm(centers - centers_old, axis=1)
    if path.shape[0] == 1:
        return path + moved
    fastest = xp.argmax(moved)
    clusters = xp.arange(path.shape[0], device=device(path))
    second = xp.max(xp.where(clusters == fastest, xp.zeros_like(moved), moved))
    others = xp.where(clusters == fastest, second, xp.max(moved))
    return (path + moved + others) * (1 + 1e-12)  # rounding up


@replaceable
@primitive
def bounded_step(X, sample_weight, centers, labels, slack, path, sums, weights, frame):
    """`steps.lloyd_step` with bounds, from the results of the last one: labels, slack, sums, weights, counts.

    `labels` and `slack` (n_samples,) are given up: they may be written to. The counts, 0-d, are of rows whose label
    changed, and of rows that were looked at.
    """
    xp = namespace(X)
    given = *coefficients(centers, frame), centers, frame

    def on_rows(rows, X):
        state = labels[rows], slack[rows]
        found = relabel(X, sample_weight[rows], *state, path, *given)
        return found[0] is state[0], *found

    blocks, in_place = [], True
    n_changed = n_active = xp.zeros((), dtype=xp.int64, device=device(X))
    for _, (same, tile_labels, tile_slack, *totals) in frame.map_rows(on_rows, X, centers.shape[0]):
        in_place = in_place and same
        blocks.append((tile_labels, tile_slack))
        sums, weights = sums + totals[0], weights + totals[1]
        n_changed, n_active = n_changed + totals[2], n_active + totals[3]
    if not in_place:
        labels, slack = (xp.concat(parts) for parts in zip(*blocks, strict=True))
    return labels, slack, sums, weights, n_changed, n_active


def relabel(X, sample_weight, labels, slack, path, minus_2_centers, sq_centers, centers, frame):
    """`bounded_step` for a tile of rows, not relative to the origin."""
    xp = namespace(X)
    n_clusters = sq_centers.shape[0]
    stale = slack <= xp.take(path, xp.maximum(labels, xp.zeros_like(labels)))
    (active,) = xp.nonzero(stale)  # synchronises: how many is the shape of the result
    n_active = active.shape[0]
    if n_active == 0:
        sums = xp.zeros((n_clusters, X.shape[1]), dtype=path.dtype, device=device(X))
        return labels, slack, sums, xp.zeros_like(path), 0, 0

    X = take_rows(X, active)
    tile = frame.shift(X, frame.distance_dtype)
    new, *lowest_two = nearest_two(X, tile, minus_2_centers, sq_centers, centers, frame)
    gap = sure_gap(tile, *lowest_two, sq_centers, frame.rounding, path.dtype)

    old = xp.take(labels, active)
    changed = new != old
    if tile.dtype != path.dtype:  # float32 would round far from zero
        tile = frame.shift(X, path.dtype)
    weight = xp.where(changed, xp.take(sample_weight, active), xp.zeros_like(gap))
    sums, weights = cluster_sums(tile, new, weight, n_clusters)
    lost = xp.where(old < 0, xp.zeros_like(weight), weight)
    lost_sums, lost_weights = cluster_sums(tile, xp.maximum(old, xp.zeros_like(old)), lost, n_clusters)

    labels, slack = put(labels, stale, new), put(slack, stale, gap + xp.take(path, new))
    n_changed = xp.astype(xp.count_nonzero(changed), xp.int64)
    return labels, slack, sums - lost_sums, weights - lost_weights, n_changed, n_active


def sure_gap(tile, own_scores, second_scores, sq_centers, rounding, dtype):
    """How much farther the second nearest center is at least, whatever rounding did: (n_rows,) float64."""
    xp = namespace(tile)
    squares = sq_norms(tile)
    error = rounding * (squares + xp.max(sq_centers))
    nearest = xp.sqrt(xp.maximum(own_scores + squares, xp.zeros_like(squares)) + error)
    second = xp.sqrt(xp.maximum(second_scores + squares - error, xp.zeros_like(squares)))
    gap = xp.astype(second, dtype) - xp.astype(nearest, dtype)
    return xp.where(xp.isnan(gap), -xp.inf, gap)  # of numbers that left the range of the dtype nothing is sure


@replaceable
@primitive
def share_that_pays(X, n_clusters, frame):
    """Largest share of the rows to look at for which bounds are faster than comparing all rows: 0 for never."""
    return 0.6 if X.shape[1] * n_clusters >= 2000 else 0.0
