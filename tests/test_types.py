"""Type hints: mypy accepts a user's code, knows what comes out, and finds mistakes; and it checks our protocols."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kmeans_xp
from kmeans_xp import rows

pytest.importorskip("mypy")

RIGHT = """
import numpy as np
from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics
from kmeans_xp.lloyd import Iteration

def watch(iteration: Iteration) -> bool:
    return iteration.inertia < 1e-3

X = np.random.default_rng(0).normal(size=(100, 2))
model: KMeans = KMeans(n_clusters=3, random_state=0, algorithm="elkan", on_iteration=watch).fit(X)
inertia: float = model.inertia_
curve: list[float] = model.history_["inertia"]
score: float = model.score(X)
batches: MiniBatchKMeans = MiniBatchKMeans(3, init=X[:3]).partial_fit(X)
sweep: KMeansSweep = KMeansSweep(range(2, 5), criteria=["bic"]).fit(X)
best: KMeans = sweep.best_estimator_
silhouette: float = metrics.silhouette_score(X, model.labels_, sample_size=50)
centers, rows = kmeans_plusplus(X, 3)
distances, labels = model.nearest_centers(X, 2)
"""
WRONG = {
    'KMeans("three")': 'incompatible type "str"; expected "int"',
    'KMeans(3, algorithm="hamerly")': "incompatible type",
    "KMeans(3, clusters=3)": 'Unexpected keyword argument "clusters"',
    "KMeans(3).fit([[0.0]]).score([[0.0]]).real.missing": 'has no attribute "missing"',
}


def mypy(folder, text):
    """Output of mypy for a file with that text, outside of the project."""
    path = folder / "user.py"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder.parent / "mypy"), str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def test_mypy_accepts_users_code(tmp_path):
    result = mypy(tmp_path, RIGHT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("code", WRONG)
def test_mypy_finds_mistakes(tmp_path, code):
    assert WRONG[code] in mypy(tmp_path, f"from kmeans_xp import KMeans\n{code}\n").stdout


# What promises to be what: a line each
PROTOCOLS = [
    ("kmeans_xp.rows.scipy.ScipyRows", "kmeans_xp.rows.Rows"),
    ("kmeans_xp.rows.cupy.CupyRows", "kmeans_xp.rows.Rows"),
    ("kmeans_xp.data.memory.InMemory", "kmeans_xp.data.source.Source"),
    ("kmeans_xp.data.stream.Stream", "kmeans_xp.data.source.Source"),
    ("kmeans_xp.data.shards.Shards", "kmeans_xp.data.source.Source"),
    ("kmeans_xp.data.dask.Partitions", "kmeans_xp.data.source.Source"),
    ("kmeans_xp.algorithms.Dense", "kmeans_xp.algorithms.Algorithm"),
    ("kmeans_xp.algorithms.Bounded", "kmeans_xp.algorithms.Algorithm"),
    ("kmeans_xp.algorithms.Auto", "kmeans_xp.algorithms.Algorithm"),
    ("kmeans_xp.sizes.Sized", "kmeans_xp.algorithms.Algorithm"),
    ("kmeans_xp.sizes.SizedState", "kmeans_xp.algorithms.State"),
    ("kmeans_xp.algorithms.DenseState", "kmeans_xp.algorithms.State"),
    ("kmeans_xp.algorithms.BoundedState", "kmeans_xp.algorithms.State"),
    ("kmeans_xp.metric.Euclidean", "kmeans_xp.metric.Metric"),
    ("kmeans_xp.metric.Cosine", "kmeans_xp.metric.Metric"),
]


def conforms(folder, name, protocol):
    """Output of mypy for a class, whether it has what a protocol names; of our code it says nothing else."""
    text = "".join(f"import {each.rpartition('.')[0]}\n" for each in (name, protocol))
    path = folder / "conforms.py"
    path.write_text(f"{text}\ndef check(x: {name}) -> {protocol}:\n    return x\n", encoding="utf-8")
    root = Path(kmeans_xp.__file__).parent.parent  # of the sources, as tests that follow may be of a copy
    environment = {**os.environ, "MYPYPATH": os.pathsep.join((str(root), str(folder)))}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += [
        "--no-site-packages",
        "--ignore-missing-imports",
        "--cache-dir",
        str(folder.parent / "mypy-protocols"),
        str(path),
    ]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS, ids=lambda name: name.rpartition(".")[2])
def test_classes_have_what_their_protocols_name(tmp_path, name, protocol):
    result = conforms(tmp_path, name, protocol)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("def largest(", "def highest("), '"Lazy" is missing following "Rows" protocol member:'),
        (("def take_rows(self, rows)", "def take_rows(self)"), "take_rows"),
    ],
)
def test_a_class_that_lacks_what_its_protocol_names_is_found(tmp_path, change, complaint):
    """A copy of SciPy's rows in which a method has another name, or too few parameters."""
    source = Path(rows.scipy.__file__).read_text(encoding="utf-8").replace("ScipyRows", "Lazy")
    changed = source.replace(*change)
    assert changed != source
    (tmp_path / "lazy.py").write_text(changed, encoding="utf-8")
    assert complaint in conforms(tmp_path, "lazy.Lazy", "kmeans_xp.rows.Rows").stdout
