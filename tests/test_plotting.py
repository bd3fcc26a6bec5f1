"""The displays show what they are given; what they look like was judged by eye."""

import itertools
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import blobs
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from kmeans_xp import KMeans, KMeansSweep, metrics, plotting
from kmeans_xp.arrays import to_numpy
from kmeans_xp.plotting import (
    MOST_POINTS,
    MOST_SILHOUETTES,
    ClusterDistancesDisplay,
    ClusterProfilesDisplay,
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
    display = SilhouetteDisplay.from_estimator(model, X, ax=ax)
    assert display.ax_ is ax
    assert display.silhouettes.mean() == pytest.approx(metrics.silhouette_score(X, model.labels_))
    assert ax.get_xlabel() == "silhouette"
    assert ax.get_title() == ""
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


def test_silhouettes_of_squared_distances_say_so(rng):
    X = blobs(rng, 300, 3, n_clusters=4)
    labels = np.arange(300) % 4
    display = SilhouetteDisplay.from_predictions(X, labels, metric="sqeuclidean")
    assert_allclose(display.silhouettes, metrics.silhouette_samples(X, labels, metric="sqeuclidean"))
    assert display.ax_.get_xlabel() == "silhouette of squared distances"


def test_many_silhouettes_are_those_of_a_sample(lib, rng):
    """That of `silhouette_score`, whose mean is drawn, and the picture says of how many rows."""
    X = lib.asarray(blobs(rng, 3000, 3, n_clusters=4, spread=2))
    model = KMeans(4, random_state=0).fit(X)
    for display in (
        SilhouetteDisplay.from_estimator(model, X, sample_size=500, random_state=3),
        SilhouetteDisplay.from_predictions(X, model.labels_, sample_size=500, random_state=3),
    ):
        assert len(display.silhouettes) == len(display.labels) == 500
        expected = metrics.silhouette_score(X, model.labels_, sample_size=500, random_state=3)
        assert display.silhouettes.mean() == pytest.approx(expected)
        assert display.ax_.get_title() == "500 of 3,000 rows, at random"
    assert len(SilhouetteDisplay.from_estimator(model, X).silhouettes) == 3000


def test_pairs_of_very_many_rows_are_not_compared(rng):
    display = SilhouetteDisplay.from_predictions(rng.normal(size=(MOST_SILHOUETTES + 1, 1)), np.arange(10_001) % 2)
    assert len(display.silhouettes) == MOST_SILHOUETTES == 10_000
    whole = SilhouetteDisplay.from_predictions(
        rng.normal(size=(10_001, 1)), np.arange(10_001) % 2, metric="sqeuclidean", sample_size=None
    )
    assert len(whole.silhouettes) == 10_001


def test_an_elbow_is_marked_by_the_criterion_that_is_drawn(rng):
    """A column that is no criterion recommends nothing: there it is the criterion of the sweep, by its name."""
    X = rng.normal(size=(400, 2))  # on which no two criteria need agree
    criteria = ["bic", "davies_bouldin", "calinski_harabasz", "gap"]
    sweep = KMeansSweep(range(1, 9), criteria=criteria, n_references=2, random_state=0).fit(X)
    marks = {}
    for column in ("inertia", "simplified_silhouette", "seconds", "gap_error", *criteria):
        display = ElbowDisplay.from_estimator(sweep, column=column)
        assert_array_equal(display.ax_.lines[0].get_ydata(), sweep.results_[column])
        criterion = column if column in (sweep.criterion, *criteria) else sweep.criterion
        expected, _ = sweep.recommend(criterion)
        marks[column] = expected
        assert display.ax_.lines[1].get_xdata() == [expected] * 2
        words = criterion.replace("_", " ")
        assert display.ax_.get_legend().get_texts()[0].get_text() == f"recommended by {words}: {expected}"
    assert len(set(marks.values())) > 1, "criteria that agree show nothing"
    with pytest.raises(ValueError, match=r"column='silhouette' is not in results_: use one of \['n_clusters'"):
        ElbowDisplay.from_estimator(sweep, column="silhouette")


def test_the_mark_of_an_elbow(rng):
    sweep = KMeansSweep(range(2, 9), criterion="elbow", random_state=0).fit(blobs(rng, 300, 2, n_clusters=4, spread=9))
    text = ElbowDisplay.from_estimator(sweep).ax_.get_legend().get_texts()[0].get_text()
    assert text == f"recommended by elbow: {sweep.best_n_clusters_}"


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
    styles = {(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in display.ax_.collections[:-1]}
    assert len(styles) == 64, "8 colours by 8 marks"
    assert [text.get_text() for text in display.ax_.texts] == [str(i) for i in range(70)], "in place of a legend"
    assert display.ax_.get_legend() is None


class Source:
    """The least that data read by blocks have; counts the rows and slices that are asked for."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype
        self.n_rows = self.n_slices = 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert rows.step is None
        self.n_rows, self.n_slices = self.n_rows + rows.stop - rows.start, self.n_slices + 1
        return self._X[rows]


class Numbered(Source):
    """One that gives rows by their numbers, as zarr does."""

    @property
    def oindex(self):
        return self

    def __getitem__(self, rows):
        rows = rows[0] if isinstance(rows, tuple) else rows
        self.n_rows += len(self._X[rows])
        return self._X[rows]


def as_map(X, folder):
    mapped = np.lib.format.open_memmap(folder / "X.npy", mode="w+", dtype=X.dtype, shape=X.shape)
    mapped[:] = X
    return mapped


def as_hdf5(X, folder):
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X, chunks=(70, 1), compression="gzip")


def as_dask(X, folder):
    return pytest.importorskip("dask.array").from_array(X, chunks=(130, 2))


KINDS = {
    "list": lambda X, folder: X.tolist(),
    "integers": lambda X, folder: X.astype(int),
    "data frame": lambda X, folder: pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])]),
    "CSR": lambda X, folder: sparse.csr_array(X),
    "CSC": lambda X, folder: sparse.csc_matrix(X),
    "COO": lambda X, folder: sparse.coo_array(X),
    "Dask": as_dask,
    "map": as_map,
    "HDF5": as_hdf5,
    "source": lambda X, folder: Source(X),
    "numbered": lambda X, folder: Numbered(X),
    "masked array": lambda X, folder: np.ma.array(X),
}


@pytest.mark.parametrize("most", [50, 20_000])
@pytest.mark.parametrize("n_features", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_clustered_can_be_drawn(kind, n_features, most, rng, tmp_path, monkeypatch):
    """Its labels too, as the fit left them; some of the rows by a random state that picks the same of any kind."""
    monkeypatch.setattr(plotting, "MOST_POINTS", most)
    X = np.round(blobs(rng, 400, n_features, n_clusters=3, spread=20))
    given = KINDS[kind](X, tmp_path)
    model = KMeans(3, random_state=0).fit(given)
    labels = np.asarray(model.labels_)
    expected = ClustersDisplay.from_predictions(X, labels, centers=np.asarray(model.cluster_centers_), random_state=1)
    for display in (
        ClustersDisplay.from_estimator(model, given, random_state=1),
        ClustersDisplay.from_predictions(given, model.labels_, centers=model.cluster_centers_, random_state=1),
    ):
        assert len(display.points) == min(most, 400)
        assert_allclose(display.points, expected.points, atol=1e-6)
        assert_allclose(display.centers, expected.centers, atol=1e-6)
        assert_array_equal(display.labels, expected.labels)
        named = kind == "data frame" and n_features <= 2
        assert display.axis_names == (("f0", "f1" if n_features == 2 else "") if named else expected.axis_names)
        assert display.ax_.get_title() == ("50 of 400 rows, at random" if most == 50 else "")
    expected = metrics.silhouette_score(X, labels, sample_size=most, random_state=0)
    for display in (
        SilhouetteDisplay.from_estimator(model, given, sample_size=most),
        SilhouetteDisplay.from_predictions(given, model.labels_, sample_size=most),
    ):
        assert display.silhouettes.mean() == pytest.approx(expected)
    assert sorted(ClusterSizesDisplay.from_estimator(model).sizes) == sorted(np.bincount(labels))


def test_partitions_of_unknown_size():
    X = as_dask(np.arange(600.0).reshape(300, 2), None)
    X = X[X[:, 0] > 9]
    frame = pytest.importorskip("dask.dataframe").from_pandas(pd.DataFrame(np.eye(9)), npartitions=2)
    for given in (X, frame):
        with pytest.raises(ValueError, match="partitions of unknown size"):
            metrics.silhouette_score(given, np.arange(9), sample_size=3)


@contextmanager
def at_most(mebibytes):
    """What the block allocates at a time; imports and caches are warm."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


def test_of_a_file_only_the_rows_are_read_that_are_drawn(rng, monkeypatch):
    """NaN elsewhere is not seen; what gives nothing but slices is read in parts, some of whose rows are kept."""
    monkeypatch.setattr(plotting, "MOST_POINTS", 2000)
    X = rng.normal(size=(200_000, 16))
    drawn = np.sort(np.random.RandomState(0).permutation(len(X))[:2000])
    bad = np.full_like(X, np.nan)
    bad[drawn] = X[drawn]
    model = KMeans(3, random_state=0).fit(X[:1000])
    ClustersDisplay.from_estimator(model, X[:3000])
    source, numbered = Source(bad), Numbered(bad)
    with at_most(8):  # of 24
        display = ClustersDisplay.from_estimator(model, source)
        ClustersDisplay.from_predictions(source, np.zeros(len(X), dtype=int))
        SilhouetteDisplay.from_estimator(model, source, sample_size=2000, metric="sqeuclidean")
    assert_array_equal(display.labels, model.predict(X[drawn]))
    assert source.n_slices > 3 * 20, "in parts"
    assert ClustersDisplay.from_estimator(model, numbered).points.shape == (2000, 2)
    assert numbered.n_rows == 2000


def directions(rng, n_samples, n_features):
    """Rows along two directions, the second of a quarter of the variance of the first, and the plane of these."""
    axes = np.linalg.qr(rng.normal(size=(n_features, 2)))[0].T
    along = rng.normal(size=(n_samples, 2))
    along = np.linalg.qr(along - along.mean(axis=0))[0] * [2.0, 1.0]
    return along, along @ axes


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("shape", [(50, 20_000), (1500, 700), (700, 1500), (3000, 30)])
def test_principal_components_of_any_shape(rng, shape, offset):
    along, X = directions(rng, *shape)
    X += offset
    with at_most(16 * X.nbytes / 2**20 + 1):  # n_features² numbers would be 3 GiB for the first
        display = ClustersDisplay.from_predictions(X, np.zeros(len(X), dtype=int))
    assert_allclose(np.abs(display.points), np.abs(along), atol=1e-6 + 1e-12 * offset * shape[1] ** 0.5)
    assert "(80% of the variance)" in display.axis_names[0]
    assert "(20% of the variance)" in display.axis_names[1]


def test_sparse_rows_of_many_features_stay_sparse(rng):
    X = sparse.random_array((400, 45_000), density=1e-3, rng=rng, format="csr")
    model = KMeans(3, random_state=0, max_iter=2, tol=1e9).fit(X)
    ClustersDisplay.from_estimator(model, X[:200])
    with at_most(40):  # of 137 MiB, were they dense
        display = ClustersDisplay.from_estimator(model, X)
    mean = X.toarray().mean(axis=0)
    centered = X.toarray() - mean
    squares, along = np.linalg.eigh(centered @ centered.T)  # ascending
    axes = centered.T @ (along[:, :-3:-1] / squares[:-3:-1] ** 0.5)
    assert_allclose(np.abs(display.points), np.abs(centered @ axes), atol=1e-6)
    assert_allclose(np.abs(display.centers), np.abs((model.cluster_centers_ - mean) @ axes), atol=1e-6)


@pytest.mark.parametrize("X", [np.zeros((1, 3)), np.ones((5, 4)), np.arange(8.0).reshape(2, 4)])
def test_few_sparse_rows(X):
    display = ClustersDisplay.from_predictions(sparse.csr_array(X), np.zeros(len(X), dtype=int))
    expected = ClustersDisplay.from_predictions(X, np.zeros(len(X), dtype=int))
    assert_allclose(display.points, expected.points, atol=1e-9)


def test_bad_labels():
    for Display in (ClustersDisplay, SilhouetteDisplay):
        with pytest.raises(ValueError, match=r"labels.shape == \(9,\), expected \(10,\)"):
            Display.from_predictions(np.ones((10, 2)), np.zeros(9))
        with pytest.raises(ValueError, match="Input labels contains NaN"):
            Display.from_predictions(np.ones((3, 2)), [0, 1, np.nan])
    with pytest.raises(ValueError, match="Input labels contains NaN"):
        ClusterSizesDisplay.from_predictions([0, 1, None])


@pytest.fixture(params=[3, 40])
def piped(request, rng):
    """A pipeline that scales, fitted to a data frame, the frame, and its scaled rows."""
    X = blobs(rng, 800, 4, n_clusters=request.param, spread=30) * [1, 10, 100, 1000]
    X = pd.DataFrame(X, columns=["one", "ten", "hundred", "thousand"])
    pipe = make_pipeline(StandardScaler(), KMeans(request.param, random_state=0)).fit(X)
    return pipe, X, pipe[0].transform(X)


def test_a_pipeline_is_drawn_as_its_last_step_sees_the_rows(piped):
    pipe, X, scaled = piped
    ours, expected = (ClustersDisplay.from_estimator(*given) for given in ((pipe, X), (pipe[-1], scaled)))
    for name in ("points", "labels", "centers"):
        assert_allclose(getattr(ours, name), getattr(expected, name), atol=1e-12)
    ours, expected = (SilhouetteDisplay.from_estimator(*given) for given in ((pipe, X), (pipe[-1], scaled)))
    assert_allclose(ours.silhouettes, expected.silhouettes, atol=1e-12)
    assert_array_equal(ClusterSizesDisplay.from_estimator(pipe).sizes, pipe[-1].cluster_sizes_)
    assert ConvergenceDisplay.from_estimator(pipe).history is pipe[-1].history_
    alone = make_pipeline(pipe[-1])
    assert_array_equal(ClustersDisplay.from_estimator(alone, scaled).labels, pipe[-1].labels_)
    with pytest.raises(TypeError, match="This display draws a fitted KMeansSweep, got a KMeans"):
        ElbowDisplay.from_estimator(pipe)


def test_axes_have_the_names_of_columns(rng):
    X = pd.DataFrame(rng.normal(size=(50, 2)), columns=["length", "width"])
    for steps in ([], [StandardScaler()]):
        display = ClustersDisplay.from_estimator(make_pipeline(*steps, KMeans(2, random_state=0)).fit(X), X)
        assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("length", "width")
    pipe = make_pipeline(PCA(2), KMeans(2, random_state=0)).fit(X)
    assert ClustersDisplay.from_estimator(pipe, X).axis_names == ("pca0", "pca1")
    for makes, names in ((lambda X: X, ("length", "width")), (np.asarray, ("feature 0", "feature 1"))):
        pipe = make_pipeline(Forward(makes), KMeans(2, random_state=0)).fit(X)
        assert ClustersDisplay.from_estimator(pipe, X).axis_names == names


def test_many_clusters_are_numbered_and_few_have_a_legend_beside(piped):
    pipe, X, _ = piped
    k = pipe[-1].n_clusters
    display = ClustersDisplay.from_estimator(pipe, X)
    assert [text.get_text() for text in display.ax_.texts] == [str(i) for i in range(k)]
    assert_allclose([text.xy for text in display.ax_.texts], display.centers)
    assert (display.ax_.get_legend() is not None) == (k == 3)
    for shown in (display, SilhouetteDisplay.from_estimator(pipe, X)):
        legend = shown.ax_.get_legend()
        if legend is not None:
            shown.figure_.draw_without_rendering()
            assert legend.get_window_extent().x0 >= shown.ax_.get_window_extent().x1 - 1, "covers nothing"


def test_ticks_are_thinned(rng):
    labels = np.arange(3000) % 300
    ticks = ClusterSizesDisplay.from_predictions(labels).ax_.get_xticks()
    assert 25 < len(ticks) <= plotting.MOST_TICKS
    ticks = SilhouetteDisplay.from_predictions(rng.normal(size=(3000, 2)), labels).ax_.get_yticks()
    assert 25 < len(ticks) <= plotting.MOST_TICKS
    assert len(ClusterSizesDisplay.from_predictions(labels % 40).ax_.get_xticks()) == 40


@pytest.mark.parametrize("n_clusters", [15, 20, 40])
def test_names_of_ticks_do_not_overlap_in_a_narrow_panel(n_clusters):
    figure, panels = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
    display = ClusterSizesDisplay.from_predictions(np.arange(400) % n_clusters + 10, ax=panels[1])
    figure.draw_without_rendering()
    boxes = [name.get_window_extent() for name in display.ax_.get_xticklabels()]
    assert len(boxes) >= 10
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_titles(piped):
    pipe, X, _ = piped
    sweep = KMeansSweep([2, 3], random_state=0).fit(X)
    for display in (
        ClustersDisplay.from_estimator(pipe, X, title="T"),
        ClustersDisplay.from_predictions(X, np.zeros(800, dtype=int), title="T"),
        SilhouetteDisplay.from_estimator(pipe, X, title="T"),
        SilhouetteDisplay.from_predictions(X, pipe[-1].labels_, title="T"),
        ClusterSizesDisplay.from_estimator(pipe, title="T"),
        ConvergenceDisplay.from_estimator(pipe, title="T"),
        ClusterDistancesDisplay.from_estimator(pipe, title="T"),
        ClusterProfilesDisplay.from_estimator(pipe, title="T"),
        ElbowDisplay.from_estimator(sweep, title="T"),
    ):
        assert display.ax_.get_title() == "T"
    display = SilhouetteDisplay.from_estimator(pipe, X, sample_size=700, title="T")
    assert display.ax_.get_title() == "T\n700 of 800 rows, at random"


def test_the_gap_has_its_errors(rng):
    pipe = make_pipeline(StandardScaler(), KMeansSweep(range(1, 5), criterion="gap", n_references=3, random_state=0))
    sweep = pipe.fit(blobs(rng, 200, 2, n_clusters=3, spread=9))[-1]
    display = ElbowDisplay.from_estimator(pipe, column="gap")
    gap, error = (np.asarray(sweep.results_[name]) for name in ("gap", "gap_error"))
    bars = display.ax_.collections[0].get_segments()
    assert_allclose([bar[:, 1] for bar in bars], np.stack([gap - error, gap + error], axis=1))
    assert not ElbowDisplay.from_estimator(pipe, column="inertia").ax_.collections


def test_distances_between_clusters(piped):
    pipe, _, _ = piped
    centers = pipe[-1].cluster_centers_
    display = ClusterDistancesDisplay.from_estimator(pipe)
    order = display.labels
    assert sorted(order) == list(range(len(centers)))
    expected = np.linalg.norm(centers[order][:, None] - centers[order], axis=2)
    assert_allclose(display.distances, expected, atol=1e-12)
    drawn = np.ma.filled(display.ax_.images[0].get_array(), np.nan)
    assert_array_equal(np.isnan(drawn), np.eye(len(centers), dtype=bool))
    assert len(display.ax_.texts) == (6 if len(centers) == 3 else 0)
    cosine = KMeans(2, metric="cosine", random_state=0).fit([[1.0, 0.0], [0.0, 1.0]])
    assert ClusterDistancesDisplay.from_estimator(cosine).name == "1 - cos between centers"


def test_profiles_are_in_the_units_of_the_data(piped):
    """Means of the clusters, as people see them in their table."""
    pipe, X, _ = piped
    display = ClusterProfilesDisplay.from_estimator(pipe)
    assert_allclose(display.centers, X.groupby(pipe[-1].labels_).mean().to_numpy(), rtol=1e-9)
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == list(X.columns)
    above = np.ma.filled(display.ax_.images[0].get_array(), np.nan)
    assert_allclose(above.mean(axis=1), 0, atol=1e-12)
    assert_allclose(above.std(axis=1), 1)
    few = len(display.centers) == 3
    assert [text.get_text() for text in display.ax_.texts[:3]] == [f"{x:.4g}" for x in display.centers[:, 0]] * few


def test_profiles_of_any_library(fitted):
    _, model = fitted
    display = ClusterProfilesDisplay.from_estimator(model, feature_names="abc")
    assert_array_equal(display.centers, to_numpy(model.cluster_centers_))
    assert display.feature_names == ["a", "b", "c"]
    assert ClusterProfilesDisplay.from_estimator(model).feature_names == ["feature 0", "feature 1", "feature 2"]
    assert_allclose(
        ClusterDistancesDisplay.from_estimator(model).distances.sum(),
        np.linalg.norm(display.centers[:, None] - display.centers, axis=2).sum(),
    )
    with pytest.raises(ValueError, match="feature_names has 2 names, and the centers have 3 features"):
        ClusterProfilesDisplay.from_estimator(model, feature_names=["a", "b"])


def test_profiles_of_steps_without_a_way_back(rng):
    X = np.abs(rng.normal(size=(30, 2)))
    pipe = make_pipeline("passthrough", FunctionTransformer(np.log1p), KMeans(2, random_state=0)).fit(X)
    assert ClusterProfilesDisplay.from_estimator(pipe).centers.shape == (2, 2)
    pipe.steps[1] = ("log", Forward())
    with pytest.raises(TypeError, match="Step 'log' has no inverse_transform"):
        ClusterProfilesDisplay.from_estimator(pipe)


class Forward(TransformerMixin, BaseEstimator):
    """A step that says neither what becomes of names nor the way back."""

    def __init__(self, makes=None):
        self.makes = makes

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return self.makes(X)


def test_plotting_is_there_without_an_import_of_its_own():
    """And what is not drawn with is not imported."""
    code = (
        "import sys, kmeans_xp; assert 'kmeans_xp.plotting' not in sys.modules; assert 'plotting' in dir(kmeans_xp); "
        "kmeans_xp.plotting.ClustersDisplay; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_displays_say_what_they_draw(rng):
    X = rng.normal(size=(50, 2))
    model, sweep = KMeans(2, random_state=0).fit(X), KMeansSweep(range(2, 4), random_state=0).fit(X)
    with pytest.raises(TypeError, match="This display draws a fitted KMeansSweep, got a KMeans"):
        plotting.ElbowDisplay.from_estimator(model)
    with pytest.raises(TypeError, match="This display draws a fitted KMeans, got a KMeansSweep"):
        plotting.ConvergenceDisplay.from_estimator(sweep)
