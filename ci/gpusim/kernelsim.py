"""Run one CUDA kernel from its source on NumPy arrays: no CuPy, no GPU.

    from kernelsim import run
    run(source, "scale<float>", grid=2, block=128, args=(x, np.float32(3), np.int32(x.size)))

`Module` has the interface of cupy.RawModule. To run under a sanitizer, start Python through this file:

    python kernelsim.py [--asan | --tsan] [--seed N] script.py …        (or: -m pytest tests/test_kernels.py)

AddressSanitizer and UBSan stop at the first bad access; ThreadSanitizer reports every race, and the exit status is 66.
"""

import argparse
import ctypes
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpusim import kernel_build, paths  # noqa: E402
from gpusim.kernel_build import KernelBuildError  # noqa: E402

__all__ = ["Kernel", "KernelBuildError", "KernelError", "Module", "run"]

SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "report_signal_unsafe=0",
}


class KernelError(RuntimeError):
    """A launch that a GPU would refuse, hang on, or silently get wrong."""


class Module:
    """Kernels of one source text, compiled by g++; the counterpart of cupy.RawModule.

    Parameters
    ----------
    code : str
        CUDA C++ source.
    options : sequence of str
        Compiler options; -D, -U and -I are passed on.
    name_expressions : sequence of str
        Instantiations to build, such as "scale<float>"; kernels declared extern "C" need none.
    seed : int
        Order in which the threads of a block run; 0 is ascending. Default: GPUSIM_SEED or 0.
    os_threads : int
        Blocks that run at a time. Default: GPUSIM_THREADS or 1.
    """

    def __init__(self, *, code, options=(), name_expressions=(), seed=None, os_threads=None):
        self.seed = int(os.environ.get("GPUSIM_SEED", 0)) if seed is None else seed
        self.os_threads = int(os.environ.get("GPUSIM_THREADS", 1)) if os_threads is None else os_threads
        mode = os.environ.get("GPUSIM_SANITIZER", "fast")
        source, self._symbols = kernel_build.translate(code, name_expressions or (), mode)
        path = kernel_build.compile_shared(source, options, paths.cache_dir() / "kernelsim", mode)
        self._library = ctypes.CDLL(str(path))

    def get_function(self, name):
        if name not in self._symbols:
            raise KernelError(f"no kernel {name!r}; there are {sorted(self._symbols)}")
        return Kernel(self, name, getattr(self._library, kernel_build.SYMBOL + self._symbols[name]))


class Kernel:
    """A kernel; call it as a cupy.RawKernel, with NumPy arrays in the place of CuPy's."""

    max_dynamic_shared_size_bytes = 48 * 1024  # more needs an explicit request, as on a GPU

    def __init__(self, module, name, function):
        self._module, self._name, self._function = module, name, function

    def __call__(self, grid, block, args, *, shared_mem=0):
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(
                f"{self._name}: {shared_mem} bytes of dynamic shared memory were not requested beforehand"
            )
        values = [_argument(a) for a in args]
        count = len(values)
        error = ctypes.create_string_buffer(1000)
        call = kernel_build.Call(
            (ctypes.c_uint * 3)(*_three(grid)),
            (ctypes.c_uint * 3)(*_three(block)),
            shared_mem,
            (ctypes.c_void_p * (count + 1))(*map(ctypes.addressof, values)),
            (ctypes.c_size_t * (count + 1))(*map(ctypes.sizeof, values)),
            count,
            self._module.os_threads,
            self._module.seed,
            ctypes.cast(error, ctypes.c_char_p),
            len(error),
        )
        if self._function(ctypes.byref(call)):
            raise KernelError(f"{self._name}: {error.value.decode()}")


def run(code, name, grid, block, args, *, shared_mem=0, options=(), seed=None):
    """Compile `code`, launch its kernel `name` once on NumPy arrays, in place."""
    plain = name in kernel_build.plain_kernels(code)
    module = Module(code=code, options=options, name_expressions=() if plain else (name,), seed=seed)
    module.get_function(name)(grid, block, args, shared_mem=shared_mem)


def _argument(value):
    """A kernel argument under CuPy's rules: a Python int is an int64, a float a double."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, np.generic):
        return (ctypes.c_char * value.nbytes).from_buffer_copy(value.tobytes())
    for kind, c_type in ((bool, ctypes.c_bool), (int, ctypes.c_longlong), (float, ctypes.c_double)):
        if isinstance(value, kind):
            return c_type(value)
    raise TypeError(f"unsupported kernel argument {type(value)}")


def _three(shape):
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return (*shape, 1, 1)[:3]


def main():
    parser = argparse.ArgumentParser(description="Start Python with kernelsim importable, under a sanitizer if asked.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--asan", dest="mode", action="store_const", const="asan", help="bounds, alignment, undefined behaviour"
    )
    mode.add_argument("--tsan", dest="mode", action="store_const", const="tsan", help="data races")
    parser.add_argument("--seed", default=os.environ.get("GPUSIM_SEED", "0"), help="thread order")
    options, python_arguments = parser.parse_known_args()
    mode = options.mode or "fast"
    environment = dict(os.environ, GPUSIM_SANITIZER=mode, GPUSIM_SEED=options.seed, PYTHONMALLOC="malloc")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
    if mode != "fast":
        environment["LD_PRELOAD"] = kernel_build.preload_for(mode)
        for name, value in SANITIZER_OPTIONS.items():
            environment.setdefault(name, value)
    os.execve(sys.executable, [sys.executable, *python_arguments], environment)


if __name__ == "__main__":
    main()
