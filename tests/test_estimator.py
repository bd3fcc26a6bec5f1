"""KMeans as a user meets it, on every library."""

import copy
import importlib.util
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import SKLEARN_VERSION, blobs, load
from sklearn import cluster, config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

import kmeans_xp
from kmeans_xp import BisectingKMeans, KMeans, MiniBatchKMeans, kmeans_batch, kmeans_plusplus
from kmeans_xp.arrays import to_numpy


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_array_in_array_out(lib, rng, dtype):
    host = blobs(rng, 200, 3, dtype=dtype)
    X = lib.asarray(host)
    model = KMeans(4, random_state=0)
    assert model.fit(X) is model

    lib.assert_owns(model.cluster_centers_, dtype)
    lib.assert_owns(model.labels_, "int32")
    lib.assert_owns(model.predict(X), "int32")
    lib.assert_owns(model.fit_predict(X), "int32")
    lib.assert_owns(model.transform(X), dtype)
    lib.assert_owns(model.fit_transform(X), dtype)
    assert isinstance(model.inertia_, float)
    assert isinstance(model.score(X), float)
    assert isinstance(model.n_iter_, int)
    assert model.converged_ is True
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(to_numpy(model.predict(X)), to_numpy(model.labels_))
    np.testing.assert_allclose(model.score(X), -model.inertia_, rtol=1e-12)
    np.testing.assert_allclose(to_numpy(model.transform(X)).min(axis=1) ** 2 @ np.ones(200), model.inertia_, rtol=1e-5)
    np.testing.assert_array_equal(to_numpy(X), host, "X is not written to")


@pytest.mark.usefixtures("sharing")
def test_the_same_result_on_every_library(foreign, rng):
    X = blobs(rng, 1000, 6, n_clusters=12, spread=2)
    weights = rng.uniform(size=1000)
    for params in ({}, {"init": "k-means||"}, {"init": "random", "n_init": 3}, {"algorithm": "elkan"}):
        expected = KMeans(8, random_state=5, **params).fit(X, sample_weight=weights)
        model = KMeans(8, random_state=5, **params).fit(foreign.asarray(X), sample_weight=foreign.asarray(weights))
        np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
        np.testing.assert_allclose(model.inertia_, expected.inertia_, rtol=1e-12)
        assert model.n_iter_ == expected.n_iter_


def test_fit_here_predict_there(lib, rng):
    X = blobs(rng, 300, 4)
    numpy_model, model = KMeans(5, random_state=0).fit(X), KMeans(5, random_state=0).fit(lib.asarray(X))
    lib.assert_owns(numpy_model.predict(lib.asarray(X)), "int32")
    lib.assert_owns(numpy_model.transform(lib.asarray(X)), "float64")
    assert isinstance(model.predict(X), np.ndarray)
    np.testing.assert_array_equal(model.predict(X), numpy_model.labels_)
    np.testing.assert_array_equal(to_numpy(numpy_model.predict(lib.asarray(X))), numpy_model.labels_)
    np.testing.assert_allclose(model.score(X), -numpy_model.inertia_, rtol=1e-12)


def test_under_array_api_dispatch_another_library_is_refused(foreign, rng):
    X = blobs(rng, 100, 2)
    model = KMeans(3, random_state=0).fit(foreign.asarray(X))
    with config_context(array_api_dispatch=True):
        model.predict(foreign.asarray(X))
        with pytest.raises(ValueError, match=r"Inputs passed to KMeans.score\(\) must use the same namespace"):
            model.score(X)


def test_init_and_weights_follow_x(lib, rng):
    X = blobs(rng, 100, 2)
    weights = rng.uniform(size=100)
    expected = KMeans(3, init=X[:3]).fit(X, sample_weight=weights)
    for init, w in [(X[:3], weights), (lib.asarray(X[:3]), weights.tolist()), (X[:3].tolist(), lib.asarray(weights))]:
        model = KMeans(3, init=init).fit(lib.asarray(X), sample_weight=w)
        np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
        numpy_model = KMeans(3, init=init).fit(X, sample_weight=w)
        np.testing.assert_array_equal(numpy_model.labels_, expected.labels_)


def test_a_model_pickles_to_host_arrays(lib, rng):
    X = blobs(rng, 100, 2)
    model = KMeans(3, init=lib.asarray(X[:3])).fit(lib.asarray(X))
    pickled = pickle.dumps(model)
    if lib.name != "numpy":
        assert lib.name.partition("-")[0].encode() not in pickled
    loaded = pickle.loads(pickled)
    assert isinstance(loaded.cluster_centers_, np.ndarray)
    assert isinstance(loaded.init, np.ndarray)
    np.testing.assert_array_equal(loaded.predict(X), to_numpy(model.labels_))
    lib.assert_owns(loaded.predict(lib.asarray(X)), "int32")
    lib.assert_owns(model.labels_, "int32")


def test_to_and_from_sklearn(lib, rng):
    X = blobs(rng, 200, 3)
    ours = KMeans(4, init="k-means||", random_state=0).fit(lib.asarray(X))
    theirs = ours.to_sklearn()
    assert isinstance(theirs, cluster.KMeans)
    np.testing.assert_array_equal(theirs.predict(X), to_numpy(ours.labels_))
    np.testing.assert_array_equal(theirs.labels_, to_numpy(ours.labels_))
    np.testing.assert_allclose(theirs.score(X), -ours.inertia_)
    assert (theirs.n_iter_, theirs.inertia_) == (ours.n_iter_, ours.inertia_)
    clone(theirs).fit(X)

    back = KMeans.from_sklearn(theirs)
    assert back.get_params()["random_state"] == 0
    np.testing.assert_array_equal(to_numpy(back.predict(lib.asarray(X))), to_numpy(ours.labels_))
    mini = cluster.MiniBatchKMeans(3, n_init=1, random_state=0).fit(X)
    np.testing.assert_array_equal(KMeans.from_sklearn(mini).predict(X), mini.predict(X))


def test_to_sklearn_takes_init_to_the_host(lib, rng):
    X = blobs(rng, 50, 2)
    theirs = KMeans(3, init=lib.asarray(X[:3])).fit(lib.asarray(X)).to_sklearn()
    assert isinstance(theirs.init, np.ndarray)
    clone(theirs).fit(X)


def test_to_sklearn_without_labels(rng):
    X = blobs(rng, 50, 2)
    mini = cluster.MiniBatchKMeans(3, n_init=1, compute_labels=False, random_state=0).fit(X)
    theirs = KMeans.from_sklearn(mini).to_sklearn()
    np.testing.assert_array_equal(theirs.predict(X), mini.predict(X))
    assert not hasattr(theirs, "labels_"), "those of another fit would be worse than none"


def test_to_sklearn_keeps_names_and_duplicate_centers():
    frame = pd.DataFrame({"a": [0.0, 0, 1], "b": [0.0, 0, 1]})
    with pytest.warns(ConvergenceWarning, match=r"Number of distinct clusters \(2\) found smaller than n_clusters"):
        model = KMeans(3, random_state=0).fit(frame)
    theirs = model.to_sklearn()
    assert list(theirs.feature_names_in_) == ["a", "b"]
    assert theirs.cluster_centers_.shape == (3, 2)
    assert list(KMeans.from_sklearn(theirs).feature_names_in_) == ["a", "b"]


def test_predict_in_another_precision(lib, rng):
    X = blobs(rng, 100, 3)
    double = KMeans(3, random_state=0).fit(lib.asarray(X))
    labels = double.predict(lib.asarray(X, dtype="float32"))
    np.testing.assert_array_equal(to_numpy(labels), to_numpy(double.labels_))
    lib.assert_owns(double.transform(lib.asarray(X, dtype="float32")), "float32")


@pytest.mark.parametrize("rows", ["array", "foreign", "source", "dask"])
class TestOut:
    """Results that are to be written somewhere, from wherever the rows come."""

    class Source:
        """Rows that can be sliced."""

        def __init__(self, X):
            self._X, self.shape, self.dtype = X, X.shape, X.dtype

        def __getitem__(self, rows):
            return self._X[rows]

    def given(self, rows, X):
        if rows == "dask":
            return pytest.importorskip("dask.array").from_array(X, chunks=(150, 2))
        return {"array": np.asarray, "foreign": load("strict").asarray, "source": self.Source}[rows](X)

    @pytest.fixture(params=[KMeans, MiniBatchKMeans])
    def model(self, request, rng):
        X = np.arange(600.0).reshape(300, 2)
        init = X[:300]
        return request.param(300, init=init, n_init=1, max_iter=1).fit(X), X

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "complex128", "object", "S3", "datetime64[s]"])
    def test_labels_that_a_dtype_cannot_hold_are_refused(self, rows, dtype, model):
        model, X = model
        out = np.zeros(300, dtype)
        before = out.copy()
        name = re.escape(str(out.dtype))
        with pytest.raises(TypeError, match=rf"out.dtype == {name} cannot hold labels from 0 to 299: use int32"):
            model.predict(self.given(rows, X), out=out)
        np.testing.assert_array_equal(out, before)

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex128", "object"])
    def test_distances_that_a_dtype_cannot_hold_are_refused(self, rows, dtype, model):
        model, X = model
        with pytest.raises(TypeError, match=f"out.dtype == {dtype} cannot hold distances: use a floating-point dtype"):
            model.transform(self.given(rows, X), out=np.zeros((300, 300), dtype))

    @pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "uint64", "float16", "float64"])
    def test_labels_that_fit(self, rows, dtype, model):
        model, X = model
        out = np.zeros(300, dtype)
        assert model.predict(self.given(rows, X), out=out) is out
        np.testing.assert_array_equal(out, model.predict(X))
        assert out.max() > 255

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_distances_that_fit(self, rows, dtype, model):
        model, X = model
        out = np.zeros((300, 300), dtype)
        assert model.transform(self.given(rows, X), out=out) is out
        np.testing.assert_allclose(out, model.transform(X), rtol=1e-6)

    def test_in_an_array_of_any_library(self, rows, model, foreign):
        model, X = model
        labels, distances = foreign.xp.zeros(300, dtype=foreign.xp.int16), foreign.xp.zeros((300, 300))
        if foreign.name == "jax":
            with pytest.raises(TypeError, match="out must be an array to write into, got a read-only ArrayImpl"):
                model.predict(self.given(rows, X), out=labels)
            return
        model.predict(self.given(rows, X), out=labels)
        np.testing.assert_array_equal(to_numpy(labels), model.predict(X))
        model.transform(self.given(rows, X), out=distances)
        np.testing.assert_allclose(to_numpy(distances), model.transform(X), rtol=1e-6)
        with pytest.raises(TypeError, match=r"out.dtype == \S*uint8 cannot hold labels from 0 to 299"):
            model.predict(self.given(rows, X), out=foreign.xp.zeros(300, dtype=foreign.xp.uint8))
        with pytest.raises(TypeError, match=r"out.dtype == \S*int16 cannot hold distances"):
            model.transform(self.given(rows, X), out=foreign.xp.zeros((300, 300), dtype=foreign.xp.int16))

    def test_that_cannot_be_written_to_is_refused_before_anything_is_computed(self, rows, model, monkeypatch):
        model, X = model
        out = np.zeros(300, np.int32)
        out.flags.writeable = False
        monkeypatch.setattr("kmeans_xp.prediction.assign", None)
        with pytest.raises(TypeError, match="out must be an array to write into, got a read-only ndarray"):
            model.predict(self.given(rows, X), out=out)
        with pytest.raises(TypeError, match="out must be an array to write into, got list"):
            model.predict(self.given(rows, X), out=[0] * 300)
        with pytest.raises(ValueError, match=r"out.shape == \(299,\), expected \(300,\)"):
            model.predict(self.given(rows, X), out=np.zeros(299, np.int32))


@pytest.mark.parametrize(("n_clusters", "fits"), [(256, True), (257, False)])
def test_the_largest_label_that_a_dtype_holds(n_clusters, fits):
    X = np.arange(float(n_clusters))[:, None]
    model = KMeans.from_centers(X)
    out = np.zeros(n_clusters, np.uint8)
    if fits:
        np.testing.assert_array_equal(model.predict(X, out=out), np.arange(n_clusters))
    else:
        with pytest.raises(TypeError, match="cannot hold labels from 0 to 256"):
            model.predict(X, out=out)


class TestInPlaceOfScikitLearns:
    """scikit-learn's own callers of its class run on ours."""

    @pytest.fixture
    def clusters(self, monkeypatch, rng):
        """Rows, and which clusters they are of, while scikit-learn's modules take our classes for its own."""
        calls = []

        def ours(cls):
            class Ours(cls):
                def fit(self, *args, **kwargs):
                    calls.append(cls.__name__)
                    return super().fit(*args, **kwargs)

                def __init__(self, *args, **kwargs):
                    super().__init__(*args, **kwargs)

            Ours.__init__ = cls.__init__
            return Ours

        for module in ("sklearn.cluster", "sklearn.cluster._kmeans", "sklearn.cluster._bicluster"):
            monkeypatch.setattr(f"{module}.KMeans", ours(KMeans))
            monkeypatch.setattr(f"{module}.MiniBatchKMeans", ours(MiniBatchKMeans))
        truth = np.repeat([0, 1, 2], 40)
        yield np.asarray([[0, 0], [9, 0], [0, 9]])[truth] + rng.normal(size=(120, 2)), truth
        assert calls

    @pytest.mark.parametrize("copy_x", [True, False])
    def test_k_means(self, clusters, copy_x):
        X, truth = clusters
        before = X.copy()
        centers, labels, cost, n_iter = cluster.k_means(
            X, 3, sample_weight=np.ones(120), random_state=0, copy_x=copy_x, return_n_iter=True
        )
        assert adjusted_rand_score(labels, truth) == 1
        assert (centers.shape, type(cost), type(n_iter)) == ((3, 2), float, int)
        np.testing.assert_array_equal(X, before, "whatever copy_x")

    def test_spectral_clustering(self, clusters):
        X, truth = clusters
        affinity = rbf_kernel(X, gamma=0.1)
        assert adjusted_rand_score(cluster.spectral_clustering(affinity, n_clusters=3, random_state=0), truth) == 1
        model = cluster.SpectralClustering(3, gamma=0.1, random_state=0).fit(X)
        assert adjusted_rand_score(model.labels_, truth) == 1

    @pytest.mark.parametrize("mini_batch", [False, True])
    def test_spectral_coclustering(self, clusters, mini_batch):
        blocks = np.kron(np.eye(3), np.ones((10, 10))) + 0.01
        model = cluster.SpectralCoclustering(3, mini_batch=mini_batch, random_state=0).fit(blocks)
        assert adjusted_rand_score(model.row_labels_, np.repeat([0, 1, 2], 10)) == 1

    def test_gaussian_mixture(self, clusters):
        X, truth = clusters
        assert adjusted_rand_score(GaussianMixture(3, random_state=0).fit_predict(X), truth) == 1

    def test_bins(self, clusters):
        X, _ = clusters
        KBinsDiscretizer(3, strategy="kmeans", quantile_method="averaged_inverted_cdf").fit(X)


def test_squared_norms_of_other_callers_change_nothing(lib, rng):
    X = lib.asarray(blobs(rng, 60, 3))
    expected = kmeans_xp.kmeans_plusplus(X, 3, random_state=0)
    for norms in (None, lib.asarray(np.ones(60)), np.full(60, np.nan)):
        found = kmeans_xp.kmeans_plusplus(X, 3, x_squared_norms=norms, random_state=0)
        for value, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(to_numpy(value), to_numpy(right))


def test_copy_x_is_a_boolean_and_changes_nothing(lib, rng):
    host = blobs(rng, 60, 3)
    X = lib.asarray(host)
    expected = KMeans(3, random_state=0).fit(X)
    model = KMeans(3, random_state=0, copy_x=False).fit(X)
    np.testing.assert_array_equal(to_numpy(model.labels_), to_numpy(expected.labels_))
    np.testing.assert_array_equal(to_numpy(X), host)
    assert KMeans.from_sklearn(model.to_sklearn()).copy_x is model.to_sklearn().copy_x is False
    with pytest.raises(ValueError, match="The 'copy_x' parameter of KMeans must be"):
        KMeans(3, copy_x="no").fit(X)


def test_history_and_convergence(lib, rng, capsys):
    X = lib.asarray(rng.normal(size=(500, 3)))
    model = KMeans(6, random_state=0, tol=0, verbose=1).fit(X)
    history = pd.DataFrame(model.history_)
    assert list(history) == ["inertia", "center_shift", "n_changed", "seconds"]
    assert len(history) == model.n_iter_
    assert history["n_changed"].iloc[0] == 500
    assert history["n_changed"].iloc[-1] == 0
    assert history["center_shift"].iloc[-1] == 0
    np.testing.assert_allclose(history["inertia"].iloc[-1], model.inertia_, rtol=1e-9)
    printed = capsys.readouterr().out
    assert re.match(r"Initialization, init=k-means\+\+\nInitialization complete, .* s\nIteration 0, inertia ", printed)
    assert f"Converged at iteration {model.n_iter_ - 1}: strict convergence." in printed

    loose = KMeans(6, random_state=0, tol=0.1, verbose=1).fit(X)
    assert loose.n_iter_ < model.n_iter_
    assert "within tolerance" in capsys.readouterr().out
    np.testing.assert_array_equal(to_numpy(loose.labels_), to_numpy(loose.predict(X)))

    with pytest.warns(ConvergenceWarning, match="did not converge in max_iter=2 iterations"):
        short = KMeans(6, random_state=0, tol=0, max_iter=2).fit(X)
    assert not short.converged_
    assert short.n_iter_ == 2
    np.testing.assert_array_equal(to_numpy(short.labels_), to_numpy(short.predict(X)))
    np.testing.assert_allclose(short.inertia_, -short.score(X), rtol=1e-12)


def test_n_init_keeps_the_best(rng):
    X = blobs(rng, 300, 2, n_clusters=10)
    state = np.random.RandomState(0)
    single = [KMeans(10, init="random", n_init=1, random_state=state).fit(X).inertia_ for _ in range(10)]
    several = KMeans(10, init="random", random_state=np.random.RandomState(0)).fit(X)
    assert several.inertia_ == min(single), "'auto' runs 'random' 10 times"
    assert max(single) > min(single)


def test_callable_init_sees_the_data_as_it_is(lib, rng):
    X = lib.asarray(blobs(rng, 50, 2) + 100)
    seen = []

    def init(rows, n_clusters, random_state):
        seen.append((rows, random_state.uniform()))
        return rows[:n_clusters, :]

    model = KMeans(3, init=init, random_state=0).fit(X)
    assert len(seen) == 10
    assert len({number for _, number in seen}) == 10
    assert seen[0][0] is X
    np.testing.assert_array_equal(to_numpy(model.labels_), to_numpy(KMeans(3, init=X[:3, :]).fit(X).labels_))


def test_parameters_survive_clone_and_repr():
    model = KMeans(3, init="k-means||", tol=0.1, device="cpu", algorithm="elkan")
    assert clone(model).get_params() == model.get_params()
    assert "device='cpu'" in repr(model)
    assert not [name for name in vars(model) if name.endswith("_")]


def test_data_frames(rng):
    X = blobs(rng, 100, 2)
    expected = KMeans(3, random_state=0).fit(X)
    polars = pl.DataFrame(X, schema=["a", "b"])
    np.testing.assert_array_equal(KMeans(3, random_state=0).fit(polars).labels_, expected.labels_)
    # scikit-learn reads the names of polars' columns since 1.9
    for frame in (pd.DataFrame(X, columns=["a", "b"]), polars)[: 2 if SKLEARN_VERSION >= (1, 9) else 1]:
        model = KMeans(3, random_state=0).fit(frame)
        assert list(model.feature_names_in_) == ["a", "b"]
        np.testing.assert_array_equal(model.labels_, expected.labels_)
        with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
            model.predict(pd.DataFrame(X, columns=["a", "c"]))
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            model.predict(X)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(rng, container):
    model = KMeans(3, random_state=0).set_output(transform=container)
    out = model.fit_transform(blobs(rng, 20, 2))
    assert type(out).__module__.startswith(container)
    assert list(out.columns) == list(model.get_feature_names_out()) == ["kmeans0", "kmeans1", "kmeans2"]


def test_pipeline_and_grid_search(rng):
    X = blobs(rng, 300, 2, n_clusters=3, spread=20)
    search = GridSearchCV(make_pipeline(StandardScaler(), KMeans(random_state=0)), {"kmeans__n_clusters": [1, 2, 3]})
    search.fit(X)
    assert search.best_params_ == {"kmeans__n_clusters": 3}
    assert search.score(X) <= 0
    assert len(set(search.predict(X))) == 3


@pytest.mark.parametrize("name", ["numpy", "torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_pipeline_on_a_device_array(name, rng):
    lib = load(name)  # scikit-learn's StandardScaler divides 0 by 0 on array-api-strict
    with config_context(array_api_dispatch=True):
        pipeline = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit(lib.asarray(blobs(rng, 90, 2)))
        lib.assert_owns(pipeline.predict(lib.asarray(blobs(rng, 10, 2))), "int32")


def test_column_transformer(rng):
    frame = pd.DataFrame(blobs(rng, 60, 3), columns=["a", "b", "c"])
    transformer = ColumnTransformer([("distances", KMeans(2, random_state=0), ["a", "b"])], remainder="passthrough")
    transformer.fit(frame)
    assert list(transformer.get_feature_names_out()) == ["distances__kmeans0", "distances__kmeans1", "remainder__c"]


def test_metadata_routing(rng):
    X, weights = blobs(rng, 60, 2), rng.uniform(size=60)
    with config_context(enable_metadata_routing=True):
        model = KMeans(2, random_state=0).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"n_clusters": [2]}, cv=2).fit(X, sample_weight=weights)
    expected = KMeans(2, random_state=0).fit(X, sample_weight=weights)
    np.testing.assert_allclose(search.best_estimator_.cluster_centers_, expected.cluster_centers_)


def test_deepcopy_keeps_predicting(lib, rng):
    X = lib.asarray(blobs(rng, 60, 2))
    model = KMeans(2, random_state=0).fit(X)
    np.testing.assert_array_equal(to_numpy(copy.deepcopy(model).predict(X)), to_numpy(model.labels_))


def test_import_imports_no_optional_library_and_none_of_scikit_learns_clusterers():
    heavy = "cupy torch jax dask matplotlib sklearn.cluster"
    code = f"import sys, kmeans_xp; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_show_versions(capsys):
    kmeans_xp.show_versions()
    printed = capsys.readouterr().out
    for line in ("Python: ", "kmeans_xp: ", "numpy: ", "threads: openblas", "CUDA: ", "fast steps for: "):
        assert f"\n{line}" in f"\n{printed}"
    fast = printed.partition("fast steps for: ")[2].partition(";")[0]
    assert importlib.util.find_spec("cupy") or "cupy" not in fast, "a library that is not there has no fast steps"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("", "native, "),
        (
            "sys.modules['kmeans_xp.backends._native._kmeans'] = None",
            "plain NumPy, as the native part has not been",
        ),
    ],
)
def test_show_versions_says_which_passes_are_in_use(trouble, said):
    pytest.importorskip("kmeans_xp.backends.numpy")
    code = f"import os, sys; {trouble}\nimport kmeans_xp; kmeans_xp.show_versions()"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert f"\npasses over NumPy arrays: {said}" in printed


class TestDevice:
    """The `device` parameter where there is no GPU."""

    def test_cpu_is_where_host_arrays_are(self, lib, rng):
        X = lib.asarray(blobs(rng, 60, 2))
        model = KMeans(2, random_state=0, device="cpu").fit(X)
        lib.assert_owns(model.labels_, "int32")
        lib.assert_owns(model.predict(X), "int32")

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_an_absent_gpu(self, monkeypatch, device):
        monkeypatch.setattr("kmeans_xp.devices.cuda_problem", lambda: "no driver")
        with pytest.raises(RuntimeError, match=rf"device='{device}' needs a CUDA GPU: no driver. Use device='cpu'"):
            KMeans(1, device=device).fit([[0.0]])
        with pytest.raises(RuntimeError, match=rf"device='{device}' needs a CUDA GPU: no driver. Use device='cpu'"):
            KMeans(1, device=device).fit(np.zeros((3, 2)))

    def test_torch_and_strict_without_a_gpu(self):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            with pytest.raises(RuntimeError, match="torch sees no CUDA device"):
                KMeans(1, device="cuda").fit(torch.zeros((3, 2)))
        with pytest.raises(ValueError, match=r"not possible for X of type array_api_strict\.Array"):
            KMeans(1, device="cuda").fit(load("strict").asarray([[0.0]]))

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="device='gpu' is not known: use None, 'auto', 'cpu', 'cuda'"):
            KMeans(1, device="gpu").fit([[0.0]])

    def test_auto_stays_on_the_cpu_without_a_gpu_or_for_little_work(self, monkeypatch, rng):
        X = blobs(rng, 60, 2)
        asked = []
        monkeypatch.setattr("kmeans_xp.devices.cuda_problem", lambda: asked.append(1) or "no driver")
        model = KMeans(2, random_state=0, device="auto")
        assert isinstance(model.fit(X).labels_, np.ndarray)
        assert not asked, "asking costs an import of CuPy"
        monkeypatch.setattr("kmeans_xp.data.AUTO_GPU_WORK", 0)
        assert isinstance(model.fit(X).labels_, np.ndarray)
        assert asked

    @pytest.mark.gpu
    def test_host_data_on_the_gpu(self, monkeypatch, rng):
        cupy = load("cupy").xp
        monkeypatch.setattr("kmeans_xp.data.AUTO_GPU_WORK", 0)
        X = blobs(rng, 200, 3)
        expected = KMeans(4, random_state=0).fit(X)
        for device in ("cuda", "cuda:0", "auto"):
            pool = cupy.get_default_memory_pool()
            pool.free_all_blocks()
            before = pool.total_bytes()
            model = KMeans(4, random_state=0, device=device).fit(X)
            assert pool.total_bytes() > before, "computed on the GPU"
            assert isinstance(model.cluster_centers_, np.ndarray)
            np.testing.assert_array_equal(model.labels_, expected.labels_)
            np.testing.assert_array_equal(model.predict(X), expected.labels_)
        on_cpu = KMeans(4, random_state=0, device="cpu").fit(cupy.asarray(X))
        assert isinstance(on_cpu.labels_, cupy.ndarray)
        count = cupy.cuda.runtime.getDeviceCount()
        with pytest.raises(RuntimeError, match=f"the CUDA devices here are 0 to {count - 1}"):
            KMeans(1, device=f"cuda:{count}").fit(X)

    @pytest.mark.gpu
    def test_an_array_of_the_second_gpu_stays_there(self, rng):
        cupy = load("cupy").xp
        if cupy.cuda.runtime.getDeviceCount() < 2:
            pytest.skip("one GPU")
        host = blobs(rng, 200, 3)
        with cupy.cuda.Device(1):
            X = cupy.asarray(host)
        model = KMeans(4, random_state=0).fit(X)
        assert model.labels_.device.id == model.cluster_centers_.device.id == 1
        assert model.predict(X).device.id == 1
        expected = KMeans(4, random_state=0).fit(host).labels_
        np.testing.assert_array_equal(to_numpy(model.labels_), expected)
        np.testing.assert_array_equal(to_numpy(model.predict(X)), expected)


@pytest.mark.parametrize("make", [KMeans, MiniBatchKMeans, BisectingKMeans, kmeans_plusplus, kmeans_batch])
def test_numbers_of_clusters_in_narrow_integers(rng, make):
    """As the largest label of an image and 1 are, and sums and products of them have no room."""
    X, n_clusters = rng.normal(size=(600, 2)), np.uint8(200)
    if isinstance(make, type):
        model = make(n_clusters, random_state=0).fit(X)
        np.testing.assert_array_equal(model.cluster_centers_, make(200, random_state=0).fit(X).cluster_centers_)
        assert model.n_clusters is n_clusters
        with pytest.raises(ValueError, match="200"):
            model.fit(X[:100])
        assert model.n_clusters is n_clusters
    else:
        X = X[None] if make is kmeans_batch else X
        np.testing.assert_array_equal(make(X, n_clusters, random_state=0)[0], make(X, 200, random_state=0)[0])
