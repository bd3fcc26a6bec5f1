"""Lloyd's iteration: assign the rows to the nearest centers, move the centers to the means, repeat.

S. Lloyd, "Least squares quantization in PCM", 1982. The stopping rules and the relocation of empty clusters are
scikit-learn's.
"""

import time
from dataclasses import dataclass
from typing import Any

from kmeans_xp.arrays import collect, namespace, to_floats, to_numpy
from kmeans_xp.bounds import PrunedStep
from kmeans_xp.steps import sq_distances_to_own, update


@dataclass(frozen=True)
class Result:
    """What one run found. `labels` and `inertia` are those of `centers`."""

    centers: Any  # (n_clusters, n_features), relative to zero, in the dtype of X
    labels: Any  # (n_samples,) int32
    inertia: float
    n_iter: int
    converged: bool
    history: dict  # lists with one entry an iteration


def lloyd(X, sample_weight, centers, frame, *, max_iter, tol, algorithm="auto", verbose=0):
    """Iterate from `centers` until no label changes, the centers move by no more than `tol` (squared), or `max_iter`.

    X (n_samples, n_features) float32 or float64, sample_weight (n_samples,) float64, centers (n_clusters, n_features)
    relative to `frame.origin` -> Result
    """
    xp = namespace(X)
    step = PrunedStep(X, sample_weight, centers.shape[0], frame, algorithm)
    history = {"inertia": [], "center_shift": [], "n_changed": [], "seconds": []}
    unchanged = converged = False
    while not converged and len(history["inertia"]) < max_iter:
        began = time.perf_counter()
        centers_old = centers

        labels, sums, weights, n_changed, n_active = step(centers_old)
        centers = means(sums, weights, centers_old, frame)

        n_changed, n_active, shift, inertia, n_empty = to_floats(  # the only synchronisation of an iteration
            n_changed,
            n_active,
            xp.sum((centers - centers_old) ** 2),
            inertia_of(centers_old, sums, weights, frame),
            xp.count_nonzero(weights == 0),
        )
        step.looked_at(n_active)
        if n_empty:
            relocated = relocate_empty(X, sample_weight, labels, centers_old, weights, frame)
            centers = means(*relocated, centers_old, frame)
            (shift,) = to_floats(xp.sum((centers - centers_old) ** 2))

        unchanged = n_changed == 0 and shift == 0
        converged = unchanged or shift <= tol
        for name, value in zip(history, (inertia, shift, int(n_changed), time.perf_counter() - began), strict=True):
            history[name].append(value)
        if verbose:
            _print_progress(history, unchanged, converged, tol)

    if step.prunes and not n_empty:  # sums that were kept up to date carry the rounding of their history
        centers = means(*update(X, sample_weight, labels, centers.shape[0], frame), centers_old, frame)
    if step.prunes or not unchanged:  # else the labels are those of `centers` already
        labels = step(centers)[0]
    (inertia,) = to_floats(xp.sum(sample_weight * sq_distances_to_own(X, labels, centers, frame)))
    return Result(frame.leave(centers), labels, inertia, len(history["inertia"]), converged, history)


def means(sums, weights, centers_old, frame):
    """Centers of the clusters; an empty cluster keeps its old one.

    Rounded to what `frame.leave` can represent, so that the labels are exactly those of the centers returned.
    """
    xp = namespace(sums)
    empty = weights == 0
    centers = sums / xp.where(empty, xp.ones_like(weights), weights)[:, None]
    return frame.enter(frame.leave(xp.where(empty[:, None], centers_old, centers)))


def inertia_of(centers, sums, weights, frame):
    """Sum of squared distances by Σ||x - c||² = Σ||x||² - 2 Σ c·sum + Σ weight ||c||², which needs no pass.

    Loses digits where clusters are tiny beside the spread of the data: good for watching, not for the result.
    """
    xp = namespace(centers)
    explained = 2 * xp.sum(centers * sums) - xp.sum(weights * xp.vecdot(centers, centers))
    inertia = xp.sum(weights) * frame.spread - explained
    return xp.maximum(inertia, xp.zeros_like(inertia))


def relocate_empty(X, sample_weight, labels, centers, weights, frame):
    """Give each empty cluster the row farthest from its center, and all rows equal to that: new sums and weights.

    Rows without weight don't count. Stops early when every row sits on its center. Rare, so it may synchronise.
    """
    xp = namespace(X)
    distances = sq_distances_to_own(X, labels, centers, frame)
    distances = xp.where(sample_weight > 0, distances, xp.zeros_like(distances))
    for cluster in [cluster for cluster, weight in enumerate(to_numpy(weights).tolist()) if weight == 0]:
        farthest = xp.reshape(xp.argmax(distances), (1,))
        if not to_floats(xp.max(distances))[0] > 0:
            break
        moved = _equal_rows(X, xp.take(X, farthest, axis=0), frame)
        labels = xp.where(moved, xp.full_like(labels, cluster), labels)
        distances = xp.where(moved, xp.zeros_like(distances), distances)
    return update(X, sample_weight, labels, centers.shape[0], frame)


def _equal_rows(X, row, frame):
    """Mask of the rows of X equal to `row`, (n_samples,) bool."""
    xp = namespace(X)
    row = frame.enter(row)
    equal = frame.map_tiles(lambda rows, tile: xp.all(tile == row, axis=1), X, 1, row.dtype)
    return collect(equal, X.shape[0])


def _print_progress(history, unchanged, converged, tol):
    """One line an iteration, in scikit-learn's words."""
    iteration = len(history["inertia"]) - 1
    print(f"Iteration {iteration}, inertia {history['inertia'][-1]}.")
    if unchanged:
        print(f"Converged at iteration {iteration}: strict convergence.")
    elif converged:
        shift = history["center_shift"][-1]
        print(f"Converged at iteration {iteration}: center shift {shift} within tolerance {tol}.")
