"""Labels are those of the nearest center, by exact arithmetic, wherever and however they are computed."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from conftest import blobs, load, moments
from sklearn.exceptions import ConvergenceWarning

from kmeans_xp import KMeans, MiniBatchKMeans, bounds, steps
from kmeans_xp.arrays import to_numpy
from kmeans_xp.nearest import row_sums

HOSTS = ["numpy", "strict", "torch", "jax"]


def nearest(X, centers):
    """Numbers of the nearest centers in rational arithmetic, of equally near ones the first."""
    rows, centers = ([[Fraction(float(x)) for x in row] for row in to_numpy(of)] for of in (X, centers))
    return np.array([
        min(range(len(centers)), key=lambda j: sum((x - c) ** 2 for x, c in zip(row, centers[j], strict=True)))
        for row in rows
    ])  # fmt: skip


def fit(X, k, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, init=X[:k, :], tol=0, max_iter=30, **params).fit(X)


@pytest.mark.parametrize("far", [0, 1e6, 1e7, 1e9])
@pytest.mark.parametrize(("d", "k"), [(2, 8), (8, 20), (40, 5)])
@pytest.mark.usefixtures("numpy_passes")
def test_a_far_row_leaves_the_others_with_their_nearest_center(far, d, k, rng):
    X = rng.normal(size=(400, d)).astype("float32")
    X[k + 3] += far
    model = fit(X, k)
    np.testing.assert_array_equal(model.labels_, nearest(X, model.cluster_centers_))
    for algorithm in ("lloyd", "elkan"):
        other = fit(X, k, algorithm=algorithm)
        np.testing.assert_array_equal(other.labels_, model.labels_)
        np.testing.assert_allclose(other.cluster_centers_, model.cluster_centers_, rtol=1e-5, atol=1e-6)
    wide = np.zeros((400, 2 * d), dtype="float32")
    wide[:, ::2] = X
    for layout in (np.asfortranarray(X), wide[:, ::2], X[::-1].copy()[::-1], X.astype(">f4")):
        np.testing.assert_array_equal(model.predict(layout), model.labels_)
    by_parts = [model.predict(X[i : i + 7]) for i in range(0, 400, 7)]
    np.testing.assert_array_equal(np.concatenate(by_parts), model.labels_)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_finds_the_same_bits(name, dtype, rng):
    """Rows at the same distance from two centers, up to the last bits, on a grid and near one."""
    lib = load(name)
    X = np.concatenate([rng.integers(-3, 4, size=(300, 3)), rng.normal(size=(300, 3))]).astype(dtype)
    X[::7] = np.nextafter(X[::7], np.asarray(9, dtype=dtype))
    X[599] = 1e7
    expected, model = fit(X, 12), fit(lib.asarray(X), 12)
    np.testing.assert_array_equal(to_numpy(model.labels_), expected.labels_)
    np.testing.assert_array_equal(to_numpy(model.labels_), nearest(X, expected.cluster_centers_))
    np.testing.assert_allclose(to_numpy(model.cluster_centers_), expected.cluster_centers_, rtol=1e-6)
    given = KMeans.from_sklearn(expected.to_sklearn())
    np.testing.assert_array_equal(to_numpy(given.predict(lib.asarray(X))), nearest(X, given.cluster_centers_))


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("name", HOSTS)
def test_identical_centers_give_the_first_label(name, rng):
    lib = load(name)
    X = rng.normal(size=(2000, 5)).astype("float32")
    centers = X[[0, 1, 2, 0, 1, 2]]
    frame = moments(lib.asarray(X), lib.asarray(np.ones(len(X))), 2**20)
    labels = steps.assign(lib.asarray(X), frame.enter(lib.asarray(centers)), frame)
    assert to_numpy(labels).max() <= 2


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("name", HOSTS)
def test_predict_of_rows_whose_squares_leave_the_range(name, rng):
    lib = load(name)
    X = blobs(rng, 200, 2, n_clusters=4, spread=20, dtype="float32")
    model = fit(lib.asarray(X), 4)
    angles = rng.uniform(0, 2 * np.pi, size=50)
    for scale in (1e19, 1e25, 1e37):
        rows = (scale * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype("float32")
        found = to_numpy(model.predict(lib.asarray(rows)))
        np.testing.assert_array_equal(found, nearest(rows, model.cluster_centers_))
    rows = 1e200 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_array_equal(
        to_numpy(model.predict(lib.asarray(rows))), nearest(rows, model.cluster_centers_)
    )  # fmt: skip
    with pytest.raises(ValueError, match="X spans values whose squared distances are too large for float64"):
        model.predict(lib.asarray(1e308 * np.ones((3, 2))))


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("name", HOSTS)
def test_bounds_hold_where_squares_leave_the_range(name, rng):
    """Infinity less infinity is no bound: a far center and a far row without weight, in float32."""
    lib = load(name)
    X = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 9]).astype("float32")
    far = np.array([[0, 0], [1e20, 0]], dtype="float32")
    fits = [KMeans(2, init=far, algorithm=algorithm).fit(lib.asarray(X)) for algorithm in ("lloyd", "elkan")]
    assert len(np.unique(to_numpy(fits[0].labels_))) == 2
    np.testing.assert_array_equal(to_numpy(fits[0].labels_), to_numpy(fits[1].labels_))
    weights = np.append(np.ones(400), 0)
    with_far = np.concatenate([X, [[1e20, 0]]]).astype("float32")
    for algorithm in ("lloyd", "elkan"):
        model = KMeans(2, init=X[[0, 300]], algorithm=algorithm).fit(lib.asarray(with_far), sample_weight=weights)
        np.testing.assert_array_equal(to_numpy(model.labels_), nearest(with_far, model.cluster_centers_))
        np.testing.assert_array_equal(to_numpy(model.labels_)[:400], np.repeat([0, 1], 200))


@pytest.mark.parametrize("name", HOSTS)
def test_all_weight_on_one_huge_row(name, rng):
    lib = load(name)
    X = rng.normal(size=(50, 3)).astype("float32")
    X[7] = 1e29
    weights = np.zeros(50)
    weights[7] = 2
    with pytest.warns(ConvergenceWarning, match=r"Number of distinct clusters \(1\)"):
        model = KMeans(2, init=X[[7, 3]], max_iter=5).fit(lib.asarray(X), sample_weight=weights)
    np.testing.assert_array_equal(to_numpy(model.labels_), nearest(X, model.cluster_centers_))
    assert model.inertia_ == 0


def test_a_slack_is_never_no_number(rng):
    """`bounds.sure_gap`, whatever leaves the range."""
    tile = np.array([[1.0], [1e25], [3e38]], dtype="float32")
    for low, high in ((0, np.inf), (np.inf, np.inf), (np.nan, np.nan), (-np.inf, 0)):
        scores = np.full(3, low, dtype="float32"), np.full(3, high, dtype="float32")
        with np.errstate(all="ignore"):
            gap = bounds.sure_gap(tile, *scores, np.float32([1, 1e30]), 1e-5, np.dtype("float64"))
        assert not (gap[1:] > 0).any()
        assert not np.isnan(gap[1:]).any()


@pytest.mark.usefixtures("numpy_passes")
def test_doubts_are_settled_in_sums_and_counts_too(rng):
    """A step's sums, weights and count of changes are those of its labels, on data of which half is in doubt."""
    X = np.concatenate([rng.integers(-2, 3, size=(1500, 2)), rng.normal(size=(1500, 2))]).astype("float32")
    X[-1] = 1e6
    weights = rng.uniform(size=len(X))
    frame = moments(X, weights, 2**20)
    centers = frame.enter(rng.integers(-2, 3, size=(9, 2)).astype("float32"))
    labels, sums, mass = steps.lloyd_step(X, weights, centers, frame)
    np.testing.assert_array_equal(labels, nearest(X, frame.leave(centers)))
    expected = steps.update.portable(X, weights, labels, 9, frame)
    np.testing.assert_allclose(sums, expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mass, expected[1], rtol=1e-12, atol=1e-12)
    before = rng.integers(0, 9, size=len(X)).astype("int32")
    state = before.copy(), np.full(len(X), -np.inf), np.zeros(9)
    totals = steps.update(X, weights, before, 9, frame)
    found, slack, sums, mass, n_changed, n_active = bounds.bounded_step(X, weights, centers, state, totals, frame)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(sums, expected[0], rtol=1e-9, atol=1e-6)
    assert n_changed == np.count_nonzero(labels != before)
    assert n_active == len(X)
    squares = np.sort(((X.astype(float) - frame.origin)[:, None] - centers) ** 2 @ np.ones(2), axis=1)
    assert (slack[squares[:, 0] == squares[:, 1]] <= 0).all(), "a tie is looked at again"


def test_mini_batches_label_exactly(rng):
    X = rng.normal(size=(500, 3)).astype("float32")
    X[9] = 1e8
    model = MiniBatchKMeans(7, random_state=0).fit(X)
    np.testing.assert_array_equal(model.labels_, nearest(X, model.cluster_centers_))


def test_sums_along_rows_have_the_same_bits_everywhere(lib, rng):
    for n_columns in (1, 2, 3, 7, 64, 100):
        values = rng.normal(size=(30, n_columns)) * 10.0 ** rng.integers(-8, 8, size=(30, n_columns))
        expected = row_sums(values)
        np.testing.assert_allclose(expected, values.sum(axis=1), rtol=1e-10)
        np.testing.assert_array_equal(to_numpy(row_sums(lib.asarray(values))), expected)
        np.testing.assert_array_equal(row_sums(np.asfortranarray(values)), expected)
        np.testing.assert_array_equal(row_sums(values[:1]), expected[:1])


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_centers_are_the_means_of_their_rows_beside_a_far_row(name, algorithm):
    """float32 rows relative to an origin far away keep their digits in sums too."""
    lib = load(name)
    X = np.array([[0.0], [1], [10], [11], [1e9], [1e9]], dtype="float32")
    model = KMeans(3, init=X[[0, 2, 4]], tol=0, algorithm=algorithm).fit(lib.asarray(X))
    np.testing.assert_array_equal(to_numpy(model.cluster_centers_), np.float32([[0.5], [10.5], [1e9]]))
    np.testing.assert_array_equal(to_numpy(model.labels_), [0, 0, 1, 1, 2, 2])
    assert model.inertia_ == 1


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("name", HOSTS)
def test_a_cluster_is_empty_whatever_rounding_left_of_its_weight(name):
    lib = load(name)
    X, init = np.array([[1.0], [10.0], [9.0], [5.0]]), np.array([[2.0], [6.0], [14.0], [6.0]])
    weights = np.array([0.9, 0.8, 0.4, 0.8])
    for algorithm in ("lloyd", "elkan"):
        model = KMeans(4, init=init, tol=0, algorithm=algorithm).fit(lib.asarray(X), sample_weight=weights)
        assert model.inertia_ == pytest.approx(0, abs=1e-25)
        np.testing.assert_allclose(sorted(to_numpy(model.cluster_sizes_)), sorted(weights), rtol=1e-15)


@pytest.mark.usefixtures("numpy_passes")
@pytest.mark.parametrize("grid", [1.0, 0.1])
def test_bounds_end_at_a_fixed_point(grid, rng):
    """On data full of ties, duplicates and empty clusters: centers are the means of their rows, labels the nearest."""
    for _ in range(60):
        n, d, k = rng.integers(4, 40), rng.integers(1, 4), rng.integers(2, 8)
        X = grid * rng.integers(-2, 3, size=(max(n, k), d))
        init = rng.normal(scale=rng.choice([1, 10]), size=(k, d))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = KMeans(k, init=init, tol=0, algorithm="elkan").fit(X)
        assert model.n_iter_ < 100
        np.testing.assert_array_equal(model.labels_, nearest(X, model.cluster_centers_))
        np.testing.assert_array_equal(model.cluster_sizes_, np.bincount(model.labels_, minlength=k))
        for label in np.unique(model.labels_):
            mean = X[model.labels_ == label].mean(axis=0)
            np.testing.assert_allclose(model.cluster_centers_[label], mean, atol=1e-14)


def test_one_far_center_leaves_the_others_their_digits(lib):
    model = KMeans.from_centers(lib.asarray(np.array([[1e17], [1.0], [2.0]])))
    X = np.array([[1.4], [1.6], [0.0]])
    np.testing.assert_array_equal(to_numpy(model.predict(lib.asarray(X))), [1, 2, 1])
    assert model.score(lib.asarray(X)) == pytest.approx(-1.32)
    np.testing.assert_allclose(to_numpy(model.transform(lib.asarray(X)))[0], [1e17, 0.4, 0.6])


def test_squares_too_large_for_float64_are_an_error(lib):
    with pytest.raises(ValueError, match="X spans values whose squared distances are too large for float64"):
        KMeans.from_centers([[0.0]]).score(lib.asarray(np.array([[1e200]])))
