"""Steps for NumPy arrays: on threads, and compiled where Numba is installed.

What happens to the rows stands in `_blocks` in plain NumPy, and again in `_compiled`; here is which of them pays.
"""

import functools
import importlib.util
import warnings
from contextlib import nullcontext

import numpy as np

from kmeans_xp.backends import _blocks, importing
from kmeans_xp.backends._threads import PARALLEL_WORK, blas, count_parts, in_parallel, map_in_order

# n_samples * n_features * n_clusters of a job that repays loading Numba and the passes from the cache on disk, which
# takes half a second. A property of the data alone, so that the same fit takes the same way again.
COMPILED_WORK = 1e7
DIRECT_FEATURES = 24  # up to which to sum squared differences is faster than a matrix product and what surrounds it
MAX_BETWEEN = 2**11  # centers whose distances from each other are kept, 32 MiB
SAVED_PRODUCTS = 500  # multiplications a row that repay the search for its candidates
SINGLE_WORK = 2**16  # multiplications of a product up to which a BLAS uses one thread by itself
FEW_PARTS = 16  # of a pass that sums few rows of many clusters
NOTHING = np.empty((0, 0)), np.empty(0)  # distances between centers that nobody asks for

_loaded = set()  # passes, with the types of their arguments, that have been run
_trouble = None  # why this process has given Numba up


class _NumbaError(Exception):
    """Numba cannot load or compile a pass. No row has been touched."""


def _has_numba():
    return _trouble is None and _is_installed()


@functools.cache
def _is_installed():
    return importlib.util.find_spec("numba") is not None


def _passes(X, frame):
    """The module of passes that pays."""
    if frame.work < COMPILED_WORK or not _has_numba():
        return _blocks
    try:
        return _compiled_passes()
    except _NumbaError as error:
        _give_up(error)
        return _blocks


def _compiled_passes():
    """The module of passes that Numba compiles."""
    try:
        with importing:
            from kmeans_xp.backends import _compiled
    except Exception as error:  # of whatever type: it comes from a broken installation, or a cache
        raise _NumbaError(f"{type(error).__name__}: {error}") from error
    return _compiled


def _load(function, *job):
    """Have Numba load or compile a pass, by a part of it that has no rows."""
    types = function, *map(_type, job)
    if function.__module__ == _blocks.__name__ or types in _loaded:
        return
    n_samples = len(job[0])
    try:
        function(n_samples, n_samples * (n_samples + 1) + 1, *job)
    except MemoryError:
        raise
    except Exception as error:  # of whatever type, as a corrupt cache raises any; compiled code itself raises none
        raise _NumbaError(f"{type(error).__name__}: {error}") from error
    _loaded.add(types)


def _type(value):
    """What Numba distinguishes in an argument."""
    if not isinstance(value, np.ndarray):
        return type(value)
    return value.dtype, value.ndim, value.flags.c_contiguous, value.flags.f_contiguous, value.flags.writeable


def _give_up(error):
    """Do without Numba from now on."""
    global _trouble
    if _trouble is None:
        _trouble = str(error)
        warnings.warn(
            f"Numba is installed but fails ({error}). This process goes on in plain NumPy, which takes several times "
            "as long for large arrays. Mend or remove Numba; empty its cache (NUMBA_CACHE_DIR, or __pycache__ beside "
            f"{_blocks.__file__}).",
            RuntimeWarning,
            stacklevel=2,
        )


def _or_plain(step):
    """The step, done again in plain NumPy if Numba fails."""

    @functools.wraps(step)
    def safe(*args):
        try:
            return step(*args)
        except _NumbaError as error:
            _give_up(error)
            return step(*args)

    return safe


def passes_in_use():
    """Which passes large arrays get and why, in words. Imports Numba to see whether it works."""
    if not _is_installed():
        return "plain NumPy, as Numba is not installed"
    trouble = _trouble
    try:
        X, label, one = np.zeros((1, 1)), np.zeros(1, dtype=np.int32), np.zeros(1)
        _load(_compiled_passes().cluster_sums, _read_only(X), one, label, one, X, one)
    except _NumbaError as error:
        trouble = trouble or error
    return f"plain NumPy, as Numba fails ({trouble})" if trouble else "compiled by Numba"


def own_threads(X, n_clusters):
    """`steps.own_threads`: the BLAS gets one thread.

    Its other threads would wait for work at full speed, and the bits of its sums depend on their number.
    """
    return blas.one_thread() if X.size * max(8, n_clusters) > SINGLE_WORK else nullcontext()


def map_slices(X, function, slices):
    """`array.map_slices` on threads."""
    pays = 8 * X.size > PARALLEL_WORK and len(slices) > 1 and blas.n_threads() > 1
    return map_in_order(function, slices) if pays else NotImplemented


@_or_plain
def assign(X, centers, frame):
    """`steps.assign`."""
    labels = np.empty(X.shape[0], dtype=np.int32)
    job = (_read_only(X), *_coefficients(centers, frame), labels)
    doubtful = _run(_passes(X, frame).assign, X.size * len(centers), *job)
    rows = np.concatenate([rows for of_part in doubtful for rows in of_part])
    if len(rows):
        labels[rows] = frame.nearest(X[rows], centers)
    return labels


@_or_plain
def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    labels = np.full(X.shape[0], -1, dtype=np.int32)
    if _passes(X, frame) is not _blocks:
        slack, path = np.zeros(X.shape[0]), np.zeros(len(centers))
        return labels, *bounded_step(X, sample_weight, centers, (labels, slack, path), (0, 0), frame)[2:4]
    job = (X, sample_weight, *_coefficients(centers, frame), labels)
    *totals, doubtful = _sums(_blocks.lloyd_step, X.size * len(centers), centers.shape, *job)
    _settle(np.concatenate(doubtful), X, sample_weight, centers, labels, totals, frame)
    return labels, *totals


@_or_plain
def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    labels, slack, path = bounds
    passes, work = _passes(X, frame), 8 * X.size
    origin, minus_2_centers, sq_norms, doubt = _coefficients(centers, frame)
    # Of ||x||², of ||c||² at most, and what leaves a label in doubt
    rounding = frame.rounding, frame.rounding * float(sq_norms[:-1].max()), doubt
    job = (_read_only(X), sample_weight, origin, minus_2_centers, sq_norms, rounding, (labels, slack, path))
    if passes is not _blocks:
        between = NOTHING
        if labels[0] >= 0 and 16 * len(centers) <= X.shape[0] and len(centers) <= MAX_BETWEEN:
            between = _between(centers, rounding)
            if not _few_candidates(X, origin, labels, centers, *between):
                between = NOTHING
        job = (*job, between)
    *more, n_changed, n_active, doubtful = _sums(passes.relabel, work, centers.shape, *job)
    rows = np.concatenate([np.empty(0, dtype=np.intp), *doubtful])
    n_changed += _settle(rows, X, sample_weight, centers, labels, more, frame)
    slack[rows] = -np.inf
    sums, weights = (total + part for total, part in zip(totals, more, strict=True))
    return labels, slack, sums, weights, n_changed, n_active


def _settle(rows, X, sample_weight, centers, labels, totals, frame):
    """Give the rows whose label is in doubt the right one, in labels and totals. -> how many labels changed"""
    if len(rows) == 0:
        return 0
    rows.sort()  # whichever thread found them
    right = frame.nearest(X[rows], centers)
    (wrong,) = np.nonzero(labels[rows] != right)
    if len(wrong):
        rows, right = rows[wrong], right[wrong]
        tile = frame.shift(X[rows], np.float64)
        _blocks.move(tile, labels[rows], right, sample_weight[rows], *totals)
        labels[rows] = right
    return len(wrong)


@_or_plain
def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    job = (_read_only(X), _origin(frame, np.float64), labels, sample_weight)
    return _sums(_passes(X, frame).cluster_sums, 8 * X.size, (n_clusters, X.shape[1]), *job)


@_or_plain
def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    squares = np.empty(X.shape[0])
    job = (_read_only(X), _origin(frame, np.float64), labels, centers, squares)
    _run(_passes(X, frame).sq_distances_to_own, 8 * X.size, *job)
    return squares


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`."""
    squares = np.empty((len(rows), X.shape[0]))
    job = (X, _origin(frame, np.float64), frame.shift(X[rows], np.float64), squares)
    _run(_blocks.sq_distances_to, X.size * len(rows), *job)
    return squares


@_or_plain
def distances(X, centers, frame):
    """`steps.distances`."""
    result = np.empty((X.shape[0], len(centers)), dtype=X.dtype)
    passes = _passes(X, frame) if X.shape[1] <= DIRECT_FEATURES else _blocks
    job = (_read_only(X), _origin(frame, np.float64), np.ascontiguousarray(centers.T), result)
    _run(passes.distances, X.size * len(centers), *job)
    return result


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: the compiled pass costs no more with bounds than without."""
    return NotImplemented if _passes(X, frame) is _blocks else 1.0


def distinct(labels):
    """`steps.distinct` without sorting."""
    return np.flatnonzero(np.bincount(labels))


def _run(function, work, *job):
    """A pass whose parts write into what they are given: what they return, in the order of the parts."""
    _load(function, *job)
    return in_parallel(count_parts(work), lambda *part: function(*part, *job))


def _sums(function, work, shape, *job):
    """A pass whose parts add to sums and weights, and may return counts and lists: the totals, as the parts come."""

    def add_up(*part):
        sums, weights = np.zeros(shape), np.zeros(shape[0])
        counts = function(*part, *job, sums, weights)
        return sums, weights, *(counts or ())

    _load(function, *job, np.zeros((1, 1)), np.zeros(1))
    # Each part adds to sums of its own: few rows of many clusters are cut into few
    n_parts = count_parts(work, max(FEW_PARTS, len(job[0]) // (16 * shape[0])))
    results = in_parallel(n_parts, add_up)
    return tuple(sum(values[1:], start=values[0]) for values in zip(*results, strict=True))


def _read_only(X):
    """The same for all arrays of a dtype, so that Numba compiles once."""
    X = X.view()
    X.flags.writeable = False
    return X


def _origin(frame, dtype):
    """What a pass is to subtract from the rows."""
    return np.zeros_like(frame.origin, dtype=dtype) if frame.shifted else frame.origin.astype(dtype)


def _coefficients(centers, frame):
    """`nearest.coefficients` with the origin: that, -2 c (flat), ||c||², and `Frame.doubt`.

    In the dtype of distances, with a center that is never nearest at the end.
    """
    dtype = frame.distance_dtype
    minus_2_centers = np.zeros((len(centers) + 1, centers.shape[1]), dtype=dtype)
    minus_2_centers[:-1] = -2 * centers
    sq_norms = np.full(len(centers) + 1, np.inf, dtype=dtype)
    sq_norms[:-1] = np.vecdot(centers, centers) * (1 - frame.doubt / 2)
    doubt = frame.doubt if np.isfinite(sq_norms[:-1]).all() else np.inf  # too large for the dtype: nothing is sure
    return _origin(frame, dtype), minus_2_centers.ravel(), sq_norms, doubt


def _between(centers, rounding):
    """Distances between centers, a little too small, and that of each from the nearest other."""
    sq_norms = np.vecdot(centers, centers)
    distances = centers @ centers.T  # in place from here on: n_clusters² numbers may be many
    distances *= -2
    distances += sq_norms[:, None] - 2 * rounding[1]
    distances += sq_norms
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
    np.fill_diagonal(distances, np.inf)
    nearest_other = distances.min(axis=1)
    np.fill_diagonal(distances, 0)
    return distances, nearest_other


def _few_candidates(X, origin, labels, centers, between, nearest_other):
    """Whether it repays to look for the centers that a row must be compared with, judged by 64 rows."""
    rows = slice(None, None, -(-X.shape[0] // 64))
    own = labels[rows]
    reach = 2 * np.linalg.vector_norm(X[rows] - origin - centers[own], axis=1)
    within = between[own] <= (reach + nearest_other[own])[:, None]
    share = np.mean(within & (reach > nearest_other[own])[:, None])
    return (1 - share) * between.shape[0] * (X.shape[1] + 8) > SAVED_PRODUCTS
