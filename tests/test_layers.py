"""Who may import whom: down only, and each outside library in its place."""

import ast
from pathlib import Path

import pytest

import kmeans_xp

PACKAGE = Path(kmeans_xp.__file__).parent

# What each file may import of ours, and of others
ALLOWED = {
    "__init__": ({"estimators", "metrics", "minibatch", "sweep", "versions"}, set()),
    "estimators": (
        {
            "arrays",
            "centers",
            "dask",
            "seeding",
            "lloyd",
            "memory",
            "partitions",
            "saving",
            "sparse",
            "steps",
            "validation",
        },
        {"numpy", "sklearn"},
    ),
    "dask": ({"arrays", "partitions", "steps", "validation"}, {"dask", "numpy"}),
    "neighbors": ({"arrays", "steps"}, set()),
    "centers": (
        {"arrays", "dask", "neighbors", "partitions", "saving", "steps", "streaming", "validation"},
        {"numpy", "sklearn"},
    ),
    "sweep": (
        {"arrays", "centers", "estimators", "metrics", "saving", "seeding", "sparse", "steps"},
        {"kneed", "numpy", "sklearn"},
    ),
    "plotting": ({"arrays", "metrics"}, {"matplotlib", "numpy", "sklearn"}),
    "metrics": ({"arrays", "centers", "steps", "streaming", "validation"}, {"numpy", "sklearn"}),
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
    "streaming": ({"arrays", "partitions", "steps"}, {"numpy"}),
    "seeding": ({"arrays", "backends", "lloyd", "steps"}, {"numpy"}),
    "sparse": ({"arrays", "backends", "bounds", "steps"}, {"numpy"}),
    "steps": ({"arrays", "backends"}, set()),
    "versions": ({"arrays", "backends"}, {"threadpoolctl"}),
    "arrays": (set(), {"numpy", "array_api_compat", "cupy"}),
    "backends/__init__": (set(), set()),
    "backends/_blocks": (set(), {"numpy", "scipy"}),
    "backends/_compiled": (set(), {"numpy", "numba", "llvmlite"}),
    "backends/_cupy_sparse": (set(), {"cupy", "cupyx", "numpy"}),
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
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "kmeans_xp":
            assert rest.partition(".")[0] in ours, f"{path.name} imports {name}"
        else:
            assert top in others | STANDARD, f"{path.name} imports {name}"
