"""Functions in backends/<library>.py are found by themselves, and give what the portable steps give."""

import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import load, use_plain_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import case, compare

import kmeans_xp.rows
from kmeans_xp import backends
from kmeans_xp.backends import REPLACEABLE

# Public functions of backends that are no steps: for versions.py, ci/cuda and tests of memory
OTHER_FUNCTIONS = {"native_problem", "passes_in_use", "scratch_bytes"}
MAY_DECLINE = {"side_by_side", "map_slices", "share_that_pays"}  # small data, or a machine like this


def names_in(library):
    """What a backend file defines that is not private, and the functions among that; its library may be missing."""
    tree = ast.parse((Path(backends.__file__).parent / f"{library}.py").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    nodes = [*tree.body, *(node for part in tree.body if isinstance(part, ast.If) for node in part.body + part.orelse)]
    others = [node for node in nodes if isinstance(node, (ast.Assign, ast.Import, ast.ImportFrom))]
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


@pytest.mark.parametrize(("library", "name"), [param for param in REPLACED if not param.marks])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_replaced_steps_equal_the_portable_ones_whatever_the_shape(library, name, data):
    """But on a GPU, whose stand-in takes minutes for that: its kernels have shapes of their own in test_kernels.py."""
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
    use_plain_numpy(monkeypatch)
    if not hasattr(backend, name):
        pytest.skip("native only")
    blocks = importlib.import_module("kmeans_xp.backends._blocks")
    for size in ("BLOCK", "SMALL_BLOCK", "MANY_ROWS"):
        monkeypatch.setattr(blocks, size, block)
    monkeypatch.setattr(blocks, "CENTERS", min(block, 1000) // 3)
    n, d, k = shape
    if k <= 1000 or name != "distances":
        c = case(load("numpy"), rng.normal(size=(n, d)), k, dtype, tile_bytes=2**20)
        centers = c.frame.enter(rng.normal(size=(k, d)).astype(dtype))
        computed_by("numpy", name, [replace(c, centers=centers)])


@pytest.mark.parametrize("name", NUMPYS)
def test_numpys_steps_equal_the_portable_ones_in_each_of_its_ways(monkeypatch, numpy_passes, name):
    if not hasattr(backends.backend_for("numpy"), name):
        pytest.skip("native only")
    monkeypatch.setattr("kmeans_xp.backends.numpy.PARALLEL_WORK", 0)
    monkeypatch.setattr("kmeans_xp.backends._threads.PARALLEL_WORK", 0)
    monkeypatch.setattr("kmeans_xp.backends._threads.blas.n_threads", lambda: 2)
    check_backend("numpy", name)


WRONG = """
import torch

def row_size(X):
    return 1

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
    for name in ("conftest.py", "twins.py", Path(__file__).name):
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
    assert "no @replaceable step is called row_size" in found
