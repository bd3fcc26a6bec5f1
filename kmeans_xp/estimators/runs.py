"""The runs of a fit: from first centers to a result each, of which the best is kept."""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import arrays, seeding
from kmeans_xp.algorithms import ALGORITHMS, OPTIMAL, Limits
from kmeans_xp.breathing import breathe
from kmeans_xp.data import frame_of, working_memory
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators.callbacks import UNWATCHED, task_of
from kmeans_xp.estimators.random_numbers import Recorded, generator
from kmeans_xp.fitting import fits_at_once, fitting
from kmeans_xp.frame import frame_at
from kmeans_xp.lloyd import Run, SizedRun, completed, is_better, lloyd
from kmeans_xp.metric import EUCLIDEAN, unit_rows
from kmeans_xp.optimal import optimal_centers
from kmeans_xp.seeding.greedy import sample_of, sample_size
from kmeans_xp.seeding.hierarchical import MANY
from kmeans_xp.seeding.plus_plus import REFINE_FROM
from kmeans_xp.steps import lloyd_step, side_by_side

ROWS_TO_REFINE_ON = 2  # times the sample of k-means++: what is better on fewer need not be so on all of them
FINER = 100  # what `tol` leaves undone may be more than what refining gains
N_STARTS = 4  # on a sample of the rows, for clusters of bounded sizes
ITERATIONS_OF_START = 20
EQUAL_ROWS = "Possibly due to duplicate points in X."
MAY_BE_EMPTY = "size_min or size_max let clusters be empty."  # else each has a row, of equal rows too


def best_run(model, data, sized=None):
    """Frame, and result of lowest inertia among `n_init` runs, by an algorithm that bounds sizes if it is given."""
    with generator(model.random_state, escapes=callable(model.init)) as random_state:
        n_runs = number_of_runs(model)
        found = None
        if not data.in_blocks and comes_at_once(model, data.shape[0]):
            random_state = Recorded(random_state)
            found = best_at_once(n_runs, model, data, random_state)
            if found is None:
                random_state.rewind()
        frame, best, interrupted = found or best_by_parts(n_runs, model, data, random_state, sized)
    trouble = trouble_of(best, interrupted, model)
    if trouble is not None:
        warnings.warn(trouble, ConvergenceWarning, stacklevel=4)
    return frame, best


def best_by_parts(n_runs, model, data, random_state, sized):
    """What `best_run` finds, and whether it was interrupted."""
    frame, best, interrupted = frame_of(data), None, False
    results = results_of(n_runs, model, data, frame, random_state, sized)
    for _ in range(n_runs):
        try:
            result = next(results)
        except KeyboardInterrupt:
            if best is None or not model.keep_interrupted:
                raise
            interrupted = True
            break
        if best is None or is_better(result, best):
            best = result
        interrupted = result.interrupted
        if interrupted:
            break
    return frame, best, interrupted


def comes_at_once(model, n_samples):
    """Whether a fit to rows in memory is one that `fitting.fits_at_once` makes: without what only its parts know of."""
    if not (isinstance(model.init, str) and model.init == "k-means++") or model.refine or model._metric.spherical:
        return False
    if model.size_min is not None or model.size_max is not None or model.algorithm == OPTIMAL:
        return False
    if model.n_clusters >= MANY or n_samples > sample_size(model.n_clusters):
        return False
    return not is_watched(model)


def best_at_once(n_runs, model, data, random_state):
    """The same as `best_by_parts` in one call, or None where there is none."""
    began = time.perf_counter()
    (n_samples, n_features), like = data.shape, data.like
    limits, algorithm = Limits(model.max_iter, model.tol), ALGORITHMS[model._algorithm]
    how = fitting(model.n_clusters, n_features, n_runs, algorithm, limits)
    begins = np.asarray([0, n_samples])
    found = fits_at_once(*data.all_rows(), begins, how, lambda _, n: random_state.random_sample(n))
    if found is None or found[-1][0] is None:
        return None
    (origin,), (spread,), (centers,), labels, (weights,), (run,) = found
    frame = frame_at(origin, float(spread), like, arrays.tile_bytes(like, working_memory()))
    labels = arrays.asarray_like(labels, data.home)
    return frame, completed(frame.leave(centers), labels, weights, run, EUCLIDEAN, began), False


def trouble_of(result, interrupted, model):
    """What a user is to be warned of, or None."""
    if interrupted:
        return f"The fit was interrupted after {result.n_iter} iterations."
    if result.n_distinct < model.n_clusters:
        return trouble_of_few(result.n_distinct, model, MAY_BE_EMPTY if result.proof else EQUAL_ROWS)
    if not result.converged and result.n_iter == model.max_iter and model._tells_unfinished:
        return (
            f"KMeans did not converge in max_iter={model.max_iter} iterations: in the last one "
            f"{result.history['n_changed'][-1]} rows changed cluster. Increase max_iter or tol."
        )
    return None


def trouble_of_few(n_distinct, model, why=EQUAL_ROWS):
    """Fewer clusters have rows than there shall be."""
    return f"Number of distinct clusters ({n_distinct}) found smaller than n_clusters ({model.n_clusters}). {why}"


def trouble_of_zeros(n_rows):
    """The metric has left out rows."""
    return (
        f"Rows of zeros have no direction, and X has {n_rows}: they are left out of the means, and get the first label "
        "and the distance 1. zero_rows='raise' refuses them."
    )


def results_of(n_runs, model, data, frame, random_state, sized=None):
    """Iterator over the results of runs; side by side where nobody watches. Only seedings draw random numbers."""
    starts = (first_centers(model, data, frame, random_state, sized, (run, n_runs)) for run in range(n_runs))
    if n_runs == 1 or is_watched(model) or data.in_blocks or sized:
        return (run_from(centers, model, data, frame, sized) for centers in starts)
    return iter(
        side_by_side(data.like, model.n_clusters, lambda start: run_from(start, model, data.beside(), frame), starts)
    )


def is_watched(model):
    """Whether somebody wants to know of each iteration, or to have what was found before an interruption."""
    return model.verbose or model.on_iteration is not None or model.keep_interrupted or model._has_callbacks


def first_centers(model, data, frame, random_state, sized=None, run=(0, 1)):
    """Centers that a run starts from, relative to the origin. It is that of a number among so many."""
    n_clusters, began = model.n_clusters, time.perf_counter()
    if model.verbose:
        how = model.init if isinstance(model.init, str) else type(model.init).__name__
        how = (
            "the best centers"
            if model.algorithm == OPTIMAL
            else f"init={how}, refined"
            if model.refine
            else f"init={how}"
        )
        print(f"{f'Run {run[0] + 1} of {run[1]}: ' if run[1] > 1 else ''}Initialization, {how}", flush=True)
    if model.algorithm == OPTIMAL:
        centers = (model._best_centers or optimal_centers(data, [n_clusters], frame))[n_clusters]
    elif isinstance(model.init, str) and sized:
        centers = first_centers_of_sizes(model, data, frame, random_state, sized)
    elif isinstance(model.init, str):

        def iterate(X, sample_weight, centers):
            return frame.enter(run_on_sample(model, (X, sample_weight), centers, frame).centers)

        centers = seeding.first_centers(model.init, data, n_clusters, frame, random_state, iterate)
    else:
        centers = seeding.given_centers(model.init, data, n_clusters, random_state)
        centers = frame.enter(unit_rows(centers) if model._metric.spherical else centers)
    if model.refine:
        centers = refined(model, data, centers, frame, random_state)
    if model.verbose:
        print(f"Initialization complete, {time.perf_counter() - began:.3g} s", flush=True)
    return centers


def refined(model, data, centers, frame, random_state):
    """Centers after a run and breaths on rows and weights that stand for all of them."""
    n_rows = ROWS_TO_REFINE_ON * sample_size(model.n_clusters)
    sample = sample_of(data, model.n_clusters, frame, random_state, n_rows)[:2]

    def iterate(centers, max_iter):
        return run_on_sample(model, sample, centers, frame, max_iter)

    return frame.enter(breathe(iterate, *sample, iterate(centers, model.max_iter), frame, random_state).centers)


def run_from(centers, model, data, frame, sized=None):
    """Result of one run."""
    given = model.n_clusters, frame, model._metric
    run = (
        SizedRun(data, *given, sized)
        if sized
        else Run(data, *given, ALGORITHMS["auto" if model.algorithm == OPTIMAL else model._algorithm])
    )
    watching = {"verbose": model.verbose, "keep_interrupted": model.keep_interrupted}
    with task_of(model).part("run", model.max_iter) as task:
        return lloyd(run, centers, **stopping(model, frame), on_iteration=listener(model, task), **watching)


def listener(model, task):
    """What is called after each iteration: callbacks of the task, and the callable of the model."""
    if task is UNWATCHED:
        return model.on_iteration

    def on_iteration(iteration):
        is_over = task.tell("iteration", iteration.centers)
        return (model.on_iteration is not None and model.on_iteration(iteration) is True) or is_over

    return on_iteration


def first_centers_of_sizes(model, data, frame, random_state, sized):
    """First centers of a run whose clusters have bounded sizes: where rows are many, the best of some runs on few."""
    n_samples, n_sample = data.shape[0], sample_size(model.n_clusters)
    if n_samples < REFINE_FROM * n_sample:
        centers = seeding.first_centers(model.init, data, model.n_clusters, frame, random_state)
        return in_order_of_sizes(data, centers, frame, sized)
    some = data.take(np.sort(random_state.permutation(n_samples)[:n_sample]))
    weights = arrays.namespace(frame.origin).ones_like(some[:, 0], dtype=frame.origin.dtype)
    data, sized = InMemory(some, weights, model._metric, fitting=False), sized.for_sample(n_sample, n_samples)
    results = []
    for _ in range(N_STARTS):
        centers = seeding.first_centers(model.init, data, model.n_clusters, frame, random_state)
        run = SizedRun(data, model.n_clusters, frame, model._metric, sized)
        start = in_order_of_sizes(data, centers, frame, sized)
        limits = stopping(model, frame)
        results.append(lloyd(run, start, **limits | {"max_iter": min(limits["max_iter"], ITERATIONS_OF_START)}))
    return frame.enter(min(results, key=lambda result: result.inertia).centers)


def in_order_of_sizes(data, centers, frame, sized):
    """Centers in another order, so that those that are nearest to more rows have larger bounds."""
    bounds = sized.low + sized.high
    if (bounds == bounds[0]).all():
        return centers
    sizes = lloyd_step(*data.all_rows(), centers, frame)[2]
    order = np.empty(len(bounds), dtype=np.int64)
    order[np.argsort(bounds, kind="stable")] = np.argsort(arrays.to_numpy(sizes), kind="stable")
    return arrays.namespace(centers).take(centers, arrays.asarray_like(order, centers), axis=0)


def run_on_sample(model, sample, centers, frame, max_iter=None):
    """Result of a run on rows and weights that stand for all of them, which nobody watches."""
    data = InMemory(*sample, model._metric, fitting=False)
    run = Run(data, centers.shape[0], frame, model._metric, ALGORITHMS[model._algorithm])
    return lloyd(run, centers, **(stopping(model, frame) | ({"max_iter": max_iter} if max_iter else {})))


def stopping(model, frame):
    """When a run ends: `tol` is relative to the mean variance of the columns."""
    tol = model.tol / FINER if model.refine else model.tol
    return {"max_iter": model.max_iter, "tol": tol * frame.spread / frame.origin.shape[0]}


def number_of_runs(model):
    """Number of runs that `n_init` asks for; one finds the best centers."""
    if model.algorithm == OPTIMAL:
        return 1
    return seedings_of(model, stacklevel=6)


def seedings_of(model, *, in_batches=False, stacklevel):
    """How often `init` is to find first centers: once, if it has them, and then `n_init` should not say otherwise."""
    n_runs = seeding.n_runs(model.init, model.n_init, in_batches=in_batches)
    if model.n_init not in ("auto", n_runs):
        warnings.warn(
            f"Explicit initial center position passed: performing only one init in {type(model).__name__} instead of "
            f"n_init={model.n_init}.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    return n_runs


def sizes_of(result, data):
    """Weights of the clusters. Rows that the metric left out have the first label."""
    sizes, (n_lost, lost) = result.weights, data.lost
    if n_lost:
        xp = arrays.namespace(sizes)
        sizes = sizes + lost * xp.astype(xp.arange(sizes.shape[0], device=arrays.device(sizes)) == 0, sizes.dtype)
    return sizes * data.weight_unit
