"""Whatever stands in for a portable step gives what that gives: found in the package, and listed nowhere.

Two kinds of stand-ins: functions in `backends/<library>.py`, for arrays of that library, and methods of stored rows,
which are compared with the array of the same rows. What has no arguments or no maker in the tables here fails.
"""

import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Library, brute_force, load, moments, unbounded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import kmeans_xp.rows
from kmeans_xp import backends, steps
from kmeans_xp.arrays import namespace, to_numpy
from kmeans_xp.backends import REPLACEABLE
from kmeans_xp.frame import Frame
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.rows import PRIMITIVES, Rows, StoredRows, array

for module in pkgutil.iter_modules(kmeans_xp.rows.__path__, "kmeans_xp.rows."):
    if "._" not in module.name:
        importlib.import_module(module.name)

# Public functions of backends that are no steps: for versions.py, ci/cuda and tests of memory
OTHER_FUNCTIONS = {"passes_in_use", "instances", "plain_instances", "scratch_bytes"}


@dataclass(frozen=True)
class Case:
    """What the steps are given beside the rows: arrays of a library."""

    lib: Library
    host: np.ndarray  # the rows
    n_clusters: int
    frame: Frame
    centers: Any
    weights: Any
    labels: Any
    known: bool  # whether the labels are those of a step before, from which a bounded step starts
    precise: float  # what rounding may do, relative to the largest number
    mixed: bool = False  # rows in float32 are compared with the same in float64

    def array(self, values, dtype=None):
        return self.lib.asarray(values, dtype)

    def rng(self):
        """The same numbers again each time."""
        return np.random.default_rng(7)

    def row_numbers(self):
        return self.array(self.rng().integers(len(self.host), size=5), "int64")

    def state(self):
        """What a bounded step starts from, to be written to: labels, slack, path, sums, weights."""
        path, n_samples = self.array(self.rng().uniform(size=self.n_clusters)), len(self.host)
        if not self.known:
            return *unbounded(self.array(self.host), self.weights), path, 0, 0
        job = self.array(self.host), self.weights, self.labels, self.n_clusters
        sums = steps.update.portable(*job, replace(self.frame, shifted=False))
        slack = np.where(self.rng().uniform(size=n_samples) < 0.5, np.inf, -np.inf)
        return self.array(to_numpy(self.labels).copy()), self.array(slack), path, *sums


def case(lib, host, n_clusters, dtype, known=True, tile_bytes=10_000, precise=None):
    """A case, its centers near rows, its weights partly 0, and some clusters without rows."""
    rng = np.random.default_rng(len(host) + n_clusters)
    X, n_samples = lib.asarray(host, dtype), len(host)
    weights = rng.uniform(0.5, 2, size=n_samples) * (rng.integers(4, size=n_samples) > 0)
    weights[0] = 1.0
    frame = moments(X, lib.asarray(weights), n_clusters, tile_bytes)
    centers = host[rng.integers(n_samples, size=n_clusters)] * rng.uniform(0.9, 1.1, size=(n_clusters, 1))
    labels = rng.integers(-(-n_clusters // 2), size=n_samples)
    return Case(
        lib,
        host.astype(dtype),
        n_clusters,
        frame,
        frame.enter(lib.asarray(centers, dtype)),
        lib.asarray(weights),
        lib.asarray(labels, "int32"),
        known,
        precise or (1e-5 if dtype == "float32" else 1e-12),
    )


def bounds_of_a_step(c, X):
    labels, slack, path, *sums = c.state()
    return X, c.weights, c.centers, labels, slack, path, *sums, c.frame


def sums_of_a_step(c, X):
    sums = steps.update.portable(X, c.weights, c.labels, c.n_clusters, c.frame)
    return *sums, c.centers, c.array(3), c.array(5), c.frame, EUCLIDEAN


def candidates_of_a_draw(c, X):
    closest = c.array(brute_force(c.host, c.host[:1]).min(axis=1))
    rows = c.rng().integers(len(c.host), size=6)
    squares = c.array(brute_force(c.host, c.host[rows]).T.copy())
    return closest, squares, c.weights, c.array(rows, "int64"), c.rng().uniform(size=6), 2, 3


def slices_of(X, n_rows=7):
    return [slice(begin, min(begin + n_rows, X.shape[0])) for begin in range(0, X.shape[0], n_rows)]


# Calls of each step for a case and its rows, as an array or stored otherwise
ARGUMENTS = {
    "assign": lambda c, X: [(X, c.centers, c.frame)],
    "bounded_step": lambda c, X: [bounds_of_a_step(c, X)],
    "choose": lambda c, X: [candidates_of_a_draw(c, X)],
    "cluster_sums": lambda c, X: [(X, c.labels, c.weights, c.n_clusters)],
    "distinct": lambda c, X: [(c.labels,)],
    "dense": lambda c, X: [(X,)],
    "distances": lambda c, X: [(X, c.centers, c.frame)],
    "largest": lambda c, X: [(X,)],
    "lloyd_step": lambda c, X: [(X, c.weights, c.centers, c.frame)],
    "map_slices": lambda c, X: [(X, lambda rows: rows, slices_of(X))],
    "move": lambda c, X: [sums_of_a_step(c, X)],
    "own_threads": lambda c, X: [(X, c.n_clusters)],
    "projections": lambda c, X: [(X, c.centers[0, :])],
    "relative": lambda c, X: [(X, origin, c.lib.xp.float64) for origin in (c.frame.origin, None)],
    "row_size": lambda c, X: [(X,)],
    "share_that_pays": lambda c, X: [(X, c.n_clusters, c.frame)],
    "sq_distances": lambda c, X: [(X, c.centers), (X, array.take_rows(X, c.row_numbers()))],
    "sq_distances_of_tile": lambda c, X: [(X, c.labels, c.centers)],
    "sq_distances_to": lambda c, X: [(X, c.row_numbers(), c.frame)],
    "sq_distances_to_own": lambda c, X: [(X, c.labels, c.centers, c.frame)],
    "sq_norms": lambda c, X: [(X,)],
    "take_rows": lambda c, X: [(X, c.row_numbers())],
    "update": lambda c, X: [(X, c.weights, c.labels, c.n_clusters, c.frame)],
}


def same(ours, theirs, c, atol=None):
    """The same values, up to rounding in the dtype of the rows; whole numbers exactly."""
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, c, atol)
        return
    if isinstance(ours, StoredRows):
        ours = ours.dense()
    if hasattr(theirs, "shape") and theirs.shape != ():
        assert namespace(ours) is namespace(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype or c.mixed
    ours, theirs = (to_numpy(x) if hasattr(x, "shape") else np.asarray(x) for x in (ours, theirs))
    if theirs.dtype.kind in "iu":
        assert_array_equal(ours, theirs)
        return
    if atol is None:
        atol = c.precise * np.max(np.abs(theirs), where=np.isfinite(theirs), initial=0)
    assert_allclose(ours, theirs, rtol=c.precise, atol=atol)


def same_sums(ours, theirs, c):
    """Sums, and weights after them, perhaps labels before: sums may be near 0, beside what is summed."""
    (*labels, sums, weights), (*their_labels, their_sums, their_weights) = ours, theirs
    same((labels, weights), (their_labels, their_weights), c)
    summed = to_numpy(c.weights) @ np.abs(c.host - to_numpy(c.frame.origin))
    same(sums, their_sums, c, atol=1e-13 * summed.max())


def same_but_for_the_square_root_of_rounding(ours, theirs, c):
    """Of squares near 0, which are differences of larger numbers."""
    same(ours, theirs, c, atol=1e-6 * np.abs(c.host).max())


def same_bounds(ours, theirs, c):
    """Slack is never more than is true, by brute force; less in a few rows, of which some centers were left out."""
    same_sums((ours[0], *ours[2:4]), (theirs[0], *theirs[2:4]), c)
    same(ours[4:], theirs[4:], c)
    before, path = map(to_numpy, c.state()[1:3])
    labels, slack, expected = to_numpy(ours[0]), to_numpy(ours[1]), to_numpy(theirs[1])
    looked_at = before < np.inf
    assert_array_equal(slack[~looked_at], before[~looked_at])
    rows, centers = c.host.astype(np.float64) - to_numpy(c.frame.origin), to_numpy(c.centers)
    size = np.sqrt(max((rows**2).sum(axis=1).max(), (centers**2).sum(axis=1).max()))
    allowed = 0.05 if c.lib.name == "cupy" else c.frame.rounding**0.5  # CuPy's kernels allow for more rounding
    assert np.isclose(slack, expected, atol=size * allowed).mean() > 0.9
    if c.n_clusters > 1:
        nearest, second = np.sort(np.sqrt(brute_force(rows, centers)), axis=1)[:, :2].T
        true = path[labels] + second - nearest
        assert (slack <= true + 1e-9 * size)[looked_at].all()


def same_slices(ours, theirs, c):
    """In order, and all rows; they may be cut."""
    ours, theirs = list(ours), list(theirs)
    assert [rows.start for rows in ours[1:]] == [rows.stop for rows in ours[:-1]]
    assert (ours[0].start, ours[-1].stop) == (theirs[0].start, theirs[-1].stop)
    assert {rows.stop for rows in theirs} <= {rows.stop for rows in ours}


def same_up_to_a_constant(ours, theirs, c):
    """Equal for equal rows: all that is asked."""
    same(ours - ours[0], theirs - theirs[0], c, atol=1e-11 * np.abs(to_numpy(theirs)).max())


def both_are_contexts(ours, theirs, c):
    assert isinstance(ours, AbstractContextManager)
    with ours:
        pass


def is_a_share(ours, theirs, c):
    """It may differ, as it says what is faster."""
    assert 0 <= ours <= 1


def no_more_numbers(ours, theirs, c):
    assert 1 <= ours <= theirs


COMPARE = {
    "bounded_step": same_bounds,
    "cluster_sums": same_sums,
    "distances": same_but_for_the_square_root_of_rounding,
    "lloyd_step": same_sums,
    "map_slices": same_slices,
    "own_threads": both_are_contexts,
    "projections": same_up_to_a_constant,
    "row_size": no_more_numbers,
    "share_that_pays": is_a_share,
    "update": same_sums,
}
MAY_DECLINE = {"map_slices", "share_that_pays"}  # small data, or a machine like this
NOT_RELATIVE = {"largest"}  # asked before an origin is subtracted


def compare(name, function, portable, c, X, dense):
    """Whether `function(X, …)` computes at all; if it does, the same as `portable(dense, …)`."""
    assert name in ARGUMENTS, f"no arguments are known for {name}: add them to ARGUMENTS"
    computed = False
    for ours, theirs in zip(ARGUMENTS[name](c, X), ARGUMENTS[name](c, dense), strict=True):
        found = function(*ours)
        if found is not NotImplemented:
            COMPARE.get(name, same)(found, portable(*theirs), c)
            computed = True
    return computed


# Backends


def names_in(library):
    """What a backend file defines that is not private, and the functions among that; its library may be missing."""
    tree = ast.parse((Path(backends.__file__).parent / f"{library}.py").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    others = [node for node in tree.body if isinstance(node, (ast.Assign, ast.Import, ast.ImportFrom))]
    parts = [part for node in others for part in ast.walk(node)]
    names = functions | {part.id for part in parts if isinstance(part, ast.Name)}
    names |= {part.asname or part.name for part in parts if isinstance(part, ast.alias)}
    public = {name for name in names if not name.startswith("_")}
    return public, functions & public


LIBRARIES = [module.name for module in pkgutil.iter_modules(backends.__path__) if not module.name.startswith("_")]
REPLACED = [
    pytest.param(library, name, marks=pytest.mark.gpu if library == "cupy" else (), id=f"{library}-{name}")
    for library in LIBRARIES
    for name in sorted(names_in(library)[0] & set(REPLACEABLE))
]


@pytest.mark.parametrize("library", LIBRARIES)
def test_backends_define_nothing_but_steps_that_can_be_replaced(library):
    unknown = names_in(library)[1] - set(REPLACEABLE) - OTHER_FUNCTIONS
    assert not unknown, f"backends/{library}.py: no @replaceable step is called {', '.join(sorted(unknown))}"


def dense_cases(lib):
    """Rows around centers far from zero; single ones, equal ones, more centers than rows; tiny and large numbers."""
    rng = np.random.default_rng(5)
    for dtype in ("float64", "float32"):
        for n, d, k in [(300, 5, 11), (257, 1, 3), (1, 1, 1), (7, 3, 20), (100, 40, 9), (60, 2, 1)]:
            yield case(lib, rng.normal(size=(n, d)) * 3 + 10, k, dtype)
        yield case(lib, np.repeat(rng.normal(size=(9, 3)), 20, axis=0), 5, dtype)
        yield case(lib, rng.normal(size=(150, 4)), 6, dtype, known=False, tile_bytes=2**24)
    yield case(lib, np.ones((10, 2)), 1, "float64")
    for scale in (1e-30, 1e15):
        yield case(lib, rng.normal(size=(200, 3)) * scale, 8, "float64")


def computed_by(library, name, cases):
    """Whether a backend computed a step, in each of the cases."""
    fast, step = getattr(backends.backend_for(library), name), REPLACEABLE[name]
    return [compare(name, fast, step.portable, c, *[c.array(c.host)] * 2) for c in cases]


def check_backend(library, name):
    computed = computed_by(library, name, dense_cases(load(library)))
    assert name in MAY_DECLINE or any(computed), "it declines whatever it is given, so nothing was compared"


@pytest.mark.parametrize(("library", "name"), REPLACED)
def test_replaced_steps_equal_the_portable_ones(library, name):
    check_backend(library, name)


@pytest.mark.parametrize(("library", "name"), REPLACED)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_replaced_steps_equal_the_portable_ones_whatever_the_shape(library, name, data):
    n, d, k = (data.draw(st.integers(1, top)) for top in (200, 8, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    host = rng.normal(size=(n, d)) * data.draw(st.sampled_from([1, 1e-30, 1e15]))
    computed_by(library, name, [case(load(library), host, k, "float64", tile_bytes=2**20)])


NUMPYS = [param.values[1] for param in REPLACED if param.values[0] == "numpy"]


@pytest.mark.parametrize("name", NUMPYS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("block", [300, 2**18])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2000, 2, 300), (3, 4, 10**6), (500, 130, 7)])
def test_numpys_steps_equal_the_portable_ones_in_blocks(monkeypatch, rng, shape, block, dtype, name):
    """Of some rows and of all, and of some centers (100) and of all."""
    backend = backends.backend_for("numpy")
    for size in ("BLOCK", "SMALL_BLOCK", "MANY_ROWS"):
        monkeypatch.setattr(backend._blocks, size, block)
    monkeypatch.setattr(backend._blocks, "CENTERS", min(block, 1000) // 3)
    monkeypatch.setattr(backend, "_has_numba", lambda: False)
    n, d, k = shape
    if k <= 1000 or name != "distances":
        c = case(load("numpy"), rng.normal(size=(n, d)), k, dtype, tile_bytes=2**20)
        centers = c.frame.enter(rng.normal(size=(k, d)).astype(dtype))
        computed_by("numpy", name, [replace(c, centers=centers)])


@pytest.mark.parametrize("name", NUMPYS)
def test_numpys_steps_equal_the_portable_ones_in_each_of_its_ways(monkeypatch, numpy_passes, name):
    monkeypatch.setattr("kmeans_xp.backends.numpy.PARALLEL_WORK", 0)
    monkeypatch.setattr("kmeans_xp.backends._threads.PARALLEL_WORK", 0)
    monkeypatch.setattr("kmeans_xp.backends._threads.blas.n_threads", lambda: 2)
    check_backend("numpy", name)


WRONG = """
import torch

def take_rows(X, rows):
    return X[rows] + 1

def sq_distances_to_own(X, labels, centers, frame):
    return torch.zeros(len(X), dtype=torch.float64)

def distinct(labels):
    return torch.unique(labels)
"""


def test_a_wrong_step_in_a_new_backend_fails_though_nobody_names_it(tmp_path):
    """In a copy of the package with a file more, these tests find one step to be wrong and one not to be one."""
    pytest.importorskip("torch")
    here = Path(__file__).parent
    shutil.copytree(Path(kmeans_xp.__file__).parent, tmp_path / "kmeans_xp")
    for name in ("conftest.py", Path(__file__).name):
        shutil.copy(here / name, tmp_path)
    (tmp_path / "kmeans_xp" / "backends" / "torch.py").write_text(WRONG, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-W", "ignore"]
    command += [Path(__file__).name, "-k", "torch and not though and not whatever", "-o", "markers=gpu: needs a GPU"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True).stdout
    results = sorted(line.split(" - ")[0] for line in found.splitlines() if line.startswith(("PASSED", "FAILED")))
    test = f"{Path(__file__).name}::test_"
    assert results == [
        f"FAILED {test}backends_define_nothing_but_steps_that_can_be_replaced[torch]",
        f"FAILED {test}replaced_steps_equal_the_portable_ones[torch-sq_distances_to_own]",
        f"PASSED {test}replaced_steps_equal_the_portable_ones[torch-distinct]",
    ], found
    assert "no @replaceable step is called take_rows" in found


# Stored rows


def concrete(kind):
    """Classes below one that have none below them."""
    below = kind.__subclasses__()
    return [found for each in below for found in concrete(each)] if below else [kind]


def cupy_rows(X):
    library = pytest.importorskip("cupyx.scipy.sparse")
    return kmeans_xp.rows.cupy.CupyRows.of(library.csr_matrix(sparse.csr_matrix(X)))


def scipy_rows(X):
    return kmeans_xp.rows.scipy.ScipyRows(sparse.csr_array(X))


def every_second(X):
    """Of an array twice as long, in which these rows are every second one."""
    return scipy_rows(np.repeat(X, 2, axis=0)).some_rows(np.arange(0, 2 * len(X), 2))


# Library, and how to store rows, by the class of what comes out
FORMS = {
    "CupyRows": ("cupy", cupy_rows),
    "ScipyRows": ("numpy", scipy_rows),
    "_SomeRows": ("numpy", every_second),
}
STORED = [
    pytest.param(kind, name, marks=pytest.mark.gpu if kind.__name__ == "CupyRows" else (), id=f"{kind.__name__}-{name}")
    for kind in concrete(StoredRows)
    for name in sorted(PRIMITIVES)
    if hasattr(kind, name)
]


def sparse_hosts(dtype):
    """Rows with numbers here and there: of a single one, of none, with none at both ends, far from zero."""
    rng = np.random.default_rng(11)
    for n, d in [(300, 40), (1, 1), (57, 1), (20, 7)]:
        yield (rng.uniform(2, 5, size=(n, d)) * (rng.uniform(size=(n, d)) < 0.2)).astype(dtype)
    yield np.zeros((6, 3), dtype)
    amid = rng.uniform(1, 2, size=(200, 30)) * (rng.uniform(size=(200, 30)) < 0.5)
    amid[:9], amid[60:120], amid[-5:] = 0, rng.uniform(1, 2, size=(60, 30)), 0
    yield amid.astype(dtype)


def check_stored(kind, name):
    """As they are, and relative to an origin, where the form has one."""
    assert kind.__name__ in FORMS, f"how rows become {kind.__name__} is not known: add it to FORMS"
    library, store = FORMS[kind.__name__]
    lib = load(library)
    tile_bytes = 3_000 if library == "numpy" else 50_000  # launches take their time on the stand-in for a GPU
    for dtype, known in (("float64", True), ("float64", False), ("float32", True)):
        for host in sparse_hosts(dtype):
            X, c = store(host), case(lib, host.astype(np.float64), 6, "float64", known, tile_bytes)
            if dtype == "float32" and name not in REPLACEABLE:
                c = replace(
                    c, precise=1e-6, mixed=True
                )  # primitives see rows of float32 only before they are made relative
            assert type(X) is kind
            assert X.shape == host.shape
            assert X.dtype == dtype
            step, dense = PRIMITIVES[name], c.array(c.host)
            compare(name, step, step.portable, c, X, dense)
            if hasattr(kind, "relative") and name not in NOT_RELATIVE:
                for origin in (c.frame.origin, None):
                    X = X.relative(origin, np.float64)
                    shifted = replace(c, frame=replace(c.frame, shifted=True), precise=1e-12, mixed=False)
                    compare(name, step, step.portable, shifted, X, dense - c.frame.origin)


@pytest.mark.parametrize(("kind", "name"), STORED)
def test_primitives_of_stored_rows_equal_those_of_arrays(kind, name):
    check_stored(kind, name)


@pytest.mark.parametrize("numbers", [1, 100])
@pytest.mark.parametrize("name", [param.values[1] for param in STORED if param.values[0].__name__ == "ScipyRows"])
def test_scipys_rows_equal_arrays_in_small_pieces_too(monkeypatch, name, numbers):
    monkeypatch.setattr("kmeans_xp.rows.scipy.NUMBERS", numbers)
    check_stored(kmeans_xp.rows.scipy.ScipyRows, name)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.gpu if "Cupy" in k.__name__ else ()) for k in concrete(StoredRows)]
)
def test_slices_and_products_of_stored_rows_equal_those_of_arrays(kind):
    library, store = FORMS[kind.__name__]
    lib = load(library)
    for host in sparse_hosts("float64"):
        X, origin = store(host), lib.asarray(np.linspace(1, 2, host.shape[1]))
        some = slice(1, len(host) // 2 + 1)
        assert_array_equal(to_numpy(array.dense(X[some, :])), host[some])
        if hasattr(kind, "__matmul__"):
            others = np.linspace(-1, 1, 3 * host.shape[1]).reshape(-1, 3)
            for rows, dense in ((X, host), (X.relative(origin, np.float64), host - to_numpy(origin))):
                assert_allclose(to_numpy(rows @ lib.asarray(others)), dense @ others, atol=1e-11)


def test_a_form_of_rows_that_nobody_knows_fails():
    class Unknown:
        pass

    with pytest.raises(AssertionError, match="how rows become Unknown is not known"):
        check_stored(Unknown, "dense")


def test_the_protocol_of_rows_names_the_primitives():
    """All but the passes, which are replaceable too, and which rows do without."""
    assert set(PRIMITIVES) - set(REPLACEABLE) <= set(vars(Rows))
    promised = {name for name in vars(Rows) if not name.startswith("_")} - set(Rows.__annotations__)
    assert promised <= set(PRIMITIVES)
