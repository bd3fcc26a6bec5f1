"""Steps for CuPy arrays: passes and runs by the kernels in cuda/, which are compiled and checked when first needed."""

import functools

import cupy

from kmeans_xp import cuda as _cuda
from kmeans_xp.backends import _cuda_check, _cupy_problems, _cupy_runs, _cupy_seeding
from kmeans_xp.backends import _cupy_passes as passes

# Bounds pay where comparing a row with all centers takes longer than reading it, and for at most this share of the rows
PRUNING_SIZE = 8000  # n_features * n_clusters
SHARE_THAT_PAYS = 0.85


def map_slices(X, function, slices):
    """`array.map_slices`: a slice for which the device has no memory is halved."""
    waiting = list(slices)[::-1]
    while waiting:
        rows = waiting.pop()
        try:
            result = function(rows)
        except cupy.cuda.memory.OutOfMemoryError as error:
            n_rows = rows.stop - rows.start
            if n_rows == 1:
                raise MemoryError(f"No memory on the GPU for a single row of {X.shape[1]} features.") from error
            middle = rows.start + n_rows // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
            continue
        yield result
        del result  # before the next needs memory


def assign(X, centers, frame):
    """`steps.assign`."""
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    labels = cupy.full(X.shape[0], -1, dtype=cupy.int32)
    passes.compare(kernels, X, centers, frame, labels)
    return labels


def lloyd_step(X, sample_weight, centers, frame):
    """`steps.lloyd_step`."""
    labels = assign(X, centers, frame)
    if labels is NotImplemented:
        return NotImplemented
    return labels, *update(X, sample_weight, labels, centers.shape[0], frame)


def update(X, sample_weight, labels, n_clusters, frame):
    """`steps.update`."""
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    totals = passes.totals(kernels, X, sample_weight, labels, n_clusters, frame)
    return totals[:, :-1], totals[:, -1].copy()  # which a fitted model keeps


def bounded_step(X, sample_weight, centers, bounds, totals, frame):
    """`bounds.bounded_step`, writing into labels and slack."""
    labels, slack, path = bounds
    kernels = _kernels(X, frame.distance_dtype)
    if kernels is None:
        return NotImplemented
    n_changed, n_active = passes.compare(kernels, X, centers, frame, labels, slack, path)
    return labels, slack, *update(X, sample_weight, labels, centers.shape[0], frame), n_changed, n_active


def iterations(X, sample_weight, centers, state, frame, metric, limits):
    """`algorithms.iterations`: several are launched before the host looks at what they found."""
    kernels = _kernels(X, frame.distance_dtype)
    memory = None if kernels is None else state.memory(centers)
    if memory is None:
        return NotImplemented
    return _cupy_runs.iterations(kernels, memory, X, sample_weight, centers, state, frame, metric, limits)


def fits_at_once(X, sample_weight, begins, how, uniforms):
    """`fitting.fits_at_once`: of small problems."""
    kernels = (
        _kernels(X, X.dtype) if X.dtype.name in _cuda.SHAPES and how.greedy.n_trials <= _cuda.MOST_TRIALS else None
    )
    if kernels is None:
        return NotImplemented
    try:
        return _cupy_problems.fits(kernels, X, sample_weight, begins, how, uniforms)
    except cupy.cuda.memory.OutOfMemoryError:  # one after the other they need less
        return None


def sq_distances_to_own(X, labels, centers, frame):
    """`steps.sq_distances_to_own`."""
    kernels = _kernels(X, X.dtype)
    if kernels is None:
        return NotImplemented
    return passes.sq_distances_to_own(kernels, X, labels, centers, frame)


def sq_distances_to(X, rows, frame):
    """`steps.sq_distances_to`, summed directly."""
    kernels = _kernels(X, X.dtype)
    return NotImplemented if kernels is None else passes.sq_distances_to(kernels, X, rows, frame)


def share_that_pays(X, n_clusters, frame):
    """`bounds.share_that_pays`: rows need not be gathered."""
    if _kernels(X, frame.distance_dtype) is None:
        return NotImplemented
    return SHARE_THAT_PAYS if X.shape[1] * n_clusters >= PRUNING_SIZE else 0.0


def move(sums, weights, centers_old, n_changed, n_active, frame, metric):
    """`steps.move`."""
    kernels = _plain_kernels(passes.device_id())
    if kernels is None:
        return NotImplemented
    return passes.move(kernels, sums, weights, centers_old, n_changed, n_active, frame, metric.spherical)


def greedy_rows(X, sample_weight, frame, how, uniforms, order):
    """`greedy.greedy_rows`: of few trials, as for all numbers of clusters that fit into memory."""
    kernels = _kernels(X, X.dtype) if how.n_trials <= _cuda.MOST_TRIALS else None
    if kernels is None:
        return NotImplemented
    return _cupy_seeding.greedy_rows(kernels, X, sample_weight, frame, how, uniforms, order)


def choose(closest, squares, sample_weight, candidates, uniforms, n_trials, n_most):
    """`seeding.choose`."""
    kernels = _plain_kernels(passes.device_id())
    if kernels is None or n_trials > _cuda.MOST_TRIALS:
        return NotImplemented
    return passes.choose(kernels, closest, squares, sample_weight, candidates, uniforms, n_trials, n_most)


def scratch_bytes(n_samples, n_features, n_clusters, tile_bytes):
    """Device memory of an iteration, as `_cuda.scratch_bytes`."""
    return _cuda.scratch_bytes(passes.device(), n_samples, n_features, n_clusters, tile_bytes)


def _kernels(X, dtype):
    """The kernels by name that compute in `dtype`, for the current device; None if they don't work there."""
    return _kernels_on(passes.device_id(), _cuda.row_dtype(X.dtype, dtype), _cuda.PRODUCTS)


@functools.cache
def _kernels_on(device_id, dtype, products):
    """Compile and check the kernels for a type of rows, once a device."""
    plain = _plain_kernels(device_id)
    if plain is None:
        return None
    return _cuda_check.working(
        lambda: {**plain, **_cuda.compiled(cupy.RawModule, _cuda.DENSE, _cuda.instances(dtype.name, products))},
        lambda kernels: _cuda_check.difference(PASSES, kernels, dtype),
        FAILURES,
    )


@functools.cache
def _plain_kernels(device_id):
    """The same for the others."""
    return _cuda_check.working(
        lambda: _cuda.compiled(cupy.RawModule, _cuda.DENSE, _cuda.plain_instances()),
        lambda kernels: _cuda_check.plain_difference(PASSES, kernels),
        FAILURES,
    )


def _moved_sums(kernels, X, labels_before, labels, sample_weight, n_clusters, frame):
    """Sums and weights, (n_clusters, n_features + 1), from those of the labels before."""
    before = passes.totals(kernels, X, sample_weight, labels_before, n_clusters, frame)
    since = passes.since_now(kernels, X, sample_weight, labels_before, before, frame)
    return passes.brought_up_to_date(kernels, X, sample_weight, labels, since, frame)


def _path_to(kernels, centers, centers_old, path):
    """The path after centers moved from `centers_old`, in the place of `path`."""
    parts = cupy.empty((len(centers), 2))
    passes.shifts(kernels, centers, centers_old, parts)
    passes.advance(kernels, parts, path)
    return path


FAILURES = cupy.cuda.compiler.CompileException, RuntimeError  # of the runtime and the driver too
PASSES = _cuda_check.Passes(
    to_device=cupy.asarray,
    to_host=cupy.asnumpy,
    compare=passes.compare,
    sums=passes.sums,
    moved_sums=_moved_sums,
    sq_distances_to_own=passes.sq_distances_to_own,
    sq_distances_to=passes.sq_distances_to,
    move=passes.move,
    choose=passes.choose,
    by_label=passes.by_label,
    coefficients=passes.coefficients,
    path_to=_path_to,
    fits=_cupy_problems.fits,
)
