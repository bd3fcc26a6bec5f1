"""Models that are pickled, copied, converted, or made of centers alone."""

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import blobs, load
from scipy import sparse
from sklearn import cluster
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate

import kmeans_xp
from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans
from kmeans_xp.arrays import device, to_numpy

VERSION = "_kmeans_xp_version"
ESTIMATORS = {
    "KMeans": lambda **params: KMeans(3, random_state=0, **params),
    "MiniBatchKMeans": lambda **params: MiniBatchKMeans(3, max_iter=2, random_state=0, **params),
    "KMeansSweep": lambda **params: KMeansSweep(range(2, 4), estimator=KMeans(**params), random_state=0),
}


def pickled_again(model):
    return pickle.loads(pickle.dumps(model))


def with_state(model, **changes):
    """The model from its state, in which attributes have other values, or are missing if these are `...`."""
    state = {**model.__getstate__(), **changes}
    loaded = type(model).__new__(type(model))
    loaded.__setstate__({name: value for name, value in state.items() if value is not ...})
    return loaded


def libraries_in(pickled):
    """Packages that a pickle needs beside those that this library needs."""
    found = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module, name):
            found.add(module.partition(".")[0])
            return super().find_class(module, name)

    Watching(io.BytesIO(pickled)).load()
    return found - {"kmeans_xp", "numpy", "builtins", "sklearn", "copyreg", "_codecs", "collections"}


class TestPickles:
    """What a pickle holds, and what is said of one that does not fit."""

    @pytest.mark.parametrize("kind", list(ESTIMATORS))
    def test_of_every_estimator_need_no_other_library(self, kind, lib, rng):
        X = blobs(rng, 100, 2)
        for model in (
            ESTIMATORS[kind]().fit(lib.asarray(X)),
            ESTIMATORS[kind](init=lib.asarray(X[:3])),
            ESTIMATORS[kind](init=[lib.asarray(row) for row in X[:3]]),
        ):
            pickled = pickle.dumps(model)
            assert libraries_in(pickled) == set()
            assert pickle.loads(pickled).get_params().keys() == model.get_params().keys()

    @pytest.mark.parametrize("kind", list(ESTIMATORS))
    def test_give_the_same_results_everywhere(self, kind, lib, rng):
        X = blobs(rng, 100, 2)
        model = ESTIMATORS[kind]().fit(lib.asarray(X))
        loaded = pickled_again(model)
        assert type(loaded.labels_) is type(loaded.cluster_centers_) is np.ndarray
        for rows in (X, lib.asarray(X)):
            np.testing.assert_array_equal(to_numpy(loaded.predict(rows)), to_numpy(model.labels_))
        lib.assert_owns(loaded.predict(lib.asarray(X)), "int32")
        lib.assert_owns(model.labels_, "int32")
        assert loaded.inertia_ == model.inertia_

    @pytest.mark.parametrize("kind", ["KMeans", "KMeansSweep"])
    def test_of_a_fit_on_dask_hold_labels_and_no_data(self, kind, rng):
        da = pytest.importorskip("dask.array")
        X = blobs(rng, 4000, 20)
        model = ESTIMATORS[kind]().fit(da.from_array(X, chunks=(1000, 20)))
        pickled = pickle.dumps(model)
        assert len(pickled) < X.nbytes / 10
        loaded = pickle.loads(pickled)
        np.testing.assert_array_equal(loaded.labels_, model.labels_.compute())
        assert hasattr(model.labels_, "compute"), "the model itself is as it was"
        theirs = (loaded if kind == "KMeans" else loaded.best_estimator_).to_sklearn()
        assert type(theirs.labels_) is np.ndarray

    def test_open_where_the_library_of_the_fit_is_missing(self, rng, tmp_path):
        torch = load("torch").xp
        X = torch.asarray(blobs(rng, 60, 2))
        (tmp_path / "models").write_bytes(pickle.dumps([make().fit(X) for make in ESTIMATORS.values()]))
        code = f"""
import pickle, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        assert name != "torch"
sys.meta_path.insert(0, Missing())
for model in pickle.load(open({str(tmp_path / "models")!r}, "rb")):
    print(type(model.labels_).__name__, model.predict([[0.0, 0.0]]).shape)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["ndarray (1,)"] * 3

    @pytest.mark.parametrize("kind", ["KMeans", "KMeansSweep"])
    def test_of_fitted_models_leave_the_callback_behind(self, kind, rng):
        calls = []
        model = ESTIMATORS[kind](on_iteration=lambda iteration: calls.append(iteration)).fit(blobs(rng, 60, 2))
        assert calls
        loaded = pickled_again(model)
        params = loaded.get_params()
        assert params["on_iteration" if kind == "KMeans" else "estimator__on_iteration"] is None
        params = model.get_params()
        assert params["on_iteration" if kind == "KMeans" else "estimator__on_iteration"] is not None

    def test_of_unfitted_models_keep_the_callback_for_the_process_that_fits(self, rng):
        assert pickled_again(KMeans(on_iteration=print)).on_iteration is print

    @pytest.mark.parametrize("params", [{}, {"on_iteration": lambda iteration: None}])
    def test_in_worker_processes(self, params, rng):
        X = blobs(rng, 120, 2, n_clusters=3, spread=20)
        search = GridSearchCV(KMeans(random_state=0, **params), {"n_clusters": [1, 3]}, n_jobs=2, cv=2).fit(X)
        assert search.best_params_ == {"n_clusters": 3}
        pickle.dumps(search.best_estimator_)
        models = cross_validate(KMeans(3, random_state=0, **params), X, n_jobs=2, cv=2, return_estimator=True)
        assert all(len(set(model.predict(X))) == 3 for model in models["estimator"])

    def test_say_their_version(self, rng):
        model = KMeans(2).fit(blobs(rng, 20, 2))
        assert model.__getstate__()[VERSION] == kmeans_xp.__version__
        assert VERSION not in vars(pickled_again(model))

    @pytest.mark.parametrize("version", ["99.0", "0.1.1", "0.2.0rc1", "99"])
    def test_of_a_newer_version_warn(self, version, monkeypatch, rng):
        monkeypatch.setattr("kmeans_xp.estimators.saving.own_version", lambda: "0.1.0")
        X = blobs(rng, 20, 2)
        model = KMeans(2, random_state=0).fit(X)
        said = rf"The KMeans was saved by kmeans_xp {version}, which is newer than this version, 0\.1\.0"
        with pytest.warns(UserWarning, match=said):
            loaded = with_state(model, **{VERSION: version})
        np.testing.assert_array_equal(loaded.predict(X), model.labels_)

    @pytest.mark.parametrize(
        "version", ["0.1.0", "0.1", "0.0.9", "0.1.0.dev3+g1234567", "0.1.0rc1", "0.1.0+cuda12", ...]
    )
    def test_of_this_or_an_older_version_do_not(self, version, monkeypatch, rng):
        monkeypatch.setattr("kmeans_xp.estimators.saving.own_version", lambda: "0.1.0")
        with_state(KMeans(2).fit(blobs(rng, 20, 2)), **{VERSION: version})

    @pytest.mark.parametrize(
        ("kind", "hole"),
        [
            ("KMeans", "cluster_centers_"),
            ("MiniBatchKMeans", "cluster_centers_"),
            ("KMeansSweep", "best_estimator_"),
            ("KMeansSweep", "results_"),
        ],
    )
    def test_with_a_hole_say_so(self, kind, hole, rng):
        model = ESTIMATORS[kind]().fit(blobs(rng, 60, 2))
        said = f"The saved {kind} has no {hole}. It was saved by kmeans_xp {kmeans_xp.__version__}, and this is"
        with pytest.raises(ValueError, match=said):
            with_state(model, **{hole: ...})
        with pytest.raises(ValueError, match="It was saved by kmeans_xp of an unknown version"):
            with_state(model, **{hole: ..., VERSION: ...})

    def test_from_before_a_parameter_existed_have_its_default(self, rng):
        X = blobs(rng, 60, 2)
        model = KMeans(3, random_state=0, tol=0.1).fit(X)
        loaded = with_state(model, copy_x=..., metric=..., algorithm=...)
        assert loaded.get_params() == model.get_params()
        np.testing.assert_array_equal(loaded.predict(X), model.labels_)

    def test_without_the_frame_of_the_fit_predict_from_the_centers(self, rng):
        X = blobs(rng, 60, 2)
        model = KMeans(3, random_state=0).fit(X)
        np.testing.assert_array_equal(with_state(model, _origin=..., _spread=...).predict(X), model.labels_)

    def test_between_batches_go_on_with_the_same_bits(self, lib, rng):
        X = lib.asarray(blobs(rng, 90, 2))
        model = MiniBatchKMeans(3, random_state=0).partial_fit(X[:30, :])
        copies = [copy.deepcopy(model), pickled_again(model)]
        model.partial_fit(X[30:, :])
        for other in copies:
            other.partial_fit(X[30:, :])
            np.testing.assert_array_equal(to_numpy(other.cluster_centers_), to_numpy(model.cluster_centers_))


class TestCopies:
    """`copy`, `deepcopy` and `clone` stay in the library."""

    @pytest.mark.parametrize("kind", list(ESTIMATORS))
    def test_keep_the_library(self, kind, lib, rng):
        X = lib.asarray(blobs(rng, 60, 2))
        model = ESTIMATORS[kind]().fit(X)
        for other in (copy.copy(model), copy.deepcopy(model)):
            assert other is not model
            lib.assert_owns(other.cluster_centers_, "float64")
            assert device(other.labels_) == device(X)
            np.testing.assert_array_equal(to_numpy(other.predict(X)), to_numpy(model.labels_))
            assert VERSION not in vars(other)
        assert copy.copy(model).labels_ is model.labels_

    def test_deep_ones_share_nothing(self, rng):
        model = KMeans(3, random_state=0).fit(blobs(rng, 60, 2))
        other = copy.deepcopy(model)
        other.cluster_centers_[:] = 0
        other.history_["inertia"].clear()
        assert model.cluster_centers_.any()
        assert model.history_["inertia"]

    def test_keep_the_callback(self):
        def watch(iteration):
            pass

        model = KMeans(on_iteration=watch)
        assert clone(model).on_iteration is copy.deepcopy(model).on_iteration is copy.copy(model).on_iteration is watch


class TestSweep:
    """What a sweep keeps."""

    def test_keeps_one_model_and_its_labels(self, rng):
        model = KMeansSweep(range(2, 8), random_state=0).fit(blobs(rng, 5000, 2))
        assert len(pickle.dumps(model)) < 1.5 * model.labels_.nbytes
        best = model.best_estimator_
        assert (model.labels_, model.cluster_centers_, model.inertia_) == (
            best.labels_,
            best.cluster_centers_,
            best.inertia_,
        )
        assert not hasattr(KMeansSweep(), "labels_")


def test_to_sklearn_of_fits_on_sparse_rows_and_on_dask(rng):
    da = pytest.importorskip("dask.array")
    X = blobs(rng, 90, 3)
    for rows in (sparse.csr_array(X), da.from_array(X, chunks=(30, 3))):
        model = KMeans(3, random_state=0).fit(rows)
        theirs = model.to_sklearn()
        assert type(theirs.labels_) is type(theirs.cluster_centers_) is np.ndarray
        np.testing.assert_array_equal(theirs.predict(X), theirs.labels_)
        np.testing.assert_array_equal(np.asarray(model.predict(rows)), theirs.labels_)
        np.testing.assert_array_equal(KMeans.from_sklearn(theirs).predict(X), theirs.labels_)


def by_hand(cls):
    def make(centers, **params):
        model = cls(**params)
        model.cluster_centers_ = centers
        return model

    return make


class TestGivenCenters:
    """Models that know nothing but centers."""

    makers = pytest.mark.parametrize(
        "make", [KMeans.from_centers, by_hand(KMeans), by_hand(MiniBatchKMeans)], ids=["from_centers", "KMeans", "mini"]
    )

    @makers
    def test_do_all_that_a_fitted_model_does(self, make, lib, rng):
        X, C = blobs(rng, 60, 3), rng.normal(size=(4, 3))
        distances = np.linalg.norm(X[:, None] - C[None], axis=2)
        for centers in (C, lib.asarray(C), C.tolist()):
            model = make(centers)
            for rows in (X, lib.asarray(X)):
                np.testing.assert_array_equal(to_numpy(model.predict(rows)), distances.argmin(axis=1))
                np.testing.assert_allclose(to_numpy(model.transform(rows)), distances, rtol=1e-9, atol=1e-12)
                np.testing.assert_allclose(model.score(rows), -(distances.min(axis=1) ** 2).sum())
                np.testing.assert_array_equal(
                    to_numpy(model.nearest_centers(rows, 4)[1]), np.argsort(distances, axis=1)
                )
                np.testing.assert_array_equal(to_numpy(model.nearest_rows(rows)[1])[:, 0], distances.argmin(axis=0))
        assert len(model.get_feature_names_out()) == 4
        for other in (copy.deepcopy(model), pickled_again(model)):
            np.testing.assert_array_equal(other.predict(X), distances.argmin(axis=1))

    @makers
    def test_of_rows_that_are_no_array(self, make, rng, tmp_path):
        da = pytest.importorskip("dask.array")
        X, C = blobs(rng, 60, 3), rng.normal(size=(4, 3))
        np.save(tmp_path / "rows.npy", X)

        class Source:
            shape, dtype = X.shape, X.dtype

            def __getitem__(self, rows):
                return np.load(tmp_path / "rows.npy")[rows]

        model = make(C)
        for rows in (sparse.csr_array(X), da.from_array(X, chunks=(20, 3)), Source()):
            np.testing.assert_array_equal(np.asarray(model.predict(rows)), model.predict(X))
            np.testing.assert_allclose(np.asarray(model.transform(rows)), model.transform(X), atol=1e-12)
            np.testing.assert_allclose(model.score(rows), model.score(X))

    @makers
    def test_of_a_wrong_number_of_features(self, make):
        name = type(make([[0.0]])).__name__
        with pytest.raises(ValueError, match=f"X has 3 features, but {name} is expecting 2 features as input"):
            make([[0.0, 1], [2, 3]]).predict([[0, 0, 0]])

    @makers
    @pytest.mark.parametrize(
        ("centers", "error", "said"),
        [
            ([1.0, 2], ValueError, "Expected 2D array, got 1D array instead"),
            ([[1.0, np.nan]], ValueError, "Input cluster_centers_ contains NaN"),
            ([[1.0, np.inf]], ValueError, "Input cluster_centers_ contains infinity"),
            (np.ma.masked_array([[1.0, 2]], [[0, 1]]), ValueError, "Input cluster_centers_ contains masked values"),
            (sparse.csr_array([[1.0, 2]]), TypeError, "Sparse data was passed for cluster_centers_"),
        ],
    )
    def test_that_are_none_are_refused_where_they_are_given(self, make, centers, error, said):
        with pytest.raises(error, match=said):
            make(centers)

    @makers
    def test_of_integers_and_halves(self, make, foreign):
        X = np.asarray([[0.2, 0.0], [3.0, 2.9]])
        for centers in ([[0, 0], [3, 3]], foreign.asarray([[0, 0], [3, 3]], dtype="int64")):
            model = make(centers)
            assert "float" in str(model.cluster_centers_.dtype)
            np.testing.assert_array_equal(model.predict(X), [0, 1])
            np.testing.assert_allclose(model.transform(X)[1, 1], 0.1)

    @makers
    def test_are_copied(self, make, lib, rng):
        C = lib.asarray(rng.normal(size=(3, 2)))
        assert make(C).cluster_centers_ is not C
        if lib.name == "numpy":
            assert not np.shares_memory(make(C).cluster_centers_, C)
        if lib.name == "torch":
            assert make(C).cluster_centers_.data_ptr() != C.data_ptr()
            assert not make(C.clone().requires_grad_()).cluster_centers_.requires_grad

    @pytest.mark.parametrize("make", [KMeans.from_centers, by_hand(KMeans)], ids=["from_centers", "by hand"])
    def test_for_the_cosine_are_scaled(self, make, lib, rng):
        X, C = rng.normal(size=(60, 3)), 10 * rng.normal(size=(4, 3))
        cosine = 1 - X @ C.T / np.linalg.norm(X, axis=1)[:, None] / np.linalg.norm(C, axis=1)
        model = make(lib.asarray(C), metric="cosine")
        np.testing.assert_allclose(np.linalg.norm(to_numpy(model.cluster_centers_), axis=1), 1)
        np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(X))), cosine.argmin(axis=1))
        np.testing.assert_allclose(to_numpy(model.transform(lib.asarray(X))), cosine, atol=1e-12)
        np.testing.assert_allclose(model.score(lib.asarray(X)), -cosine.min(axis=1).sum())

    @pytest.mark.parametrize("kind", ["KMeans", "MiniBatchKMeans"])
    def test_replace_those_of_a_fit(self, kind, lib, rng):
        X = blobs(rng, 60, 3)
        model = ESTIMATORS[kind]().fit(lib.asarray(X + 1e8))
        C = rng.normal(size=(5, 3))
        model.cluster_centers_ = lib.asarray(C)
        distances = np.linalg.norm(X[:, None] - C[None], axis=2)
        np.testing.assert_allclose(to_numpy(model.transform(lib.asarray(X))), distances, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(X))), distances.argmin(axis=1))
        assert len(model.get_feature_names_out()) == 5
        model.cluster_centers_ = C[:, :2]
        assert model.predict(X[:, :2]).shape == (60,)

    def test_in_another_order_keep_the_names_of_the_features(self, rng):
        frame = pd.DataFrame(blobs(rng, 60, 2), columns=["a", "b"])
        model = KMeans(3, random_state=0).fit(frame)
        labels, order = model.labels_, np.argsort(model.cluster_centers_[:, 0])
        model.cluster_centers_ = model.cluster_centers_[order]
        np.testing.assert_array_equal(order[model.predict(frame)], labels)
        assert list(KMeans.from_centers(frame[:3]).feature_names_in_) == ["a", "b"]
        with pytest.raises(ValueError, match="The feature names should match"):
            KMeans.from_centers(frame[:3]).predict(frame.rename(columns={"b": "c"}))

    def test_go_on_in_batches_as_if_they_had_seen_nothing(self, lib, rng):
        X, C = lib.asarray(blobs(rng, 90, 3, n_clusters=3)), lib.asarray(blobs(rng, 3, 3))
        for model in (by_hand(MiniBatchKMeans)(C, random_state=0), MiniBatchKMeans(3, random_state=0).fit(X)):
            model.cluster_centers_ = C
            expected = MiniBatchKMeans(3, init=C, random_state=0, reassignment_ratio=0)
            model.set_params(reassignment_ratio=0)
            for rows in (slice(0, 40), slice(40, 90)):
                model.partial_fit(X[rows, :])
                expected.partial_fit(X[rows, :])
                np.testing.assert_allclose(
                    to_numpy(model.cluster_centers_), to_numpy(expected.cluster_centers_), rtol=1e-9
                )

    def test_are_forgotten_by_a_fit(self, rng):
        X = blobs(rng, 60, 3)
        for kind in ("KMeans", "MiniBatchKMeans"):
            model = ESTIMATORS[kind]()
            model.cluster_centers_ = np.zeros((3, 2))
            np.testing.assert_array_equal(model.fit(X).labels_, ESTIMATORS[kind]().fit(X).labels_)

    def test_become_a_model_of_scikit_learn(self, rng):
        X, C = blobs(rng, 60, 3), rng.normal(size=(4, 3))
        model = KMeans.from_centers(C)
        theirs = model.to_sklearn()
        np.testing.assert_array_equal(theirs.predict(X), model.predict(X))
        assert not hasattr(theirs, "labels_")

    def test_with_parameters(self):
        model = KMeans.from_centers([[0.0], [1.0]], tol=0.5, n_clusters=9)
        assert (model.n_clusters, model.tol) == (2, 0.5)
        assert clone(model).n_clusters == 2
        with pytest.raises(ValueError, match="The 'metric' parameter of KMeans must be a str among"):
            KMeans.from_centers([[0.0]], metric="manhattan")

    def test_that_were_never_given_are_missing(self):
        for model in (KMeans(), MiniBatchKMeans()):
            assert not hasattr(model, "cluster_centers_")
            with pytest.raises(AttributeError, match=f"'{type(model).__name__}' object has no attribute"):
                _ = model.cluster_centers_
            for use in (model.predict, model.transform, model.score, model.nearest_centers, model.nearest_rows):
                with pytest.raises(NotFittedError):
                    use([[0.0]])
            with pytest.raises(NotFittedError):
                model.get_feature_names_out()


def test_what_the_fit_said_of_its_rows_goes_with_its_centers(rng):
    X = rng.normal(size=(100, 3))
    for model in (KMeans(3, random_state=0).fit(X), MiniBatchKMeans(3, random_state=0).fit(X)):
        model.cluster_centers_ = X[:4]
        for name in ("labels_", "inertia_", "cluster_sizes_", "n_iter_", "converged_", "history_"):
            assert not hasattr(model, name)
        assert model.transform(X).shape == (100, 4)


def test_models_of_other_kinds_are_refused(rng):
    model = cluster.DBSCAN().fit(rng.normal(size=(20, 2)))
    with pytest.raises(TypeError, match="A KMeans or MiniBatchKMeans of scikit-learn is needed, got DBSCAN"):
        KMeans.from_sklearn(model)


def test_scikit_learns_model_goes_where_it_does(rng, tmp_path):
    """As docs/questions.md says: skops trusts all of it, and ours by its name."""
    io = pytest.importorskip("skops.io")
    X = blobs(rng, 200, 3).astype("float32")
    model = KMeans(4, random_state=0).fit(X)
    io.dump(model.to_sklearn(), tmp_path / "theirs.skops")
    assert io.get_untrusted_types(file=tmp_path / "theirs.skops") == []
    np.testing.assert_array_equal(io.load(tmp_path / "theirs.skops").predict(X), model.labels_)
    io.dump(model, tmp_path / "ours.skops")
    ours = io.load(tmp_path / "ours.skops", trusted=["kmeans_xp.estimators.kmeans.KMeans"])
    assert type(ours) is KMeans
    np.testing.assert_array_equal(ours.predict(X), model.labels_)


def test_onnx_labels_as_we_do(rng):
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    X = blobs(rng, 200, 3).astype("float32")
    model = KMeans(4, random_state=0).fit(X)
    saved = skl2onnx.to_onnx(model.to_sklearn(), X[:1]).SerializeToString()
    session = onnxruntime.InferenceSession(saved, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["label"], {"X": X})[0], model.labels_)
