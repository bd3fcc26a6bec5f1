"""Arrays of torch and JAX are computed with as NumPy or CuPy sees their memory: its results, in the user's library."""

import numpy as np
import pytest
from conftest import blobs, load

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics
from kmeans_xp.arrays import device, namespace, shared, to_numpy

N_ROWS = 120
LABELS = np.arange(N_ROWS) % 3
FITTED = "cluster_centers_", "labels_", "cluster_sizes_", "inertia_", "_origin", "_spread"


@pytest.fixture(params=["torch", "jax", pytest.param("torch-cuda", marks=pytest.mark.gpu)])
def sharing(request):
    """A library whose arrays another one shares."""
    return load(request.param)


@pytest.fixture
def sees(sharing):
    """The library that shares them."""
    return load("cupy" if sharing.name == "torch-cuda" else "numpy")


@pytest.fixture(params=["float32", "float64"])
def rows(request, rng):
    return blobs(rng, N_ROWS, 3, dtype=request.param)


def fitted(model):
    return [getattr(model, name) for name in FITTED if hasattr(model, name)]


def in_batches(X, w):
    model = MiniBatchKMeans(3, random_state=0, reassignment_ratio=0.5)
    for some in (slice(0, 60), slice(60, 120)):
        model.partial_fit(X[some, :], sample_weight=w[some])
    return [*fitted(model), model._counts]


def told(model, X, w):
    near = [*model.nearest_centers(X, 2), *model.nearest_rows(X, 2)]
    return [model.predict(X), model.transform(X), model.score(X, sample_weight=w), *near]


def swept(X, w):
    model = KMeansSweep([2, 3], random_state=0, criterion="gap", n_references=2).fit(X, sample_weight=w)
    return [model.labels_, model.cluster_centers_, *model.results_["inertia"], *model.results_["gap"]]


def watched(X):
    seen = []
    KMeans(3, random_state=0, on_iteration=lambda iteration: seen.append(iteration.centers)).fit(X)
    return seen


JOBS = {
    "fit": lambda X, w: fitted(KMeans(3, random_state=0).fit(X)),
    "fit with weights": lambda X, w: fitted(KMeans(3, random_state=0).fit(X, sample_weight=w)),
    "weights, some 0": lambda X, w: swept(X, w * (w > 1)),
    "elkan": lambda X, w: fitted(KMeans(3, random_state=0, algorithm="elkan").fit(X)),
    "cosine": lambda X, w: fitted(KMeans(3, random_state=0, metric="cosine").fit(X)),
    "k-means||": lambda X, w: fitted(KMeans(3, random_state=0, init="k-means||").fit(X)),
    "given centers": lambda X, w: fitted(KMeans(3, init=X[:3, :]).fit(X)),
    "callable": lambda X, w: fitted(KMeans(3, init=lambda X, k, random_state: X[:k, :] * 2, n_init=1).fit(X)),
    "on the CPU": lambda X, w: fitted(KMeans(3, random_state=0, device="cpu").fit(X)),
    "fitted": lambda X, w: told(KMeans(3, random_state=0).fit(X), X, w),
    "fitted, cosine": lambda X, w: told(KMeans(3, random_state=0, metric="cosine").fit(X), X, w),
    "from centers": lambda X, w: told(KMeans.from_centers(X[:4, :]), X, w),
    "on_iteration": lambda X, w: watched(X),
    "MiniBatchKMeans": lambda X, w: fitted(MiniBatchKMeans(3, random_state=0, batch_size=40).fit(X, sample_weight=w)),
    "partial_fit": in_batches,
    "KMeansSweep": swept,
    "kmeans_plusplus": lambda X, w: kmeans_plusplus(X, 3, sample_weight=w, random_state=0),
    "criteria": lambda X, w: [
        *metrics.cluster_inertias(X, LABELS, w),
        metrics.silhouette_samples(X, LABELS, sample_weight=w),
        metrics.silhouette_samples(X, LABELS, metric="sqeuclidean"),
        metrics.simplified_silhouette_samples(X, LABELS, w),
        metrics.davies_bouldin_score(X, LABELS, w),
    ],
}


@pytest.mark.parametrize("job", JOBS)
def test_the_bits_of_who_sees_it_in_the_library_of_the_user(job, sharing, sees, rows, rng):
    weights = rng.uniform(0.5, 2, size=N_ROWS)
    given, before = sharing.asarray(rows), rows.copy()
    expected = JOBS[job](sees.asarray(rows), sees.asarray(weights))
    found = JOBS[job](given, sharing.asarray(weights))
    assert len(found) == len(expected)
    for value, right in zip(found, expected, strict=True):
        if isinstance(right, sees.xp.ndarray):
            sharing.assert_owns(value, right.dtype.name)
            np.testing.assert_array_equal(to_numpy(value), to_numpy(right))
        else:
            assert value == right
    np.testing.assert_array_equal(to_numpy(given), before, "X is not written to")


def address(array):
    """Where an array of NumPy or CuPy begins."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def test_memory_is_not_copied(sharing, sees, rows):
    given = sharing.asarray(rows)
    for rows in (given, given[::2, :], given.T):
        seen = shared(rows)
        assert type(seen) is sees.xp.ndarray
        np.testing.assert_array_equal(to_numpy(seen), to_numpy(rows))
    if sharing.name != "jax":
        assert shared(given[::2]).strides == (2 * given.stride(0) * given.itemsize, given.itemsize)
        assert address(shared(given)) == given.data_ptr()
    else:
        assert address(shared(given)) == address(np.from_dlpack(given))


def test_models_go_from_library_to_library(sharing, sees, rows):
    seen = sees.asarray(rows)
    here, there = KMeans(3, random_state=0).fit(seen), KMeans(3, random_state=0).fit(sharing.asarray(rows))
    found = here.transform(sharing.asarray(rows))
    sharing.assert_owns(found, rows.dtype.name)
    expected = to_numpy(here.transform(seen))
    np.testing.assert_array_equal(to_numpy(found), expected)
    np.testing.assert_array_equal(to_numpy(there.transform(seen)), expected)
    assert type(there.transform(seen)) is sees.xp.ndarray
    np.testing.assert_allclose(there.transform(rows), expected, rtol=1e-5, atol=1e-6)
    assert type(there.transform(rows)) is np.ndarray


def test_what_is_not_shared_is_computed_with_as_it_is(foreign):
    X = foreign.asarray(np.ones((4, 2)))
    others = [namespace(X).asarray(X, dtype=namespace(X).int32)]
    if foreign.name == "torch":
        others += [X.half(), X.bfloat16(), X.to("meta"), X.to_sparse(), X > 0]
    if foreign.name == "torch-cuda":
        others = [X.to("meta")]
    if foreign.name.startswith("torch"):
        others += [foreign.xp.complex(X, X), foreign.xp.complex(X, X).conj().imag]
    elif foreign.name != "jax":
        others.append(X)
    assert all(shared(x) is x for x in others)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_callable_sees_the_array_of_the_user(metric, sharing, rows):
    X, seen = sharing.asarray(rows), []

    def init(X, n_clusters, random_state):
        seen.append(X)
        return X[:n_clusters, :]

    KMeans(3, metric=metric, init=init, n_init=1).fit(X)
    (found,) = seen
    if metric == "euclidean":
        assert found is X
    else:
        sharing.assert_owns(found, rows.dtype.name)
        np.testing.assert_allclose((to_numpy(found) ** 2).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_in_the_same_words(value, sharing, rows, request):
    bad, X = rows.copy(), sharing.asarray(rows)
    bad[7, 1] = value
    bad, model = sharing.asarray(bad), KMeans(3, random_state=0).fit(X)

    def words():
        for call in (model.predict, KMeans(3).fit, lambda X: metrics.bic_score(X, LABELS)):
            with pytest.raises(ValueError, match="Input X contains") as error:
                call(bad)
            yield str(error.value)
        with pytest.raises(ValueError, match="sample_weight") as error:
            model.score(X, sample_weight=bad[:, 1])
        yield str(error.value)

    found = list(words())
    request.getfixturevalue("unshared")
    assert found == list(words())


def test_numbers_whose_sum_overflows(sharing):
    X = np.full((4, 2), 1e38, dtype="float32")
    X[2:] = -X[2:] / 2
    X[0, 0] = 3e38
    assert KMeans(1).fit(sharing.asarray(X)).n_features_in_ == 2


class TestTorch:
    @pytest.fixture
    def torch(self):
        return load("torch").xp

    def test_results_are_of_no_graph_and_no_mode(self, torch, rows):
        X = torch.asarray(rows).requires_grad_()
        with torch.inference_mode():
            model = KMeans(3, random_state=0).fit(X)
            found = [model.predict(X), model.transform(X), *kmeans_plusplus(X, 3), *fitted(model)]
        with torch.no_grad():
            found.append(model.transform(X))
        found += [model.predict(X), *fitted(KMeans(3).fit(X))]
        for value in found:
            assert not torch.is_tensor(value) or not (value.is_inference() or value.requires_grad)
        assert model.transform(X).requires_grad

    def test_centers_may_have_gradients(self, torch, rows):
        model = KMeans.from_centers(torch.asarray(rows[:3]))
        model.cluster_centers_.requires_grad_()
        model.transform(torch.asarray(rows)).sum().backward()
        assert model.cluster_centers_.grad.shape == (3, 3)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at its first tangent
    def test_tangents_go_forward(self, torch, rng):
        X, along = (torch.asarray(rng.normal(size=(20, 3))) for _ in range(2))
        model = KMeans.from_centers(X[:3] + 1)
        with torch.autograd.forward_ad.dual_level():
            found = model.transform(torch.autograd.forward_ad.make_dual(X, along))
            tangent = torch.autograd.forward_ad.unpack_dual(found).tangent
        expected = (model.transform(X + 1e-6 * along) - model.transform(X - 1e-6 * along)) / 2e-6
        torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-7)

    def test_results_are_written_where_the_user_wants_them(self, torch, rows):
        X = torch.asarray(rows)
        model = KMeans(3, random_state=0).fit(X)
        for out in (torch.empty(N_ROWS, dtype=torch.int64), np.empty(N_ROWS, dtype="int16")):
            assert model.predict(X, out=out) is out
            np.testing.assert_array_equal(out, model.labels_)
        out = torch.empty((3, N_ROWS), dtype=torch.float16).T
        assert torch.equal(model.transform(X, out=out), model.transform(X).half())


class TestJax:
    def test_without_64_bits(self, rows):
        load("jax")
        import jax

        X = jax.numpy.asarray(rows.astype("float32"))
        with jax.enable_x64(False):
            model = KMeans(3, random_state=0).fit(X)
            dtypes = [str(getattr(model, name).dtype) for name in ("cluster_centers_", "labels_", "cluster_sizes_")]
            assert dtypes == ["float32", "int32", "int64"]
            assert model.transform(X).dtype == "float32"
        assert device(model.labels_) == device(X)

    def test_what_is_spread_over_devices_is_refused(self, rows, monkeypatch):
        load("jax")
        import jax

        X = jax.numpy.asarray(rows)
        model = KMeans(3, random_state=0).fit(X)
        monkeypatch.setattr(type(X), "devices", lambda self: {0, 1})
        for call in (model.predict, model.fit):
            with pytest.raises(ValueError, match=r"Input X is spread over 2 devices of JAX\. Put it on one"):
                call(X)

    def test_what_is_traced_is_refused(self, rows):
        load("jax")
        import jax

        X = jax.numpy.asarray(rows)
        model = KMeans(3, random_state=0).fit(X)
        of_sum = jax.grad(lambda X: model.transform(X).sum())
        for call in (jax.jit(model.predict), of_sum, lambda X: jax.vmap(model.predict)(X[None])):
            with pytest.raises(jax.errors.TracerArrayConversionError):
                call(X)
