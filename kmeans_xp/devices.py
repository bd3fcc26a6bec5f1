"""Devices by name: whether they are there, moving arrays to them, memory on them that is filled again and again."""

import re
import sys

import array_api_compat as compat
import numpy as np

from kmeans_xp.arrays import beside, between_devices, cuda_problem, is_host, to_numpy

ALL = "cuda:all"  # every CUDA device, for rows of the host


class HostSlot:
    """Memory for a block of rows that is filled again and again."""

    def __init__(self, shape, dtype):
        self._buffer = np.empty(shape, dtype)

    def fill(self, n_rows, write):
        """Keep `n_rows` rows, which `write(out=array)` writes; called by the thread that reads."""
        write(out=self._buffer[:n_rows])

    def take(self, n_rows):
        """The rows as an array, valid until they are released."""
        return self._buffer[:n_rows]

    def release(self):
        """The memory may be filled again."""


class CudaSlot:
    """The same on a CUDA device: filled through pinned memory and on a stream of its own, beside the computation."""

    def __init__(self, shape, dtype, device):
        cupy = sys.modules["cupy"]
        self._device = cupy.cuda.Device(device)
        with self._device:
            pinned = cupy.cuda.alloc_pinned_memory(max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
            self._pinned = np.frombuffer(pinned, dtype, int(np.prod(shape))).reshape(shape)
            self._buffer = cupy.empty(shape, dtype)
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copied, self._used = cupy.cuda.Event(), cupy.cuda.Event()

    def fill(self, n_rows, write):
        with self._device:
            self._copied.synchronize()  # the pinned memory may still be on its way
            write(out=self._pinned[:n_rows])
            self._stream.wait_event(self._used)
            self._buffer[:n_rows].set(self._pinned[:n_rows], self._stream)
            self._copied.record(self._stream)

    def take(self, n_rows):
        with self._device:
            sys.modules["cupy"].cuda.get_current_stream().wait_event(self._copied)
        return self._buffer[:n_rows]

    def release(self):
        with self._device:
            self._used.record()


def slots(n_slots, shape, dtype, device):
    """Memory for blocks of `shape` on the host (None) or on a CUDA device called `device`."""
    if device is None:
        return [HostSlot(shape, dtype) for _ in range(n_slots)]
    return [CudaSlot(shape, dtype, cuda_index(device)) for _ in range(n_slots)]


def cuda_index(name):
    """Number of the CUDA device called `name`, which must be usable by CuPy."""
    _, index = parse_device(name)
    problem = cuda_problem()
    _require_cuda(name, index, 0 if problem else sys.modules["cupy"].cuda.runtime.getDeviceCount(), problem)
    return index


def every_cuda_device():
    """Names of all CUDA devices that CuPy can use: at least one, or an error."""
    problem = cuda_problem()
    count = 0 if problem else sys.modules["cupy"].cuda.runtime.getDeviceCount()
    _require_cuda(ALL, 0, count, problem)
    return [f"cuda:{index}" for index in range(count)]


def finish(x):
    """Wait until the device of a CuPy array has done what was begun in the current stream."""
    with x.device:
        sys.modules["cupy"].cuda.get_current_stream().synchronize()


def fits_on_device(x, name):
    """Whether the host array `x`, as floats, and what a fit needs beside it fit into the free memory of a device."""
    index = cuda_index(name)  # imports CuPy
    with sys.modules["cupy"].cuda.Device(index):
        free, _ = sys.modules["cupy"].cuda.runtime.memGetInfo()
    return 2 * x.size * (4 if x.dtype == np.float32 else 8) <= free


def parse_device(name):
    """Split 'cpu', 'cuda' or 'cuda:i' into kind and index."""
    match = re.fullmatch(r"(cpu)|(cuda)(?::(\d+))?", name)
    if match is None:
        raise ValueError(
            f"device={name!r} is not known: use None, 'auto', 'cpu', 'cuda' or 'cuda:i'; 'cuda:all' is for KMeans and "
            "MiniBatchKMeans."
        )
    return ("cpu", 0) if match[1] else ("cuda", int(match[3] or 0))


def cuda_devices():
    """Names of the CUDA devices that CuPy sees."""
    runtime = sys.modules["cupy"].cuda.runtime
    return [runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount())]


def to_device(x, name):
    """`x` on the device called `name`: NumPy arrays become CuPy's and back, other libraries keep their arrays."""
    kind, index = parse_device(name)
    if beside(x) is not x:
        if (kind == "cpu") != is_host(x) or (kind == "cuda" and index != x.device.id):
            raise ValueError(f"device={name!r} is not possible for sparse X, which is computed with where it is.")
        return x
    if kind == "cpu":
        if is_host(x):
            return x
        if compat.is_cupy_array(x):
            x = to_numpy(x)
            return x.astype(np.float32) if x.dtype.itemsize == 2 else x  # half precision
        return compat.to_device(x, sys.modules["jax"].devices("cpu")[0] if compat.is_jax_array(x) else "cpu")
    if compat.is_torch_array(x):
        count = sys.modules["torch"].cuda.device_count()
        _require_cuda(name, index, count, None if count else "torch sees no CUDA device")
        return compat.to_device(x, f"cuda:{index}")
    if compat.is_jax_array(x):
        try:
            devices = sys.modules["jax"].devices("cuda")
        except RuntimeError as error:
            _require_cuda(name, index, 0, str(error))
        _require_cuda(name, index, len(devices), None)
        return compat.to_device(x, devices[index])
    if not (compat.is_numpy_array(x) or compat.is_cupy_array(x)):
        library, _, _ = type(x).__module__.partition(".")
        raise ValueError(f"device={name!r} is not possible for X of type {library}.{type(x).__name__}.")
    index = cuda_index(name)
    cupy = sys.modules["cupy"]
    if compat.is_cupy_array(x):
        return between_devices(x, cupy.cuda.Device(index))
    with cupy.cuda.Device(index):
        return cupy.asarray(x)


def _require_cuda(name, index, count, problem):
    """Raise unless CUDA device `index` is one of `count`."""
    if problem is not None:
        raise RuntimeError(f"device={name!r} needs a CUDA GPU: {problem}. Use device='cpu' or device='auto'.")
    if index >= count:
        raise RuntimeError(f"device={name!r} does not exist: the CUDA devices here are 0 to {count - 1}.")
