"""Who may import whom: down only, and each outside library in its place."""

import ast
import re
import sys
from pathlib import Path

import pytest

import kmeans_xp

PACKAGE = Path(kmeans_xp.__file__).parent

# From the bottom up: a file may import those above it in this list
ORDER = [
    "_sklearn_private",
    "arrays",
    "devices",
    "cuda/__init__",
    "backends/__init__",
    "backends/_threads",
    "backends/_blocks",
    "backends/_plain",
    "backends/_native/__init__",
    "backends/_native/steps",
    "backends/numpy",
    "backends/_cuda_check",
    "backends/_cupy_graph",
    "backends/_cupy_passes",
    "backends/_cupy_runs",
    "backends/_cupy_seeding",
    "backends/_cupy_problems",
    "backends/cupy",
    "rows/__init__",
    "rows/array",
    "nearest",
    "frame",
    "steps",
    "bounds",
    "rows/_cupy_kernels",
    "rows/csr",
    "rows/scipy",
    "rows/cupy",
    "metric",
    "validation",
    "algorithms",
    "transport",
    "sizes",
    "passes",
    "optimal",
    "data/source",
    "data/memory",
    "data/stream",
    "data/shards",
    "data/dask",
    "data/__init__",
    "prediction",
    "tree",
    "neighbors",
    "lloyd",
    "breathing",
    "seeding/draws",
    "seeding/greedy",
    "seeding/hierarchical",
    "seeding/plus_plus",
    "seeding/parallel",
    "seeding/chain",
    "seeding/random_rows",
    "seeding/__init__",
    "fitting",
    "criteria",
    "metrics",
    "estimators/random_numbers",
    "estimators/saving",
    "estimators/callbacks",
    "estimators/conversion",
    "estimators/centers",
    "estimators/runs",
    "estimators/kmeans",
    "estimators/problems",
    "estimators/splits",
    "estimators/bisecting",
    "estimators/plusplus",
    "estimators/batches",
    "estimators/minibatch",
    "estimators/fits",
    "estimators/sweep",
    "estimators/replacements",
    "estimators/__init__",
    "projection",
    "plotting",
    "versions",
    "acceleration",
    "__init__",
    "__main__",
]
CUPY = {"backends/cupy", *(f"backends/_cupy_{name}" for name in ("graph", "passes", "runs", "seeding", "problems"))}
# Libraries other than NumPy, by who may import them
LIBRARIES = {
    "array_api_compat": {"arrays", "devices"},
    "cupy": {"arrays", *CUPY, "rows/_cupy_kernels"},
    "cupyx": {"rows/_cupy_kernels"},
    "dask": {"data/dask"},
    "kneed": {"estimators/sweep"},
    "matplotlib": {"plotting"},
    "scipy": {"backends/_blocks", "rows/scipy"},
    "threadpoolctl": {"backends/_threads", "versions"},
}
KNOW_SCIKIT_LEARN = {"_sklearn_private", "validation", "data/__init__", "projection", "plotting"}  # and the estimators
BACKENDS_KNOW = {"backends/__init__", "cuda/__init__"}  # of ours; and other files in backends


def imports(path):
    """Full names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                is_module = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").exists()
                yield name if is_module or node.module == "kmeans_xp" else node.module


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def test_the_order_has_every_file_once():
    """But for backends that have been deleted."""
    files = set(map(name_of, PACKAGE.rglob("*.py")))
    assert len(set(ORDER)) == len(ORDER)
    assert files <= set(ORDER)
    assert all(name.startswith("backends/") for name in set(ORDER) - files)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_imports_point_down(path):
    importer = name_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "kmeans_xp":
            module = file_of(rest)
            if module == importer:
                continue  # an extension module beside it
            assert ORDER.index(module) < ORDER.index(importer), f"{importer} imports {name}"
            if importer.startswith("backends/"):
                assert module in BACKENDS_KNOW or module.startswith("backends/"), f"{importer} imports {name}"
        elif top == "sklearn":
            assert importer in KNOW_SCIKIT_LEARN or importer.startswith("estimators/"), f"{importer} imports {name}"
        elif top in LIBRARIES:
            assert importer in LIBRARIES[top], f"{importer} imports {name}"
        else:
            assert top in {*sys.stdlib_module_names, "numpy"}, f"{importer} imports {name}"


def file_of(module):
    """The file of a module of ours, without what is imported from it."""
    parts = module.split(".")
    while parts:
        for name in ("/".join(parts), "/".join([*parts, "__init__"])):
            if name in ORDER:
                return name
        parts.pop()
    return "__init__"


def private_names_of_scikit_learn(source):
    """What a source imports from scikit-learn, or looks up in what it imported, by a name that begins with `_`."""
    tree = ast.parse(source)
    meant, used = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meant |= {alias.asname: alias.name for alias in node.names if alias.asname}
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            meant |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            used.add(f"{meant.get(first, first)}.{rest}")
    private = re.compile(r"\bsklearn\.(?:\w+\.)*_(?!_)")
    return {name for name in used if private.match(name)}


def test_private_names_of_scikit_learn_stand_in_one_file():
    """So that it is known where to look when a new version of it breaks something."""
    folders = [PACKAGE, *(PACKAGE.parent / name for name in ("tests", "examples", "benchmarks"))]
    users = {
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if private_names_of_scikit_learn(path.read_text(encoding="utf-8"))
    }
    assert users == {"_sklearn_private.py"}


@pytest.mark.parametrize(
    "source",
    [
        "from sklearn.base import _fit_context",
        "from sklearn.cluster._kmeans import KMeans",
        "import sklearn.utils._param_validation",
        "import sklearn.cluster._kmeans as theirs",
        "import sklearn\nsklearn.utils._tags.get_tags",
        "from sklearn import cluster\ncluster._kmeans._tolerance(X, 1)",
        "import sklearn.utils as u\nu._safe_indexing",
    ],
)
def test_a_private_name_is_found_however_it_is_used(source):
    assert private_names_of_scikit_learn(source)
    assert not private_names_of_scikit_learn("import sklearn\nsklearn.__version__\nself._sklearn._x")
