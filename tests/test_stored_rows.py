"""Methods of stored rows are found by themselves, and give what arrays of the same rows give."""

import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import load, use_plain_numpy
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from twins import case, compare

import kmeans_xp.rows
from kmeans_xp.arrays import to_numpy
from kmeans_xp.backends import REPLACEABLE, backend_for
from kmeans_xp.rows import PRIMITIVES, Rows, StoredRows, array
from kmeans_xp.rows.scipy import NUMBERS

for module in pkgutil.iter_modules(kmeans_xp.rows.__path__, "kmeans_xp.rows."):
    if "._" not in module.name:
        importlib.import_module(module.name)

NOT_RELATIVE = {"as_given", "largest", "scaled"}  # asked before an origin is subtracted


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
            # Primitives, and what takes rows as they are, see float32 only before rows are made relative
            if dtype == "float32" and (name not in REPLACEABLE or name == "take_rows"):
                c = replace(c, precise=1e-6, mixed=True)
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


@pytest.mark.parametrize("numbers", [1, 100, NUMBERS])
@pytest.mark.parametrize("name", [param.values[1] for param in STORED if param.values[0].__name__ == "ScipyRows"])
def test_scipys_rows_equal_arrays_without_native_steps_in_small_pieces_too(monkeypatch, name, numbers):
    if backend_for("numpy"):
        use_plain_numpy(monkeypatch)
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
