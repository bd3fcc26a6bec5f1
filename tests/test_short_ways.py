"""What scikit-learn need not be asked: the answers are those that it gives."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import blobs
from sklearn.base import BaseEstimator

from kmeans_xp import KMeans, MiniBatchKMeans, kmeans_plusplus, validation
from kmeans_xp.estimators import centers, random_numbers
from kmeans_xp.estimators.random_numbers import generator
from kmeans_xp.rows import StoredRows
from kmeans_xp.validation import check_rows, check_sample_weight

GOOD = np.arange(1.0, 13.0).reshape(6, 2)


class Subclass(np.ndarray):
    pass


class Frame(pd.DataFrame):
    pass


def changed(value, dtype="float64"):
    X = GOOD.astype(dtype)
    X[3, 1] = value
    return X


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def mapped(folder):
    np.save(folder / "X.npy", GOOD)
    return np.load(folder / "X.npy", mmap_mode="r")


ROWS = {
    "float64": GOOD,
    "float32": GOOD.astype("float32"),
    "one row": GOOD[:1],
    "one feature": GOOD[:, :1],
    "Fortran order": np.asfortranarray(GOOD),
    "every other row": GOOD[::2],
    "backwards": GOOD[::-1, ::-1],
    "one row many times": np.broadcast_to(GOOD[0], (5, 2)),
    "read-only": read_only(GOOD),
    "unaligned": np.frombuffer(b"x" + GOOD.tobytes(), dtype=np.uint8)[1:].view("float64").reshape(6, 2),
    "with metadata": GOOD.astype(np.dtype("float64", metadata={"unit": "m"})),
    "list": GOOD.tolist(),
    "tuple of arrays": tuple(GOOD),
    "named columns": pd.DataFrame(GOOD, columns=["a", "b"]),
    "other names": pd.DataFrame(GOOD, columns=["a", "c"]),
    "columns one by one": pd.DataFrame({"a": GOOD[:, 0], "b": GOOD[:, 1]}),
    "the other way round": pd.DataFrame(GOOD, columns=["b", "a"]),
    "named columns, float32": pd.DataFrame(GOOD.astype("float32"), columns=["a", "b"]),
    "some rows of a frame": pd.DataFrame(GOOD, columns=["a", "b"], index=list("uvwxyz")).iloc[[3, 1]],
    "equal names": pd.DataFrame(GOOD, columns=["a", "a"]),
    "one named column too many": pd.DataFrame(np.ones((6, 3)), columns=["a", "b", "c"]),
    "columns of two dtypes": pd.DataFrame({"a": GOOD[:, 0], "b": GOOD[:, 1].astype("float32")}),
    "columns of integers": pd.DataFrame({"a": GOOD[:, 0], "b": np.arange(6)}),
    "nullable columns": pd.DataFrame(GOOD, columns=["a", "b"], dtype="Float64"),
    "sparse columns": pd.DataFrame(GOOD, columns=["a", "b"], dtype=pd.SparseDtype("float64", 0.0)),
    "one nullable column": pd.DataFrame(GOOD[:, :1], columns=["a"], dtype="Float64"),
    "one sparse column": pd.DataFrame(GOOD[:, :1], columns=["a"], dtype=pd.SparseDtype("float64", 0.0)),
    "named columns, NaN": pd.DataFrame(changed(np.nan), columns=["a", "b"]),
    "named columns, infinity": pd.DataFrame(changed(np.inf), columns=["a", "b"]),
    "named columns, a sum that overflows": pd.DataFrame(np.full((6, 2), 1e308), columns=["a", "b"]),
    "a frame without rows": pd.DataFrame(GOOD[:0], columns=["a", "b"]),
    "a frame without columns": pd.DataFrame(index=range(6)),
    "a subclass of frames": Frame(GOOD, columns=["a", "b"]),
    "numbered columns": pd.DataFrame(GOOD),
    "some numbered columns": pd.DataFrame(GOOD, columns=["a", 1]),
    "columns with two names each": pd.DataFrame(GOOD, columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
    "series": pd.Series(GOOD[:, 0], name="a"),
    "int": GOOD.astype(int),
    "bool": GOOD > 3,
    "float16": GOOD.astype("float16"),
    "uint8": GOOD.astype("uint8"),
    "named columns, uint8": pd.DataFrame(GOOD.astype("uint8"), columns=["a", "b"]),
    "named columns, bool": pd.DataFrame(GOOD > 3, columns=["a", "b"]),
    "named columns, float16 with NaN": pd.DataFrame(changed(np.nan, "float16"), columns=["a", "b"]),
    "int16, other endian": GOOD.astype(np.dtype("int16").newbyteorder()),
    "longdouble": GOOD.astype("longdouble"),
    "other endian": GOOD.astype(GOOD.dtype.newbyteorder()),
    "complex": GOOD + 1j,
    "object": GOOD.astype(object),
    "words": np.array([["a", "b"]]),
    "numbers as words": GOOD.astype(str),
    "NaN": changed(np.nan),
    "NaN, float32": changed(np.nan, "float32"),
    "NaN, float16": changed(np.nan, "float16"),
    "infinity": changed(np.inf),
    "infinity, float16": changed(np.inf, "float16"),
    "both infinities": np.array([[np.inf, 1.0], [-np.inf, 2.0]]),
    "infinity, float32": changed(-np.inf, "float32"),
    "a sum that overflows": np.full((6, 2), 1e308),
    "a sum that overflows, float32": np.full((6, 2), 1e38, dtype="float32"),
    "a sum that overflows, float16": np.full((6, 2), 65504, dtype="float16"),
    "no rows": GOOD[:0],
    "no features": GOOD[:, :0],
    "0-d": np.array(3.0),
    "1-d": GOOD[:, 0],
    "3-d": GOOD[:, :, None],
    "one feature too many": np.ones((6, 3)),
    "matrix": GOOD.view(np.matrix),
    "subclass": GOOD.view(Subclass),
    "masked": np.ma.masked_equal(GOOD, 3),
    "masked nowhere": np.ma.array(GOOD),
    "structured": np.zeros(3, dtype="f8,f8"),
    "None": None,
    "number": 3.0,
    "memory map": mapped,
}
WEIGHTS = {
    "None": None,
    "number": 2.0,
    "float64": np.arange(6.0),
    "backwards": np.arange(6.0)[::-1],
    "float32": np.arange(6, dtype="float32"),
    "int": np.arange(6),
    "bool": np.arange(6) > 2,
    "list": [1.0] * 6,
    "series": pd.Series(np.arange(6.0)),
    "subclass": np.arange(6.0).view(Subclass),
    "other endian": np.arange(6.0).astype(np.dtype("float64").newbyteorder()),
    "masked": np.ma.masked_equal(np.arange(6.0), 3),
    "zeros": np.zeros(6),
    "negative": np.arange(6.0) - 1,
    "NaN": np.array([1.0, np.nan, 1, 1, 1, 1]),
    "infinity": np.array([1.0, np.inf, 1, 1, 1, 1]),
    "a sum that overflows": np.full(6, 1e308),
    "too few": np.ones(5),
    "none": np.ones(0),
    "column": np.ones((6, 1)),
    "0-d": np.array(1.0),
}


def outcome(call):
    """Result, or error and its words, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = call()
        except Exception as error:
            found = type(error), str(error)
    return found, [(one.category, str(one.message)) for one in caught]


def assert_same(found, expected):
    """Two outcomes: arrays to the bit, and the same array where it is that of the user."""
    (value, warned), (right, to_be_warned) = found, expected
    assert warned == to_be_warned
    assert type(value) is type(right)
    if isinstance(right, StoredRows):
        np.testing.assert_array_equal(value.as_given().toarray(), right.as_given().toarray())
    elif isinstance(right, np.ndarray):
        assert value.dtype == right.dtype
        assert value.strides == right.strides
        assert value.flags.writeable == right.flags.writeable
        np.testing.assert_array_equal(value, right)
    else:
        assert value == right


def knowing(names, n_features):
    """An estimator that has seen rows, or none."""
    estimator = KMeans()
    if n_features is not None:
        estimator.n_features_in_ = n_features
    if names is not None:
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    return estimator


@pytest.mark.parametrize("estimator", [None, (None, None), (None, 2), (["a", "b"], 2)])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("assume_finite", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_rows_as_scikit_learn_checks_them(name, assume_finite, reset, estimator, monkeypatch, tmp_path):
    X = ROWS[name](tmp_path) if callable(ROWS[name]) else ROWS[name]
    ours, theirs = (None if estimator is None else knowing(*estimator) for _ in range(2))
    with sklearn.config_context(assume_finite=assume_finite), np.errstate(invalid="raise"):
        found = outcome(lambda: check_rows(X, ours, reset=reset))
        monkeypatch.setattr(validation, "is_plain", lambda *_, **__: False)
        expected = outcome(lambda: check_rows(X, theirs, reset=reset))
    assert_same(found, expected)
    assert (found[0] is X) == (expected[0] is X)
    if estimator is not None:
        assert vars(ours).keys() == vars(theirs).keys()
        assert getattr(ours, "n_features_in_", None) == getattr(theirs, "n_features_in_", None)
        names = [getattr(estimator, "feature_names_in_", np.empty(0, dtype=object)) for estimator in (ours, theirs)]
        assert names[0].dtype == names[1].dtype
        np.testing.assert_array_equal(*names)


@pytest.mark.parametrize("method", ["predict", "transform"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_what_is_found_at_once_is_what_a_source_gives(name, named, dtype, method, monkeypatch, tmp_path):
    """Results and errors, whatever is handed in."""
    X = ROWS[name](tmp_path) if callable(ROWS[name]) else ROWS[name]
    rows = GOOD.astype(dtype)
    model = KMeans(2, random_state=0).fit(pd.DataFrame(rows, columns=["a", "b"]) if named else rows)
    found = outcome(lambda: getattr(model, method)(X))
    monkeypatch.setattr(KMeans, "_at_once", lambda *_: None)
    expected = outcome(lambda: getattr(model, method)(X))
    assert found[1] == expected[1]
    if isinstance(expected[0], np.ndarray):
        assert (found[0].dtype, found[0].shape) == (expected[0].dtype, expected[0].shape)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    else:
        assert found[0] == expected[0]


def test_plain_rows_are_not_shown_to_scikit_learn(monkeypatch):
    for name in ("check_array", "validate_data"):
        monkeypatch.delattr(validation, name)
    for X in (GOOD, GOOD.astype("float32"), np.asfortranarray(GOOD)):
        assert check_rows(X) is X
        assert check_rows(X, KMeans()) is X
        assert check_rows(X, knowing(None, 2), reset=False) is X
    for X in (ROWS["named columns"], ROWS["named columns, float32"]):
        np.testing.assert_array_equal(check_rows(X), GOOD)
        model = KMeans()
        np.testing.assert_array_equal(check_rows(X, model), GOOD)
        assert model.feature_names_in_.tolist() == ["a", "b"]
        np.testing.assert_array_equal(check_rows(X, knowing(["a", "b"], 2), reset=False), GOOD)
    weights = np.arange(6.0)
    assert check_sample_weight(weights, GOOD) is weights
    with sklearn.config_context(assume_finite=True):
        assert check_rows(changed(np.nan)) is not None


@pytest.mark.parametrize("may_be_zero", [True, False])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_as_scikit_learn_checks_them(name, may_be_zero, monkeypatch):
    given = WEIGHTS[name]
    found = outcome(lambda: check_sample_weight(given, GOOD, may_be_zero=may_be_zero))
    monkeypatch.setattr(validation, "_are_plain_weights", lambda *_: False)
    expected = outcome(lambda: check_sample_weight(given, GOOD, may_be_zero=may_be_zero))
    assert_same(found, expected)
    assert (found[0] is given) == (expected[0] is given)


class TestParameters:
    @pytest.fixture
    def checks(self, monkeypatch):
        """Estimators whose parameters scikit-learn was asked for, none before."""
        monkeypatch.setattr(centers, "_valid", set())
        get_params, asked = BaseEstimator.get_params, []
        monkeypatch.setattr(BaseEstimator, "get_params", lambda self, deep: (asked.append(self), get_params(self))[1])
        return asked

    def test_valid_ones_are_checked_once(self, checks):
        for seed in (0, 1, np.random.RandomState(0), np.random.RandomState(1)):
            KMeans(2, random_state=seed).fit(GOOD)
        assert len(checks) == 2, "all seeds are valid alike"
        KMeans(3, random_state=0).fit(GOOD)
        MiniBatchKMeans(2, random_state=0).fit(GOOD)
        assert len(checks) == 4
        MiniBatchKMeans(2, random_state=0).partial_fit(GOOD)
        KMeans.from_centers(GOOD[:2], random_state=0)
        KMeans.from_centers(GOOD[:2], random_state=0)
        assert len(checks) == 5

    @pytest.mark.parametrize(
        "value",
        [{"init": GOOD[:2]}, {"init": lambda X, k, random_state: X[:k]}, {"tol": np.float64(0)}],
    )
    def test_values_that_may_change_are_checked_each_time(self, value, checks):
        for _ in range(2):
            KMeans(2, **{"n_init": 1, **value}).fit(GOOD)
        assert len(checks) == 2

    @pytest.mark.parametrize(
        ("valid", "invalid"),
        [
            ({"n_clusters": 1}, {"n_clusters": 1.0}),
            ({"copy_x": True}, {"copy_x": 2}),
            ({"keep_interrupted": False}, {"keep_interrupted": 0.0}),
            ({"random_state": 0}, {"random_state": 0.0}),
            ({"random_state": 0}, {"random_state": 2**32}),
            ({"random_state": 0}, {"random_state": -1}),
            ({"random_state": np.random.RandomState(0)}, {"tol": np.random.RandomState(0)}),
            ({"init": "random"}, {"init": "randon"}),
            ({"tol": 0.0}, {"tol": float("nan")}),
            ({"device": None}, {"n_init": None}),
        ],
    )
    def test_equal_values_of_other_types_are_not_taken_for_valid_ones(self, valid, invalid, checks):
        model = KMeans(**{"n_clusters": 1, "n_init": 1, **invalid})
        with pytest.raises(ValueError, match=next(iter(invalid))) as expected:
            model.fit(GOOD)
        KMeans(**{"n_clusters": 1, "n_init": 1, **valid}).fit(GOOD)
        for _ in range(2):
            assert outcome(lambda: model.fit(GOOD))[0] == (expected.type, str(expected.value))

    def test_the_check_may_be_skipped(self, checks):
        with sklearn.config_context(skip_parameter_validation=True):
            KMeans(2, copy_x="no").fit(GOOD)
        assert not checks
        with pytest.raises(ValueError, match="copy_x"):
            KMeans(2, copy_x="no").fit(GOOD)

    def test_a_subclass_has_its_own(self, checks):
        class Strict(KMeans):
            _parameter_constraints = {**KMeans._parameter_constraints, "tol": [None]}

        KMeans(2).fit(GOOD)
        with pytest.raises(ValueError, match="'tol' parameter of Strict"):
            Strict(2).fit(GOOD)

    def test_no_more_than_so_many_are_remembered(self, checks, monkeypatch):
        monkeypatch.setattr(centers, "MOST_VALID", 3)
        for tol in range(10):
            KMeans(2, tol=tol)._validate_params()
            assert len(centers._valid) <= 3


class TestGenerators:
    SEEDS = [0, 1, 2**32 - 1, True, np.int64(7), np.uint8(3), -1, 2**32]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_the_stream_of_a_new_one(self, seed):
        def numbers(rng):
            return [*rng.uniform(size=5), *rng.permutation(5), rng.normal()]

        def lent():
            with generator(0) as rng:
                rng.normal()  # of a pair: the other must be forgotten
            with generator(seed) as rng:
                return numbers(rng)

        assert outcome(lent) == outcome(lambda: numbers(np.random.RandomState(seed)))

    def test_what_a_user_may_see_is_not_lent(self):
        own = np.random.RandomState(0)
        for random_state in (own, None):
            with generator(random_state) as rng:
                assert rng is (own if random_state is own else np.random.mtrand._rand)
        with generator(0, escapes=True) as rng:
            pass
        assert not any(rng is idle for idle in random_numbers._idle)

    def test_jobs_within_jobs_and_after_errors_have_one_each(self):
        with generator(0) as outer, generator(0) as inner:
            assert outer is not inner
        n_idle = len(random_numbers._idle)
        with pytest.raises(ZeroDivisionError), generator(0):
            raise ZeroDivisionError
        with pytest.raises(ValueError, match="Seed"), generator(-1):
            pass
        assert len(random_numbers._idle) == n_idle

    def test_jobs_on_threads_have_one_each(self):
        inside = threading.Barrier(4)

        def job(seed):
            with generator(seed) as rng:
                inside.wait()
                numbers = [rng.uniform() for _ in range(100)]
                inside.wait()
            return numbers

        with ThreadPoolExecutor(4) as pool:
            for seed, numbers in enumerate(pool.map(job, range(4))):
                np.testing.assert_array_equal(numbers, np.random.RandomState(seed).uniform(size=100))

    def test_a_fit_within_a_fit(self, rng):
        X = blobs(rng, 60, 2)
        expected = KMeans(4, init="random", random_state=3).fit(X)

        def watch(iteration):
            KMeans(3, init="random", random_state=iteration.number).fit(X)
            kmeans_plusplus(X, 3, random_state=1)

        found = KMeans(4, init="random", random_state=3, on_iteration=watch).fit(X)
        np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)

    def test_a_callable_may_keep_its_own(self, rng):
        X, kept = blobs(rng, 60, 2), []

        def init(X, n_clusters, random_state):
            kept.append(random_state)
            return X[random_state.permutation(60)[:n_clusters]]

        KMeans(4, init=init, n_init=1, random_state=3).fit(X)
        KMeans(4, random_state=5).fit(X)
        theirs = np.random.RandomState(3)
        theirs.permutation(60)
        assert kept[0].uniform() == theirs.uniform()
