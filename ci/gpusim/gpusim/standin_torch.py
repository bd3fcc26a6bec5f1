"""torch's CPU build with tensors that lie on CUDA devices of the stand-in, whose memory torch owns.

They are genuine tensors on "cuda:0" (torch's importer of DLPack makes them), their storage is memory of the host, and
every function of torch runs its CPU kernel on it. So exchange by DLPack, checks of devices and what asks for the
current stream run as they do on a GPU; streams and events are names only.
"""

import ctypes
import functools
import os
import threading

from . import SyncCounts, build, paths, standin_cupy

CPU, CUDA = 1, 2  # of DLPack


def install(torch):
    """Change torch's CPU build, which has just been imported, so that it sees the stand-in's devices."""
    if torch.version.cuda is not None:
        return  # has a runtime of its own
    ctypes.CDLL(str(_guard(torch)))
    _register(torch)
    _patch_cuda(torch)
    _patch_copies(torch.Tensor)


def _guard(torch):
    """The library that tells torch the current device, built once."""
    source, folder = paths.PACKAGE / "torch_guard.cpp", torch.__path__[0]
    built = build.build_dir() / f"torch_guard-{paths.digest(torch.__version__, source.read_text())}.so"
    with build._lock(built.with_suffix(".lock")):
        if not built.exists():
            flags = f"-I{folder}/include", f"-L{folder}/lib", "-lc10", f"-L{build.library_dir()}", "-lgpusim_cudart"
            rpath = f"-Wl,-rpath,{folder}/lib,-rpath,$ORIGIN/lib"
            new = built.with_suffix(".new")
            build._link(new, source, "-std=c++20", "-O1", *flags, rpath)
            os.replace(new, built)
    return built


def _register(torch):
    """Functions of torch for CUDA: those for the CPU, on the same memory."""
    fallbacks, kernels = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    install.kept = fallbacks, kernels  # which ends what it registered when it is deleted
    fallbacks.fallback(functools.partial(_on_the_host, torch), "CUDA")
    kernels.impl("copy_", functools.partial(_copy, torch), "CUDA")  # which has code of its own for CUDA
    kernels.impl("_local_scalar_dense", functools.partial(_item, torch), "CUDA")  # a copy, too


def _on_the_host(torch, function, *args, **kwargs):
    """A function called with CUDA tensors or a CUDA device."""
    from torch.utils._pytree import tree_leaves, tree_map

    leaves = tree_leaves((args, kwargs))
    devices = [x for x in leaves if isinstance(x, torch.device)] or [x.device for x in leaves if torch.is_tensor(x)]
    device = next((x for x in devices if x.type == "cuda"), torch.device("cpu"))
    found = {}  # what the function may make larger

    def down(x):
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return _seen(torch, x, CPU) if torch.is_tensor(x) and x.is_cuda else x

    def result(x):
        if torch.is_tensor(x) and x.numel() == 0 and x.is_cuda:
            found[id(x)] = torch.empty(0, dtype=x.dtype), x
            return found[id(x)][0]
        return down(x)

    schema = function._schema.arguments
    written = {a.name for a in schema if a.kwarg_only and a.alias_info is not None and a.alias_info.is_write}
    args = tree_map(down, args)
    results = function(*args, **{name: tree_map(result if name in written else down, x) for name, x in kwargs.items()})
    for larger, given in found.values():
        given.data = _seen(torch, larger, CUDA, given.device.index)
    if device.type == "cpu":
        return results
    return tree_map(lambda x: _seen(torch, x, CUDA, device.index or 0) if torch.is_tensor(x) else x, results)


def _copy(torch, target, source, non_blocking=False):
    _seen(torch, target, CPU).copy_(_seen(torch, source, CPU))
    if target.is_cuda != source.is_cuda:
        counts, way = standin_cupy.counters(), SyncCounts.NAMES.index("to_device" if target.is_cuda else "to_host")
        counts[way] += 1
        counts[SyncCounts.NAMES.index(f"bytes_{SyncCounts.NAMES[way]}")] += source.nbytes
    return target


def _item(torch, x):
    number = torch.empty((), dtype=x.dtype)
    return _copy(torch, number, x).item()


def _seen(torch, x, kind, index=0):
    """A tensor on a device of another kind with the memory of `x`."""
    if (kind == CUDA) == x.is_cuda:
        return x
    capsule = torch._C._to_dlpack(x)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    device = (ctypes.c_int32 * 2).from_address(pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p))
    device[:] = kind, index
    seen = torch._C._from_dlpack(capsule)
    seen = seen.conj() if x.is_conj() else seen
    return seen._neg_view() if x.is_neg() else seen


def _patch_copies(kind):
    """`copy.deepcopy`, which copies storages, and CUDA's have no functions."""
    copied = kind.__deepcopy__

    def deepcopy(self, memo):
        if not self.is_cuda:
            return copied(self, memo)
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))

    kind.__deepcopy__ = deepcopy


def _patch_cuda(torch):
    """What torch.cuda says: devices and the current one are the runtime's, which torch and CuPy share on a GPU too."""
    cuda, current = torch.cuda, threading.local()

    class Runtime:
        def __getattr__(self, name):
            from cupy.cuda import runtime  # not before it is needed

            return getattr(runtime, name)

    runtime = Runtime()

    def index_of(device):
        index = None if device is None else device if isinstance(device, int) else torch.device(device).index
        return runtime.getDevice() if index is None else index

    def exchange(index):
        before = runtime.getDevice()
        if index >= 0:
            runtime.setDevice(index)
        return before

    class Stream:
        """A stream of the stand-in."""

        def __init__(self, device=None, stream_ptr=None):
            self.device = torch.device("cuda", index_of(device))
            self.cuda_stream = runtime.streamCreate() if stream_ptr is None else stream_ptr

        def __eq__(self, other):
            return isinstance(other, Stream) and (self.device, self.cuda_stream) == (other.device, other.cuda_stream)

        def __hash__(self):
            return hash(self.cuda_stream)

        def wait_event(self, event):
            pass  # all is done

        def wait_stream(self, stream):
            pass

        def synchronize(self):
            runtime.streamSynchronize(self.cuda_stream)

    class Event:
        """What streams wait for: all is done."""

        def __init__(self, **_):
            pass

        def record(self, stream=None):
            pass

    def streams():
        if not hasattr(current, "streams"):
            current.streams = {}
        return current.streams

    def current_stream(device=None):
        index = index_of(device)
        return streams().get(index) or Stream(index, 0)

    def set_stream(stream):
        runtime.setDevice(stream.device.index)
        streams()[stream.device.index] = stream

    cuda._lazy_init = lambda: None
    cuda.is_available = lambda: runtime.getDeviceCount() > 0
    cuda.device_count = lambda: runtime.getDeviceCount()
    cuda.current_device = lambda: runtime.getDevice()
    cuda.set_device = lambda device: exchange(index_of(device))
    cuda._exchange_device = cuda._maybe_exchange_device = exchange
    cuda.synchronize = lambda device=None: runtime.deviceSynchronize()
    cuda.empty_cache = lambda: None
    cuda.is_current_stream_capturing = lambda: False
    cuda.current_stream, cuda.set_stream, cuda.Stream, cuda.Event = current_stream, set_stream, Stream, Event
    cuda.default_stream = lambda device=None: Stream(device, 0)
    cuda.ExternalStream = lambda stream_ptr, device=None: Stream(device, stream_ptr)
