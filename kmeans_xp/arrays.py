"""Questions about arrays: which library, which device, which dtype, how to move.

Only this file and devices.py know array-api-compat.
"""

import contextlib
import functools
import importlib.util
import os
import sys
import threading

import array_api_compat as compat
import array_api_compat.numpy
import numpy as np

device = compat.device

FLOATS = np.dtype(np.float32), np.dtype(np.float64)  # that are computed with as they are
# That NumPy's rows stay in: they are widened to float64 where they are computed with, some rows at a time
NARROW = tuple(map(np.dtype, (np.float16, np.int8, np.uint8, np.int16, np.uint16, np.bool)))
_SHARED = FLOATS + NARROW[1:-1]  # of other libraries, whose memory NumPy computes with
_DLPACK_CPU, _DLPACK_CUDA = 1, 2
_N_CORES = os.cpu_count() or 1  # which takes a microsecond to ask for
MOST_COPIED = 2**22  # bytes of an array that a copy of pays for itself, and is small beside what a fit needs anyway
_NUMPY_TILE_BYTES = 4 * 2**20  # small enough for the C library to keep buffers: new ones cost page faults in every pass
_HOST_TILE_BYTES = 64 * 2**20  # few enough tiles that Python's share of the time is small
_DEVICE_TILE_BYTES = 256 * 2**20  # enough rows to keep an accelerator busy


def namespace(*arrays):
    """The library of arrays, as array-api-compat wraps it."""
    is_numpy = type(arrays[0]) is np.ndarray or isinstance(arrays[0], np.generic)
    return compat.numpy if is_numpy else compat.array_namespace(*arrays)


def is_foreign(x):
    """Whether `x` is an array of a library other than NumPy."""
    return type(x) is not np.ndarray and compat.is_array_api_obj(x) and not compat.is_numpy_array(x)


def is_frame(x):
    """Whether `x` is a data frame of pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and type(x) is pandas.DataFrame


def is_sparse(x):
    """Whether `x` is a sparse array of any library (SciPy, CuPy, torch, pydata/sparse)."""
    torch_sparse = compat.is_torch_array(x) and "strided" not in str(x.layout)
    return torch_sparse or compat.is_pydata_sparse_array(x) or hasattr(x, "tocsr")


def is_scipy_sparse(x):
    """Whether `x` is a sparse array or matrix of SciPy."""
    return type(x).__module__.startswith("scipy.")


def is_cupy_sparse(x):
    """Whether `x` is a sparse array or matrix of CuPy."""
    return type(x).__module__.startswith("cupyx.")


def is_dask(x):
    """Whether `x` is a lazy collection of Dask: an array, a data frame, a bag."""
    kind = type(x)
    return compat.is_dask_array(x) or kind.__module__.startswith("dask.") or hasattr(kind, "to_dask_array")


def as_dask_array(x, name):
    """A lazy array of Dask as it is, and of a data frame or series of Dask its partitions, whose sizes are unknown."""
    if compat.is_dask_array(x):
        return x
    if not hasattr(type(x), "to_dask_array"):
        raise TypeError(f"A dask {type(x).__name__.lower()} was passed for {name}: use an array or data frame of Dask.")
    return x.to_dask_array()


def refuse_masked(x, name):
    """A masked array, or a list of some, may hide no values: what stands in their places would be taken for data."""
    parts = x if isinstance(x, (list, tuple)) else [x]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(
            f"Input {name} contains masked values, which are missing ones. Impute them, put values in their place by "
            "'.filled()', or leave their rows out."
        )


def refuse_spread(x, name):
    """An array of JAX that lies on several devices: neither its library nor DLPack lets all be done with it."""
    if compat.is_jax_array(x) and not _is_traced(x) and len(x.devices()) > 1:
        raise ValueError(
            f"Input {name} is spread over {len(x.devices())} devices of JAX. Put it on one: "
            f"'jax.device_put({name}, jax.devices()[0])'."
        )


def beside(x):
    """The array that tells library and device of rows: they are one, or keep one beside them (`rows.StoredRows`)."""
    return getattr(x, "beside", x)


def is_host(x):
    """Whether the memory of `x` is the CPU's."""
    return type(x) is np.ndarray or x.__dlpack_device__()[0] == _DLPACK_CPU


def is_float(x):
    """Whether `x` has one of the dtypes that are computed with as they are: float32 and float64."""
    xp = namespace(x)
    return x.dtype == xp.float32 or x.dtype == xp.float64


def result_dtype(x):
    """The dtype of centers and distances for rows `x`: their own, if they are computed with as they are.

    Else float64, or the widest there is; but float32 for the half precisions of other libraries than NumPy.
    """
    if is_float(x):
        return x.dtype
    return namespace(x).float32 if is_half(x) else accumulator(x)


def is_half(x):
    """Whether `x` has a half precision, of another library than NumPy, that is computed with in float32."""
    return type(x) is not np.ndarray and "float16" in str(x.dtype)  # bfloat16 too, which CuPy's `isdtype` does not know


def widened(x):
    """Rows as they are given to who may not expect a narrow dtype: in their own, or that of NumPy's results."""
    return x if is_float(x) or is_half(x) else namespace(x).astype(x, result_dtype(x))


def float_dtype(x):
    """NumPy's dtype for the numbers of a source or Dask array: their own, if that is float32 or float64."""
    return np.dtype(x.dtype if x.dtype in (np.float32, np.float64) else np.float64)


def accumulator(x):
    """The dtype for sums: float64, or float32 where the library or device has nothing wider."""
    xp = namespace(x)
    if compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp):
        return xp.float64
    # A method in some libraries, a function of array-api-compat for others
    dtypes = xp.__array_namespace_info__().dtypes(device=device(x), kind="real floating")
    return dtypes.get("float64", xp.float32)


def data_decide_shapes(x):
    """Whether the library of `x` has functions like `nonzero`, whose results have shapes that depend on values."""
    xp = namespace(x)
    if compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp):
        return True
    return xp.__array_namespace_info__().capabilities()["data-dependent shapes"]


def tile_bytes(x, working_memory):
    """Bytes that the temporaries of one tile of rows may take. On the host each core may work on one."""
    if is_host(x):
        most = _NUMPY_TILE_BYTES if type(x) is np.ndarray else _HOST_TILE_BYTES
        return min(working_memory // _N_CORES, most)
    return min(working_memory, _DEVICE_TILE_BYTES)


def to_numpy(x):
    """`x` as a NumPy array: a copy from a device, a view of host memory where that is possible."""
    x = shared_with_numpy(x)
    if type(x) is np.ndarray or compat.is_numpy_array(x) or compat.is_jax_array(x):
        return np.asarray(x)
    if compat.is_cupy_array(x):
        return x.get()
    if compat.is_torch_array(x):
        x = x.detach().cpu()
        return (x.float() if "bfloat16" in str(x.dtype) else x).numpy()  # NumPy has no bfloat16
    return np.from_dlpack(x, device="cpu")


def shared(x):
    """NumPy's or CuPy's view of an array of torch or JAX, only to be read, to compute with in its place.

    `x` itself where neither can be had. torch's gradients end here.
    """
    seen = shared_with_numpy(x)
    return shared_with_cupy(x) if seen is x else seen


def shared_with_numpy(x):
    """NumPy's view of a host array of torch or JAX, of float32, float64 or narrow integers.

    Else `x` itself: float16 among them, as NumPy has results for that in float64.
    """
    if type(x) is np.ndarray:
        return x
    if compat.is_torch_array(x):
        torch = sys.modules["torch"]
        if not _is_plain_tensor(x, torch) or x.dtype not in _shared_of(torch) or x.device.type != "cpu":
            return x
        try:
            return x.detach().numpy()
        except RuntimeError:  # what torch.func maps over has no memory of its own
            return x
    if compat.is_jax_array(x) and x.dtype in _SHARED and _is_on_one_device(x) and is_host(x):
        return np.asarray(x)
    return x


def shared_with_cupy(x):
    """CuPy's view of an array of torch or JAX on a CUDA device, where CuPy can be used, of any real dtype that it has.

    Else `x` itself. CuPy's current stream waits for what has been computed of it so far.
    """
    if compat.is_torch_array(x):
        torch = sys.modules["torch"]
        if not (x.is_cuda and _is_plain_tensor(x, torch)) or x.dtype.is_complex:
            return x
        lent, there = x.detach(), torch.cuda.device(x.device)  # torch lends on the current device only
    elif compat.is_jax_array(x) and _is_on_one_device(x) and not is_host(x):
        lent, there = x, contextlib.nullcontext()
    else:
        return x
    if lent.__dlpack_device__()[0] != _DLPACK_CUDA or usable_cupy() is None:  # not CUDA: ROCm has the same names
        return x
    try:
        with there:
            return usable_cupy().from_dlpack(lent)
    except (BufferError, RuntimeError):  # mapped over by torch.func, or bfloat16, for which CuPy needs ml_dtypes
        return x


def _is_plain_tensor(x, torch):
    """Whether a tensor is of no class of the user's and what lies in its memory are its numbers."""
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided and not x.is_neg()


def _is_on_one_device(x):
    """Whether all of an array of JAX is the memory of one device of this process."""
    return not _is_traced(x) and x.is_fully_addressable and len(x.devices()) == 1


def _is_traced(x):
    """Whether an array of JAX stands for those that a function will be called with."""
    return isinstance(x, sys.modules["jax"].core.Tracer)


def cuda_problem():
    """Why CuPy cannot be used here, or None. Imports CuPy where it is installed."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'kmeans_xp[cuda12]' or 'kmeans_xp[cuda13]')"
    try:
        import cupy
    except Exception as error:  # whatever is wrong with it: torch's own functions need it not
        return f"CuPy cannot be imported ({error})"
    if cupy.cuda.is_available():
        return None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)
    return "no CUDA device is visible"


@functools.cache
def usable_cupy():
    """CuPy, or None where it cannot be used: asked once."""
    return sys.modules["cupy"] if cuda_problem() is None else None


@functools.cache
def _shared_of(torch):
    """Those of `_SHARED` that torch has."""
    return {getattr(torch, dtype.name) for dtype in _SHARED if hasattr(torch, dtype.name)}


def by_rows(x):
    """An array whose rows are read again and again: a small one of NumPy with the numbers of each row side by side."""
    if type(x) is np.ndarray and x.strides[1] != x.itemsize and x.nbytes <= MOST_COPIED:
        return np.ascontiguousarray(x)
    return x


def is_differentiated(x):
    """Whether torch records what is computed with `x`, for a pass backward or forward."""
    if not compat.is_torch_array(x):
        return False
    torch = sys.modules["torch"]
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None


def to_floats(*scalars):
    """0-d arrays as Python floats, in one transfer from the device."""
    xp = namespace(*scalars)
    if xp is compat.numpy:
        return [float(scalar) for scalar in scalars]
    dtype = accumulator(scalars[0])
    return to_numpy(xp.stack([xp.astype(scalar, dtype) for scalar in scalars])).tolist()


def asarray_like(x, like, dtype=None):
    """`x` (a NumPy array, or an array of any library) in the library and on the device of `like`."""
    if type(like) is np.ndarray:
        return np.asarray(to_numpy(x), dtype=dtype)
    if type(x) is np.ndarray:
        return _from_numpy(x, like, dtype)
    if compat.is_cupy_array(like):
        x = shared_with_cupy(x)
    elif compat.is_cupy_array(x) and _is_lender(like) and like.__dlpack_device__()[0] == _DLPACK_CUDA:
        return _from_cupy(x, like, dtype)
    xp = namespace(like)
    if is_foreign(x) and namespace(x) is xp:
        if dtype is not None:
            with on_device(x):
                x = xp.astype(x, dtype, copy=False)
        return between_devices(x, device(like)) if compat.is_cupy_array(x) else compat.to_device(x, device(like))
    return _from_numpy(to_numpy(x), like, dtype)


def _from_numpy(x, like, dtype):
    """A NumPy array in the library and on the device of `like`, whatever callers have set for that."""
    if compat.is_torch_array(like):
        torch = sys.modules["torch"]
        x = x if x.flags.writeable else x.copy()  # torch would share the memory, and warn
        if not torch.is_inference_mode_enabled():
            return torch.asarray(x, dtype=dtype, device=like.device)
        with torch.inference_mode(False):
            return torch.asarray(x, dtype=dtype, device=like.device)
    if compat.is_jax_array(like):
        x = x if dtype is None else x.astype(dtype, copy=False)
        with undisturbed(like):  # not in 32 bits
            return sys.modules["jax"].device_put(x, device(like))  # a third of the time that `asarray` takes
    return namespace(like).asarray(x, dtype=dtype, device=device(like))


def _is_lender(x):
    """Whether `x` is of a library whose memory others share."""
    return compat.is_torch_array(x) or compat.is_jax_array(x)


def _from_cupy(x, like, dtype):
    """An array of CuPy in the library and on the device of `like`, which is on CUDA: the same memory where it is there.

    It can be used at once in the stream in which that library computes now. If that is not CuPy's, it is a copy, as the
    pool would give the memory to others too early.
    """
    if compat.is_torch_array(like):
        torch = sys.modules["torch"]
        with torch.inference_mode(False), x.device, torch.cuda.device(x.device.id):
            found, ours, theirs = torch.from_dlpack(x), _cupy_stream(), _torch_stream(torch, x.device.id)
            if ours != theirs:
                found = found.clone()
                ours.wait_event(theirs.record())
            return found.to(device=like.device, dtype=dtype)
    with undisturbed(like):
        x = sys.modules["jax"].dlpack.from_dlpack(x)
        x = x if dtype is None else x.astype(dtype)
        return sys.modules["jax"].device_put(x, device(like))


def is_writeable(x):
    """Whether `x` can be written to: JAX's arrays can't, nor can read-only ones."""
    return not compat.is_array_api_obj(x) or compat.is_writeable_array(x)


def write_rows(out, rows, values):
    """Write an array of any library to a slice of the rows of `out`, of any library too, or what takes NumPy arrays."""
    if is_foreign(out):
        out[rows, ...] = asarray_like(values, out, out.dtype)
    else:
        out[rows] = to_numpy(values)


def collect(blocks, n_rows, axis=0):
    """Join `blocks`, pairs of a slice of rows and the array that belongs there, along `axis`.

    Writes into one result where arrays can be written to, so that the peak is not twice its size.
    """
    rows, block = next(blocks)
    xp = namespace(block)
    if block.shape[axis] == n_rows:
        return block
    if not compat.is_writeable_array(block):
        return xp.concat([block, *(block for _, block in blocks)], axis=axis)
    shape = (*block.shape[:axis], n_rows, *block.shape[axis + 1 :])
    out = xp.empty(shape, dtype=block.dtype, device=device(block))
    before = (slice(None),) * axis
    out[(*before, rows, ...)] = block
    for rows, block in blocks:
        out[(*before, rows, ...)] = block
    return out


def on_device(x):
    """Context in which new arrays and kernels belong to the device of `x` (CuPy has a current device)."""
    return x.device if compat.is_cupy_array(x) else contextlib.nullcontext()


@contextlib.contextmanager
def _beside(lender):
    """Context in which CuPy computes with the memory of `lender`, if that is an array of another library.

    For torch in its current stream. What JAX has lent it may take back without knowing what CuPy still reads.
    """
    cupy = sys.modules["cupy"]
    if compat.is_torch_array(lender) and lender.is_cuda:
        torch = sys.modules["torch"]
        with _torch_stream(torch, lender.device), cupy.cuda.using_allocator(_allocator(cupy, torch)):
            yield
        return
    try:
        yield
    finally:
        if compat.is_jax_array(lender):
            _cupy_stream().synchronize()


def _cupy_stream():
    """CuPy's current stream."""
    return sys.modules["cupy"].cuda.get_current_stream()


def _torch_stream(torch, device):
    """torch's current stream of a device, the current one, as CuPy has streams."""
    return _lent_streams(sys.modules["cupy"]).from_external(_StreamOf(torch.cuda.current_stream(device)))


@functools.cache
def _lent_streams(cupy):
    """The class of CuPy's streams for those of other libraries, which it is not to destroy."""
    return type("LentStream", (cupy.cuda.Stream,), {"__del__": lambda self: None})


class _StreamOf:
    """A stream of torch as CuPy takes it, for a torch that is too old to know how."""

    def __init__(self, stream):
        self._stream = stream

    def __cuda_stream__(self):
        return 0, self._stream.cuda_stream


def _allocator(cupy, torch):
    """CuPy's allocator of now which, where there is no memory, has torch give back what it keeps for later.

    torch's own would be one pool for both, but takes longer than the kernels that it is needed for.
    """
    allocate = cupy.cuda.get_allocator()

    def allocate_again(n_bytes):
        try:
            return allocate(n_bytes)
        except cupy.cuda.memory.OutOfMemoryError:
            torch.cuda.empty_cache()
            return allocate(n_bytes)

    return allocate_again


def undisturbed(x, *, gradients=False, lender=None):
    """Context of a job on the rows `x`: on its device, apart from what callers have set for its library.

    `lender` is the array whose memory that is, if another library owns it; on CUDA the stream of that is kept to.

    No flag of floating-point numbers is raised: in products they mean nothing, and results that must be finite are
    checked. No gradients are recorded, unless they are wanted. Products are not rounded to fewer digits, as error
    bounds rely on them; sums are float64 where the library can.
    """
    x = beside(x)
    return np.errstate(all="ignore") if type(x) is np.ndarray else _undisturbed(x, gradients, lender)


@contextlib.contextmanager
def _undisturbed(x, gradients, lender):
    """`undisturbed` for an array of another library."""
    with contextlib.ExitStack() as contexts:
        contexts.enter_context(np.errstate(all="ignore"))
        contexts.enter_context(on_device(x))
        if compat.is_cupy_array(x):
            contexts.enter_context(_beside(lender))
        if compat.is_torch_array(x):
            torch = sys.modules["torch"]
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "torch captures a CUDA graph in the current stream, and rows must be waited for: call this before "
                    "or after the capture."
                )
            contexts.enter_context(torch.autocast(x.device.type, enabled=False))
            contexts.enter_context(_torch_products.unrounded())
            if not gradients:
                contexts.enter_context(torch.inference_mode(False))
                contexts.enter_context(torch.no_grad())
        elif compat.is_jax_array(x):
            jax = sys.modules["jax"]
            contexts.enter_context((jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(True))
            contexts.enter_context(jax.default_matmul_precision("float32"))
            contexts.enter_context(jax.numpy_dtype_promotion("standard"))
            contexts.enter_context(jax.numpy_rank_promotion("allow"))
            contexts.enter_context(jax.debug_nans(False))
            contexts.enter_context(jax.debug_infs(False))
            contexts.enter_context(jax.transfer_guard("allow"))
        yield


class _TorchProducts:
    """How torch rounds float32 in products: a setting of the process, of which concurrent jobs share one change."""

    def __init__(self):
        self._lock = threading.Lock()
        self._n_users = 0

    @contextlib.contextmanager
    def unrounded(self):
        """Context in which float32 is not rounded."""
        with self._lock:
            self._n_users += 1
            if self._n_users == 1:
                self._before = self._exchange(None)
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._exchange(self._before)

    def _exchange(self, values):
        """Set the values of torch's settings, None for full precision; those of before."""
        torch = sys.modules["torch"]
        if hasattr(torch.backends.mkldnn, "matmul"):
            settings = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
            before = [setting.fp32_precision for setting in settings]
            for setting, value in zip(settings, values or ["ieee", "ieee"], strict=True):
                setting.fp32_precision = value
            return before
        before = [torch.get_float32_matmul_precision()]  # torch before 2.9
        torch.set_float32_matmul_precision(*(values or ["highest"]))
        return before


_torch_products = _TorchProducts()


def first_few(numbers):
    """Row numbers, as errors name them."""
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


def is_source(x):
    """Whether `x` has rows that can be sliced and is not an array: a data set of h5py or zarr, say."""
    if isinstance(x, np.ndarray) or compat.is_array_api_obj(x) or is_dask(x) or is_sparse(x) or hasattr(x, "iloc"):
        return False
    return all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")) and not isinstance(x, np.generic)


def takes_numbers(x):
    """Whether the source or array `x` gives rows by their numbers, ascending, as `x[numbers, :]` or by `oindex`."""
    return isinstance(x, np.ndarray) or hasattr(x, "oindex") or type(x).__module__.startswith("h5py.")


def check_file(X):
    """A mapped file that has become shorter would end the process with a bus error."""
    if isinstance(X, np.memmap) and X.filename is not None and os.path.exists(X.filename):
        while isinstance(X.base, np.memmap):  # the map that X is a part of
            X = X.base
        size = os.path.getsize(X.filename)
        if size < X.offset + X.nbytes:
            raise OSError(f"{X.filename} has {size} bytes and should have {X.offset + X.nbytes}")


def between_devices(x, device):
    """A CuPy array on another of its devices: CuPy copies only contiguous ones."""
    if x.device != device:
        with x.device:
            x = sys.modules["cupy"].ascontiguousarray(x).reshape(x.shape)  # which has a dimension at least
    return compat.to_device(x, device)
