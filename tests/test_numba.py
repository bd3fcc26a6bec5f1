"""Numba is an extra that may be broken: then plain NumPy does its passes, and one warning says so."""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings

import pytest
from conftest import blobs
from numpy.testing import assert_allclose, assert_array_equal

from kmeans_xp import KMeans

backend = pytest.importorskip("kmeans_xp.backends.numpy")
pytest.importorskip("numba")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FIT = """
    import sys, warnings
    import numpy as np
    from kmeans_xp import KMeans
    from kmeans_xp.backends import numpy as backend

    X = np.random.default_rng(0).normal(size=(50_000, 4))
    model = KMeans(60, init=X[:60], max_iter=2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model.fit(X)
        model.predict(X)
        model.fit(X)
    found = [warning for warning in seen if "Numba" in str(warning.message)]
    for warning in found:
        print(warning.category.__name__, warning.message)
    labels = model.labels_
    backend._has_numba = lambda: False
    warnings.simplefilter("ignore")
    print(np.array_equal(labels, model.fit(X).labels_))
"""


def run(code, **environment):
    """The lines that a process prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'", "ImportError: NUMBA_DISABLE_JIT is set"),
        ("import sys; sys.path.insert(0, 'BROKEN')", "AttributeError: broken"),
        # Where neither the package's folder nor that of the user can be written to
        ("from numba.core import caching; caching.CacheImpl._locator_classes = []", "RuntimeError: cannot cache"),
    ],
)
def test_that_cannot_be_imported_is_given_up(environment, tmp_path, before, said):
    (tmp_path / "numba.py").write_text("raise AttributeError('broken')")
    first, *rest = run(before.replace("BROKEN", str(tmp_path)) + "\n" + textwrap.dedent(FIT), **environment)
    assert first.startswith(f"RuntimeWarning Numba is installed but fails ({said}")
    assert rest == ["True"]


def test_whose_cache_is_corrupt_is_given_up(environment, tmp_path):
    """The index of a pass, and its code."""
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code = "from kmeans_xp.backends import numpy as backend; print(backend.passes_in_use())"
    assert run(code, **environment) == ["compiled by Numba"]
    for suffix in ("nbi", "nbc"):
        shutil.copytree(tmp_path / "cache", tmp_path / suffix)
        files = list((tmp_path / suffix).rglob(f"*.{suffix}"))
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:60])
        first, *rest = run(FIT, **environment | {"NUMBA_CACHE_DIR": str(tmp_path / suffix)})
        assert first.startswith("RuntimeWarning Numba is installed but fails (")
        assert "empty its cache" in first
        assert rest == ["True"]


PASSES = ("assign", "cluster_sums", "sq_distances_to_own", "distances", "relabel")


class TestFailingPass:
    """Each pass in turn fails in the middle of what is done with a model."""

    @pytest.fixture(params=PASSES)
    def fail_by(self, request, monkeypatch):
        """Has the pass raise an error."""
        monkeypatch.setattr(backend, "COMPILED_WORK", 0)
        monkeypatch.setattr(backend, "_trouble", None)

        def fail(*_):
            raise self.error

        monkeypatch.setattr(backend._compiled_passes(), request.param, fail)
        return lambda error: setattr(self, "error", error)

    @staticmethod
    def everything(X, algorithm="elkan"):
        """Fit, predict and transform: all passes."""
        model = KMeans(9, init=X[:9], tol=0, algorithm=algorithm).fit(X)
        return model, model.predict(X), model.transform(X)

    @pytest.fixture
    def X(self, rng):  # noqa: N802
        return blobs(rng, 3000, 3, n_clusters=9, spread=1)

    @pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
    def test_is_done_in_plain_numpy_as_are_all_from_then_on(self, monkeypatch, X, fail_by, algorithm):
        fail_by(OSError("No space left on device"))
        with pytest.warns(RuntimeWarning, match="Numba .*No space left on device") as seen:
            model, labels, distances = self.everything(X, algorithm)
        assert len(seen) == 1
        assert not backend._has_numba()
        assert backend.passes_in_use() == "plain NumPy, as Numba fails (OSError: No space left on device)"
        expected, expected_labels, expected_distances = self.everything(X, algorithm)
        assert_array_equal(model.labels_, expected.labels_)
        assert model.n_iter_ == expected.n_iter_
        assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-12)
        assert_array_equal(labels, expected_labels)
        assert_allclose(distances, expected_distances, rtol=1e-9)

    def test_fails_once_where_warnings_are_errors(self, X, fail_by):
        fail_by(OSError("No space left on device"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="Numba"):
                self.everything(X)
            self.everything(X)

    def test_for_want_of_memory_is_none_of_numbas(self, X, fail_by):
        fail_by(MemoryError("much"))
        with pytest.raises(MemoryError, match="much"):
            self.everything(X)
        assert backend._has_numba()
