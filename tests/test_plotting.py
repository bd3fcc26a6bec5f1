"""The displays show what they are given; what they look like was judged by eye."""

import numpy as np
import pytest
from conftest import blobs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

from kmeans_xp import KMeans, KMeansSweep, metrics
from kmeans_xp.arrays import to_numpy
from kmeans_xp.plotting import (
    MOST_POINTS,
    ClustersDisplay,
    ClusterSizesDisplay,
    ConvergenceDisplay,
    ElbowDisplay,
    SilhouetteDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def fitted(lib, rng):
    X = lib.asarray(blobs(rng, 600, 3, n_clusters=4, spread=9))
    return X, KMeans(4, random_state=0).fit(X)


def test_clusters(fitted):
    """Two principal components, in which distances between rows are at most what they were."""
    X, model = fitted
    display = ClustersDisplay.from_estimator(model, X)
    assert display.figure_ is display.ax_.figure
    assert display.points.shape == (600, 2)
    assert display.centers.shape == (4, 2)
    drawn = [len(collection.get_offsets()) for collection in display.ax_.collections]
    assert drawn == [*np.bincount(to_numpy(model.labels_)), 4]
    assert display.ax_.get_xlabel().startswith("principal component 1 (")
    means = [display.points[display.labels == i].mean(axis=0) for i in range(4)]
    assert_allclose(means, display.centers, atol=1e-9)


def test_silhouettes(fitted):
    X, model = fitted
    ax = plt.subplots()[1]
    display = SilhouetteDisplay.from_estimator(model, X, ax=ax, metric="euclidean")
    assert display.ax_ is ax
    assert_allclose(display.silhouettes, to_numpy(metrics.silhouette_samples(X, model.labels_)))
    assert len(ax.collections) == 4
    assert f"mean {display.silhouettes.mean():.2f}" in ax.get_legend().get_texts()[0].get_text()


def test_convergence_and_sizes(fitted):
    _, model = fitted
    display = ConvergenceDisplay.from_estimator(model)
    assert_array_equal(display.ax_.lines[0].get_ydata(), model.history_["inertia"])
    assert_array_equal(display.figure_.axes[1].lines[0].get_ydata(), model.history_["n_changed"])
    display = ClusterSizesDisplay.from_estimator(model)
    heights = [bar.get_height() for bar in display.ax_.patches]
    assert heights == sorted(np.bincount(to_numpy(model.labels_)), reverse=True)


def test_elbow(rng):
    sweep = KMeansSweep(range(2, 7), random_state=0).fit(blobs(rng, 300, 2, n_clusters=4, spread=20))
    for column in ("inertia", "simplified_silhouette"):
        display = ElbowDisplay.from_estimator(sweep, column=column)
        assert_array_equal(display.ax_.lines[0].get_ydata(), sweep.results_[column])
        assert display.ax_.lines[1].get_xdata() == [sweep.best_n_clusters_] * 2


@pytest.mark.parametrize("n_features", [1, 2])
def test_few_features_are_drawn_as_they_are(rng, n_features):
    X = rng.normal(size=(50, n_features))
    display = ClustersDisplay.from_predictions(X, np.arange(50) % 3)
    assert_array_equal(display.points[:, :n_features], X)


@pytest.mark.parametrize("X", [np.zeros((1, 3)), np.ones((5, 4))])
def test_rows_without_any_spread(X):
    assert "(0% of the variance)" in ClustersDisplay.from_predictions(X, np.zeros(len(X), dtype=int)).ax_.get_xlabel()


def test_what_is_not_fitted_is_refused():
    for Display, model in (
        (ElbowDisplay, KMeansSweep()),
        (ConvergenceDisplay, KMeans()),
        (ClusterSizesDisplay, KMeans()),
    ):
        with pytest.raises(NotFittedError):
            Display.from_estimator(model)


def test_many_rows_and_clusters(rng):
    X = rng.normal(size=(MOST_POINTS + 1000, 2))
    display = ClustersDisplay.from_predictions(X, np.arange(len(X)) % 70)
    assert len(display.points) == MOST_POINTS
    styles = {(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in display.ax_.collections}
    assert len(styles) == 64, "8 colours by 8 marks"
    assert ClusterSizesDisplay.from_predictions(np.arange(300) % 30).ax_.get_xticks().size == 0
