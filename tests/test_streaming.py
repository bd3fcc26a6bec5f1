"""Data that are read block by block: the same answers as in memory."""

import os
import re

import numpy as np
import pytest
import sklearn
from conftest import blobs, load
from numpy.testing import assert_allclose, assert_array_equal

from kmeans_xp import KMeans, MiniBatchKMeans, metrics, seeding
from kmeans_xp.algorithms import ALGORITHMS, BoundedState
from kmeans_xp.data import Purpose, open_data, stream

h5py = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def little_memory():
    """1 MiB, of which a block may have a quarter."""
    with sklearn.config_context(working_memory=1):
        yield


class Slices:
    """The least that a source must be able to do. Counts the rows that were read."""

    def __init__(self, X):
        self._X = X
        self.shape, self.dtype = X.shape, X.dtype
        self.n_read = 0

    def __getitem__(self, rows):
        rows = rows[0] if isinstance(rows, tuple) else rows
        found = self._X[rows]
        self.n_read += len(found)
        return found


def as_memmap(X, folder):
    """X in a file."""
    mapped = np.memmap(folder / "X.bin", dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    return np.memmap(folder / "X.bin", dtype=X.dtype, mode="r", shape=X.shape)


def as_hdf5(X, folder):
    file = h5py.File(folder / f"X{len(list(folder.iterdir()))}.h5", "w")  # an error may still hold the one before
    return file.create_dataset("X", data=X, chunks=(1000, X.shape[1]))


SOURCES = {"memmap": as_memmap, "h5py": as_hdf5, "slices": lambda X, folder: Slices(X)}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return lambda X: SOURCES[request.param](X, tmp_path)


def assert_same_fit(ours, expected):
    assert_array_equal(ours.labels_, expected.labels_)
    assert_allclose(ours.cluster_centers_, expected.cluster_centers_, rtol=1e-6, atol=1e-6)
    assert ours.cluster_centers_.dtype == expected.cluster_centers_.dtype
    assert ours.labels_.dtype == np.int32
    assert ours.inertia_ == pytest.approx(expected.inertia_, rel=1e-9)
    assert ours.n_iter_ == expected.n_iter_
    assert ours.converged_ == expected.converged_
    assert ours.history_["n_changed"] == expected.history_["n_changed"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "int8"])
@pytest.mark.parametrize("n_samples", [19_000, 90_000], ids=["all rows seed", "a sample seeds"])
def test_equals_the_fit_in_memory(source, rng, n_samples, dtype):
    X = blobs(rng, n_samples, 16, n_clusters=7, spread=4).astype(dtype)
    job = {"n_clusters": 6, "random_state": 3}
    ours = KMeans(**job).fit(source(X))
    with sklearn.config_context(working_memory=1024):
        expected = KMeans(**job).fit(X)
    assert_same_fit(ours, expected)
    np.testing.assert_array_equal(ours.predict(source(X[:30_000])), expected.labels_[:30_000])
    assert ours.score(source(X)) == pytest.approx(expected.score(X), rel=1e-9)
    assert_allclose(ours.transform(source(X[:20_000])), expected.transform(X[:20_000]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "elkan"])
def test_weights_and_given_centers(source, rng, algorithm):
    """In 9 blocks, with an empty cluster that must find the farthest row among all of them."""
    X = blobs(rng, 17_000, 16, n_clusters=5)
    X[12_345] += 500
    weights = rng.integers(0, 3, size=len(X)).astype("float64")
    weights[12_345] = 1
    init = np.concatenate((X[:4], np.full((2, 16), -1e4)))
    job = {"n_clusters": 6, "init": init, "tol": 0, "algorithm": algorithm}
    ours = KMeans(**job).fit(source(X), sample_weight=weights)
    expected = KMeans(**job).fit(X, sample_weight=weights)
    assert_same_fit(ours, expected)
    assert ours.score(source(X), sample_weight=weights) == pytest.approx(-ours.inertia_, rel=1e-9)


def test_random_rows_are_different_and_follow_the_weights(rng):
    X = np.repeat(np.arange(40.0), 1500)[:, None] * np.ones((1, 4))
    weights = np.repeat(np.arange(40) >= 30, 1500).astype("float64")
    starts = []
    model = KMeans(5, init="random", n_init=1, max_iter=1, on_iteration=starts.append, random_state=0)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        model.fit(Slices(X), sample_weight=weights)
    assert (model.cluster_centers_ >= 30 - 1e-9).all()


def test_rows_that_are_settled_are_not_read(tmp_path, rng):
    """Late iterations read less than the data; with the last center far off, the first blocks change no more."""
    X = np.concatenate((blobs(rng, 40_000, 8, n_clusters=3, spread=30), rng.normal(size=(20_000, 8)) + 500))
    init = np.concatenate((X[:3], X[-3:]))
    read = []

    class Counting(Slices):
        def __getitem__(self, rows):
            read[-1] += 1
            return super().__getitem__(rows)

    model = KMeans(6, init=init, tol=0, algorithm="elkan", on_iteration=lambda iteration: read.append(0))
    read.append(0)
    model.fit(Counting(X))
    assert model.n_iter_ > 10
    assert min(read[1:-1]) < max(read[1:-1]) / 2
    expected = KMeans(6, init=init, tol=0, algorithm="lloyd").fit(X)
    assert_same_fit(model, expected)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_how_often_the_data_are_read(rng, algorithm):
    """Beside the iterations: mean, spread, sample, last labels, inertia, and fresh sums after pruned iterations."""
    X = Slices(blobs(rng, 90_000, 8, n_clusters=7, spread=3))
    model = KMeans(7, random_state=0, algorithm=algorithm).fit(X)
    assert X.n_read <= (model.n_iter_ + (6 if algorithm == "elkan" else 5)) * 90_000


def test_single_rows_are_read_from_a_map(tmp_path, rng, monkeypatch):
    """The few rows that are not settled, where that is less to read than the block."""
    monkeypatch.setattr(stream, "PAGE", 1)
    X = blobs(rng, 30_000, 8, n_clusters=9, spread=3)
    partly = []
    step = BoundedState._step_on
    monkeypatch.setattr(BoundedState, "_step_on", lambda *args: partly.append(len(args[1])) or step(*args))
    job = {"n_clusters": 9, "init": X[:9], "tol": 0, "algorithm": "elkan"}
    ours = KMeans(**job).fit(as_memmap(X, tmp_path))
    assert max(partly) > 0
    assert_same_fit(ours, KMeans(**job).fit(X))


def test_bounds_that_do_not_fit_are_not_kept(rng, monkeypatch):
    X = blobs(rng, 100_000, 2, n_clusters=4, dtype="float32")
    with sklearn.config_context(working_memory=1), open_data(Slices(X), None, Purpose(4)) as data:
        assert data.suited(ALGORITHMS["elkan"], 4, None) == ALGORITHMS["lloyd"]
    init = X[:4]
    ours = KMeans(4, init=init, algorithm="elkan").fit(Slices(X))
    assert_same_fit(ours, KMeans(4, init=init).fit(X))


def test_results_go_where_they_are_wanted(source, rng, tmp_path):
    X = blobs(rng, 20_000, 8)
    model = KMeans(3, random_state=0).fit(X)
    out = np.memmap(tmp_path / "distances", dtype="float32", mode="w+", shape=(20_000, 3))
    assert model.transform(source(X), out=out) is out
    assert_allclose(out, model.transform(X), rtol=1e-6)
    labels = np.empty(20_000, dtype="int64")
    assert model.predict(source(X), out=labels) is labels
    assert_array_equal(labels, model.labels_)
    labels[:] = -1
    model.predict(X, out=labels)
    assert_array_equal(labels, model.labels_)
    with pytest.raises(ValueError, match=r"out.shape == \(20000,\), expected \(20000, 3\)"):
        model.transform(source(X), out=labels)
    assert_array_equal(model.predict(X[:3].tolist(), out=labels[:3]), model.labels_[:3])
    with pytest.raises(TypeError, match="out must be an array to write into, got list"):
        model.predict(X, out=[1])


def test_a_small_map_is_an_array(tmp_path, rng):
    """What fits in working memory is left to the system's file cache."""
    X = as_memmap(blobs(rng, 1000, 4), tmp_path)
    with open_data(X) as data:
        assert not data.in_blocks
    KMeans(2).fit(X)


def broken(X, when, error=None, shape=None):
    """A source that fails from its `when`-th read on, or changes its shape."""

    class Broken(Slices):
        def __getitem__(self, rows):
            self.n_reads = getattr(self, "n_reads", 0) + 1
            if self.n_reads >= when:
                if error is not None:
                    raise error
                self.shape = shape
            return super().__getitem__(rows)

    return Broken(X)


@pytest.mark.parametrize("when", [1, 20, 40])
def test_faults_while_reading(rng, when):
    X = blobs(rng, 40_000, 8)
    model = KMeans(3, random_state=0, max_iter=20).fit(X)
    before = {**vars(model)}
    with pytest.raises(OSError, match=r"Reading rows \d+ to \d+ of X failed: Input/output error"):
        model.fit(broken(X, when, OSError("Input/output error")))
    with pytest.raises(ValueError, match=r"X changed its shape from \(40000, 8\) to \(39000, 8\)"):
        model.fit(broken(X, when, shape=(39_000, 8)))
    assert vars(model) == before


@pytest.mark.parametrize("part", [slice(None, -1), (slice(None), slice(1))])
def test_a_source_that_gives_other_shapes(rng, part):
    class Odd(Slices):
        def __getitem__(self, rows):
            return super().__getitem__(rows)[part]

    with pytest.raises(ValueError, match=r"X gave an array of shape .* expected \(\d+, 8\)"):
        KMeans(2).fit(Odd(rng.normal(size=(9000, 8))))


def test_a_failed_fit_forgets_what_it_learned(rng):
    X = rng.normal(size=(9000, 4))
    for model in (KMeans(2, random_state=0), MiniBatchKMeans(2, random_state=0)):
        model.fit(X)
        with pytest.raises(OSError, match="gone"):
            model.fit(broken(X[:, :2], 1, OSError("gone")))
        assert model.predict(X).shape == (9000,)


def test_a_file_that_was_truncated(tmp_path, rng):
    X = as_memmap(blobs(rng, 40_000, 8), tmp_path)
    with open(X.filename, "r+b") as file:
        file.truncate(X.nbytes // 2)
    for rows in (X, X[1000:], X[1000:][::2]):  # of a part of a map, the offset is that of the whole
        with pytest.raises(OSError, match="has 1280000 bytes and should have 2560000"):
            KMeans(3).fit(rows)


def takers(X):
    """Everything that takes rows of a source like X, by name."""
    model, labels = KMeans(2, random_state=0).fit(X), np.arange(len(X)) % 2
    return {
        "fit": KMeans(2, random_state=0, max_iter=3).fit,
        "cosine": KMeans(2, random_state=0, metric="cosine").fit,
        "predict": model.predict,
        "transform": model.transform,
        "score": model.score,
        "nearest_rows": model.nearest_rows,
        "nearest_centers": model.nearest_centers,
        "batches": MiniBatchKMeans(2, random_state=0, compute_labels=False).fit,
        "a sample of all rows": MiniBatchKMeans(2, random_state=0, init_size=len(X)).fit,
        "metrics": lambda X: metrics.davies_bouldin_score(X, labels),
        "silhouettes of some rows": lambda X: metrics.silhouette_score(
            X, labels, metric="sqeuclidean", sample_size=len(labels), random_state=0
        ),
    }


TAKERS = list(takers(np.random.default_rng(0).normal(size=(20, 3))))
TOO_LARGE = "infinity or a value too large for float32"


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("kind", "extreme", "what"),
    [("memmap", np.nan, "NaN"), ("h5py", np.inf, TOO_LARGE), ("slices", -np.inf, TOO_LARGE)],
)
def test_numbers_that_are_not_finite_are_named(rng, tmp_path, taker, kind, extreme, what):
    """The first row of those that were read together."""
    X = blobs(rng, 40_000, 8, dtype="float32")
    take = takers(X)[taker]
    X[15_001:, 3] = extreme
    with pytest.raises(ValueError, match=rf"Input X contains {what}: row \d+ is the first one of") as info:
        take(SOURCES[kind](X, tmp_path))
    row, first, last = map(int, re.search(r"row (\d+) is .* (\d+) to (\d+)\.", str(info.value)).groups())
    assert first <= row <= last
    assert row > 15_000 if taker == "batches" else row == 15_001


class Answers(Slices):
    """A source of which the reads that reach row 9,000 are answered by `change(rows)`, from the `when`-th on."""

    def __init__(self, X, change, when=1):
        super().__init__(X)
        self._change, self._left = change, when

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        if not rows.start <= 9000 < rows.stop:
            return found
        self._left -= 1
        return found if self._left > 0 else self._change(found, 9000 - rows.start)


def put(value, dtype):
    """Function that puts a value into the row in question, among numbers of a dtype."""

    def change(rows, place):
        rows = rows.astype(dtype)
        rows[place, 2] = value
        return rows

    return change


def missing(rows, place):
    rows = np.ma.masked_array(rows, mask=False)
    rows[place, 2] = np.ma.masked
    return rows


UNEXPECTED = {
    "fewer rows": (
        lambda rows, place: rows[:-1],
        r"of shape \(\d+, 8\) .* for rows \d+ to \d+, expected \(\d+, 8\)",
    ),
    "more features": (lambda rows, place: np.hstack((rows, rows)), r"of shape \(\d+, 16\) .* for rows"),
    "one dimension": (lambda rows, place: rows[:, 0], r"of shape \(\d+,\) .* for rows"),
    "strings": (lambda rows, place: rows.astype(str), r"dtype <U\d+ for rows \d+ to \d+, expected .* and real numbers"),
    "objects": (put(None, object), "dtype object for rows"),
    "complex": (lambda rows, place: rows + 1j, "dtype complex64 for rows"),
    "ragged lists": (lambda rows, place: [[0.0] * 8, [0.0]], r"Reading rows \d+ to \d+ of X failed: setting an array"),
    "wider numbers": (put(1e39, "float64"), "infinity or a value too large for float32: row 9000 is"),
    "missing values": (missing, "Input X contains NaN: row 9000 is"),
}


@pytest.mark.parametrize("unexpected", UNEXPECTED)
@pytest.mark.parametrize("taker", TAKERS)
def test_blocks_must_be_what_the_source_announced(rng, taker, unexpected):
    """Rows and columns as many, of real numbers: else the error names the rows, wherever they were to go."""
    X = blobs(rng, 10_000, 8, dtype="float32")
    change, message = UNEXPECTED[unexpected]
    with pytest.raises((ValueError, OSError), match=message) as info:
        takers(X)[taker](Answers(X, change))
    first, last = map(int, re.search(r"(\d+) to (\d+)\b", str(info.value)).groups())
    assert first <= 9000 <= last


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "NaN: row 9000"),
        (-np.inf, "infinity"),
        (None, "dtype object"),
        (1e39, f"{TOO_LARGE}: row 9000"),
    ],
)
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan", "batches"])
def test_a_source_that_goes_bad_during_the_fit(rng, algorithm, value, message):
    """After the passes that see every row once; the estimator stays as it was."""
    X = blobs(rng, 20_000, 8, dtype="float32")
    if algorithm == "batches":
        model = MiniBatchKMeans(3, random_state=0, batch_size=4096, max_no_improvement=None)
    else:
        model = KMeans(3, random_state=0, algorithm=algorithm, tol=0)
    before = dict(vars(model.fit(X)))
    whole = put(value, "float64" if isinstance(value, float) else object)
    with pytest.raises(ValueError, match=message):
        model.fit(Answers(X, whole, when=5))
    after = dict(vars(model))
    if algorithm == "batches":  # put back as a copy
        states = [attributes.pop("_random_state").get_state()[1] for attributes in (before, after)]
        assert_array_equal(*states)
    assert after == before


def test_large_numbers_are_finite(rng):
    """Though their sum is not."""
    X = np.full((9000, 8), 3e38, dtype="float32") * rng.choice([-1, 1], size=(9000, 1)).astype("float32")
    rows = stream.Reader(Slices(X)).read(slice(10, 9000))
    assert_array_equal(rows, X[10:])
    assert rows.dtype == "float32"


def test_what_was_read_does_not_change_with_the_file(tmp_path, rng):
    X = as_memmap(rng.normal(size=(100, 3)), tmp_path)
    rows = stream.Reader(X).read(slice(10, 20))
    assert not np.shares_memory(rows, X)


def test_bad_input(source, rng):
    X = blobs(rng, 40_000, 8)
    with pytest.raises(ValueError, match="at least one non-zero"):
        KMeans(2).fit(source(X), sample_weight=np.zeros(40_000))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\)"):
        KMeans(2).fit(source(X), sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="should be >= n_clusters"):
        KMeans(50_000).fit(source(X))
    with pytest.raises(ValueError, match="X has 5 features, but KMeans is expecting 8"):
        KMeans(2).fit(X).predict(source(X[:, :5].repeat(2, axis=0)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (40,), (4, 5, 6)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"minimum of 1|Expected 2D"):
        KMeans(1).fit(Slices(np.zeros(shape)))


def test_dtypes_that_are_no_numbers():
    with pytest.raises(ValueError, match="dtype complex128 is not supported"):
        KMeans(1).fit(Slices(np.zeros((3, 3), dtype=complex)))


def test_mini_batches_of_a_file(source, rng):
    X = blobs(rng, 40_000, 8, n_clusters=4, spread=9)
    ours = MiniBatchKMeans(4, random_state=0).fit(source(X))
    expected = MiniBatchKMeans(4, random_state=0).fit(X)
    assert_array_equal(ours.labels_, expected.labels_)
    assert ours.inertia_ == pytest.approx(expected.inertia_, rel=1e-9)


class OnlySlices(Slices):
    """Refuses anything but a slice, and cannot read some rows."""

    corrupt = range(0)

    def __getitem__(self, rows):
        assert type(rows) is slice
        assert type(rows.start) is type(rows.stop) is int
        if rows.start < self.corrupt.stop and self.corrupt.start < rows.stop:
            raise RuntimeError("bad checksum")
        return super().__getitem__(rows)


class ByNumbers(OnlySlices):
    """Takes numbers too, as data sets of zarr do."""

    @property
    def oindex(self):
        return self

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return super().__getitem__(rows)
        numbers, everything = rows
        assert everything == slice(None)
        assert (np.diff(numbers) > 0).all()
        if np.isin(numbers, self.corrupt).any():
            raise RuntimeError("bad checksum")
        self.n_read += len(numbers)
        return self._X[numbers]


@pytest.mark.parametrize("kind", [OnlySlices, ByNumbers])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_mini_batches_of_what_only_slices(rng, kind, dtype):
    """The same rows, so the same bits; weighted, and what lies between the rows is not looked at."""
    X = blobs(rng, 30_000, 8, n_clusters=4, spread=9).astype(dtype)
    weights = rng.integers(0, 3, size=30_000).astype("float64")
    job = {"n_clusters": 4, "random_state": 0, "max_iter": 2, "compute_labels": False}
    expected = MiniBatchKMeans(**job).fit(X, sample_weight=weights)
    if dtype != "int32":
        X[weights == 0] = np.nan
    ours = MiniBatchKMeans(**job).fit(kind(X), sample_weight=weights)
    assert_array_equal(ours.cluster_centers_, expected.cluster_centers_)
    assert ours.cluster_centers_.dtype == expected.cluster_centers_.dtype


def test_rows_are_taken_in_the_order_of_the_file(rng, monkeypatch):
    """By numbers nothing else is read; by slices, near ones together and far ones alone."""
    X = rng.normal(size=(40_000, 8))
    numbers = np.concatenate((rng.permutation(100)[:50], [39_999, 20_000, 20_000]))
    for kind, n_read in ((ByNumbers, 52), (OnlySlices, np.ptp(numbers[:50]) + 3)):
        rows = kind(X)
        monkeypatch.setattr(stream, "TOGETHER_BYTES", 100 * 8 * 8)
        assert_array_equal(stream.Reader(rows).take(numbers), X[numbers])
        assert rows.n_read == n_read


@pytest.mark.parametrize("kind", [OnlySlices, ByNumbers])
def test_mini_batches_of_a_corrupt_file(rng, monkeypatch, kind):
    """Also where all rows of a batch were asked for at once, the error is about few of them."""
    monkeypatch.setattr(stream, "TOGETHER_BYTES", 2**14)
    rows = kind(blobs(rng, 30_000, 8))
    rows.corrupt = range(12_000, 13_000)
    with pytest.raises(OSError, match=r"Reading rows \d+ to \d+ of X failed: bad checksum") as info:
        MiniBatchKMeans(2, random_state=0).fit(rows)
    first, last = map(int, re.search(r"(\d+) to (\d+)", str(info.value)).groups())
    assert first < 13_000
    assert last >= 12_000
    assert last - first < 300


def test_a_short_failure_is_made_good(rng):
    """Rows that cannot be had together are read in parts."""

    class Once(ByNumbers):
        def __getitem__(self, rows):
            self.corrupt = range(0) if isinstance(rows, slice) else range(30_000)
            return super().__getitem__(rows)

    X = blobs(rng, 30_000, 8)
    ours, expected = (MiniBatchKMeans(2, random_state=0).fit(rows) for rows in (Once(X), X))
    assert_array_equal(ours.cluster_centers_, expected.cluster_centers_)


def last_rows(data, n_clusters, frame, rng, refine=None):
    """A seeding."""
    return frame.enter(data.take(np.arange(data.shape[0] - n_clusters, data.shape[0])))


@pytest.mark.parametrize("n_samples", [9000, 25_000], ids=["few rows", "more than a sample"])
def test_a_new_seeding_is_used_wherever_rows_lie(rng, monkeypatch, n_samples):
    monkeypatch.setitem(seeding.METHODS, "last", seeding.Seeding(last_rows, "the last rows"))
    X = blobs(rng, n_samples, 8)
    starts = []
    KMeans(3, init="last", n_init=1, tol=0, on_iteration=lambda found: starts.append(found.inertia)).fit(X)
    assert starts[0] == pytest.approx(KMeans(3, init=X[-3:]).fit(X).history_["inertia"][0])
    assert_same_fit(KMeans(3, init="last").fit(Slices(X)), KMeans(3, init=X[-3:]).fit(X))
    job = {"n_clusters": 3, "init": "last", "random_state": 0, "n_init": 1, "max_iter": 1}
    ours, expected = (MiniBatchKMeans(**job).fit(rows) for rows in (Slices(X), X))
    assert_array_equal(ours.cluster_centers_, expected.cluster_centers_)


@pytest.mark.gpu
@pytest.mark.parametrize(("device", "algorithm"), [("cuda", "lloyd"), ("cuda", "elkan"), ("auto", "elkan")])
def test_into_a_gpu_that_is_too_small(rng, monkeypatch, device, algorithm):
    load("cupy")
    monkeypatch.setattr("kmeans_xp.data.AUTO_GPU_WORK", 0)
    monkeypatch.setattr("kmeans_xp.devices.fits_on_device", lambda X, name: False)
    X = blobs(rng, 20_000, 8, n_clusters=5, dtype="float32")
    job = {"n_clusters": 5, "init": X[:5], "algorithm": algorithm}
    model = KMeans(**job, device=device)
    with open_data(X, None, Purpose(5, device=device)) as data:
        assert data.in_blocks
    ours = model.fit(X)
    assert type(ours.cluster_centers_) is np.ndarray
    assert_same_fit(ours, KMeans(**job).fit(X))
    assert_array_equal(ours.predict(X), ours.labels_)
    assert_allclose(ours.transform(X[:9000]), KMeans(**job).fit(X).transform(X[:9000]), rtol=1e-5, atol=1e-5)
    seeded = KMeans(5, random_state=0, device=device).fit(X)
    assert_array_equal(seeded.labels_, KMeans(5, random_state=0).fit(X).labels_)


def test_a_map_in_memory_that_has_become_shorter_is_refused(tmp_path, rng):
    """Reading it would end the process."""
    np.save(tmp_path / "X.npy", rng.normal(size=(10_000, 8)))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = KMeans(3, random_state=0).fit(X)
    os.truncate(tmp_path / "X.npy", 100_000)
    for call in (KMeans(3).fit, model.predict):
        with pytest.raises(OSError, match="has 100000 bytes and should have 640128"):
            call(X)
