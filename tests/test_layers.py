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
            "rows.csr",
            "saving",
            "steps",
            "validation",
        },
        {"numpy", "sklearn"},
    ),
    "dask": ({"arrays", "partitions", "rows", "steps", "validation"}, {"dask", "numpy"}),
    "metric": ({"arrays", "rows.csr", "steps"}, {"numpy"}),
    "neighbors": ({"arrays", "metric", "steps"}, set()),
    "centers": (
        {"arrays", "dask", "metric", "neighbors", "partitions", "saving", "steps", "streaming", "validation"},
        {"numpy", "sklearn"},
    ),
    "sweep": (
        {"arrays", "centers", "estimators", "metrics", "rows.csr", "saving", "seeding", "steps"},
        {"kneed", "numpy", "sklearn"},
    ),
    "plotting": ({"arrays", "metrics", "rows.csr", "validation"}, {"matplotlib", "numpy", "sklearn"}),
    "metrics": ({"arrays", "centers", "rows.csr", "steps", "streaming", "validation"}, {"numpy", "sklearn"}),
    "minibatch": (
        {"arrays", "centers", "lloyd", "rows.csr", "seeding", "steps", "streaming", "validation"},
        {"numpy", "sklearn"},
    ),
    "validation": ({"arrays", "rows.csr", "rows.cupy", "rows.scipy", "steps"}, {"numpy", "sklearn"}),
    "saving": ({"arrays"}, set()),
    "lloyd": ({"arrays", "backends", "bounds", "rows", "steps"}, {"numpy"}),
    "bounds": ({"arrays", "backends", "rows", "steps"}, set()),
    "memory": ({"lloyd", "seeding", "steps"}, set()),
    "partitions": ({"arrays", "lloyd", "seeding", "steps"}, {"numpy"}),
    "streaming": ({"arrays", "metric", "partitions", "rows", "steps"}, {"numpy"}),
    "seeding": ({"arrays", "backends", "lloyd", "steps"}, {"numpy"}),
    "rows/scipy": ({"rows", "rows.csr"}, {"numpy"}),
    "rows/cupy": ({"arrays", "backends", "rows.csr"}, {"numpy"}),
    "rows/csr": ({"arrays", "bounds", "rows", "steps"}, {"numpy"}),
    "rows/_cupy_kernels": (set(), {"cupy", "cupyx"}),
    "steps": ({"arrays", "backends", "rows"}, set()),
    "versions": ({"arrays", "backends"}, {"threadpoolctl"}),
    "rows/__init__": ({"arrays"}, set()),
    "arrays": (set(), {"numpy", "array_api_compat", "cupy"}),
    "backends/__init__": (set(), set()),
    "backends/_blocks": (set(), {"numpy", "scipy"}),
    "backends/_compiled": (set(), {"numpy", "numba", "llvmlite"}),
    "backends/_threads": (set(), {"threadpoolctl"}),
    "backends/cupy": (set(), {"cupy", "numpy"}),
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
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                is_module = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").exists()
                yield name if is_module or node.module == "kmeans_xp" else node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    ours, others = ALLOWED[path.relative_to(PACKAGE).with_suffix("").as_posix()]
    ours = ours | {"_sklearn_private"} if "sklearn" in others else ours
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "kmeans_xp":
            module = rest if rest.startswith("rows.") else rest.partition(".")[0]
            assert module in ours, f"{path.name} imports {name}"
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
