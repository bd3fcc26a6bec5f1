"""Arrays of torch and JAX on CUDA: our kernels read their memory, in their stream, and results are theirs.

On the stand-in torch's tensors are those of its CPU build (ci/gpusim/README.md), and JAX's pose as such here.
"""

import contextlib
import ctypes
import gc
import importlib.util
import weakref

import numpy as np
import pytest
from conftest import blobs, load
from test_shared_memory import JOBS, fitted, told

from kmeans_xp import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans, arrays, metrics
from kmeans_xp.arrays import asarray_like, shared, to_numpy

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]

FITS = {
    "KMeans": lambda X: KMeans(5, random_state=0, max_iter=5, tol=1e9).fit(X),
    "elkan": lambda X: KMeans(5, random_state=0, algorithm="elkan").fit(X),
    "cosine": lambda X: KMeans(5, random_state=0, metric="cosine").fit(X),
    "refine": lambda X: KMeans(5, random_state=0, refine=True).fit(X),
    "sizes": lambda X: KMeans(5, random_state=0, size_min=20).fit(X),
    "MiniBatchKMeans": lambda X: MiniBatchKMeans(5, random_state=0, batch_size=50).fit(X),
    "partial_fit": lambda X: MiniBatchKMeans(5, random_state=0).partial_fit(X).partial_fit(X[:90]),
    "BisectingKMeans": lambda X: BisectingKMeans(5, random_state=0).fit(X),
    "KMeansSweep": lambda X: KMeansSweep([2, 3], random_state=0).fit(X),
}


@pytest.fixture
def torch():
    return load("torch-cuda").xp


@pytest.fixture(params=["float32", "float64"])
def rows(request, rng):
    return blobs(rng, 200, 6, dtype=request.param)


@pytest.fixture
def launches(backend, monkeypatch):
    """Addresses of the arrays that kernels were given, and the streams in which they were launched."""
    seen, launch = [], backend._cuda.launch
    cupy = load("cupy").xp

    def noting(kernel, grid, block, *arguments, **options):
        addresses = {x.data.ptr for x in arguments if isinstance(x, cupy.ndarray)}
        stream = cupy.cuda.get_current_stream()
        if not stream.is_capturing():  # but in a graph, which is launched itself
            seen.append((addresses, stream.ptr))
        launch(kernel, grid, block, *arguments, **options)

    for module in (backend.passes, backend._cupy_problems):
        monkeypatch.setattr(module, "launch", noting)
    graph = importlib.import_module("kmeans_xp.backends._cupy_graph").Graph
    launch_graph = graph.launch
    monkeypatch.setattr(
        graph, "launch", lambda own: seen.append((set(), cupy.cuda.get_current_stream().ptr)) or launch_graph(own)
    )
    return seen


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("fit", FITS)
def test_kernels_read_what_the_user_owns_and_give_the_bits_of_cupy(fit, cupy, torch, rows, launches):
    X = torch.asarray(rows, device="cuda")
    expected = FITS[fit](cupy.asarray(rows))
    launches.clear()
    model = FITS[fit](X)
    read = set().union(*(addresses for addresses, _ in launches))
    assert launches
    assert X.data_ptr() in read or fit in ("cosine", "MiniBatchKMeans", "BisectingKMeans"), "those prepare or take rows"
    assert set(vars(model)) == set(vars(expected))
    for name, right in vars(expected).items():
        if isinstance(right, cupy.ndarray):
            value = vars(model)[name]
            assert (type(value), value.device) == (torch.Tensor, X.device), name
            np.testing.assert_array_equal(to_numpy(value), right.get(), err_msg=name)
        elif isinstance(right, float):
            assert vars(model)[name] == right, name


def test_nothing_passes_through_the_host(cupy, torch, rows):
    """Counted by the stand-in: as many bytes leave the device as for CuPy's arrays, and they are few."""
    gpusim = pytest.importorskip("gpusim")
    X, weights = np.tile(rows, (10, 1)), np.ones(len(rows) * 10)

    def counted(X, weights):
        model = KMeans(5, init=X[:5], max_iter=5, tol=1e9)
        calls = (
            lambda: model.fit(X, sample_weight=weights),
            *(lambda: model.predict(X), lambda: model.transform(X), lambda: model.score(X, sample_weight=weights)),
            *(lambda: model.nearest_centers(X, 2), lambda: model.nearest_rows(X, 2)),
            lambda: metrics.silhouette_score(X, model.labels_),
        )
        for call in calls:
            call()  # compiles
            with gpusim.sync_counts() as counts:
                call()
            yield counts

    pairs = zip(
        counted(torch.asarray(X, device="cuda"), torch.asarray(weights, device="cuda")),
        counted(cupy.asarray(X), cupy.asarray(weights)),
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.to_host <= theirs.to_host
        assert ours.waits <= theirs.waits
        assert ours.bytes_to_host <= theirs.bytes_to_host
        assert ours.bytes_to_device <= theirs.bytes_to_device
        assert ours.bytes_to_host <= 16 * len(X), "as many as weights have, of which a sample is drawn, and labels"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("job", [job for job in {**JOBS, **FITS} if job != "on the CPU"])
def test_all_is_done_in_the_current_stream_of_torch(job, cupy, torch, launches, rng):
    """Kernels, and whatever needs memory, which all functions of CuPy do for their results."""
    rows = blobs(rng, 200, 6, dtype="float32")
    given = torch.asarray(rows, device="cuda"), torch.asarray(rng.uniform(0.5, 2, size=len(rows)), device="cuda")
    rows, weights = given[0][:120], given[1][:120]

    class Noting(cupy.cuda.MemoryHook):
        name = "Noting"

        def malloc_preprocess(self, **_):
            if not cupy.cuda.get_current_stream().is_capturing():
                launches.append((set(), cupy.cuda.get_current_stream().ptr))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with Noting(), torch.cuda.stream(stream):
        JOBS[job](rows, weights) if job in JOBS else FITS[job](rows)
    stream.synchronize()
    assert launches
    assert {used for _, used in launches} == {stream.cuda_stream}
    assert cupy.cuda.get_current_stream().ptr == 0


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_host_tensors_on_a_gpu(device, cupy, torch, rows, rng):
    """They are computed with there; results are host tensors, and callables see what is computed with."""
    if device == "cuda:1" and cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    weights, seen = rng.uniform(0.5, 2, size=len(rows)), []
    on_gpu = KMeans(5, random_state=0).fit(cupy.asarray(rows), sample_weight=cupy.asarray(weights))
    X, weights = torch.asarray(rows), torch.asarray(weights)
    model = KMeans(5, random_state=0, device=device).fit(X, sample_weight=weights)
    expected = [to_numpy(value) if isinstance(value, cupy.ndarray) else value for value in fitted(on_gpu)]
    for value, right in zip(fitted(model), expected, strict=True):
        assert not torch.is_tensor(value) or not value.is_cuda
        np.testing.assert_array_equal(value, right)
    for value, right in zip(told(model, X, weights), told(on_gpu, cupy.asarray(rows), weights), strict=True):
        assert not torch.is_tensor(value) or not value.is_cuda
        np.testing.assert_array_equal(value, to_numpy(right) if isinstance(right, cupy.ndarray) else right)
    KMeans(3, init=lambda X, k, random_state: seen.append(X) or X[:k] * 2, n_init=1, device=device).fit(X)
    assert seen[0].device == torch.device("cuda", int(device[5:] or 0))
    back = KMeans(5, random_state=0, device="cpu").fit(X.to("cuda"))
    assert back.labels_.is_cuda
    assert torch.equal(back.cluster_centers_.cpu(), KMeans(5, random_state=0).fit(X).cluster_centers_)


def test_a_tensor_of_the_second_gpu_stays_there(cupy, torch, rows):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    X, expected = torch.asarray(rows, device="cuda:1"), KMeans(5, random_state=0).fit(cupy.asarray(rows))
    model = KMeans(5, random_state=0).fit(X)
    moved = KMeans(5, random_state=0, device="cuda:1").fit(X.to("cuda:0"))
    for fit, index in ((model, 1), (moved, 0)):
        for value in [*fitted(fit), *told(fit, X.to(f"cuda:{index}"), None)]:
            assert not torch.is_tensor(value) or value.device.index == index
        np.testing.assert_array_equal(to_numpy(fit.cluster_centers_), expected.cluster_centers_.get())
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert torch.equal(KMeans(5, random_state=0).fit(X.to("cuda:0")).labels_.to("cuda:1"), model.labels_)


def test_weights_centers_and_results_of_any_library(cupy, torch, rows, rng):
    weights = rng.uniform(0.5, 2, size=len(rows))
    make = {
        "NumPy": lambda x: x,
        "CuPy": cupy.asarray,
        "torch": torch.asarray,
        "torch on CUDA": lambda x: torch.asarray(x, device="cuda"),
    }
    fits = {
        (of_rows, of_rest): KMeans(5, init=make[of_rest](rows[:5])).fit(
            make[of_rows](rows), sample_weight=make[of_rest](weights)
        )
        for of_rows in make
        for of_rest in make
    }
    for (of_rows, _), model in fits.items():
        assert type(model.cluster_centers_) is type(make[of_rows](rows))
        expected = fits[of_rows, "NumPy"]
        np.testing.assert_array_equal(to_numpy(model.cluster_centers_), to_numpy(expected.cluster_centers_))
    labels = to_numpy(fits["CuPy", "NumPy"].labels_)
    for one in make:
        model, X = fits[one, one], make[one](rows)
        for other in make:
            seen = model.predict(make[other](rows))
            assert type(seen) is type(make[other](rows))
            np.testing.assert_array_equal(to_numpy(seen), labels)
            out = make[other](np.zeros((len(rows), 5)))
            assert model.transform(X, out=out) is out
            np.testing.assert_array_equal(to_numpy(out), to_numpy(model.transform(X)))
            score = metrics.davies_bouldin_score(X, make[other](labels))
            np.testing.assert_allclose(score, metrics.davies_bouldin_score(rows, labels), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions(dtype, cupy, torch, rng, launches):
    """They are read as they are, bfloat16 where CuPy has it, and else computed with by torch: all in float32."""
    if dtype == "bfloat16" and importlib.util.find_spec("gpusim") and importlib.util.find_spec("ml_dtypes"):
        pytest.skip("the stand-in cannot compile CuPy's functions for bfloat16")
    X = torch.asarray(blobs(rng, 900, 6), device="cuda").to(getattr(torch, dtype))
    init = X[:20].float()
    half, single = (KMeans(20, init=init).fit(x) for x in (X, X.float()))
    launches.clear()
    labels = half.predict(X)
    assert bool(launches) == (shared(X) is not X)
    assert shared(X) is not X or dtype == "bfloat16"
    assert half.cluster_centers_.dtype == half.transform(X).dtype == torch.float32
    assert torch.equal(labels, single.labels_)
    torch.testing.assert_close(half.cluster_centers_, single.cluster_centers_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("view", ["columns", "strided", "transposed", "repeated", "negative", "misaligned"])
def test_rows_as_they_lie(view, torch, rng):
    base = torch.asarray(rng.normal(size=(200, 10)).astype("float32"), device="cuda")
    X = {
        "columns": lambda: base[:, 3:8],
        "strided": lambda: base[::3],
        "transposed": lambda: base.T,
        "repeated": lambda: base[:1].expand(50, 10),
        "negative": lambda: torch.complex(base, base).conj().imag,
        "misaligned": lambda: base.ravel()[1:1501].reshape(150, 10),
    }[view]()
    before = X.clone()
    model = KMeans.from_centers(before.contiguous()[:4])
    assert torch.equal(model.predict(X), model.predict(before.contiguous()))
    assert torch.equal(X, before)
    found, expected = (KMeans(3, init=before[:3].clone(), max_iter=3, tol=1e9).fit(x) for x in (X, before.contiguous()))
    torch.testing.assert_close(found.cluster_centers_, expected.cluster_centers_, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_recorded_but_for_transform(torch, rows, launches):
    X = torch.asarray(rows, device="cuda").requires_grad_()
    with torch.inference_mode(), torch.device("meta"):
        model = KMeans(3, random_state=0).fit(X)
        found = [*fitted(model), *told(model, X.detach(), None)]
    assert launches
    found += fitted(KMeans(3, random_state=0).fit(X))
    found += fitted(KMeans(3, random_state=0).fit(torch.nn.Parameter(X.detach())))
    for value in found:
        assert not torch.is_tensor(value) or not (value.is_inference() or value.requires_grad)
    launches.clear()
    distances = model.transform(X)
    assert distances.requires_grad, "by the portable steps"
    assert not launches
    torch.testing.assert_close(distances.detach(), model.transform(X.detach()), rtol=1e-5, atol=1e-5)


def test_tensors_of_the_users_classes_stay_what_they_are(torch, rows):
    class Tagged(torch.Tensor):
        pass

    X = torch.asarray(rows, device="cuda")
    tagged = X.as_subclass(Tagged)
    assert shared(tagged) is tagged
    assert torch.equal(
        KMeans(3, init=X[:3]).fit(tagged).labels_.as_subclass(torch.Tensor), KMeans(3, init=X[:3]).fit(X).labels_
    )


def test_without_cupy_torch_computes(torch, rows, launches, monkeypatch):
    X = torch.asarray(rows, device="cuda")
    expected = KMeans(3, init=X[:3]).fit(X)
    launches.clear()
    monkeypatch.setattr(arrays, "usable_cupy", lambda: None)
    model = KMeans(3, init=X[:3]).fit(X)
    assert not launches
    assert torch.equal(model.labels_, expected.labels_)
    torch.testing.assert_close(model.cluster_centers_, expected.cluster_centers_)


def test_a_graph_that_is_captured(torch, rows, monkeypatch):
    X = torch.asarray(rows, device="cuda")
    model = KMeans(3, random_state=0).fit(X)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for call in (model.predict, model.transform, model.fit):
        with pytest.raises(RuntimeError, match="torch captures a CUDA graph in the current stream"):
            call(X)


def test_what_torch_keeps_for_later_is_asked_back(cupy, torch, rows, monkeypatch):
    """Once for each array that CuPy finds no memory for."""
    X, allocate, emptied = torch.asarray(rows, device="cuda"), cupy.cuda.get_allocator(), []
    expected = KMeans(3, random_state=0).fit(X).cluster_centers_
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))

    def full(n_bytes):
        if not emptied:
            raise cupy.cuda.memory.OutOfMemoryError(n_bytes, 0, 0)
        return allocate(n_bytes)

    with cupy.cuda.using_allocator(full):
        assert torch.equal(KMeans(3, random_state=0).fit(X).cluster_centers_, expected)
        assert emptied == [1]
        assert cupy.cuda.get_allocator() is full


def test_memory_lives_as_long_as_who_uses_it(cupy, torch, rows):
    """A view of a tensor keeps that, results keep CuPy's memory, and a model keeps no rows."""
    pool, X = cupy.get_default_memory_pool(), torch.asarray(rows, device="cuda")
    view = shared(X)
    model = KMeans(3, random_state=0).fit(X)
    distances, gone = model.transform(X), weakref.ref(X)
    expected, n_bytes, used = to_numpy(distances), distances.nbytes, pool.used_bytes()
    del X
    gc.collect()
    assert gone() is None
    torch.zeros(rows.shape, device="cuda"), cupy.full(n_bytes, 7, dtype="uint8")  # would be given what is free
    np.testing.assert_array_equal(view.get(), rows)
    np.testing.assert_array_equal(to_numpy(distances), expected)
    del distances
    gc.collect()
    assert pool.used_bytes() <= used - n_bytes


@contextlib.contextmanager
def posing(jax, monkeypatch):
    """JAX's host arrays as arrays on CUDA, which lend the memory that they have, and whose results are given back."""
    kind = type(jax.numpy.zeros(1))
    lend = kind.__dlpack__

    def lending(self, **_):
        capsule = lend(self)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        device = (ctypes.c_int32 * 2).from_address(pointer(capsule, b"dltensor") + 8)
        device[:] = 2, 0
        return capsule

    with monkeypatch.context() as patch:
        patch.setattr(kind, "__dlpack__", lending)
        patch.setattr(kind, "__dlpack_device__", lambda self: (2, 0))
        patch.setattr(jax.dlpack, "from_dlpack", lambda x: jax.numpy.asarray(x.get()))
        yield


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_arrays_of_jax(fit, cupy, rows, launches, monkeypatch):
    """JAX may take its memory back when a call returns, so that waits for the device."""
    gpusim = pytest.importorskip("gpusim", reason="on a GPU, test_arrays_of_jax_on_a_gpu")
    load("jax")
    import jax

    expected = FITS[fit](cupy.asarray(rows))
    launches.clear()
    with posing(jax, monkeypatch):
        X = jax.numpy.asarray(rows)
        model = FITS[fit](X)
        assert launches
        with gpusim.sync_counts() as counts, monkeypatch.context() as patch:
            patch.setattr(jax.dlpack, "from_dlpack", lambda x: X)
            model.predict(X)
        assert counts.waits > 0
        for name, right in vars(expected).items():
            if isinstance(right, cupy.ndarray):
                assert isinstance(vars(model)[name], jax.Array)
                np.testing.assert_array_equal(np.asarray(vars(model)[name]), right.get(), err_msg=name)


def test_arrays_of_jax_on_a_gpu(cupy, rows, launches):
    load("jax")
    import jax

    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    X, expected = jax.numpy.asarray(rows), KMeans(5, random_state=0).fit(cupy.asarray(rows))
    launches.clear()
    model = KMeans(5, random_state=0).fit(X)
    assert launches
    assert model.labels_.devices() == X.devices()
    np.testing.assert_array_equal(np.asarray(model.cluster_centers_), expected.cluster_centers_.get())
    np.testing.assert_array_equal(np.asarray(model.transform(X)), expected.transform(cupy.asarray(rows)).get())
    assert shared(X).data.ptr == X.unsafe_buffer_pointer()


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool", "float16", "float32", "float64", "uint8"])
def test_arrays_go_from_library_to_library(dtype, cupy, torch):
    there = cupy.arange(6).astype(dtype).reshape(2, 3)[:, ::2]
    like = torch.zeros(1, device="cuda")
    found = asarray_like(there, like)
    assert found.data_ptr() == there.data.ptr
    assert asarray_like(found, there).data.ptr == there.data.ptr
    assert asarray_like(there, like, torch.float64).dtype == torch.float64
    np.testing.assert_array_equal(to_numpy(found), there.get())
    with torch.cuda.stream(torch.cuda.Stream()):  # in which CuPy does not compute
        copied = asarray_like(there, like)
    torch.cuda.synchronize()
    assert copied.data_ptr() != there.data.ptr
    np.testing.assert_array_equal(to_numpy(copied), there.get())
