"""What callers have set for a library changes no result and stays as it is: modes, defaults, precision, errors."""

import contextlib
import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import blobs, load
from scipy import sparse

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics
from kmeans_xp.arrays import to_numpy

LABELS = np.arange(90) % 3


def fitted(model, X, **weights):
    model.fit(X, **weights)
    sizes = [model.cluster_sizes_] if hasattr(model, "cluster_sizes_") else []
    return [model.cluster_centers_, model.labels_, model.inertia_, *sizes]


def seen(model, X, sample_weight):
    return [
        model.cluster_centers_,
        model.predict(X),
        model.score(X, sample_weight=sample_weight),
        *model.nearest_centers(X, 2),
        *model.nearest_rows(X, 2),
    ]


def in_batches(X, sample_weight):
    model = MiniBatchKMeans(3, random_state=0)
    for rows in (slice(0, 30), slice(30, 60), slice(60, 90)):
        model.partial_fit(X[rows, :], sample_weight=sample_weight[rows])
    return [model.cluster_centers_, model.labels_, model.inertia_, model._counts]


def swept(X, sample_weight):
    model = KMeansSweep(range(2, 4), criteria=("gap", "bic"), n_references=1, random_state=0)
    model.fit(X, sample_weight=sample_weight)
    return [model.labels_, model.cluster_centers_, model.predict(X), *map(np.asarray, model.results_["gap"])]


# Everything but `transform`, of rows X, their weights and three centers: what it gives
JOBS = {
    "KMeans": lambda X, w, C: fitted(KMeans(3, random_state=0), X, sample_weight=w),
    "elkan": lambda X, w, C: fitted(KMeans(3, random_state=0, algorithm="elkan"), X),
    "cosine": lambda X, w, C: fitted(KMeans(3, random_state=0, metric="cosine"), X),
    "k-means||": lambda X, w, C: fitted(KMeans(3, random_state=0, init="k-means||"), X),
    "given centers": lambda X, w, C: fitted(KMeans(3, init=C), X),
    "callable": lambda X, w, C: fitted(KMeans(3, init=lambda X, k, random_state: X[:k, :] * 1.5, n_init=1), X),
    "fitted here": lambda X, w, C: seen(KMeans(3, random_state=0).fit(X), X, w),
    "fitted elsewhere": lambda X, w, C: seen(
        KMeans(3, random_state=0).fit(np.linspace(-1, 5, 90).reshape(30, 3)), X, w
    ),
    "from_centers": lambda X, w, C: seen(KMeans.from_centers(C), X, w),
    "MiniBatchKMeans": lambda X, w, C: fitted(MiniBatchKMeans(3, batch_size=30, max_iter=2, random_state=0), X),
    "partial_fit": lambda X, w, C: in_batches(X, w),
    "KMeansSweep": lambda X, w, C: swept(X, w),
    "kmeans_plusplus": lambda X, w, C: kmeans_plusplus(X, 3, sample_weight=w, random_state=0),
    "cluster_inertias": lambda X, w, C: metrics.cluster_inertias(X, LABELS, w),
    "silhouettes": lambda X, w, C: [
        metrics.silhouette_samples(X, LABELS, sample_weight=w),
        metrics.silhouette_samples(X, LABELS, metric="sqeuclidean"),
        metrics.simplified_silhouette_samples(X, LABELS, w),
        metrics.silhouette_score(X, LABELS, sample_size=40, random_state=0),
    ],
    "other criteria": lambda X, w, C: [
        score(X, LABELS, w)
        for score in (metrics.calinski_harabasz_score, metrics.davies_bouldin_score, metrics.bic_score)
    ],
}


def results(X, sample_weight, centers, jobs=JOBS):
    """What the jobs give, for each its name and the arrays."""
    return {name: list(job(X, sample_weight, centers)) for name, job in jobs.items()}


def assert_same_bits(found, expected):
    for name, values in expected.items():
        for value, right in zip(found[name], values, strict=True):
            value, right = (v if isinstance(v, float) else to_numpy(v) for v in (value, right))
            assert getattr(value, "dtype", None) == getattr(right, "dtype", None), name
            np.testing.assert_array_equal(value, right, err_msg=name)


@pytest.fixture
def problem(rng):
    X = rng.normal(size=(90, 3)).astype("float32")  # no clusters: many rows are nearly as far from two centers
    return X, rng.uniform(0.5, 2, size=90), X[:3].copy()


@contextlib.contextmanager
def changed(getter, setter, value):
    """A setting of a library with another value; it must still be there at the end."""
    before = getter()
    setter(value)
    try:
        yield
        assert getter() == value
    finally:
        setter(before)


@pytest.mark.usefixtures("sharing")
class TestTorch:
    """Modes and defaults of torch."""

    @staticmethod
    def ambient(torch, name):
        return {
            "gradients": contextlib.nullcontext,
            "no gradients": torch.no_grad,
            "inference": torch.inference_mode,
            "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
            "precision": lambda: changed(
                torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
            ),
            "float64": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
            "bfloat16": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
            "device": lambda: changed(torch.get_default_device, torch.set_default_device, torch.device("meta")),
            "device context": lambda: torch.device("meta"),
            "deterministic": lambda: changed(
                torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
            ),
            "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
        }[name]()

    @pytest.mark.parametrize(
        "name",
        [
            *("gradients", "no gradients", "inference", "autocast", "precision", "float64", "bfloat16", "device"),
            *("device context", "deterministic", "anomaly"),
        ],
    )
    def test_no_setting_of_torch_changes_a_bit_or_records_a_gradient(self, name, problem):
        torch = load("torch").xp
        given = [torch.asarray(array) for array in problem]
        expected = results(*given)
        wanting = [array.clone().requires_grad_() for array in given]
        saved = []

        def pack(tensor):
            saved.append(tensor)
            return tensor

        with self.ambient(torch, name), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
            found = results(*wanting)
            assert modes == (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu"),
            )
        assert not saved, "kept for a backward pass"
        assert_same_bits(found, expected)
        for job, values in found.items():
            for value in values:
                assert not getattr(value, "requires_grad", False), job
                assert not (torch.is_tensor(value) and value.is_inference()), job

    def test_many_rows_under_autocast(self, rng):
        torch = load("torch").xp
        X = torch.asarray(rng.normal(size=(1500, 8)), dtype=torch.float32)
        model = KMeans(20, random_state=0, max_iter=50, tol=0.01).fit(X)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.predict(X), model.labels_)
            again = KMeans(20, random_state=0, max_iter=50, tol=0.01).fit(X)
        assert torch.equal(again.labels_, model.labels_)

    def test_rows_of_inference_mode(self, problem):
        torch = load("torch").xp
        expected = results(*(torch.asarray(array) for array in problem))
        with torch.inference_mode():
            given = [torch.asarray(array).clone() for array in problem]
        assert_same_bits(results(*given), expected)

    def test_batches_that_are_outputs_of_a_model_are_let_go(self, rng):
        torch = load("torch").xp
        layer = torch.nn.Linear(4, 3)
        model, in_graphs = MiniBatchKMeans(2, random_state=0), []

        class Kept:
            def __init__(self, tensor):
                self.tensor = tensor
                in_graphs.append(weakref.ref(self))

        for _ in range(4):
            with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
                batch = layer(torch.asarray(rng.normal(size=(20, 4)), dtype=torch.float32))
            model.partial_fit(batch)
        assert in_graphs[-1]() is not None
        del batch
        gc.collect()
        assert not [kept for kept in in_graphs if kept() is not None]
        assert not [name for name, value in vars(model).items() if getattr(value, "requires_grad", False)]

    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    def test_transform_stays_differentiable(self, metric, rng):
        torch = load("torch").xp
        C = torch.asarray(rng.normal(size=(4, 3)))
        model = KMeans.from_centers(C, metric=metric)
        X = torch.asarray(rng.normal(size=(20, 3))).requires_grad_()
        factors = torch.asarray(rng.normal(size=(20, 4)))

        (found,) = torch.autograd.grad((factors * model.transform(X)).sum(), X)
        if metric == "euclidean":
            distances = torch.linalg.vector_norm(X[:, None, :] - C[None, :, :], dim=2)
        else:
            distances = 1 - torch.nn.functional.normalize(X) @ torch.nn.functional.normalize(C).T
        (expected,) = torch.autograd.grad((factors * distances).sum(), X)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert torch.autograd.gradcheck(model.transform, X)
        half = X.detach().float().requires_grad_()
        (found,) = torch.autograd.grad((factors * model.transform(half)).sum(), half)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            assert not model.transform(X).requires_grad

    def test_read_only_memory_of_numpy_beside_torch(self, problem):
        torch = load("torch").xp
        X, weights, centers = problem
        labels = LABELS.copy()
        for array in (weights, centers, labels):
            array.flags.writeable = False
        model = KMeans(3, init=centers).fit(torch.asarray(X), sample_weight=weights)
        model.score(torch.asarray(X), sample_weight=weights)
        model.cluster_centers_ = centers
        model.predict(torch.asarray(X))
        MiniBatchKMeans(3, init=centers).fit(torch.asarray(X), sample_weight=weights)
        metrics.silhouette_score(torch.asarray(X), labels, sample_weight=weights)

    @pytest.mark.usefixtures("unshared")
    def test_products_are_not_rounded_during_a_fit(self, problem):
        torch = load("torch").xp
        if not hasattr(torch.backends.mkldnn, "matmul"):
            pytest.skip("torch before 2.9 has one setting for all")
        settings = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul

        def precisions():
            return [setting.fp32_precision for setting in settings]

        seen = []
        with changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"):
            before = precisions()
            KMeans(3, on_iteration=lambda iteration: seen.append(precisions())).fit(torch.asarray(problem[0]))
            assert precisions() == before
        assert before != ["ieee", "ieee"]
        assert seen
        assert all(during == ["ieee", "ieee"] for during in seen)

    def test_concurrent_and_failing_fits_put_the_precision_back(self, problem):
        torch = load("torch").xp
        X = torch.asarray(problem[0])
        expected = KMeans(3, random_state=0).fit(X).cluster_centers_
        with changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"):
            with ThreadPoolExecutor(4) as pool:
                fits = list(pool.map(lambda _: KMeans(3, random_state=0).fit(X), range(20)))

            def fails(iteration):
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                KMeans(3, on_iteration=fails).fit(X)
            assert torch.is_grad_enabled()
        assert all(torch.equal(model.cluster_centers_, expected) for model in fits)


@pytest.mark.usefixtures("sharing")
class TestJax:
    """Flags of JAX."""

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("enable_x64", False),
            ("default_matmul_precision", "bfloat16"),
            ("numpy_dtype_promotion", "strict"),
            ("numpy_rank_promotion", "raise"),
            ("debug_nans", True),
            ("debug_infs", True),
            ("transfer_guard", "disallow"),
        ],
    )
    def test_no_flag_of_jax_changes_a_bit(self, flag, value, problem):
        load("jax")
        import jax

        given = [jax.numpy.asarray(array) for array in problem]
        # Slices of rows are taken by these themselves
        jobs = {name: job for name, job in JOBS.items() if name not in ("partial_fit", "callable")}
        expected = results(*given, jobs=jobs)
        with getattr(jax, flag)(value):
            found = results(*given, jobs=jobs)
            assert getattr(jax.config, f"jax_{flag}") == value
        assert_same_bits(found, expected)

    def test_batches_without_64_bits(self, problem):
        load("jax")
        import jax

        given = [jax.numpy.asarray(array) for array in problem]
        with jax.enable_x64(False):
            found = in_batches(*given[:2])
        assert_same_bits({"": found}, {"": in_batches(*given[:2])})


class TestFloatingPointFlags:
    """Flags that products raise mean nothing: numbers are checked where they matter."""

    @pytest.fixture(autouse=True)
    def all_of_them_raise(self):
        with np.errstate(all="raise"), warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    @staticmethod
    def expected(*job):
        with np.errstate(all="ignore"):
            return results(*job)

    @pytest.mark.parametrize(
        ("dtype", "scale"),
        [
            *(("float64", scale) for scale in (1e-120, 1.0, 1e120)),
            *(("float32", scale) for scale in (1e-30, 1e-22, 1.0, 1e20, 1e30)),
        ],
    )
    @pytest.mark.parametrize("weight", [1e-30, 1.0, 1e30])
    def test_products_that_leave_the_range_harmlessly(self, dtype, scale, weight, rng):
        X = (blobs(rng, 90, 3, n_clusters=3) * scale).astype(dtype)
        of_counts = {"silhouettes", "other criteria"}  # which say nothing of less than a row
        jobs = {name: job for name, job in JOBS.items() if weight == 1 or name not in of_counts}
        job = X, np.full(90, weight), X[:3], jobs
        assert_same_bits(results(*job), self.expected(*job))

    @pytest.mark.parametrize("scale", [1e-25, 1e25])
    def test_in_the_threads_of_a_pass(self, scale, rng):
        X = (blobs(rng, 25_000, 8, n_clusters=40) * scale).astype("float32")  # many tiles, and threads
        for algorithm in ("lloyd", "elkan"):
            model = KMeans(40, init=X[:40], algorithm=algorithm, tol=1e-2).fit(X)
            with np.errstate(all="ignore"):
                expected = KMeans(40, init=X[:40], algorithm=algorithm, tol=1e-2).fit(X)
            np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
            np.testing.assert_array_equal(model.predict(X[:, ::-1]), expected.predict(X[:, ::-1]))

    @pytest.mark.parametrize("scale", [1e-25, 1e25])
    def test_of_rows_that_are_no_array(self, scale, rng, tmp_path):
        da = pytest.importorskip("dask.array")
        X = (blobs(rng, 90, 3, n_clusters=3) * scale).astype("float32")
        np.save(tmp_path / "rows.npy", X)

        class Source:
            shape, dtype = X.shape, X.dtype

            def __getitem__(self, rows):
                return np.load(tmp_path / "rows.npy", mmap_mode="r")[rows]

        right = KMeans(3, init=X[:3]).fit(X).labels_
        for rows in (Source(), da.from_array(X, chunks=(30, 3)), sparse.csr_array(X)):
            model = KMeans(3, init=X[:3]).fit(rows)
            np.testing.assert_array_equal(np.asarray(model.labels_), right)
            np.testing.assert_array_equal(np.asarray(model.predict(rows)), right)
            model.score(rows)
            np.asarray(model.transform(rows))

    def test_a_flag_that_a_blas_kernel_raises_without_reason(self, monkeypatch, rng):
        """Of finite numbers of shape (1, 5), a kernel of OpenBLAS once raised 'invalid'."""
        X = blobs(rng, 90, 3, dtype="float32")
        matmul = np.matmul

        def raising(*args, **kwargs):
            np.float32(np.inf) - np.float32(np.inf)
            return matmul(*args, **kwargs)

        monkeypatch.setattr(np, "matmul", raising)
        with pytest.raises(FloatingPointError):
            np.matmul(X, X.T)
        model = KMeans(3, random_state=0).fit(X)
        model.predict(X)
        model.transform(X)
