"""Every example runs, and says what it should."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_none_is_forgotten():
    assert EXAMPLES == ["colour_quantisation", "digits", "larger_than_memory", "tutorial"]


def test_tutorial(tmp_path, capsys):
    tutorial = load("tutorial")
    tutorial.main(["--output", str(tmp_path)])
    assert (tmp_path / "tutorial.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "GridSearchCV chooses {'kmeans__n_clusters': 4}" in printed

    X, model = tutorial.three_blobs()
    assert X.shape == (10_000, 2)
    centers = np.asarray(sorted(model.cluster_centers_.tolist()))
    np.testing.assert_allclose(centers, [[-5, 5], [0, 0], [5, 5]], atol=0.1)
    ks, inertias = tutorial.elbow(X)
    assert inertias == sorted(inertias, reverse=True)
    drops = -np.diff(inertias)
    assert drops[ks.index(3) - 1] > 3 * drops[ks.index(3)], "the elbow is at 3"


def test_colour_quantisation(tmp_path, capsys):
    output = tmp_path / "new" / "picture.png"
    load("colour_quantisation").main(["--colours", "8", "--output", str(output)])
    assert output.stat().st_size > 100_000
    printed = capsys.readouterr().out
    assert "273280 pixels, 8 colours" in printed
    assert "converged: True" in printed
    inertia = float(re.search(r"inertia ([\d.]+)", printed)[1])
    assert 2600 < inertia < 2760, "scikit-learn finds 2657 to 2737 from 5 seeds"


def test_digits():
    assert load("digits").main() == pytest.approx(0.67, abs=0.03)


def test_larger_than_memory(tmp_path, capsys):
    example = load("larger_than_memory")
    model = example.main(["--rows", "120000", "--folder", str(tmp_path)])
    assert "120000 rows, " in capsys.readouterr().out
    labels = np.load(tmp_path / "labels.npy")
    rows = example.ParquetRows(tmp_path / "rows.parquet", example.COLUMNS)[:]
    np.testing.assert_array_equal(labels, model.labels_)
    np.testing.assert_array_equal(labels, model.predict(rows))
    np.testing.assert_array_equal(
        example.ParquetRows(tmp_path / "rows.parquet", ["x3"])[49_000:101_000], rows[49_000:101_000, 3:4]
    )
    assert model.inertia_ / 120_000 == pytest.approx(8, rel=0.3), "8 columns of variance 1 about their centers"


def test_the_code_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        if "cupy" not in block:
            exec(compile(block, "README.md", "exec"), {})
