import importlib
import os
from dataclasses import dataclass
from typing import Any

# Before SciPy is imported: scikit-learn's array_api_dispatch=True demands it
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# Before CuPy multiplies: the tests compare float32 with float64
os.environ["CUPY_TF32"] = "0"

import numpy as np
import pytest
import sklearn

from kmeans_xp import arrays, passes
from kmeans_xp.algorithms import ALGORITHMS, unlabeled
from kmeans_xp.arrays import device, namespace, to_numpy
from kmeans_xp.backends import REPLACEABLE, backend_for
from kmeans_xp.data.memory import InMemory
from kmeans_xp.lloyd import Run
from kmeans_xp.metric import EUCLIDEAN

pytest.register_assert_rewrite("twins")

SKLEARN_VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
REQUIRED = {name for name in os.environ.get("KMEANS_XP_REQUIRE", "").split(",") if name}


@dataclass(frozen=True)
class Library:
    """An array library on a device, as a test sees it."""

    name: str
    xp: Any
    device: Any

    def asarray(self, values, dtype=None):
        values = np.asarray(values, dtype=dtype)
        return self.xp.asarray(values, **({} if self.device is None else {"device": self.device}))

    def assert_owns(self, array, dtype):
        """The array is of this library, on this device, and has this dtype."""
        assert namespace(array) is namespace(self.asarray([0.0]))
        assert device(array) == device(self.asarray([0.0]))
        assert array.dtype == getattr(self.xp, dtype)


def load(name):
    """The library called `name`; skips where it is missing and nobody required it."""
    module, _, where = name.partition("-")
    try:
        xp = importlib.import_module({"strict": "array_api_strict", "jax": "jax.numpy"}.get(module, module))
    except ImportError:
        if module in REQUIRED:
            raise
        pytest.skip(f"{module} is not installed")
    if module == "cupy":
        if not xp.cuda.is_available():
            assert "cupy" not in REQUIRED, "CuPy is required, but there is no usable GPU"
            pytest.skip("CuPy sees no GPU")
        return Library(name, xp, None)
    if module == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    if module == "strict":
        return Library(name, xp, xp.Device(where or "CPU_DEVICE"))
    if module == "torch":
        if where == "cuda" and not xp.cuda.is_available():
            assert not {"cupy", "torch"} <= REQUIRED, "torch and CuPy are required, but torch sees no GPU"
            pytest.skip("torch sees no GPU")
        return Library(name, xp, where or "cpu")
    return Library(name, xp, None)


LIBRARIES = [
    "numpy",
    "strict",
    "strict-device1",
    "torch",
    "jax",
    pytest.param("cupy", marks=pytest.mark.gpu),
    pytest.param("torch-cuda", marks=pytest.mark.gpu),
]
if backend_for("numpy") is None:  # deleted: libraries that never had one have been tested as they are
    LIBRARIES = ["numpy", "strict"]


@pytest.fixture(params=LIBRARIES)
def lib(request):
    return load(request.param)


@pytest.fixture(params=[name for name in LIBRARIES if name != "numpy"])
def foreign(request):
    """A library other than NumPy."""
    return load(request.param)


@pytest.fixture
def unshared(monkeypatch):
    """Host arrays of other libraries are computed with by these, in the portable steps."""
    monkeypatch.setattr(arrays, "shared", lambda x: x)


@pytest.fixture(params=["shared", "unshared"])
def sharing(request):
    """Host arrays of other libraries as NumPy sees their memory, and as they are."""
    if request.param == "unshared":
        request.getfixturevalue("unshared")


@pytest.fixture
def cupy():
    """CuPy; a test with it waits for the device at its end, so that late errors are its own."""
    xp = load("cupy").xp
    yield xp
    xp.cuda.runtime.deviceSynchronize()


@pytest.fixture
def backend(cupy):
    """The module of steps for CuPy."""
    return pytest.importorskip("kmeans_xp.backends.cupy")


@pytest.fixture(params=["plain", "native", "candidates"])
def numpy_passes(request, monkeypatch):
    """In NumPy, or native for any size, comparing rows with all centers or with those that may be near, on threads."""
    backend = backend_for("numpy")
    if backend is None:
        if request.param != "plain":
            pytest.skip("without backends there is one way")
        yield
    elif request.param == "plain":
        use_plain_numpy(monkeypatch)
        yield
    else:
        native = backend._native.native
        if native is None:
            pytest.skip(f"the native steps are not in use: {backend.native_problem()}")
        monkeypatch.setattr("kmeans_xp.backends._native.steps.PARALLEL_WORK", 0)
        monkeypatch.setattr("kmeans_xp.backends._threads.blas.n_threads", lambda: 2)
        before = native.set_thresholds(0, -1 if request.param == "candidates" else np.inf)
        yield
        native.set_thresholds(*before)


@pytest.fixture(params=["baseline", "AVX2", "AVX-512"])
def instructions(request):
    """Each instruction set of the native passes that this processor has."""
    backend = backend_for("numpy")
    native = None if backend is None else backend._native.native
    if native is None:
        pytest.skip("the native steps are not in use")
    before = native.instructions()
    if not native.use_instructions(request.param):
        pytest.skip("this processor does not have them")
    yield request.param
    native.use_instructions(before)


def without(monkeypatch, *steps):
    """Have NumPy's backend leave steps to the portable functions."""
    for name in steps:
        if backend_for("numpy"):
            monkeypatch.delattr(backend_for("numpy"), name, raising=False)


def without_iterations(monkeypatch):
    """Have NumPy's backend give one iteration at a time, by the portable function."""
    without(monkeypatch, "iterations", "run_at_once", "fits_at_once")


def use_plain_numpy(monkeypatch):
    """Have NumPy's steps as they are where the native ones are not installed."""
    backend = backend_for("numpy")
    plain = importlib.import_module("kmeans_xp.backends._plain")
    monkeypatch.delattr(backend, "for_scipy", raising=False)
    for name in set(REPLACEABLE) & set(vars(backend)):
        if vars(backend)[name].__module__ != backend.__name__:
            monkeypatch.delattr(backend, name)
            if hasattr(plain, name):
                monkeypatch.setattr(backend, name, getattr(plain, name), raising=False)


@pytest.fixture
def rng():
    return np.random.default_rng(20231)


def in_memory(X, sample_weight):
    """Rows and weights as a source."""
    return InMemory(X, sample_weight, EUCLIDEAN, fitting=False)


def moments(X, sample_weight, tile_bytes):
    """The frame of a fit."""
    return passes.moments(in_memory(X, sample_weight), tile_bytes)


def unbounded(X, sample_weight):
    """Labels and slack of rows that nothing is known about."""
    return unlabeled(X), namespace(X).full_like(sample_weight, -np.inf)


def run_of(X, sample_weight, n_clusters, frame, algorithm):
    """What `lloyd` iterates over."""
    return Run(in_memory(X, sample_weight), n_clusters, frame, EUCLIDEAN, ALGORITHMS[algorithm])


def blobs(rng, n_samples=500, n_features=4, n_clusters=5, spread=6.0, dtype="float64"):
    """Rows around random centers."""
    centers = rng.normal(scale=spread, size=(n_clusters, n_features))
    X = centers[rng.integers(n_clusters, size=n_samples)] + rng.normal(size=(n_samples, n_features))
    return X.astype(dtype)


def brute_force(X, centers):
    """All squared distances, summed directly in float64."""
    return ((X[:, None, :].astype("float64") - np.asarray(centers, dtype="float64")[None]) ** 2).sum(axis=2)


def inertia(X, centers, sample_weight=1.0):
    """Weighted sum of the squared distances to the nearest centers."""
    return float((brute_force(to_numpy(X), to_numpy(centers)).min(axis=1) * sample_weight).sum())
