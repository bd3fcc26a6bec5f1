"""Which centers are near a row, and which rows are near a center: passes over the rows."""

from kmeans_xp.arrays import device, namespace
from kmeans_xp.rows.array import sq_distances, sq_distances_of_tile, take_rows


def nearest_centers(block, model, n_centers):
    """The nearest centers of each row, nearest first: distances, and beside them numbers, (n_rows, 2 * n_centers)."""
    (centers, frame), metric = model.seen_from(block.X), model.metric
    xp = namespace(block.X)

    def of_rows(rows, X):
        tile = frame.shift(X, centers.dtype)
        labels = xp.argsort(sq_distances(tile, centers), axis=1)[:, :n_centers]
        squares = xp.stack([sq_distances_of_tile(tile, labels[:, i], centers) for i in range(n_centers)], axis=1)
        labels, squares = metric.of_zeros(labels, X, range(n_centers)), metric.of_zeros(squares, X, 2.0)
        distances, labels = ascending(metric.distance(squares), labels)
        return xp.concat((distances, xp.astype(labels, distances.dtype)), axis=1)

    return xp.concat([found for _, found in frame.map_rows(of_rows, block.X, centers.shape[0])])


def nearest_rows(block, model, n_rows):
    """The nearest rows of each center, nearest first: distances, (n_clusters, n_rows), and int64 numbers.

    Fewer columns if there are fewer rows.
    """
    (centers, frame), metric = model.seen_from(block.X), model.metric
    xp = namespace(block.X)
    clusters = xp.arange(centers.shape[0], device=device(block.X))

    def of_rows(rows, X):
        tile = frame.shift(X, centers.dtype)
        squares = metric.of_zeros(sq_distances(tile, centers), X, 2.0)
        places = xp.argmin(squares, axis=0)[:, None] if n_rows == 1 else xp.argsort(squares, axis=0)[:n_rows, :].T
        squares = []
        for i in range(places.shape[1]):
            direct = sq_distances_of_tile(take_rows(tile, places[:, i]), clusters, centers)
            squares.append(metric.of_zeros(direct, take_rows(X, places[:, i]), 2.0))
        numbers = xp.astype(places, xp.int64) + (block.start + rows.start)
        return ascending(metric.distance(xp.stack(squares, axis=1)), numbers)

    found = None
    for _, tile in frame.map_rows(of_rows, block.X, centers.shape[0]):
        found = tile if found is None else nearer_rows(found, tile, n_rows)
    return found


def nearer_rows(these, those, n_rows):
    """The nearest rows among two results of `nearest_rows`; of equally near ones the first."""
    xp = namespace(these[0])
    distances, numbers = ascending(*(xp.concat(pair, axis=1) for pair in zip(these, those, strict=True)))
    return distances[:, :n_rows], numbers[:, :n_rows]


def ascending(distances, numbers):
    """Both, sorted along the rows: what was chosen by products is ordered by distances that are summed directly."""
    xp = namespace(distances)
    order = xp.argsort(distances, axis=1)
    return xp.take_along_axis(distances, order, axis=1), xp.take_along_axis(numbers, order, axis=1)
