"""Rows of float16, int8, uint8, int16, uint16 and bool: never copied as a whole, with the results of float64."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sklearn
from conftest import load
from test_shared_memory import JOBS, LABELS, N_ROWS, fitted

from kmeans_xp import BisectingKMeans, KMeans, MiniBatchKMeans, metrics
from kmeans_xp.arrays import NARROW, to_numpy
from kmeans_xp.backends import backend_for
from kmeans_xp.rows.array import largest
from kmeans_xp.validation import check_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Rows of zeros have no direction"),
]
ROOT = Path(__file__).resolve().parent.parent
DTYPES = [dtype.name for dtype in NARROW]
HALVES = np.array([2.0**-24, 3 * 2.0**-24, 2.0**-14 - 2.0**-24, 2.0**-14, 0.1, 1, 65504, -65504, -0.0, 0])


@pytest.fixture
def native():
    backend = backend_for("numpy")
    if backend is None or backend._native.problem is not None:
        pytest.skip("other passes take more")


def values_of(dtype):
    """Numbers of a dtype, with its extremes."""
    if dtype == "bool":
        return np.array([False, True])
    if dtype == "float16":
        return np.concatenate((HALVES, -HALVES)).astype(dtype)
    ends = np.iinfo(dtype)
    return np.array([ends.min, ends.min + 1, ends.min // 2, 0, 1, ends.max // 3, ends.max - 1, ends.max], dtype=dtype)


def around_centers(rng, dtype, n, d):
    """Rows around some centers, over the whole range of the dtype."""
    if dtype == "bool":
        return rng.uniform(size=(n, d)) < rng.uniform(size=(6, d))[rng.integers(6, size=n)]
    low, high = (-300, 300) if dtype == "float16" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    X = rng.uniform(low, high, size=(6, d))[rng.integers(6, size=n)] + rng.normal(size=(n, d)) * (high - low) / 12
    return np.clip(X, low, high).astype(dtype)


KINDS = {
    "around centers": around_centers,
    "extremes": lambda rng, dtype, n, d: rng.choice(values_of(dtype), size=(n, d)),
    "all equal": lambda rng, dtype, n, d: np.full((n, d), values_of(dtype)[-1]),
    "equally near": lambda rng, dtype, n, d: rng.integers(3, size=(n, d)).astype(dtype),
    "tiny": lambda rng, dtype, n, d: (rng.integers(-40, 40, size=(n, d)) * 2.0**-24).astype(dtype),
}
LAYOUTS = {
    "C": lambda X: X,
    "Fortran": np.asfortranarray,
    "columns of more": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "rows of more": lambda X: np.repeat(X, 2, axis=0)[::2],
    "backwards": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "one row many times": lambda X: np.broadcast_to(X[0], X.shape),
    "unaligned": lambda X: np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(X.dtype).reshape(X.shape),
}


def assert_same_bits(found, expected):
    for value, right in zip(found, expected, strict=True):
        if isinstance(right, np.ndarray):
            assert value.dtype == right.dtype
        np.testing.assert_array_equal(value, right)


def asked(X, w, **parameters):
    """What a fit and its model say of rows."""
    model = KMeans(random_state=0, **parameters).fit(X, sample_weight=w)
    return [*fitted(model), model.n_iter_, model.predict(X), model.transform(X), model.score(X, sample_weight=w)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (70, 1), (700, 2), (333, 3), (400, 4), (300, 9), (120, 67)])
def test_bits_are_those_of_float64(kind, dtype, shape, rng):
    X, w = KINDS[kind](rng, dtype, *shape), rng.integers(3, size=shape[0]) + 0.5
    for parameters in (
        {"algorithm": "elkan"},
        {"algorithm": "lloyd", "init": "k-means||"},
        {"metric": "cosine", "zero_rows": "warn"},
        {"n_init": 3, "init": "random"},
    ):
        if parameters.get("metric") == "cosine" and not X.any():
            continue
        given = {"n_clusters": min(7, len(X)), **parameters}
        assert_same_bits(asked(X, w, **given), asked(X.astype("float64"), w, **given))


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_are_those_of_float64_in_any_layout(layout, dtype, rng):
    for n, d in ((500, 1), (450, 3), (300, 16), (200, 37)):
        X = LAYOUTS[layout](around_centers(rng, dtype, n, d))
        for algorithm in ("lloyd", "elkan"):
            given = {"n_clusters": 20, "algorithm": algorithm, "max_iter": 10}
            assert_same_bits(asked(X, None, **given), asked(X.astype("float64"), None, **given))


@pytest.mark.usefixtures("instructions")
def test_each_number_of_float16(rng):
    """Read by blocks, by rows, and one by one."""
    bits = np.arange(2**16, dtype=np.uint16).view("float16")
    X = bits[np.isfinite(bits)]
    for n_features in (1, 4, 32):
        rows = rng.permutation(X)[: len(X) // 32 * 32].reshape(-1, n_features)
        model = KMeans.from_centers(rows[rng.integers(len(rows), size=5)].astype("float64"))
        wide = rows.astype("float64")
        assert_same_bits([model.transform(rows), model.predict(rows)], [model.transform(wide), model.predict(wide)])
        assert_same_bits(
            metrics.cluster_inertias(rows, np.arange(len(rows)) % 3),
            metrics.cluster_inertias(wide, np.arange(len(rows)) % 3),
        )


MORE_JOBS = JOBS | {
    "refine": lambda X, w: fitted(KMeans(4, random_state=0, refine=True).fit(X, sample_weight=w)),
    "sizes": lambda X, w: fitted(KMeans(3, random_state=0, size_min=35, size_max=45).fit(X)),
    "random": lambda X, w: fitted(KMeans(3, random_state=0, init="random", n_init=4).fit(X, sample_weight=w)),
    "AFK-MC²": lambda X, w: fitted(KMeans(3, random_state=0, init="afk-mc2").fit(X)),
    "bisecting": lambda X, w: [
        *fitted(model := BisectingKMeans(4, random_state=0).fit(X, sample_weight=w)),
        model.predict(X),
    ],
    "one batch": lambda X, w: fitted(MiniBatchKMeans(3, random_state=0, init="random").fit(X)),
    "BIC": lambda X, w: [
        metrics.bic_score(X, LABELS, w),
        metrics.silhouette_score(X, LABELS, sample_size=50, random_state=0),
    ],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("job", MORE_JOBS)
def test_whatever_is_done_with_rows(job, dtype, rng):
    X, w = around_centers(rng, dtype, N_ROWS, 3), rng.uniform(0.5, 2, size=N_ROWS)
    X[0] = values_of(dtype)[0] if X[1:].any() else X[0]
    if "cosine" in job:
        X[~X.any(axis=1)] = True
    before = X.copy()
    found = MORE_JOBS[job](X, w)
    assert_same_bits(found, MORE_JOBS[job](X.astype("float64"), w))
    np.testing.assert_array_equal(X, before, "X is not written to")


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["elkan", "lloyd", "cosine"])
def test_bits_are_those_of_float64_whichever_passes_there_are(dtype, way, rng):
    X = around_centers(rng, dtype, 3000, 5)
    X[~X.any(axis=1)] = True
    given = {"n_clusters": 9, **({"metric": way} if way == "cosine" else {"algorithm": way})}
    assert_same_bits(asked(X, None, **given), asked(X.astype("float64"), None, **given))


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_integers_of_libraries_whose_memory_numpy_shares(library, dtype, rng):
    lib, X, w = load(library), around_centers(rng, dtype, N_ROWS, 3), rng.uniform(0.5, 2, size=N_ROWS)
    assert check_rows(lib.asarray(X)).dtype == lib.asarray(X).dtype
    for job, of in MORE_JOBS.items():
        expected = of(X, w)
        for value, right in zip(of(lib.asarray(X), lib.asarray(w)), expected, strict=True):
            if isinstance(right, np.ndarray):
                lib.assert_owns(value, right.dtype.name)
            np.testing.assert_array_equal(to_numpy(value) if isinstance(right, np.ndarray) else value, right, job)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_not_copied_by_a_check(dtype, rng, tmp_path):
    X = around_centers(rng, dtype, 50, 4)
    assert check_rows(X) is X
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert np.shares_memory(check_rows(mapped), mapped)
    assert_same_bits(asked(mapped, None, n_clusters=3), asked(X, None, n_clusters=3))
    named = KMeans(3, random_state=0).fit(X)
    named.feature_names_in_ = np.array(["a", "b", "c", "d"], dtype=object)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert np.shares_memory(check_rows(X, named, reset=False), X)


def test_the_smallest_number_of_int8_has_no_absolute_value_there():
    X = np.array([[-128, 127], [-128, -128], [0, -1]], dtype="int8")
    np.testing.assert_array_equal(largest(X), [128, 128, 1])
    model, wide = (KMeans(2, metric="cosine", random_state=0).fit(rows) for rows in (X, X.astype("float64")))
    np.testing.assert_array_equal(model.cluster_centers_, wide.cluster_centers_)


@pytest.mark.parametrize("call", [KMeans(2).fit, BisectingKMeans(2).fit, MiniBatchKMeans(2).partial_fit, check_rows])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_in_the_words_of_float64(value, call):
    X = np.ones((6, 2), dtype="float16")
    X[3, 1] = value
    words = []
    for rows in (X, X.astype("float64"), np.asfortranarray(X)[::-1]):
        with pytest.raises(ValueError, match="Input X contains") as error:
            call(rows)
        words.append(str(error.value))
    assert words[0] == words[1] == words[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_a_model(value):
    model = KMeans(2, random_state=0).fit(np.eye(3, dtype="float16"))
    X = np.ones((200, 3), dtype="float16")
    X[150, 2] = value
    for method in (model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match="Input X contains"):
            method(X)


def test_rows_that_change_amid_a_fit_are_refused():
    X = np.random.default_rng(0).normal(size=(300, 3)).astype("float16")

    def spoil(iteration):
        X[7, 1] = np.nan

    with pytest.raises(ValueError, match="X contains NaN or infinity in row 7"):
        KMeans(5, random_state=0, tol=0, algorithm="lloyd", on_iteration=spoil).fit(X)


def test_cosine_of_rows_that_are_large_in_float64_is_read_in_blocks(rng):
    """As that of float64 is, whose blocks the sums of clusters depend on."""
    X = around_centers(rng, "uint8", 40_000, 8)
    X[:, 0] |= 1
    with sklearn.config_context(working_memory=1):
        found, expected = (KMeans(4, metric="cosine", random_state=0).fit(rows) for rows in (X, X.astype("float64")))
    assert_same_bits(fitted(found), fitted(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_partitions_of_dask(dtype, rng):
    da = pytest.importorskip("dask.array")
    X = around_centers(rng, dtype, 600, 3)
    found, expected = (
        KMeans(4, random_state=0).fit(da.from_array(rows, chunks=(200, -1))) for rows in (X, X.astype("float64"))
    )
    for name in ("cluster_centers_", "inertia_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.labels_.compute(), expected.labels_.compute())


MEMORY = """
    import sys
    import warnings
    import numpy as np
    from benchmarks.memory import watch
    from kmeans_xp import KMeans

    warnings.simplefilter("ignore")
    n_rows, n_features, dtype = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    X = np.random.default_rng(0).integers(100, size=(n_rows // 100, n_features)).astype(dtype)
    X = np.tile(X, (100, 1))
    model = KMeans(8, random_state=0, n_init=1, max_iter=3)
    model.fit(X[:30_000])
    print(watch(lambda: model.fit(X).predict(X))[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("n_rows", "n_features", "dtype"), [(4_000_000, 2, "uint8"), (400_000, 64, "float16")])
def test_a_fit_takes_memory_for_few_numbers_a_row(n_rows, n_features, dtype):
    """Three float64 numbers for each of the rows at a time, as of float64 rows, and never a copy of all rows."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(n_rows), str(n_features), dtype]
    found = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found < 3 * 8 * n_rows + 25 * 2**20
