"""The runs of a fit: from first centers to a result each, of which the best is kept."""

import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from kmeans_xp import arrays, seeding
from kmeans_xp.algorithms import ALGORITHMS
from kmeans_xp.data.memory import InMemory
from kmeans_xp.lloyd import Run, lloyd
from kmeans_xp.metric import unit_rows
from kmeans_xp.validation import check_centers


def best_run(model, data, frame):
    """Result of lowest inertia among `n_init` runs."""
    random_state = check_random_state(model.random_state)
    best, interrupted = None, False
    for _ in range(number_of_runs(model)):
        try:
            result = run_once(model, data, frame, random_state)
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


def run_once(model, data, frame, random_state):
    """Result of one run."""
    how = model.n_clusters, frame, model._metric, ALGORITHMS[model.algorithm]
    stopping = {"max_iter": model.max_iter, "tol": model.tol * frame.spread / data.shape[1]}
    if isinstance(model.init, str):

        def refine(X, sample_weight, centers):
            sample = InMemory(X, sample_weight, model._metric, fitting=False)
            return frame.enter(lloyd(Run(sample, *how), centers, **stopping).centers)

        centers = seeding.first_centers(model.init, data, model.n_clusters, frame, random_state, refine)
    else:
        centers = frame.enter(given_centers(model, data, random_state))
    if model.verbose:
        print("Initialization complete")
    watching = {name: getattr(model, name) for name in ("verbose", "on_iteration", "keep_interrupted")}
    return lloyd(Run(data, *how), centers, **stopping, **watching)


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


def given_centers(model, data, random_state):
    """Centers that the caller gave, or whose callable did."""
    init = model.init
    if callable(init):
        init = init(data.given, model.n_clusters, random_state=random_state)
    centers = check_centers(init, data.like, model.n_clusters)
    return unit_rows(centers) if model._metric.spherical else centers


def sizes_of(result, data):
    """Weights of the clusters. Rows that the metric left out have the first label."""
    sizes, (_, lost) = result.weights, data.lost
    xp = arrays.namespace(sizes)
    first = xp.astype(xp.arange(sizes.shape[0], device=arrays.device(sizes)) == 0, sizes.dtype)
    return (sizes + lost * first) * data.weight_unit
