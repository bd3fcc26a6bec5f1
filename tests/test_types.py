"""Type hints: mypy accepts a user's code, knows what comes out, and finds mistakes."""

import os
import subprocess
import sys

import pytest

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
