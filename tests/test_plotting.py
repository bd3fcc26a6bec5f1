"""The displays show what they are given; what they look like was judged by eye."""

import tracemalloc
from contextlib import contextmanager

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import blobs
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError

from kmeans_xp import KMeans, KMeansSweep, metrics, plotting
from kmeans_xp.arrays import to_numpy
from kmeans_xp.plotting import (
    MOST_POINTS,
    MOST_SILHOUETTES,
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
    styles = {(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in display.ax_.collections}
    assert len(styles) == 64, "8 colours by 8 marks"
    assert ClusterSizesDisplay.from_predictions(np.arange(300) % 30).ax_.get_xticks().size == 0


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
        assert display.axis_names == expected.axis_names
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


def test_displays_say_what_they_draw(rng):
    X = rng.normal(size=(50, 2))
    model, sweep = KMeans(2, random_state=0).fit(X), KMeansSweep(range(2, 4), random_state=0).fit(X)
    with pytest.raises(TypeError, match="This display draws a fitted KMeansSweep, got a KMeans"):
        plotting.ElbowDisplay.from_estimator(model)
    with pytest.raises(TypeError, match="This display draws a fitted KMeans, got a KMeansSweep"):
        plotting.ConvergenceDisplay.from_estimator(sweep)
