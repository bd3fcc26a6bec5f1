"""What is refused, with which words, and what is not."""

import numpy as np
import pandas as pd
import pytest
from conftest import blobs
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from kmeans_xp import KMeans, kmeans_plusplus
from kmeans_xp.arrays import to_numpy

GOOD = np.arange(12.0).reshape(6, 2)


def changed(value):
    X = GOOD.copy()
    X[3, 1] = value
    return X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (changed(np.nan), "Input X contains NaN"),
        (changed(np.inf), "Input X contains infinity or a value too large for"),
        (changed(-np.inf), "Input X contains infinity or a value too large for"),
        (GOOD[:, 0], "Expected 2D array, got 1D array instead"),
        (GOOD[:, :, None], "Found array with dim 3, while dim <= 2 is required"),
        (GOOD[:0], r"Found array with 0 sample\(s\) \(shape=\(0, 2\)\) while a minimum of 1 is required"),
        (GOOD[:, :0], r"Found array with 0 feature\(s\) \(shape=\(6, 0\)\) while a minimum of 1 is required"),
        (GOOD + 1j, "Complex data not supported"),
        (GOOD[:2], "n_samples=2 should be >= n_clusters=3"),
    ],
)
def test_bad_x(lib, X, message):
    with pytest.raises(ValueError, match=message):
        KMeans(3).fit(lib.asarray(X))
    model = KMeans(2, random_state=0).fit(lib.asarray(GOOD))
    for method in (model.predict, model.transform, model.score):
        if not message.startswith("n_samples"):
            with pytest.raises(ValueError, match=message):
                method(lib.asarray(X))


@pytest.mark.parametrize("X", [[["a", "b"]], np.array([[object()]]), None, "text", 3.0, np.array(3.0), [[1, 2], [3]]])
def test_what_is_not_an_array_of_numbers(X):
    """Same type of exception as scikit-learn's."""
    with pytest.raises((ValueError, TypeError)) as theirs:
        cluster.KMeans(1).fit(X)
    with pytest.raises(theirs.type):
        KMeans(1).fit(X)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-np.ones(6), "Negative values in data passed to `sample_weight`"),
        (np.zeros(6), "Sample weights must contain at least one non-zero number"),
        (np.full(6, np.nan), "Input sample_weight contains NaN"),
        (np.full(6, np.inf), "Input sample_weight contains infinity"),
        (np.ones(5), r"sample_weight.shape == \(5,\), expected \(6,\)!"),
        (np.ones((6, 1)), "Sample weights must be 1D array or scalar, got 2D array"),
    ],
)
def test_bad_weights(lib, weights, message):
    X = lib.asarray(GOOD)
    for given in (weights, lib.asarray(weights)):
        with pytest.raises(ValueError, match=message):
            KMeans(2).fit(X, sample_weight=given)
        with pytest.raises(ValueError, match=message):
            KMeans(2, random_state=0).fit(X).score(X, sample_weight=given)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1, 0])
def test_bad_scalar_weights(weight):
    with pytest.raises(ValueError, match=r"[Ss]ample.weight"):
        KMeans(2).fit(GOOD, sample_weight=weight)


def test_weights_whose_sum_overflows():
    with pytest.raises(ValueError, match="its sum is too large"), np.errstate(over="ignore"):
        KMeans(2).fit(GOOD, sample_weight=np.full(6, 1e308))


def test_squares_that_overflow():
    for fit in (KMeans(2).fit, lambda X: kmeans_plusplus(X, 2)):
        with pytest.raises(ValueError, match="squared distances are too large"), np.errstate(over="ignore"):
            fit(GOOD * 1e200)


def test_good_weights(lib):
    X = lib.asarray(GOOD)
    expected = KMeans(2, random_state=0).fit(X)
    for weights in (1, 2.0, [1] * 6, pd.Series([3] * 6), np.ones(6, dtype="float16"), np.ones(6, dtype=bool)):
        model = KMeans(2, random_state=0).fit(X, sample_weight=weights)
        np.testing.assert_array_equal(to_numpy(model.labels_), to_numpy(expected.labels_))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (GOOD[:3], r"The shape of the initial centers \(3, 2\) does not match the number of clusters 2"),
        (
            GOOD[:2, :1],
            r"The shape of the initial centers \(2, 1\) does not match the number of features of the data 2",
        ),
        (GOOD[:2] * np.nan, "Input init contains NaN"),
    ],
)
def test_bad_init(lib, init, message):
    for given in (init, lib.asarray(init), lambda X, n_clusters, random_state: lib.asarray(init)):
        with pytest.raises(ValueError, match=message):
            KMeans(2, init=given).fit(lib.asarray(GOOD))


def test_one_run_is_enough_for_given_centers():
    with pytest.warns(RuntimeWarning, match="performing only one init in KMeans instead of n_init=5"):
        KMeans(2, init=GOOD[:2], n_init=5).fit(GOOD)


@pytest.mark.parametrize(
    "params",
    [
        {"n_clusters": 0},
        {"n_clusters": 2.5},
        {"init": "best"},
        {"n_init": 0},
        {"max_iter": 0},
        {"tol": -1},
        {"algorithm": "full"},
        {"device": 1},
        {"random_state": "seed"},
    ],
)
def test_bad_parameters(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"The '{name}' parameter of KMeans must be"):
        KMeans(**params).fit(GOOD)


def test_use_before_fit():
    for method in ("predict", "transform", "score"):
        with pytest.raises(NotFittedError, match="This KMeans instance is not fitted yet"):
            getattr(KMeans(), method)(GOOD)
    with pytest.raises(NotFittedError):
        KMeans().to_sklearn()
    with pytest.raises(NotFittedError):
        KMeans.from_sklearn(cluster.KMeans())


def test_wrong_number_of_features(lib):
    model = KMeans(2, random_state=0).fit(lib.asarray(GOOD))
    with pytest.raises(ValueError, match="X has 1 features, but KMeans is expecting 2 features as input"):
        model.predict(lib.asarray(GOOD[:, :1]))


def test_a_failed_fit_leaves_the_model_as_it_was(lib):
    model = KMeans(2, random_state=0).fit(lib.asarray(GOOD))
    before = to_numpy(model.cluster_centers_).copy()
    with pytest.raises(ValueError, match="Negative values"):
        model.fit(lib.asarray(GOOD * 2), sample_weight=-np.ones(6))
    np.testing.assert_array_equal(to_numpy(model.cluster_centers_), before)
    model.predict(lib.asarray(GOOD))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
def test_other_dtypes_become_float64(lib, dtype):
    X = lib.asarray(GOOD % 3, dtype=dtype)
    model = KMeans(2, random_state=0).fit(X)
    lib.assert_owns(model.cluster_centers_, "float64")
    expected = KMeans(2, random_state=0).fit((GOOD % 3).astype(dtype).astype("float64"))
    np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
    lib.assert_owns(model.transform(X), "float64")


def test_half_precision_of_numpy_becomes_float64():
    assert KMeans(2, random_state=0).fit(GOOD.astype("float16")).cluster_centers_.dtype == "float64"


@pytest.mark.usefixtures("unshared")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(rng, dtype):
    """Kept as it is, computed with in float32."""
    torch = pytest.importorskip("torch")
    half = torch.asarray(100 * blobs(rng, 3000, 4)).to(getattr(torch, dtype))  # whose sum float16 does not hold
    single = half.to(torch.float32)
    model, expected = (KMeans(5, random_state=0).fit(X) for X in (half, single))
    assert model.cluster_centers_.dtype == model.transform(half).dtype == torch.float32
    assert torch.equal(model.cluster_centers_, expected.cluster_centers_)
    assert torch.equal(model.labels_, expected.labels_)
    assert torch.equal(model.predict(half), expected.labels_)
    assert model.score(half) == expected.score(single)
    half[7, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        model.predict(half)


def test_memory_mapped(tmp_path, rng):
    X = blobs(rng, 200, 3)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = KMeans(4, random_state=0).fit(mapped)
    np.testing.assert_array_equal(model.labels_, KMeans(4, random_state=0).fit(X).labels_)
    assert type(model.cluster_centers_) is np.ndarray


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (5, 1, 5), (40, 3, 1), (40, 1, 4), (30, 200, 30)])
def test_extreme_shapes(lib, rng, n, d, k):
    X = lib.asarray(rng.normal(size=(n, d)))
    model = KMeans(k, random_state=0).fit(X)
    assert len(set(to_numpy(model.labels_).tolist())) == k
    if n == k:
        assert model.inertia_ < 1e-25


def test_constant_columns_and_duplicates(lib, rng):
    host = np.stack([blobs(rng, 100, 1)[:, 0], np.full(100, 7.0)], axis=1)
    model = KMeans(3, random_state=0).fit(lib.asarray(host))
    np.testing.assert_allclose(to_numpy(model.cluster_centers_)[:, 1], 7)

    for init in ("k-means++", "k-means||", "random"):
        with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller than n_clusters \(4\)"):
            model = KMeans(4, init=init, random_state=0).fit(lib.asarray(np.repeat(GOOD[:2], 10, axis=0)))
        assert model.inertia_ == 0
        assert np.isfinite(to_numpy(model.cluster_centers_)).all()
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(1\)"):
        KMeans(2, random_state=0).fit(lib.asarray(np.ones((5, 2))))


def test_rows_without_weight_do_not_attract_centers(lib):
    X = np.concatenate([GOOD, [[1e6, 1e6]]])
    model = KMeans(3, random_state=0).fit(lib.asarray(X), sample_weight=[1] * 6 + [0])
    assert to_numpy(model.cluster_centers_).max() < 12
    assert to_numpy(model.labels_).shape == (7,)
