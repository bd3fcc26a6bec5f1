"""scikit-learn's k-means replaced by ours, in code that knows nothing of it."""

import copy
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn.cluster
from conftest import SKLEARN_VERSION, blobs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import cluster, mixture, preprocessing
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import kmeans_xp
from kmeans_xp.estimators import replacements

THEIRS = {name: getattr(cluster, name) for name in ("KMeans", "MiniBatchKMeans", "BisectingKMeans")}
FUNCTIONS = {name: getattr(cluster, name) for name in ("kmeans_plusplus", "k_means")}
PACKAGE = str(Path(kmeans_xp.__file__).parents[1])
PROGRAM = "-W", "error", "-m", "kmeans_xp"
REPLACED = Path(__file__).parents[1] / "ci" / "replaced"


@pytest.fixture
def installed():
    kmeans_xp.install(quiet=True)
    yield
    kmeans_xp.uninstall()


@pytest.fixture(params=list(THEIRS))
def name(request):
    return request.param


def test_everything_is_replaced_and_put_back():
    module = types.ModuleType("of_a_user")
    module.Chosen, module.plusplus = cluster.KMeans, cluster.kmeans_plusplus
    sys.modules[module.__name__] = module
    try:
        kmeans_xp.install(quiet=True)
        for name in (*THEIRS, *FUNCTIONS):
            assert getattr(sklearn.cluster, name) is getattr(replacements, name)
        assert module.Chosen is replacements.KMeans
        assert module.plusplus is replacements.kmeans_plusplus
        kmeans_xp.install(quiet=True)  # twice is once
        module.later = cluster.MiniBatchKMeans
        kmeans_xp.uninstall()
        assert {name: getattr(cluster, name) for name in THEIRS} == THEIRS
        assert {name: getattr(cluster, name) for name in FUNCTIONS} == FUNCTIONS
        assert (module.Chosen, module.later) == (THEIRS["KMeans"], THEIRS["MiniBatchKMeans"])
        assert module.plusplus is FUNCTIONS["kmeans_plusplus"]
        kmeans_xp.uninstall()
    finally:
        del sys.modules[module.__name__]


def test_it_is_said_once(capsys):
    try:
        kmeans_xp.install()
        kmeans_xp.install()
        said = capsys.readouterr()
        assert not said.out
        (line,) = said.err.splitlines()
        assert line == (
            "kmeans_xp replaces scikit-learn's KMeans, MiniBatchKMeans, BisectingKMeans, kmeans_plusplus, k_means "
            "(device: that of the data)."
        )
    finally:
        kmeans_xp.uninstall()


@pytest.mark.parametrize("options", [{"device": "gpu"}, {"pickle_as": "sk"}])
def test_wrong_options_replace_nothing(options):
    with pytest.raises(ValueError, match="is not known: use"):
        kmeans_xp.install(**options)
    assert cluster.KMeans is THEIRS["KMeans"]


def test_the_replacement_is_called_as_what_it_replaces(installed, name, rng):
    ours, theirs = getattr(cluster, name), THEIRS[name]
    assert ours().get_params() == theirs().get_params()
    assert repr(ours(3, tol=0.5)) == repr(theirs(3, tol=0.5))
    params = theirs(3, max_iter=50, random_state=0).get_params()
    model = ours(**params).fit(blobs(rng))
    assert clone(model).get_params() == params
    assert model.get_feature_names_out()[0] == f"{name.lower()}0"
    with pytest.raises(ValueError, match=f"'n_clusters' parameter of {name} must be"):
        ours(0).fit(blobs(rng))


def test_instances(installed, name, rng):
    """Of models made before and after, of classes bound before and after, of subclasses made before and after."""
    ours, theirs = getattr(cluster, name), THEIRS[name]
    before, after = theirs(), ours()
    for model in (before, after):
        assert isinstance(model, ours)
        assert isinstance(model, theirs)
        assert not isinstance(model, replacements.MiniBatchKMeans if name == "KMeans" else replacements.KMeans)
    old, new = type("Old", (theirs,), {}), type("New", (ours,), {})
    assert issubclass(old, ours)
    assert isinstance(new(), ours)
    assert isinstance(new(), theirs)
    assert isinstance(new(), new)
    assert not isinstance(after, new)
    assert not isinstance(before, new)
    assert not isinstance(kmeans_xp.KMeans(), ours)
    assert isinstance(after, getattr(kmeans_xp, name))


def test_fits_are_ours(installed, rng):
    """With the labels and centers of scikit-learn, from the same start."""
    X = blobs(rng, 900, 3)
    for algorithm in ("lloyd", "elkan"):
        given = {"init": X[:5], "n_init": 1, "algorithm": algorithm, "copy_x": False}
        ours, theirs = cluster.KMeans(5, **given).fit(X), THEIRS["KMeans"](5, **given).fit(X.copy())
        assert_array_equal(ours.labels_, theirs.labels_)
        assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
        assert ours.history_["inertia"]


def test_nothing_is_said_that_scikit_learn_does_not_say(installed, name, rng):
    """Such as that `max_iter` ended a fit: warnings are errors here."""
    getattr(cluster, name)(5, max_iter=1, random_state=0).fit(blobs(rng, spread=1))


def test_centers_set_by_hand_leave_what_is_known_of_rows(installed, rng):
    X = blobs(rng)
    model = cluster.KMeans(3, random_state=0).fit(X)
    labels = model.labels_
    model.cluster_centers_ = model.cluster_centers_[::-1]
    assert model.labels_ is labels
    assert_array_equal(model.predict(X), 2 - labels)
    batches = cluster.MiniBatchKMeans(3, random_state=0).partial_fit(X)
    batches.cluster_centers_ = batches.cluster_centers_ + 1
    assert batches.partial_fit(X).n_steps_ == 2


def test_functions(installed, rng):
    X = blobs(rng)
    centers, labels, inertia, n_iter = cluster.k_means(X, 3, init=X[:3], n_init=1, return_n_iter=True)
    model = cluster.KMeans(3, init=X[:3], n_init=1).fit(X)
    assert_array_equal(labels, model.labels_)
    assert_array_equal(centers, model.cluster_centers_)
    assert (inertia, n_iter) == (model.inertia_, model.n_iter_)
    assert len(cluster.k_means(X, 3, random_state=0)) == 3
    centers, rows = cluster.kmeans_plusplus(X, 3, random_state=0)
    assert_array_equal(rows, kmeans_xp.kmeans_plusplus(X, 3, random_state=0)[1])
    assert_array_equal(centers, X[rows])
    # What ours has no use for goes to scikit-learn's
    given = {"random_state": 0, "n_local_trials": 1}
    assert_array_equal(cluster.kmeans_plusplus(X, 3, **given)[1], FUNCTIONS["kmeans_plusplus"](X, 3, **given)[1])
    with pytest.raises(ValueError, match="x_squared_norms"):
        cluster.kmeans_plusplus(X, 3, x_squared_norms=X[:2, 0])


def test_scikit_learn_itself_fits_by_ours(installed, rng, monkeypatch):
    """Its spectral clustering, mixtures and discretizers."""
    X, fits = blobs(rng, 200, 2, n_clusters=3), []
    fit = kmeans_xp.KMeans.fit
    monkeypatch.setattr(kmeans_xp.KMeans, "fit", lambda *args, **kwargs: fits.append(1) or fit(*args, **kwargs))
    for estimator in (
        cluster.SpectralClustering(3, random_state=0, affinity="nearest_neighbors"),
        mixture.GaussianMixture(3, random_state=0),
        preprocessing.KBinsDiscretizer(3, strategy="kmeans", quantile_method="averaged_inverted_cdf"),
    ):
        fits.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)  # graphs that are not connected
            estimator.fit(X)
        assert fits


def test_the_device_is_an_option(rng):
    try:
        kmeans_xp.install(quiet=True, device="cpu")
        model = cluster.KMeans(3, random_state=0)
        assert model.device == "cpu"
        assert "device" not in model.get_params()
        assert model.fit(blobs(rng)).predict(blobs(rng)).shape == (500,)
    finally:
        kmeans_xp.uninstall()
    assert model.device is None


def test_auto_without_a_gpu_says_why(monkeypatch, capsys):
    monkeypatch.setattr("kmeans_xp.acceleration.cuda_problem", lambda: "there is no GPU")
    try:
        kmeans_xp.install(device="auto")
        assert "(device: that of the data, as there is no GPU)" in capsys.readouterr().err
        assert cluster.KMeans().device is None
        monkeypatch.setattr("kmeans_xp.acceleration.cuda_problem", lambda: None)
        kmeans_xp.install(device="auto")
        assert cluster.KMeans().device == "auto"
    finally:
        kmeans_xp.uninstall()


def fitted(name, rng, **params):
    return getattr(replacements, name)(4, random_state=0, **params).fit(blobs(rng, dtype="float32"))


def test_pickles_are_ours(name, rng, tmp_path):
    """And open whether or not anything is replaced there."""
    model, X = fitted(name, rng), blobs(rng)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    joblib.dump(model, tmp_path / "model")
    for other in (again, joblib.load(tmp_path / "model"), copy.deepcopy(model)):
        assert_array_equal(other.predict(X), model.predict(X))


def test_pickles_are_scikit_learns_on_request(name, rng):
    model, X = fitted(name, rng), blobs(rng, dtype="float32")
    try:
        kmeans_xp.install(quiet=True, pickle_as="sklearn")
        pickled, unfitted = pickle.dumps(model), pickle.dumps(clone(model))
        assert type(copy.deepcopy(model)) is type(model)
    finally:
        kmeans_xp.uninstall()
    assert b"kmeans_xp" not in pickled + unfitted
    theirs = pickle.loads(pickled)
    assert type(theirs) is THEIRS[name]
    assert_array_equal(theirs.predict(X), model.predict(X))
    assert_array_equal(theirs.labels_, model.labels_)
    assert_allclose(theirs.transform(X), model.transform(X), rtol=1e-4)
    assert theirs.get_params() == model.get_params() == pickle.loads(unfitted).get_params()
    assert theirs.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()


def test_pickles_of_scikit_learn_open_as_its_own(installed, name, rng):
    X = blobs(rng)
    theirs = THEIRS[name](4, random_state=0).fit(X)
    again = pickle.loads(pickle.dumps(theirs))
    assert type(again) is THEIRS[name]
    assert_array_equal(again.predict(X), theirs.predict(X))


def test_mini_batches_go_on_in_scikit_learn(rng):
    X = blobs(rng, 300)
    model = kmeans_xp.MiniBatchKMeans(5, random_state=0, reassignment_ratio=0).partial_fit(X)
    theirs = model.to_sklearn()
    assert_allclose(theirs.partial_fit(X).cluster_centers_, model.partial_fit(X).cluster_centers_, rtol=1e-6)
    assert theirs.n_steps_ == model.n_steps_ == 2


def test_trees_in_scikit_learn(rng):
    X = blobs(rng, 2000, 3, n_clusters=12, spread=2)
    model = kmeans_xp.BisectingKMeans(12, random_state=0).fit(X)
    assert_array_equal(model.to_sklearn().predict(3 * X), model.predict(3 * X))
    whole = kmeans_xp.BisectingKMeans(1).fit(X)
    assert_array_equal(whole.to_sklearn().predict(X), np.zeros(2000))
    model.cluster_centers_ = model.cluster_centers_ + 1
    with pytest.raises(ValueError, match="needs a tree"):
        model.to_sklearn()
    for estimator in (kmeans_xp.BisectingKMeans(), kmeans_xp.MiniBatchKMeans()):
        with pytest.raises(NotFittedError):
            estimator.to_sklearn()


SCRIPT = """
import sys
import helper
from sklearn.cluster import KMeans
print(__name__, sys.argv, helper.NAME, KMeans.__module__)
"""


def run(*arguments, folder, more_paths=()):
    """Exit status of Python with arguments, its output and its errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGE, *more_paths, *filter(None, sys.path)])}
    found = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True)
    return found.returncode, found.stdout, found.stderr


def test_a_script_and_a_module_are_run(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("NAME = 'beside the script'")
    code, out, err = run(*PROGRAM, "--device", "cpu", "folder/script.py", "--device", "3", folder=tmp_path)
    assert (code, out) == (
        0,
        "__main__ ['folder/script.py', '--device', '3'] beside the script kmeans_xp.estimators.replacements\n",
    ), err
    assert err.startswith("kmeans_xp replaces scikit-learn's KMeans")
    assert "(device: cpu)" in err
    code, out, err = run(*PROGRAM, "--quiet", "-m", "script", "--quiet", folder=folder)
    assert code == 0, err
    assert out.startswith("__main__")
    assert "script.py', '--quiet'] beside the script kmeans_xp" in out
    assert not err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments -m script is required"),
        (["-m"], "the name of a module is missing"),
        (["--device", "gpu", "script.py"], "device='gpu' is not known"),
    ],
)
def test_what_cannot_be_run(arguments, message, tmp_path):
    code, _, err = run(*PROGRAM, *arguments, folder=tmp_path)
    assert code == 2
    assert message in err


def test_an_extension_of_ipython():
    """IPython calls these, with its shell."""
    try:
        kmeans_xp.load_ipython_extension(None)
        assert cluster.KMeans is replacements.KMeans
        kmeans_xp.unload_ipython_extension(None)
        assert cluster.KMeans is THEIRS["KMeans"]
    finally:
        kmeans_xp.uninstall()


def test_importing_replaces_nothing(tmp_path):
    code = "import sys, kmeans_xp; from sklearn.cluster import KMeans; print(KMeans.__module__, *sys.modules)"
    _, out, _ = run("-c", code, folder=tmp_path)
    assert out.startswith("sklearn.cluster._kmeans ")
    assert "kmeans_xp.estimators.replacements" not in out.split()


@pytest.mark.skipif(not REPLACED.exists(), reason="ci is not in this copy")
@pytest.mark.skipif(SKLEARN_VERSION < (1, 9), reason="the list of differences is that of scikit-learn 1.9")
def test_scikit_learns_own_tests(tmp_path):
    """Those of its k-means; `ci/suites` runs more. Those that are listed must fail, all others pass."""
    modules = [f"sklearn.cluster.tests.{name}" for name in ("test_k_means", "test_bisect_k_means")]
    options = ["-q", "-p", "replaced_plugin", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    options += [f"--rootdir={tmp_path}", "--pyargs", *modules]
    code, out, err = run("-m", "pytest", *options, folder=tmp_path, more_paths=[str(REPLACED)])
    assert code == 0, out + err
    assert " xfailed" in out
