"""Who may import whom: down only, and each outside library in its place."""

import ast
import re
from pathlib import Path

import pytest

import kmeans_xp

PACKAGE = Path(kmeans_xp.__file__).parent

# What each file may import of ours, and of others
ALLOWED = {
    "__init__": ({"estimators", "metrics", "minibatch", "sweep", "versions"}, set()),
    "_sklearn_private": (set(), {"sklearn"}),
    "estimators": (
        {
            "arrays",
            "centers",
            "dask",
            "seeding",
            "lloyd",
            "memory",
            "metric",
            "partitions",
            "saving",
            "sparse",
            "steps",
            "validation",
        },
        {"numpy", "sklearn"},
    ),
    "dask": ({"arrays", "partitions", "steps", "validation"}, {"dask", "numpy"}),
    "metric": ({"arrays", "sparse", "steps"}, {"numpy"}),
    "neighbors": ({"arrays", "metric", "steps"}, set()),
    "centers": (
        {"arrays", "dask", "metric", "neighbors", "partitions", "saving", "steps", "streaming", "validation"},
        {"numpy", "sklearn"},
    ),
    "sweep": (
        {"arrays", "centers", "estimators", "metrics", "saving", "seeding", "sparse", "steps"},
        {"kneed", "numpy", "sklearn"},
    ),
    "plotting": ({"arrays", "metrics", "sparse", "validation"}, {"matplotlib", "numpy", "sklearn"}),
    "metrics": ({"arrays", "centers", "sparse", "steps", "streaming", "validation"}, {"numpy", "sklearn"}),
    "minibatch": (
        {"arrays", "centers", "lloyd", "seeding", "sparse", "steps", "streaming", "validation"},
        {"numpy", "sklearn"},
    ),
    "validation": ({"arrays", "sparse", "steps"}, {"numpy", "sklearn"}),
    "saving": ({"arrays"}, set()),
    "lloyd": ({"arrays", "backends", "bounds", "steps"}, {"numpy"}),
    "bounds": ({"arrays", "backends", "steps"}, set()),
    "memory": ({"lloyd", "seeding", "steps"}, set()),
    "partitions": ({"arrays", "lloyd", "seeding", "steps"}, {"numpy"}),
    "streaming": ({"arrays", "metric", "partitions", "steps"}, {"numpy"}),
    "seeding": ({"arrays", "backends", "lloyd", "steps"}, {"numpy"}),
    "sparse": ({"arrays", "backends", "bounds", "steps"}, {"numpy"}),
    "steps": ({"arrays", "backends"}, set()),
    "versions": ({"arrays", "backends"}, {"threadpoolctl"}),
    "arrays": (set(), {"numpy", "array_api_compat", "cupy"}),
    "backends/__init__": (set(), set()),
    "backends/_blocks": (set(), {"numpy", "scipy"}),
    "backends/_compiled": (set(), {"numpy", "numba", "llvmlite"}),
    "backends/_cuda": (set(), {"numpy"}),
    "backends/_cuda_check": ({"backends"}, {"numpy"}),
    "backends/_cupy_sparse": ({"backends"}, {"cupy", "cupyx", "numpy"}),
    "backends/_threads": (set(), {"threadpoolctl"}),
    "backends/cupy": ({"backends"}, {"cupy", "numpy"}),
    "backends/numpy": ({"backends"}, {"numpy"}),
}
STANDARD = {
    "ast",
    "copy",
    "inspect",
    "typing",
    "warnings",
    "contextlib",
    "contextvars",
    "dataclasses",
    "functools",
    "importlib",
    "math",
    "numbers",
    "operator",
    "pathlib",
    "pkgutil",
}
STANDARD |= {
    "collections",
    "concurrent",
    "os",
    "platform",
    "re",
    "sys",
    "threading",
    "time",
    "types",
    "typing",
    "uuid",
    "warnings",
}


def imports(path):
    """Full names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            if node.module == "kmeans_xp":
                yield from (f"kmeans_xp.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    ours, others = ALLOWED[path.relative_to(PACKAGE).with_suffix("").as_posix()]
    ours = ours | {"_sklearn_private"} if "sklearn" in others else ours
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "kmeans_xp":
            assert rest.partition(".")[0] in ours, f"{path.name} imports {name}"
        else:
            assert top in others | STANDARD, f"{path.name} imports {name}"


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
