"""Missing values, however they are written: refused wherever an array comes in, never taken for data or a cluster."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from kmeans_xp import KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics

ROWS = np.random.default_rng(0).normal(size=(60, 2)) + 9 * (np.arange(60) % 3)[:, None]
LABELS = np.arange(60) % 3
HIDES = np.ma.array(ROWS, mask=np.arange(120).reshape(60, 2) == 83, fill_value=1e20)
NAMES = {0: "a", 1: "b", 2: "c"}


class Masked:
    """A data set whose slices are masked arrays, as those of netCDF4 are."""

    shape, dtype = HIDES.shape, HIDES.dtype

    def __getitem__(self, rows):
        return HIDES[rows]


class Sliced:
    """The same without hidden values."""

    shape, dtype = ROWS.shape, ROWS.dtype

    def __getitem__(self, rows):
        return ROWS[rows]


def lazy():
    da = pytest.importorskip("dask.array")
    return da.from_array(HIDES, chunks=(20, 2), asarray=False)


def model():
    return KMeans(3, random_state=0).fit(ROWS)


USES_OF_ROWS = {
    "fit": lambda X: KMeans(3).fit(X),
    "cosine": lambda X: KMeans(3, metric="cosine").fit(X),
    "predict": lambda X: np.asarray(model().predict(X)),
    "transform": lambda X: np.asarray(model().transform(X)),
    "score": lambda X: model().score(X),
}
USES_IN_MEMORY = {
    "nearest_centers": lambda X: model().nearest_centers(X),
    "nearest_rows": lambda X: model().nearest_rows(X),
    "mini-batch": lambda X: MiniBatchKMeans(3, random_state=0, batch_size=1000).fit(X),
    "inertias": lambda X: metrics.cluster_inertias(X, LABELS),
    "silhouette": lambda X: metrics.silhouette_score(X, LABELS),
}
USES_OF_ARRAYS = {
    "partial_fit": lambda X: MiniBatchKMeans(3).partial_fit(X),
    "kmeans_plusplus": lambda X: kmeans_plusplus(X, 3),
    "sweep": lambda X: KMeansSweep([2, 3]).fit(X),
    "list of rows": lambda X: KMeans(3).fit(list(X)),
}


def named(uses):
    return {"argvalues": uses.values(), "ids": uses.keys()}


@pytest.mark.parametrize("use", **named(USES_OF_ROWS | USES_IN_MEMORY | USES_OF_ARRAYS))
def test_a_masked_array_of_rows_hides_no_values(use):
    with pytest.raises(ValueError, match=r"Input X contains masked values.* Impute them, .* '\.filled\(\)'"):
        use(HIDES)


@pytest.mark.parametrize("use", **named(USES_OF_ROWS | USES_IN_MEMORY))
def test_slices_of_a_source_hide_no_values(use):
    with pytest.raises(ValueError, match=r"Input X contains NaN: row 41 is the first one"):
        use(Masked())


@pytest.mark.parametrize("use", **named(USES_OF_ROWS))
def test_partitions_hide_no_values(use):
    with pytest.raises(ValueError, match=r"Partition 2 of X: Input X contains masked values"):
        use(lazy())


def test_masked_arrays_that_hide_nothing_are_arrays():
    X, weights = np.ma.array(ROWS), np.ma.array(np.ones(60))
    ours = KMeans(3, init=np.ma.array(ROWS[:3])).fit(X, sample_weight=weights)
    assert_array_equal(ours.labels_, KMeans(3, init=ROWS[:3]).fit(ROWS).labels_)
    assert metrics.silhouette_score(X, np.ma.array(LABELS)) == metrics.silhouette_score(ROWS, LABELS)


@pytest.mark.parametrize("X", [ROWS, "a source", "lazy"])
def test_masked_weights(X):
    weights = np.ma.array(np.ones(60), mask=LABELS == 1)
    X = X if isinstance(X, np.ndarray) else lazy().map_blocks(np.asarray) if X == "lazy" else Sliced()
    for use in (
        lambda: KMeans(3).fit(X, sample_weight=weights),
        lambda: model().score(X, sample_weight=weights),
    ):
        with pytest.raises(ValueError, match="Input sample_weight contains masked values"):
            use()


def test_masked_weights_of_metrics():
    with pytest.raises(ValueError, match="Input sample_weight contains masked values"):
        metrics.davies_bouldin_score(ROWS, LABELS, sample_weight=np.ma.array(np.ones(60), mask=LABELS == 1))


@pytest.mark.parametrize("Model", [KMeans, MiniBatchKMeans])
def test_masked_init(Model):
    for init in (HIDES[40:43], lambda X, n_clusters, random_state: HIDES[40:43]):
        with pytest.raises(ValueError, match="Input init contains masked values"):
            Model(3, init=init, n_init=1).fit(ROWS)


MISSING = {
    "NaN": np.where(LABELS == 1, np.nan, LABELS),
    "list with NaN": [float("nan"), *LABELS[1:].tolist()],
    "None": np.where(LABELS == 1, None, LABELS),
    "names and NaN": pd.Series(LABELS).map({0: "a", 1: "b"}).to_numpy(dtype=object),
    "list of names and NaN": [float("nan"), *(NAMES[label] for label in LABELS[1:])],
    "list of names and None": [None, *(NAMES[label] for label in LABELS[1:])],
    "pd.NA among integers": pd.Series(LABELS, dtype="Int64").where(LABELS != 1),
    "pd.NA among names": pd.Series(LABELS, dtype="Int64").map(NAMES).astype("string").where(LABELS != 1),
    "categories": pd.Categorical.from_codes(np.where(LABELS == 1, -1, LABELS), ["a", "b", "c"]),
    "NaT": np.where(LABELS == 1, np.datetime64("NaT"), np.datetime64("2020-01-01")),
    "a column": np.where(LABELS == 1, np.nan, LABELS)[:, None],
}


@pytest.mark.parametrize("labels", MISSING.values(), ids=MISSING)
def test_a_missing_label_is_no_cluster(labels):
    for name in ("cluster_inertias", "silhouette_score", "davies_bouldin_score", "bic_score"):
        with pytest.raises(ValueError, match="Input labels contains NaN"):
            getattr(metrics, name)(ROWS, labels)
    with pytest.raises(ValueError, match="Input labels contains NaN"):
        metrics.silhouette_score(ROWS, labels, sample_size=20)


def test_a_masked_label_is_no_cluster():
    with pytest.raises(ValueError, match="Input labels contains masked values"):
        metrics.silhouette_score(ROWS, np.ma.array(LABELS, mask=LABELS == 1))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_labels_of_every_library_are_finite(lib, value, word):
    labels = lib.asarray(np.where(LABELS == 1, value, LABELS))
    with pytest.raises(ValueError, match=f"Input labels contains {word}"):
        metrics.silhouette_score(lib.asarray(ROWS), labels)


def test_labels_of_every_kind(lib):
    """Names, dates, truth values and floats are labels as integers are."""
    expected = metrics.silhouette_score(ROWS, LABELS)
    dates = np.datetime64("2020-01-01") + LABELS.astype("timedelta64[D]")
    for labels in (LABELS.astype(float), [NAMES[label] for label in LABELS], dates, pd.Series(LABELS, dtype="Int64")):
        assert metrics.silhouette_score(ROWS, labels) == pytest.approx(expected)
    two = LABELS == 1
    expected = metrics.silhouette_score(ROWS, two.astype(int))
    assert metrics.silhouette_score(lib.asarray(ROWS), lib.asarray(two)) == pytest.approx(expected)


def test_lazy_labels_are_computed(lib):
    da = pytest.importorskip("dask.array")
    fitted = KMeans(3, random_state=0).fit(da.from_array(ROWS, chunks=(20, 2)))
    expected = metrics.silhouette_score(ROWS, np.asarray(fitted.labels_))
    assert metrics.silhouette_score(lib.asarray(ROWS), fitted.labels_) == pytest.approx(expected)
    with pytest.raises(ValueError, match="Input labels contains NaN"):
        metrics.silhouette_score(ROWS, da.from_array(MISSING["NaN"], chunks=20))
