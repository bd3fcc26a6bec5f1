"""What the CUDA kernels compute at their first use on a device, beside NumPy. Knows no library of arrays."""

import dataclasses
import types
import warnings
from collections.abc import Callable

import numpy as np

from kmeans_xp import cuda as _cuda


@dataclasses.dataclass(frozen=True)
class Passes:
    """What a library computes with kernels by name, which come first; arguments are its arrays.

    Results are as those of the steps in cupy.py. Of `frame` they may use what is set here.
    """

    to_device: Callable  # (array of NumPy, dtype=None): not by functions that would have to be compiled
    to_host: Callable
    compare: Callable  # (kernels, X, centers, frame, labels, slack, path), writing into labels and slack
    sums: Callable  # (kernels, X, origin, labels, sample_weight, n_clusters)
    moved_sums: Callable  # (kernels, X, labels_before, labels, sample_weight, n_clusters, frame)
    sq_distances_to_own: Callable  # (kernels, X, labels, centers, frame)
    sq_distances_to: Callable  # (kernels, X, rows, frame)
    move: Callable  # (kernels, sums, weights, centers_old, n_changed, n_active, frame)
    choose: Callable  # (kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most)
    by_label: Callable  # (kernels, labels, n_clusters)
    coefficients: Callable  # (kernels, centers, dtype)
    path_to: Callable  # (kernels, centers, centers_old, path), writing into path
    fits: Callable  # (kernels, X, sample_weight, begins, how, uniforms), of float32 and float64


def working(compiled, difference, failures):
    """The kernels that `compiled()` gives; None after a warning, if that fails or there is a difference."""
    try:
        kernels = compiled()
        problem = difference(kernels)
    except failures as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return kernels
    warnings.warn(
        f"kmeans_xp: its CUDA kernels don't work on this device, slower CuPy functions take their place. Please report "
        f"this with the output of kmeans_xp.show_versions(): {problem}",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def difference(passes, kernels, dtype):
    """What differs from NumPy in the first of small jobs with rows of a type where something does, or None."""
    rng = np.random.default_rng(0)
    shapes = [(7, 19), (250, 140)]  # of each strategy
    if _cuda.PRODUCTS == "float16":
        shapes += [(7, 9), (7, 60), (7, 100)]
    wrong = next(filter(None, (_wrong_passes(passes, kernels, dtype, rng, *shape) for shape in shapes)), set())
    if not wrong and dtype.name in _cuda.SHAPES and not all(_fits(passes, kernels, dtype, rng, k) for k in (7, 40)):
        wrong = {"fits"}
    return f"wrong {', '.join(sorted(wrong))} in {dtype.name}" if wrong else None


def _fits(passes, kernels, dtype, rng, k):
    """Whether fits of two problems, of rows around places far from each other, find the means around each."""
    begins, own = np.array([0, 300, 500]), np.concatenate((np.arange(300), np.arange(200))) % k
    X = (np.stack((own % 7, own // 7, own % 2), axis=1) + 1e-3 * rng.normal(size=(500, 3))).astype(dtype)
    greedy = types.SimpleNamespace(n_clusters=k, n_trials=3, most_distances=2**21, staleness=3, tie=1e-9, rounding=0.0)
    how = types.SimpleNamespace(greedy=greedy, direction=rng.normal(size=3), n_runs=1)
    how.limits = types.SimpleNamespace(most=100, tol=0.0)
    job = passes.to_device(X), passes.to_device(np.ones(500)), begins, how, lambda _, n: rng.uniform(size=n)
    origins, _, centers, labels, weights, runs = passes.fits(kernels, *job)
    centers, labels, weights = map(passes.to_host, (centers + origins[:, None, :], labels, weights))
    for i, run in enumerate(runs):
        rows = slice(begins[i], begins[i + 1])
        means = np.stack([X[rows][own[rows] == c].mean(axis=0, dtype=float) for c in range(k)])
        squares = ((X[rows] - means[own[rows]]) ** 2).sum()
        if run is None or not np.isclose(squares, run[1], rtol=1e-3) or not run[3] or run[2] != k:
            return False
        if not np.allclose(centers[i][labels[rows]], means[own[rows]], atol=1e-5):
            return False
        if not np.array_equal(weights[i], np.bincount(labels[rows], minlength=k)):
            return False
    return True


def _wrong_passes(passes, kernels, dtype, rng, n_clusters, n_features):
    """Names of what differs in a job of a shape."""
    tolerance = 1e-9 if dtype == np.float64 else 1e-2
    to_device, to_host = passes.to_device, passes.to_host
    offset = 1e8 if dtype == np.float64 else 0.0
    # Exact in any of the types
    X = to_device(offset + rng.integers(-99, 99, size=(1000, n_features)) / 64, dtype)
    origin = np.full(n_features, offset + 0.5)
    frame = types.SimpleNamespace(origin=to_device(origin), tile_bytes=_cuda.MIN_TILE * _cuda.ROW_BYTES)
    frame.distance_dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    frame.rounding, frame.spread = 1e-3 * tolerance, float(n_features)
    centers, clusters = rng.normal(size=(n_clusters, n_features)), rng.integers(n_clusters, size=1000)
    numbers = np.arange(1000)
    labels, slack = to_device(np.full(1000, -1, dtype=np.int32)), to_device(np.full(1000, -np.inf))
    on_device = to_device(centers)
    passes.compare(kernels, X, on_device, frame, labels, slack, to_device(np.zeros(n_clusters)))
    labels, slack = to_host(labels), to_host(slack)
    found = labels.clip(0, n_clusters - 1)
    squares = to_host(passes.sq_distances_to_own(kernels, X, to_device(found), on_device, frame))
    to_some = to_host(passes.sq_distances_to(kernels, X, to_device(np.arange(n_clusters)), frame))
    job = X, frame.origin, to_device(clusters.astype(np.int32)), to_device(np.ones(1000)), n_clusters
    sums = to_host(passes.sums(kernels, *job))
    before = to_device(np.where(numbers % 3 == 0, clusters[::-1], clusters).astype(np.int32))
    moved = to_host(passes.moved_sums(kernels, X, before, *job[2:], frame))

    rows = to_host(X).astype(np.float64) - origin
    distances = np.sqrt(_sq_distances(rows, centers))
    own = distances[numbers, found]
    distances.sort(axis=1)
    gap = distances[:, 1] - own
    members = (clusters == np.arange(n_clusters)[:, None]).astype(float)
    comparisons = {
        "labels": (labels != found) | (own - distances[:, 0] > tolerance),
        # A slack that tensor cores found falls short by their rounding
        "bounds": (slack > gap + tolerance) | (slack < gap - 0.1),
        "squared distances": abs(squares - own**2) > 1e-9,
        "distances from rows": abs(to_some - _sq_distances(rows[:n_clusters], rows)) > 1e-9,
        "sums": abs(sums[:, :-1] - members @ rows) > 1e-9,
        "sums of rows that moved": ~(abs(moved[:, :-1] - members @ rows) <= 1e-9),  # NaN too
        "weights of rows that moved": moved[:, -1] != members.sum(axis=1),
        "weights": sums[:, -1] != members.sum(axis=1),
    }
    return {name for name, differs in comparisons.items() if differs.any()}


def _sq_distances(X, centers):
    """Squared distances between rows on the host."""
    return (X**2).sum(axis=1)[:, None] - 2 * X @ centers.T + (centers**2).sum(axis=1)


def plain_difference(passes, kernels):
    """What differs from NumPy in small jobs of the kernels that don't depend on the type of rows, or None."""
    rng = np.random.default_rng(0)
    sums, weights, old = rng.normal(size=(40, 19)), rng.integers(0, 3, size=40).astype(float), rng.normal(size=(40, 19))
    squares, draws, mass = rng.uniform(size=(40, 3000)), rng.integers(3000, size=40), rng.uniform(size=3000)
    agrees = {
        "centers": _moves(passes, kernels, sums, weights, old),
        "choices": _chooses(passes, kernels, squares, draws, mass),
        "bounds": _advances(passes, kernels, sums, old),
        "orders": _sorts(passes, kernels, rng.integers(40, size=3000).astype(np.int32)),
        "coefficients": all(_multiplies(passes, kernels, old, dtype) for dtype in ("float32", "float64")),
    }
    wrong = sorted(name for name, is_right in agrees.items() if not is_right)
    return f"wrong {', '.join(wrong)}" if wrong else None


def _moves(passes, kernels, sums, weights, old):
    """Whether centers move as they should, and what the loop gets to know."""
    frame = types.SimpleNamespace(dtype=np.dtype(np.float64), spread=1e4)
    frame.origin = passes.to_device(np.zeros(old.shape[1]))
    on_device = (passes.to_device(array) for array in (sums, weights, old, np.array(3), np.array(4)))
    centers, numbers = passes.move(kernels, *on_device, frame)
    means = np.where(weights[:, None] > 0, sums / np.maximum(weights, 1)[:, None], old)
    inertia = 1e4 * weights.sum() - (2 * old * sums - weights[:, None] * old**2).sum()
    expected = 3, 4, ((means - old) ** 2).sum(), inertia, np.count_nonzero(weights == 0)
    moved = np.allclose(passes.to_host(centers), means, rtol=1e-12)
    return moved and np.allclose(numbers, expected, rtol=1e-12)


def _advances(passes, kernels, centers, old):
    """Whether paths are as `bounds.advance` has them."""
    moved, clusters = np.sqrt(((centers - old) ** 2).sum(axis=1)), np.arange(len(old))
    others = np.where(clusters == moved.argmax(), np.sort(moved)[-2], moved.max())
    found = passes.path_to(kernels, *map(passes.to_device, (centers, old, np.ones(len(old)))))
    return np.allclose(passes.to_host(found), 1 + moved + others, rtol=1e-11)


def _chooses(passes, kernels, squares, draws, mass):
    """Whether the rows of the lowest sums are chosen, four being tried at a time, all of which are accepted."""
    on_device = (passes.to_device(array) for array in (np.full(3000, 0.5), squares, mass, draws))
    closest, chosen = passes.choose(kernels, *on_device, np.zeros(40), 4, 10)
    lowest, rows = np.full(3000, 0.5), []
    for trial in range(0, 40, 4):
        lowered = np.minimum(squares[trial : trial + 4], lowest)
        best = np.argmin(lowered @ mass)
        lowest = lowered[best]
        rows.append(draws[trial + best])
    return np.array_equal(passes.to_host(closest), lowest) and np.array_equal(passes.to_host(chosen), rows)


def _sorts(passes, kernels, labels):
    """Whether rows are sorted by their labels."""
    order, found, starts = map(passes.to_host, passes.by_label(kernels, passes.to_device(labels), 40))
    expected = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[expected], np.arange(41))
    return all(map(np.array_equal, (order, found, starts), (expected, labels[expected], begins)))


def _multiplies(passes, kernels, centers, dtype):
    """Whether -2 c, ||c||² and the largest of these are right."""
    found = passes.coefficients(kernels, passes.to_device(centers), dtype)
    minus_2_centers, sq_norms, largest = map(passes.to_host, found)
    norms = (centers**2).sum(axis=1)
    return np.allclose(minus_2_centers, -2 * centers) and np.allclose(sq_norms, norms) and largest == sq_norms.max()
