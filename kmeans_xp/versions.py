"""What is installed, for a bug report."""

import platform
from importlib import metadata

from threadpoolctl import threadpool_info

from kmeans_xp.backends import backend_for, backend_names
from kmeans_xp.devices import cuda_devices, cuda_problem

LIBRARIES = (
    *("kmeans_xp", "numpy", "scipy", "scikit-learn", "array-api-compat"),
    "threadpoolctl",
    *("cupy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "dpnp", "array-api-strict"),
)


def show_versions() -> None:
    """Print the versions of the libraries, the BLAS in use, the CUDA devices and the steps that are replaced.

    Imports CuPy where it is installed, to ask for devices.

    Examples
    --------
    >>> import kmeans_xp
    >>> kmeans_xp.show_versions()  # doctest: +ELLIPSIS
    Python: ...
    """
    print(f"Python: {platform.python_version()} on {platform.platform()}")
    for library in LIBRARIES:
        try:
            print(f"{library}: {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    for pool in threadpool_info():
        kernel = pool.get("architecture", "")
        print(f"threads: {pool['internal_api']} {pool['version']} {kernel} with {pool['num_threads']}")
    problem = cuda_problem()
    if problem:
        print(f"CUDA: {problem}; arrays of torch and JAX on CUDA are computed with by functions of their library")
    else:
        print(f"CUDA: {', '.join(cuda_devices())}; arrays of torch and JAX there have the kernels for CuPy's")
    print(f"fast steps for: {', '.join(backend_names()) or 'no library'}; the portable ones run everywhere else")
    if fast := backend_for("numpy"):
        print(f"passes over NumPy arrays: {fast.passes_in_use()}")
