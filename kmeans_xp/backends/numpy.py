"""Steps for NumPy arrays: native ones, or those in plain NumPy where there are none."""

from contextlib import nullcontext

import numpy as np

from kmeans_xp.backends import _native
from kmeans_xp.backends._threads import PARALLEL_WORK, blas, map_in_order

if _native.problem is None:
    from kmeans_xp.backends._native import steps as for_scipy  # those that rows/scipy.py asks for
    from kmeans_xp.backends._native.steps import (
        assign,
        batch_step,
        best_intervals,
        bounded_step,
        contenders,
        distances,
        distances_at_once,
        fits_at_once,
        greedy_rows,
        inertia_of_clusters,
        iterations,
        labels_at_once,
        lloyd_step,
        mend,
        nearer,
        projected,
        run_at_once,
        share_that_pays,
        sorted_rows,
        spread_of_rows,
        sq_distances_of_pairs,
        sq_distances_to,
        sq_distances_to_own,
        sum_of_rows,
        update,
    )
else:
    from kmeans_xp.backends._plain import (
        assign,
        bounded_step,
        distances,
        lloyd_step,
        sq_distances_to,
        sq_distances_to_own,
        update,
    )

PARALLEL_RUN = 4e4  # multiplications of an iteration from which other threads pay for the runs of a fit
SINGLE_WORK = 2**16  # multiplications of a product up to which a BLAS uses one thread by itself


def take_rows(X, rows):
    """`array.take_rows`: of an array in another order NumPy's `take` would copy all."""
    return X.take(rows, axis=0) if X.flags.c_contiguous else X[rows]


def native_problem():
    """Why the native steps are not in use; None if they are."""
    return _native.problem


def passes_in_use():
    """Which passes arrays get and why, in words."""
    if _native.problem is not None:
        return f"plain NumPy, as {_native.problem}"
    return f"native, {_native.native.instructions()}"


def own_threads(X, n_clusters):
    """`steps.own_threads`: the BLAS gets one thread.

    Its other threads would wait for work at full speed, and the bits of its sums depend on their number.
    """
    return blas.one_thread() if X.size * max(8, n_clusters) > SINGLE_WORK else nullcontext()


def side_by_side(X, n_clusters, function, items):
    """`steps.side_by_side` on threads, if passes are too short to be shared and runs long enough."""
    pays = PARALLEL_RUN < X.size * n_clusters < PARALLEL_WORK and blas.n_threads() > 1
    return map_in_order(function, items) if pays and _native.problem is None else NotImplemented


def map_slices(X, function, slices):
    """`array.map_slices` on threads."""
    pays = 8 * X.size > PARALLEL_WORK and len(slices) > 1 and blas.n_threads() > 1
    return map_in_order(function, slices) if pays else NotImplemented


def distinct(labels):
    """`steps.distinct` without sorting."""
    return np.flatnonzero(np.bincount(labels))
