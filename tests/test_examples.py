"""Every example runs, and says what it should."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    """Pictures are drawn in memory, and closed."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_none_is_forgotten():
    names = ["choosing_k", "colour_quantisation", "digits", "four_ways", "inverted_lists", "larger_than_memory"]
    assert [*names, "quantisers", "text_documents", "tutorial"] == EXAMPLES


def test_tutorial(capsys):
    tutorial = load("tutorial")
    printed = capsys.readouterr().out
    assert "GridSearchCV chooses {'kmeans__n_clusters': 4}" in printed
    assert tutorial.X.shape == (10_000, 2)
    centers = np.asarray(sorted(tutorial.model.cluster_centers_.tolist()))
    np.testing.assert_allclose(centers, [[-5, 5], [0, 0], [5, 5]], atol=0.1)
    inertias = tutorial.sweep.results_["inertia"]
    assert inertias == sorted(inertias, reverse=True)
    assert tutorial.sweep.best_n_clusters_ == 3
    assert tutorial.slow.converged_


def test_choosing_k():
    example = load("choosing_k")
    assert {example.of_clear.recommend(criterion)[0] for criterion in [*example.CRITERIA, "elbow"]} == {5}
    assert example.of_nested.recommend("silhouette")[0] == example.of_nested.recommend("gap")[0] == 2
    assert example.of_nested.recommend("bic")[0] == 6
    assert example.of_cloud.recommend("gap")[0] == 1


def test_inverted_lists():
    example = load("inverted_lists")
    assert example.recall == sorted(example.recall)
    assert example.recall[0] > 0.15
    assert example.recall[-1] > 0.95
    assert example.compared[-1] < 0.05
    assert example.sizes.sum() == len(example.vectors)


def test_quantisers():
    example = load("quantisers")
    of_parts, of_whole = example.lost.values()
    assert of_parts < of_whole / 2
    assert example.accuracy["best"][-1] > 0.9
    assert sum(example.accuracy["best"]) > sum(example.accuracy["evenly"])


def test_text_documents(capsys):
    example = load("text_documents")
    assert example.X.shape[0] > 400
    cluster = dict(zip(example.names, example.model.labels_.tolist(), strict=True))
    assert cluster["fft.fft"] == cluster["fft.ifft"] == cluster["fft.fft2"]
    assert cluster["random.normal"] == cluster["random.gamma"] != cluster["fft.fft"]
    assert "fft.fft" in capsys.readouterr().out


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
    assert load("digits").score == pytest.approx(0.67, abs=0.03)


def test_four_ways():
    """Refining finds the groups, and each of the others is far from them in its own way."""
    example = load("four_ways")
    inertias = {name: min(found) for name, found in example.found.items()}
    agreement = {name: adjusted_rand_score(example.group, model.labels_) for name, model in example.models.items()}
    assert inertias["default"] == pytest.approx(inertias["refined"]) == pytest.approx(max(example.found["refined"]))
    assert sum(inertia > 1.2 * inertias["default"] for inertia in example.found["default"]) == 6
    assert agreement["refined"] > 0.95
    assert set(example.models["equal sizes"].cluster_sizes_.tolist()) == {212, 213}
    assert agreement["equal sizes"] < agreement["default"]
    assert example.models["bisected"].inertia_ > 1.2 * inertias["refined"]
    assert len(example.figure.axes) == 4


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


PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """From the first block to the last, as a reader would."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if not re.search("cupy|cuda", block):
            exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_within_the_project(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link and not link.startswith("gallery/"):  # which the site builds
            assert (page.parent / link).exists(), link
