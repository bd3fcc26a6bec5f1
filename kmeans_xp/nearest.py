"""Which center is nearest to a row: exactly, where rounding leaves a doubt too."""

from kmeans_xp.arrays import data_decide_shapes, device, namespace
from kmeans_xp.rows.array import largest, sq_norms, take_rows

TOO_LARGE = "X spans values whose squared distances are too large for float64. Divide it by a constant."


def coefficients(centers, frame):
    """-2 c, (n_features, n_clusters), and ||c||², (n_clusters,), which give the score -2 x·c + ||c||² of a row.

    The score is the squared distance less ||x||², so that the nearest center has the lowest. ||c||² is too small by
    what rounding may add to it: a score is then a lower bound, but for what rounding does to ||x||².
    """
    xp = namespace(centers)
    sq_centers = xp.astype(xp.vecdot(centers, centers) * (1 - frame.doubt / 2), frame.distance_dtype)
    # Too large for the dtype: no score is sure then
    sq_centers = xp.where(sq_centers < xp.inf, sq_centers, xp.full_like(sq_centers, xp.nan))
    return xp.astype(-2 * centers.T, frame.distance_dtype), sq_centers


def nearest(centers, frame):
    """A function of rows, not relative to the origin: the index of the nearest center of each, (n_rows,) int32.

    Of equally near centers the first. Scores decide where rounding leaves no doubt.
    """
    given = *coefficients(centers, frame), centers, frame
    return lambda X: nearest_two(X, frame.shift(X, frame.distance_dtype), *given)[0]


def nearest_two(X, tile, minus_2_centers, sq_centers, centers, frame):
    """Index of the nearest center of each row, and the lowest and second lowest score, (n_rows,) each.

    `tile` are the rows relative to the origin.
    """
    xp = namespace(tile)
    scores = tile @ minus_2_centers + sq_centers
    labels = xp.astype(xp.argmin(scores, axis=1), xp.int32)
    own = xp.arange(sq_centers.shape[0], dtype=xp.int32, device=device(tile))[None, :] == labels[:, None]
    lowest = xp.min(scores, axis=1)
    second = xp.min(xp.where(own, xp.full_like(scores, xp.inf), scores), axis=1)
    # Not a number, where rows are too large for the dtype, leaves a doubt too
    doubtful = ~(second - lowest > frame.doubt * (sq_norms(tile) + xp.take(sq_centers, labels)))
    if bool(xp.any(doubtful)):  # synchronises
        if data_decide_shapes(X):
            labels = put(labels, doubtful, frame.nearest(take_rows(X, xp.nonzero(doubtful)[0]), centers))
        else:
            labels = xp.where(doubtful, frame.nearest(X, centers), labels)
    return labels, lowest, second


def put(values, mask, new):
    """`values` with the `new` ones, in their order, where the mask is true: the standard has no way to write there."""
    xp = namespace(values)
    places = xp.maximum(xp.cumulative_sum(xp.astype(mask, xp.int32)) - 1, xp.zeros_like(mask, dtype=xp.int32))
    return xp.where(mask, xp.take(new, places), values)


def nearest_by_differences(X, centers, frame):
    """Index of the nearest center of each row, from differences in float64, added in the same order on every library.

    The rivals a of the center b that has the lowest sum of squared differences are compared with it by
    ||x - a||² - ||x - b||² = (a - b)·((a - x) + (b - x)), which keeps its digits for rows far away from both.
    """
    xp, labels = namespace(X), []
    n_rows = max(1, int(frame.tile_bytes // (32 * centers.shape[0] * centers.shape[1])))
    for start in range(0, X.shape[0], n_rows):
        rows = frame.shift(X[start : min(start + n_rows, X.shape[0]), :], centers.dtype)
        apart = centers[None, :, :] - rows[:, None, :]  # (n_rows, n_clusters, n_features)
        lowest = xp.argmin(row_sums(apart * apart), axis=1)
        best = xp.take(centers, lowest, axis=0)
        rivals = row_sums((centers[None, :, :] - best[:, None, :]) * (apart + (best - rows)[:, None, :]))
        # What is no number itself is found by the inertia
        if bool(xp.any(xp.isfinite(largest(rows)) & ~xp.all(xp.isfinite(rivals), axis=1))):
            raise ValueError(TOO_LARGE)
        labels.append(xp.astype(xp.argmin(rivals, axis=1), xp.int32))
    return xp.concat(labels)


def row_sums(values):
    """Sums along the last axis, of halves with halves: the same bits on every library and in any layout."""
    odd = namespace(values).zeros_like(values[..., 0])
    while (n_columns := values.shape[-1]) > 1:
        if n_columns % 2:
            odd = odd + values[..., -1]
        values = values[..., : n_columns // 2] + values[..., n_columns // 2 : n_columns // 2 * 2]
    return values[..., 0] + odd
