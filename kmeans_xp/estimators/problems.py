"""kmeans_batch: many sets of rows, each clustered by itself."""

import threading
import warnings
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from kmeans_xp import arrays
from kmeans_xp.algorithms import ALGORITHMS, Limits
from kmeans_xp.arrays import result_dtype
from kmeans_xp.estimators.centers import python_integers_of
from kmeans_xp.estimators.kmeans import KMeans
from kmeans_xp.estimators.random_numbers import generator
from kmeans_xp.estimators.runs import comes_at_once, is_watched, number_of_runs, trouble_of_few
from kmeans_xp.fitting import Found, fits_at_once, fitting
from kmeans_xp.steps import distinct, side_by_side, weight_unit
from kmeans_xp.validation import check_sample_weight

TOGETHER = 1024  # problems of a call, whose generators of random numbers are held


class Batch(NamedTuple):
    """What `kmeans_batch` found: arrays in the library and on the device of X, their first axis the problems."""

    centers: Any
    """(n_problems, n_clusters, n_features), as `cluster_centers_` of :class:`KMeans`."""
    labels: Any
    """(n_problems, n_samples) int32; (n_samples,) if X has `offsets`."""
    inertia: Any
    """(n_problems,) float64."""
    n_iter: Any
    """(n_problems,) int64."""


def kmeans_batch(
    X: Any,
    n_clusters: int = 8,
    *,
    sample_weight: Any = None,
    offsets: Any = None,
    random_state: Any = None,
    **parameters: Any,
) -> Batch:
    """Cluster many sets of rows, each by itself: the codebooks of a product quantiser, blocks of weights of a network.

    The results are those of `KMeans(n_clusters, random_state=..., **parameters).fit(X[i])` for one problem i after the
    other, to the last bit. Small problems in NumPy, or in torch or JAX on the CPU, are shared by threads without the
    interpreter; on other libraries and devices, and with parameters that need the interpreter, this is that loop.

    Parameters
    ----------
    X : array of shape (n_problems, n_samples, n_features), or (n_samples, n_features) with `offsets`
        Rows of the problems.

    n_clusters : int, default=8
        Number of clusters of each problem.

    sample_weight : array-like of shape (n_problems, n_samples), or (n_samples,) with `offsets`, default=None
        Weights of the rows, not negative; 1 each if None.

    offsets : array-like of shape (n_problems + 1,), default=None
        Problem i has the rows from `offsets[i]` to `offsets[i + 1]` of X: ascending, from 0 to the number of rows.

    random_state : int, array-like of shape (n_problems,) of int, RandomState instance or None, default=None
        Seeds: one int for each problem, or the same for all. Of an instance, and of None, one is drawn for each problem
        by `randint(2**31 - 1, size=n_problems)`.

    **parameters : dict
        Other parameters of :class:`KMeans`: `n_init`, `max_iter`, `tol`, `algorithm`, ...

    Returns
    -------
    batch : Batch
        A named tuple of centers, labels, inertia and n_iter.

    Raises
    ------
    ValueError
        If X and `offsets` don't fit together, or a problem could not be fitted alone: it names the problem.

    Warns
    -----
    ConvergenceWarning
        Once, if problems did not converge, or found fewer clusters than `n_clusters`; it names the first of them.

    Examples
    --------
    >>> from kmeans_xp import kmeans_batch
    >>> import numpy as np
    >>> X = np.array([[[0.0], [1], [10], [11]], [[5.0], [5], [7], [7]]])
    >>> batch = kmeans_batch(X, n_clusters=2, random_state=0)
    >>> batch.centers[:, :, 0]
    array([[10.5,  0.5],
           [ 7. ,  5. ]])
    >>> batch.labels
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]], dtype=int32)
    """
    rows, sample_weight, begins = _one_after_the_other(X, sample_weight, offsets)
    model = KMeans(n_clusters, **parameters)
    model._validate_params()
    model.set_params(**python_integers_of(model))
    n_clusters = model.n_clusters
    sizes, seeds = np.diff(begins), _seeds(random_state, len(begins) - 1)
    if sizes.min() < n_clusters:
        problem = int(sizes.argmin())
        raise ValueError(f"Problem {problem}: n_samples={sizes[problem]} should be >= n_clusters={n_clusters}.")
    centers, labels, fits = _fits_at_once(model, rows, sample_weight, begins, seeds)
    left = [problem for problem, fit in enumerate(fits) if fit is None]
    if left and centers is not None and not arrays.is_writeable(labels):
        centers, labels = (np.array(arrays.to_numpy(found)) for found in (centers, labels))
    by_parts = _each_by_parts(
        partial(_fit_by_parts, model, rows, sample_weight, begins, seeds), left, model, rows, sizes
    )

    def found_by_parts():
        for problem, fit in zip(left, by_parts, strict=True):
            fits[problem] = fit._replace(centers=None, labels=None)
            yield problem, slice(int(begins[problem]), int(begins[problem + 1])), fit.centers, fit.labels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if labels is None:
            centers = []

            def labels_by_parts():  # never more than one problem's beside those of all
                for _, own, of_clusters, of_rows in found_by_parts():
                    centers.append(of_clusters)
                    yield own, of_rows

            labels = arrays.collect(labels_by_parts(), rows.shape[0])
            centers = arrays.namespace(centers[0]).stack(centers)
        else:
            for problem, own, of_clusters, of_rows in found_by_parts():
                arrays.write_rows(centers, problem, of_clusters)
                arrays.write_rows(labels, own, of_rows)
    trouble = _trouble_of(fits, model)
    if trouble is not None:
        warnings.warn(trouble, ConvergenceWarning, stacklevel=2)
    home = rows if arrays.is_foreign(rows) else centers
    found = (
        centers,
        labels if offsets is not None else arrays.namespace(labels).reshape(labels, (len(sizes), -1)),
        np.asarray([fit.inertia for fit in fits]),
        np.asarray([fit.n_iter for fit in fits]),
    )
    return Batch(*(arrays.asarray_like(values, home) for values in found))


class _Fit(NamedTuple):
    """That of one problem."""

    centers: Any
    labels: Any
    inertia: float
    n_iter: int
    n_distinct: int  # clusters that have rows
    converged: bool


def _one_after_the_other(X, sample_weight, offsets):
    """Rows and weights of all problems one after the other; where each begins, and the last ends, int64 of NumPy."""
    if arrays.is_dask(X) or arrays.is_dask(sample_weight):
        raise TypeError("kmeans_batch needs rows and weights in memory, and not those of Dask: use '.compute()'.")
    X = X.tocsr() if hasattr(X, "tocsr") else _as_array(X)
    weights = None if sample_weight is None else _as_array(sample_weight)
    if offsets is None:
        if len(X.shape) != 3:
            raise ValueError(f"X of shape (n_problems, n_samples, n_features) is expected, or offsets: got {X.shape}.")
        if 0 in X.shape:
            raise ValueError(f"X of shape {tuple(X.shape)} has no numbers.")
        if weights is not None and tuple(weights.shape) != tuple(X.shape[:2]):
            raise ValueError(f"sample_weight.shape == {tuple(weights.shape)}, expected {tuple(X.shape[:2])}.")
        begins = np.arange(X.shape[0] + 1) * X.shape[1]
        flat = None if weights is None else arrays.namespace(weights).reshape(weights, (-1,))
        return arrays.namespace(X).reshape(X, (-1, X.shape[2])), flat, begins
    begins = np.asarray(arrays.to_numpy(offsets) if arrays.is_foreign(offsets) else offsets)
    if len(X.shape) != 2:
        raise ValueError(f"With offsets, X of shape (n_samples, n_features) is expected: got {tuple(X.shape)}.")
    if begins.ndim != 1 or len(begins) < 2 or begins.dtype.kind not in "iu":
        raise ValueError("offsets must be integers of shape (n_problems + 1,).")
    if begins[0] != 0 or begins[-1] != X.shape[0] or (begins[1:] <= begins[:-1]).any():
        raise ValueError(f"offsets must ascend from 0 to the number of rows, {X.shape[0]}, and no problem be empty.")
    if weights is not None and tuple(weights.shape) != (X.shape[0],):
        raise ValueError(f"sample_weight.shape == {tuple(weights.shape)}, expected {(X.shape[0],)}.")
    return X, weights, begins.astype(np.int64)


def _as_array(x):
    """What is no array yet, as one of NumPy: lists, data frames, sources."""
    return x if isinstance(x, np.ndarray) or arrays.is_foreign(x) else np.asarray(x)


def _seeds(random_state, n_problems):
    """A seed for each problem: a list of int."""
    if isinstance(random_state, Integral):
        seeds = np.full(n_problems, int(random_state))
    elif random_state is None or isinstance(random_state, np.random.RandomState):
        seeds = check_random_state(random_state).randint(2**31 - 1, size=n_problems)
    else:
        seeds = np.asarray(random_state)
    if seeds.shape != (n_problems,) or seeds.dtype.kind not in "iu" or seeds.min() < 0 or seeds.max() >= 2**32:
        raise ValueError(
            f"random_state must be an int from 0 to 2**32 - 1, or one for each of the {n_problems} problems, a "
            f"RandomState or None: got {random_state!r}."
        )
    return seeds.tolist()


def _fits_at_once(model, rows, sample_weight, begins, seeds):
    """Centers and labels of all problems, or None, and a list of a fit for each, None for what its parts must make."""
    by_parts = None, None, [None] * len(seeds)
    if arrays.is_sparse(rows) or not comes_at_once(model, np.diff(begins).max()):
        return by_parts
    try:
        with model._opened_to_fit(rows, None) as data:
            if data.in_blocks:
                return by_parts
            xp = arrays.namespace(data.like)
            weights, units = _weights(sample_weight, data.like, begins)
            limits, algorithm = Limits(model.max_iter, model.tol), ALGORITHMS[model.algorithm]
            n_runs = number_of_runs(model)
            how = fitting(model.n_clusters, data.shape[1], n_runs, algorithm, limits)
            fits, centers, labels = [], [], []
            for first in range(0, len(seeds), TOGETHER):
                some = slice(first, first + TOGETHER)
                ends = begins[first : first + TOGETHER + 1]
                own = slice(int(ends[0]), int(ends[-1]))
                with generator(0) as rng:
                    uniforms = _Uniforms(seeds[some], rng, 4 * how.greedy.n_trials * model.n_clusters)
                    found = fits_at_once(data.like[own, :], weights[own], ends - ends[0], how, uniforms)
                if found is None:
                    return by_parts
                found = Found(*found)
                fits += _each(found.run, units[some])
                # As `Frame.leave`
                centers.append(xp.astype(found.centers + found.origin[:, None, :], result_dtype(data.like)))
                labels.append(found.labels)
            return *(arrays.asarray_like(xp.concat(parts), data.home) for parts in (centers, labels)), fits
    except ValueError:  # to be told which problem has it
        return by_parts


def _weights(sample_weight, X, begins):
    """Weights in the unit of each problem, and these units, as `data.memory.InMemory` has them of one."""
    weights = check_sample_weight(sample_weight, X)
    if sample_weight is None:
        return weights, np.ones(len(begins) - 1)
    on_host = arrays.to_numpy(weights)
    units = np.asarray([weight_unit(largest) for largest in np.maximum.reduceat(on_host, begins[:-1]).tolist()])
    return arrays.asarray_like(on_host / np.repeat(units, np.diff(begins)), weights), units


def _each(runs, units):
    """The fits of some problems, but for centers and labels."""
    for run, unit in zip(runs, units.tolist(), strict=True):
        if run is None:
            yield None
            continue
        numbers, squares, n_distinct, converged = run
        yield _Fit(None, None, squares * unit, len(numbers), n_distinct, converged)


class _Uniforms:
    """Random numbers in [0, 1) of problems, as a generator seeded for each of them draws them."""

    def __init__(self, seeds, rng, n_at_first):
        self._seeds, self._rng, self._n_at_first = seeds, rng, n_at_first
        self._n_used, self._drawn = [0] * len(seeds), {}  # by seeds, which problems may share
        self._lock = threading.Lock()

    def __call__(self, problem, n):
        seed, begin = self._seeds[problem], self._n_used[problem]
        self._n_used[problem] = end = begin + n
        with self._lock:
            drawn = self._drawn.get(seed)
            if drawn is None or len(drawn) < end:
                self._rng.seed(seed)
                drawn = self._drawn[seed] = self._rng.random_sample(max(self._n_at_first, 2 * end))
        return drawn[begin:end]


def _each_by_parts(fit_by_parts, problems, model, rows, sizes):
    """Iterator over the fits of problems, side by side where that pays and no code of the user's is called."""
    if is_watched(model) or callable(model.init) or arrays.is_sparse(rows) or len(problems) < 2:
        return map(fit_by_parts, problems)
    one = arrays.shared(rows)[: int(sizes.mean()), ...]
    return side_by_side(one, model.n_clusters, fit_by_parts, problems)


def _fit_by_parts(model, rows, sample_weight, begins, seeds, problem):
    """The fit of one problem, as a user makes it."""
    own = slice(int(begins[problem]), int(begins[problem + 1]))
    weights = None if sample_weight is None else sample_weight[own]
    model = clone(model).set_params(random_state=seeds[problem])
    try:
        model.fit(rows[own, :], sample_weight=weights)
    except ValueError as error:
        raise ValueError(f"Problem {problem}: {error}") from error
    n_distinct = len(arrays.to_numpy(distinct(model.labels_)))
    return _Fit(model.cluster_centers_, model.labels_, model.inertia_, model.n_iter_, n_distinct, model.converged_)


def _trouble_of(fits, model):
    """What a user is to be warned of, or None."""
    few = [problem for problem, fit in enumerate(fits) if fit.n_distinct < model.n_clusters]
    if few:
        return f"Problem {few[0]}, one of {len(few)}: {trouble_of_few(fits[few[0]].n_distinct, model)}"
    unfinished = [problem for problem, fit in enumerate(fits) if not fit.converged and fit.n_iter == model.max_iter]
    if unfinished:
        return (
            f"Problem {unfinished[0]}, one of {len(unfinished)}, did not converge in max_iter={model.max_iter} "
            "iterations. Increase max_iter or tol."
        )
    return None
