"""The runs of a fit: from first centers to a result each, of which the best is kept."""

import warnings

from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import arrays, seeding
from kmeans_xp.algorithms import ALGORITHMS
from kmeans_xp.breathing import breathe
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators.random_numbers import generator
from kmeans_xp.lloyd import Run, lloyd
from kmeans_xp.metric import unit_rows
from kmeans_xp.seeding.greedy import sample_of, sample_size
from kmeans_xp.steps import side_by_side

ROWS_TO_REFINE_ON = 2  # times the sample of k-means++: what is better on fewer need not be so on all of them


def best_run(model, data, frame):
    """Result of lowest inertia among `n_init` runs."""
    best, interrupted = None, False
    with generator(model.random_state, escapes=callable(model.init)) as random_state:
        n_runs = number_of_runs(model)
        results = results_of(n_runs, model, data, frame, random_state)
        for _ in range(n_runs):
            try:
                result = next(results)
            except KeyboardInterrupt:
                if best is None or not model.keep_interrupted:
                    raise
                interrupted = True
                break
            # Better by more than rounding: runs that found the same clusters must not compete by their last bits,
            # which differ from library to library.
            if best is None or result.inertia < best.inertia * (1 - 1e-9):
                best = result
            interrupted = result.interrupted
            if interrupted:
                break
    trouble = trouble_of(best, interrupted, model)
    if trouble is not None:
        warnings.warn(trouble, ConvergenceWarning, stacklevel=4)
    return best


def trouble_of(result, interrupted, model):
    """What a user is to be warned of, or None."""
    if interrupted:
        return f"The fit was interrupted after {result.n_iter} iterations."
    if result.n_distinct < model.n_clusters:
        return (
            f"Number of distinct clusters ({result.n_distinct}) found smaller than n_clusters ({model.n_clusters}). "
            "Possibly due to duplicate points in X."
        )
    if not result.converged and result.n_iter == model.max_iter:
        return (
            f"KMeans did not converge in max_iter={model.max_iter} iterations: in the last one "
            f"{result.history['n_changed'][-1]} rows changed cluster. Increase max_iter or tol."
        )
    return None


def results_of(n_runs, model, data, frame, random_state):
    """Iterator over the results of runs; side by side where nobody watches. Only seedings draw random numbers."""
    starts = (first_centers(model, data, frame, random_state) for _ in range(n_runs))
    is_watched = model.verbose or model.on_iteration is not None or model.keep_interrupted
    if n_runs == 1 or is_watched or data.in_blocks:
        return (run_from(centers, model, data, frame) for centers in starts)
    return iter(
        side_by_side(data.like, model.n_clusters, lambda start: run_from(start, model, data.beside(), frame), starts)
    )


def first_centers(model, data, frame, random_state):
    """Centers that a run starts from, relative to the origin."""
    n_clusters = model.n_clusters
    if isinstance(model.init, str):

        def iterate(X, sample_weight, centers):
            return frame.enter(run_on_sample(model, (X, sample_weight), centers, frame).centers)

        centers = seeding.first_centers(model.init, data, n_clusters, frame, random_state, iterate)
    else:
        centers = seeding.given_centers(model.init, data, n_clusters, random_state)
        centers = frame.enter(unit_rows(centers) if model._metric.spherical else centers)
    if model.refine:
        centers = refined(model, data, centers, frame, random_state)
    if model.verbose:
        print("Initialization complete")
    return centers


def refined(model, data, centers, frame, random_state):
    """Centers after a run and breaths on rows and weights that stand for all of them."""
    n_rows = ROWS_TO_REFINE_ON * sample_size(model.n_clusters)
    sample = sample_of(data, model.n_clusters, frame, random_state, n_rows)[:2]

    def iterate(centers, max_iter):
        return run_on_sample(model, sample, centers, frame, max_iter)

    return frame.enter(breathe(iterate, *sample, iterate(centers, model.max_iter), frame, random_state).centers)


def run_from(centers, model, data, frame):
    """Result of one run."""
    watching = {name: getattr(model, name) for name in ("verbose", "on_iteration", "keep_interrupted")}
    run = Run(data, model.n_clusters, frame, model._metric, ALGORITHMS[model.algorithm])
    return lloyd(run, centers, **stopping(model, frame), **watching)


def run_on_sample(model, sample, centers, frame, max_iter=None):
    """Result of a run on rows and weights that stand for all of them, which nobody watches."""
    data = InMemory(*sample, model._metric, fitting=False)
    run = Run(data, centers.shape[0], frame, model._metric, ALGORITHMS[model.algorithm])
    return lloyd(run, centers, **(stopping(model, frame) | ({"max_iter": max_iter} if max_iter else {})))


def stopping(model, frame):
    """When a run ends: `tol` is relative to the mean variance of the columns."""
    return {"max_iter": model.max_iter, "tol": model.tol * frame.spread / frame.origin.shape[0]}


def number_of_runs(model):
    """Number of runs that `n_init` asks for."""
    n_runs = seeding.n_runs(model.init, model.n_init)
    if model.n_init not in ("auto", n_runs):
        warnings.warn(
            "Explicit initial center position passed: performing only one init in KMeans instead of "
            f"n_init={model.n_init}.",
            RuntimeWarning,
            stacklevel=5,
        )
    return n_runs


def sizes_of(result, data):
    """Weights of the clusters. Rows that the metric left out have the first label."""
    sizes, (n_lost, lost) = result.weights, data.lost
    if n_lost:
        xp = arrays.namespace(sizes)
        sizes = sizes + lost * xp.astype(xp.arange(sizes.shape[0], device=arrays.device(sizes)) == 0, sizes.dtype)
    return sizes * data.weight_unit
