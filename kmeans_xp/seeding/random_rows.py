"""Rows that are chosen by their weights alone."""

import numpy as np

from kmeans_xp.arrays import asarray_like, namespace, to_numpy
from kmeans_xp.rows.array import take_rows
from kmeans_xp.seeding.draws import by_weight, draw_by

MOST_ROUNDS = 20  # of drawing, for rows that have nearly all the weight


def random_rows(data, n_clusters, frame, rng, refine=None):
    """Centers that are distinct rows, with probability proportional to their weights."""
    if not data.in_blocks:
        X, weights = data.all_rows()
        weights = to_numpy(weights)
        n_distinct = min(n_clusters, np.count_nonzero(weights))
        rows = rng.choice(weights.shape[0], size=n_distinct, replace=False, p=weights / weights.sum())
        return frame.enter(take_rows(X, asarray_like(np.resize(rows, n_clusters), X, namespace(X).int64)))

    # Drawn with replacement, and repetitions dropped: nothing has an entry for each row
    found = {}
    for _ in range(MOST_ROUNDS):
        X, numbers, _ = draw_by(data, by_weight(frame), rng.uniform(size=n_clusters))
        for place, number in enumerate(numbers.tolist()):
            found.setdefault(number, X[place : place + 1, :])
        if len(found) >= n_clusters:
            break
    rows = list(found.values())
    return frame.enter(namespace(X).concat([rows[i % len(rows)] for i in range(n_clusters)], axis=0))
