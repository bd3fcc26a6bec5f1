"""Exact pruning: a row whose nearest center cannot have changed is not looked at.

Centers move less and less. What a row needs to know is its `slack`: how much farther its second nearest center is than
its own, when the two were measured. As long as its own center and the fastest of the others together moved less than
that, it keeps its label (triangle inequality; G. Hamerly, "Making k-means even faster", 2010). The rows for which that
fails are gathered and compared with all centers at once, so that the work stays a matrix product.

Instead of lowering every slack in every iteration, a slack is stored plus the `path` of its cluster so far: the sum
over the iterations of what the center and the fastest other one moved. Rows that are not looked at are only read.
"""

from kmeans_xp.arrays import device, namespace
from kmeans_xp.backends import replaceable
from kmeans_xp.nearest import coefficients, nearest_two, put
from kmeans_xp.rows import primitive
from kmeans_xp.rows.array import cluster_sums, sq_norms, take_rows


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
def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`steps.lloyd_step` with bounds, from the results of the last one: labels, slack, sums, weights, counts.

    `bounds` are labels and slack (n_samples,), which are given up: they may be written to, and the path (n_clusters,).
    `totals` are sums and weights. The counts, 0-d, are of rows whose label changed, and of rows that were looked at.
    """
    xp, (labels, slack, path), (sums, weights) = namespace(X), bounds, totals
    given = coefficients(centers, frame)

    def on_rows(rows, X):
        labels_before = labels[rows]
        found = relabel(X, sample_weight[rows], centers, (labels_before, slack[rows], path), given, frame)
        return found[0] is labels_before, *found

    blocks, in_place = [], True
    n_changed = n_active = xp.zeros((), dtype=xp.int64, device=device(X))
    for _, (same, tile_labels, tile_slack, *more) in frame.map_rows(on_rows, X, centers.shape[0]):
        in_place = in_place and same
        blocks.append((tile_labels, tile_slack))
        sums, weights = sums + more[0], weights + more[1]
        n_changed, n_active = n_changed + more[2], n_active + more[3]
    if not in_place:
        labels, slack = (xp.concat(parts) for parts in zip(*blocks, strict=True))
    return labels, slack, sums, weights, n_changed, n_active


def relabel(X, sample_weight, centers, bounds, given, frame):
    """`bounded_step` for a tile of rows, not relative to the origin: what is to be added to the totals."""
    xp, (labels, slack, path), (minus_2_centers, sq_centers) = namespace(X), bounds, given
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
