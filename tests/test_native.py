"""The native passes beside the portable steps: in each instruction set, for any layout, given what makes no sense."""

import importlib
import os
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction

import numpy as np
import pytest
from conftest import Library, blobs, moments, without
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from threadpoolctl import threadpool_limits
from twins import case, compare

from kmeans_xp import KMeans, backends, bounds, steps
from kmeans_xp.backends import REPLACEABLE, backend_for
from kmeans_xp.frame import frame_at
from kmeans_xp.seeding.greedy import Greedy, greedy_rows

_native = pytest.importorskip("kmeans_xp.backends.numpy")._native
if _native.problem is not None:
    pytest.skip(f"the native steps are not in use: {_native.problem}", allow_module_level=True)
native, ours = _native.native, importlib.import_module("kmeans_xp.backends._native.steps")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NUMPY = Library("numpy", np, None)
STEPS = sorted(set(REPLACEABLE) & set(vars(ours)))
FAR = 2**20  # bytes of a tile


WAYS = {"all centers": (np.inf, np.inf), "candidates": (-1, np.inf), "leading coordinates": (np.inf, -1, 0)}


@pytest.fixture(params=list(WAYS))
def ways(request, monkeypatch):
    """Rows are compared with all centers or with those that may be near, on two threads however few they are.

    By leading coordinates, clusters are summed one after the other too.
    """
    monkeypatch.setattr(ours, "PARALLEL_WORK", 0)
    monkeypatch.setattr(ours.blas, "n_threads", lambda: 2)
    before = native.set_thresholds(0, *WAYS[request.param])
    yield request.param
    native.set_thresholds(*before)


def check_all(host, n_clusters, dtype, **options):
    """All steps that are native, beside their portable twins."""
    c = case(NUMPY, host, n_clusters, dtype, tile_bytes=FAR, **options)
    for name in STEPS:
        if name != "share_that_pays":
            assert compare(name, getattr(ours, name), REPLACEABLE[name].portable, c, c.host, c.host), name


SHAPES = [
    *[(1, 1, 1), (2, 1, 5), (5, 3, 9), (31, 2, 3), (33, 4, 7), (64, 5, 6), (255, 8, 13), (257, 9, 12)],
    *[(300, 300, 5), (700, 3, 300), (4097, 2, 4), (1000, 16, 33)],
]


@pytest.mark.usefixtures("ways", "instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_the_portable_ones(rng, shape, dtype):
    n, d, k = shape
    check_all(rng.normal(size=(n, d)) * 3 + 10, k, dtype)


@pytest.mark.usefixtures("ways", "instructions")
@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int16", "uint16", "bool"])
def test_steps_of_narrow_rows_are_those_of_float64(rng, dtype):
    """Read by blocks of neighbours and of others, by rows and by columns, features in pieces."""
    for n, d, k in ((70, 1, 5), (90, 3, 9), (100, 4, 7), (260, 9, 12), (130, 70, 5)):
        X = (np.abs(rng.normal(size=(n, d))) * 60).astype(dtype)
        X[::2] *= X.dtype.type(-1) if dtype.startswith(("float", "int")) else X.dtype.type(1)
        c = case(NUMPY, X.astype("float64"), k, "float64", tile_bytes=FAR)
        for rows in (X, np.asfortranarray(X)):
            for name in set(STEPS) - {"share_that_pays", "run_at_once", "fits_at_once"}:
                step = getattr(ours, name)
                assert compare(name, step, step, c, rows, c.host), name


@pytest.mark.usefixtures("instructions")
def test_each_number_of_float16():
    X = np.arange(2**16, dtype=np.uint16).view("float16")[:, None]
    X = X[~np.isnan(X[:, 0])]
    squares, origin = np.empty(len(X)), np.full(1, 0.5)
    native.sq_distances_to_own(X, origin, np.zeros(len(X), "i4"), np.zeros((1, 1)), squares, 1)
    wide = X[:, 0].astype("float64")
    assert_array_equal(squares, (wide - 0.5) ** 2)
    rows = np.tile(X, (1, 5))  # added to sums, one by one
    labels, sums, weights = np.arange(len(X), dtype="i4"), np.zeros(rows.shape), np.zeros(len(X))
    native.sum(rows, np.zeros(5), np.ones(len(X)), labels, sums, weights, 1)
    assert_array_equal(sums, np.tile(wide[:, None], (1, 5)))
    keys = np.empty(len(X))
    native.keys(X, np.zeros(1), np.ones(1), keys)
    assert_array_equal(keys, wide)


@pytest.mark.usefixtures("ways", "instructions")
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_steps_are_the_portable_ones_whatever_the_shape(data):
    n, d, k = (data.draw(st.integers(1, top)) for top in (300, 20, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    check_all(rng.normal(size=(n, d)) * data.draw(st.sampled_from([1, 1e-30, 1e15])), k, "float64", known=False)


def seen_from_zero(X):
    """A frame whose origin is zero, in which rows are compared in their own dtype."""
    return frame_at(np.zeros(X.shape[1]), 1.0, X, FAR)


def nearest_by_fractions(X, centers):
    """The nearest center of each row, of equally near ones the first, by arithmetic without rounding."""
    as_fractions = [[[Fraction(float(x)) for x in row] for row in rows] for rows in (X, centers)]

    def nearest(row):
        squares = [sum((a - b) ** 2 for a, b in zip(row, center, strict=True)) for center in as_fractions[1]]
        return squares.index(min(squares))

    return [nearest(row) for row in as_fractions[0]]


def near_ties(name, rng):
    """Rows and centers (relative to zero) of which many are as near or nearly as near."""
    if name == "integers":
        return rng.integers(-3, 4, size=(200, 3)).astype(float), rng.integers(-3, 4, size=(20, 3)).astype(float)
    if name == "last bits":
        centers = 1 + rng.integers(0, 3, size=(9, 2)) * 2.0**-52
        return np.repeat([[1.0, 1.0], [2.0, 0.5]], 40, axis=0) + rng.integers(0, 2, size=(80, 2)) * 2.0**-51, centers
    if name == "last bits of float32":
        centers = 1 + rng.integers(0, 3, size=(9, 2)) * 2.0**-23
        return 1 + rng.integers(0, 3, size=(80, 2)) * 2.0**-23, centers
    if name == "far away":
        return rng.integers(-9, 9, size=(150, 2)) + 2.0**20, rng.integers(-9, 9, size=(12, 2)) + 2.0**20
    if name == "stretches of features":  # whose products are all positive: the sums round one way
        X = (1 + rng.integers(0, 2**20, size=(60, 200)) * 2.0**-23).astype("float32").astype(float)
        return X, X[:1] + rng.integers(-9, 10, size=(12, 200)) * 2.0**-17
    if name == "apart where leading coordinates don't tell":
        X = rng.integers(-8, 9, size=(120, 3)) @ rng.integers(-8, 9, size=(3, 40)) * 2.0
        X += rng.integers(-2, 3, size=X.shape) * 2.0**-8
        return X, np.concat([X[:30], X[:6] + 2.0**-8, X[:6, ::-1]])
    if name == "the middle":
        return np.repeat([[0.5, 0.0]], 70, axis=0), np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    if name == "huge":
        return rng.integers(-3, 4, size=(90, 2)) * 2.0**498, rng.integers(-3, 4, size=(9, 2)) * 2.0**498
    if name == "small":
        return rng.integers(-3, 4, size=(90, 2)) * 2.0**-498, rng.integers(-3, 4, size=(9, 2)) * 2.0**-498
    if name == "denormal float32 beside ordinary numbers":
        X = np.column_stack([rng.integers(0, 2, size=90), rng.integers(0, 9, size=90) * 2.0**-140])
        return X, X[rng.permutation(90)[:12]]
    if name == "squares hardly normal in float32":
        return rng.integers(-9, 10, size=(90, 2)) * 2.0**-66, rng.integers(-9, 10, size=(12, 2)) * 2.0**-66
    if name == "far beyond the centers":  # which are on a circle around a place amid the rows
        t, far = rng.uniform(-4, 4, size=12), 3.0**13
        X = np.column_stack([rng.integers(-2000, 2001, size=200) * 2.0**-43, np.full(200, far)])
        return X, np.column_stack([t, 1 + t**2 / (far - 1 + np.sqrt((far - 1) ** 2 - t**2))])
    if name == "beside a large square":
        X = np.column_stack([rng.integers(0, 2, size=90) * 4, rng.integers(-9, 10, size=90) * 2.0**-40])
        return X, np.column_stack([np.ones(12), rng.integers(-9, 10, size=12) * 2.0**-40])
    raise ValueError(name)


TIES = ["integers", "last bits", "last bits of float32", "far away", "the middle", "huge", "small"]
TIES += ["denormal float32 beside ordinary numbers", "squares hardly normal in float32", "far beyond the centers"]
TIES += ["beside a large square", "stretches of features", "apart where leading coordinates don't tell"]


@pytest.mark.usefixtures("ways", "instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TIES)
def test_labels_are_exactly_the_nearest(rng, name, dtype):
    X, centers = near_ties(name, rng)
    with np.errstate(all="ignore"):
        if not np.array_equal(X.astype(dtype), X):
            pytest.skip("not numbers of this dtype")
    X, frame = X.astype(dtype), seen_from_zero(X.astype(dtype))
    expected = nearest_by_fractions(X, centers)
    assert_array_equal(ours.assign(X, centers, frame), expected)
    labels, sums, weights = ours.lloyd_step(X, np.ones(len(X)), centers, frame)
    assert_array_equal(labels, expected)
    assert_array_equal(weights, np.bincount(expected, minlength=len(centers)))
    given_labels = rng.integers(len(centers), size=len(X)).astype(np.int32)
    state = given_labels, np.full(len(X), -np.inf), np.zeros(len(centers))
    labels = ours.bounded_step(X, np.ones(len(X)), centers, state, (sums, weights), frame)[0]
    assert_array_equal(labels, expected)


@pytest.mark.usefixtures("instructions")
def test_labels_of_rows_equally_far_but_for_rounding_are_the_portable_ones(rng):
    """The order of additions decides."""
    for _ in range(20):
        x, apart = rng.normal(size=5), rng.normal(size=5)
        centers = x + np.stack([rng.permutation(apart) for _ in range(12)])
        X = np.repeat(x[None], 30, axis=0)
        frame = seen_from_zero(X)
        assert_array_equal(ours.assign(X, centers, frame), steps.assign.portable(X, centers, frame))


@pytest.mark.usefixtures("instructions")
def test_centers_of_float32_rows_are_float32_numbers(rng):
    X, k = rng.normal(size=(200, 3)).astype(np.float32), 4
    memory, origin = (np.zeros(k), np.zeros((k, 3)), np.zeros(k), np.zeros((k, 3))), np.full(3, 0.5)
    centers, labels = X[:k] - origin, np.full(200, -1, dtype=np.int32)
    native.iterate(
        X, origin, np.ones(200), centers, labels, None, *memory, False, (origin, 1.0, True, False), True, 3, 0.0, 1
    )
    places = centers + origin
    assert_array_equal(places, places.astype(np.float32))


@pytest.mark.usefixtures("instructions")
def test_rows_of_float64_in_float32_have_exact_labels(rng):
    """As `iterations` compares them: also rows that leave a doubt."""
    X, start = near_ties("integers", rng)
    X, k = X + rng.integers(0, 3, size=X.shape) * 2.0**-21, len(start)
    start = start + rng.integers(0, 3, size=start.shape) * 2.0**-21
    begun = [np.zeros(k), np.zeros(start.shape), np.zeros(k), start.copy()]
    for floats in (False, True):
        for slack in (None, np.full(len(X), -np.inf)):
            labels, centers = np.full(len(X), -1, dtype=np.int32), start.copy()
            frame = np.zeros(3), 1.0, False, False
            given = (X, np.zeros(3), np.ones(len(X)), centers, labels, slack)
            native.iterate(*given, *[x.copy() for x in begun], False, frame, floats, 1, 0.0, 1)
            assert_array_equal(labels, nearest_by_fractions(X, start))
            mass = np.bincount(labels, minlength=k)[:, None]
            means = np.where(mass > 0, np.add.reduce(X[:, None] * (labels[:, None] == np.arange(k))[:, :, None]), 0)
            assert_allclose(centers[mass[:, 0] > 0], (means / np.maximum(mass, 1))[mass[:, 0] > 0], rtol=1e-12)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
@pytest.mark.parametrize("axis", ["first", "last", "all"])
def test_many_centers_are_compared_by_leading_coordinates_as_one_by_one(rng, axis, scale):
    """More of them than a tile; rows that vary along a few directions, those of most features little, or all alike."""
    n, d, k = 300, 70, 1300
    spread = {"first": np.geomspace(1, 1e-4, d), "last": np.repeat([1e-5, 1], [d - 3, 3]), "all": np.ones(d)}[axis]
    X, centers = ((rng.normal(size=(m, d)) * spread * scale).astype("float32") for m in (n, k))
    centers[5:9], X[3], X[4] = centers[1000:1004], centers[1002], (centers[7] + centers[1200]) / 2
    X[5] = 0
    given, frame = (X, rng.integers(1, 4, size=n).astype(float), centers.astype("float64")), seen_from_zero(X)
    bounds_of = [np.zeros(n, "i4"), np.full(n, -np.inf), np.zeros(k)]
    found = []
    for ways in WAYS["all centers"], WAYS["leading coordinates"]:
        before = native.set_thresholds(0, *ways)
        labels, slack, path = (x.copy() for x in bounds_of)
        sums = np.zeros((k, d)), np.zeros(k)
        found.append((ours.lloyd_step(*given, frame), ours.bounded_step(*given, (labels, slack, path), sums, frame)))
        native.set_thresholds(*before)
    (plain, bounded), (by_leading, bounded_by_leading) = found
    expected = steps.assign.portable(X, given[2], frame)
    for labels in (plain[0], bounded[0], by_leading[0], bounded_by_leading[0]):
        assert_array_equal(labels, expected)
    assert_allclose(by_leading[1], plain[1], atol=1e-12 * scale)
    assert_array_equal(by_leading[2], plain[2])
    assert (bounded_by_leading[1] <= gaps(X, given[2]) + 1e-12 * scale).all()
    if scale == 1:
        apart = bounded[1] > 0
        assert np.median(bounded_by_leading[1][apart] / bounded[1][apart]) > 0.8


def gaps(X, centers):
    """How much farther the second nearest center of each row is than the nearest."""
    nearest = np.sort(np.linalg.norm(X[:, None].astype("float64") - centers, axis=2), axis=1)
    return nearest[:, 1] - nearest[:, 0]


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_that_are_left_over_from_their_candidates_are_gathered_one_by_one(rng, order, dtype):
    """One of each cluster is, in an order that begins and ends as neighbours would, whatever the size of a block."""
    k, d = 40, 2
    centers, angles = rng.normal(size=(k, d)), rng.uniform(0, 2 * np.pi, size=16 * k)
    X = np.asarray(5 * np.column_stack([np.cos(angles), np.sin(angles)]), dtype=dtype, order=order)
    frame, stale = seen_from_zero(X), np.arange(len(X)) < k
    right = steps.assign.portable(X, centers, frame)
    places = np.arange(k)
    for begin, end in ((1, 3), (4, 7), (8, 15), (16, 31)):
        places[begin:end] = places[begin:end][::-1]
    labels = np.where(stale, np.resize(places, len(X)), right).astype(np.int32)
    state = labels, np.where(stale, -np.inf, np.inf), np.zeros(k)
    before = native.set_thresholds(np.inf, -1)
    found = ours.bounded_step(X, np.ones(len(X)), centers, state, (0, 0), frame)
    native.set_thresholds(*before)
    assert_array_equal(found[0], right)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_narrow_groups_are_chosen_as_by_float64(rng, dtype):
    """In float32 the squared distances within a group are rounding."""
    X = (np.where(np.arange(400) % 2, 1, -1)[:, None] + 1e-5 * rng.normal(size=(400, 12))).astype(dtype)
    weights, frame = np.ones(400), seen_from_zero(X)
    how = Greedy(20, 4, 4, 3, 1e-9, 1e-15)
    found, expected = (
        choose(X, weights, frame, how, np.random.default_rng(0).random, None)
        for choose in (ours.greedy_rows, greedy_rows.portable)
    )
    assert_array_equal(found, expected)


@pytest.mark.usefixtures("instructions")
def test_no_row_beyond_the_last_is_chosen():
    """Rounding may carry a target up to the total."""
    X = np.arange(30.0).reshape(10, 3)
    for order in None, np.arange(10):
        chosen = native.greedy(X, np.zeros(3), np.ones(10), order, (4, 2, 4, 3.0, 1e-9, 1e-15), np.ones, 1)
        assert max(chosen) < 10


@pytest.mark.usefixtures("instructions")
def test_rows_that_differ_by_rounding_are_one_place(rng):
    """When all places are centers, rows are drawn by their weights."""
    X = np.repeat([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]], 20, axis=0) * (
        1 + rng.integers(0, 3, size=(60, 1)) * 2.0**-52
    )
    for seed in range(5):
        how = Greedy(5, 3, 4, 3, 1e-9, 1e-14)
        found, expected = (
            choose(X, np.ones(60), seen_from_zero(X), how, np.random.default_rng(seed).random, None)
            for choose in (ours.greedy_rows, greedy_rows.portable)
        )
        assert_array_equal(found, expected)


def at_an_odd_place(X):
    memory = np.zeros(X.nbytes + 1, dtype=np.uint8)
    view = memory[1:].view(X.dtype).reshape(X.shape)
    view[...] = X
    return view


def of_records(X):
    records = np.zeros(len(X), dtype=[("name", "i1"), ("x", X.dtype, X.shape[1:])])
    records["x"] = X
    return records["x"]


def only_to_be_read(X):
    X = X.copy()
    X.flags.writeable = False
    return X


LAYOUTS = {
    "columns": np.asfortranarray,
    "backwards": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second": lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "odd": at_an_odd_place,
    "read-only": only_to_be_read,
    "columns backwards": lambda X: np.asfortranarray(X[:, ::-1])[:, ::-1],
    "window": lambda X: np.pad(X, ((2, 3), (1, 2)))[2:-3, 1:-2],
}


@pytest.mark.usefixtures("ways", "instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_the_same_bits(rng, layout, dtype):
    for d in (1, 3, 9, 17):
        X = (rng.normal(size=(333, d)) + 2).astype(dtype)
        c = case(NUMPY, X, 12, dtype, tile_bytes=FAR)
        laid_out = LAYOUTS[layout](X)
        assert_array_equal(laid_out, X)
        for name in STEPS:
            if name != "share_that_pays":
                check_same_bits(name, c, X, laid_out)


def check_same_bits(name, c, X, laid_out):
    from twins import ARGUMENTS

    for one, other in zip(ARGUMENTS[name](c, X), ARGUMENTS[name](c, laid_out), strict=True):
        found, expected = (flat(getattr(ours, name)(*arguments)) for arguments in (other, one))
        for a, b in zip(found, expected, strict=True):
            assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name) if a.dtype == float else assert_array_equal(
                a, b
            )


def flat(values):
    """All arrays and numbers in nested tuples."""
    if isinstance(values, (tuple, list)):
        return [x for value in values for x in flat(value)]
    return [np.asarray(values)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_takes_records_and_rows_that_are_one(rng, dtype):
    rows = rng.normal(size=(200, 3)).astype(dtype)
    equal = np.ones((50, 3), dtype), np.broadcast_to(np.ones(1, dtype), (50, 3))
    for X, view in ((rows, of_records(rows)), (rows, at_an_odd_place(rows)), equal):
        start = np.arange(6).reshape(2, 3)
        expected, found = (KMeans(2, init=start, n_init=1).fit(rows) for rows in (X, view))
        assert_array_equal(found.labels_, expected.labels_)
        assert_array_equal(found.predict(view), expected.predict(X))
        assert_allclose(found.transform(view), expected.transform(X))
        weights = of_records(np.ones((len(X), 1)))[:, 0]
        assert_array_equal(KMeans(2, init=start, n_init=1).fit(view, None, weights).labels_, found.labels_)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("scale", [1e-160, 5e-324 * 64, 1e-150])
def test_labels_of_the_smallest_numbers_are_as_near_as_squares_can_say(rng, scale):
    X, centers = rng.integers(-9, 9, size=(300, 2)) * scale, rng.integers(-9, 9, size=(7, 2)) * scale
    labels = ours.assign(X, centers, seen_from_zero(X))
    squares = ((X[:, None] - centers) ** 2).sum(axis=2)
    own = np.take_along_axis(squares, labels[:, None], axis=1)[:, 0]
    assert (own <= squares.min(axis=1) * (1 + 1e-9) + 4 * 5e-324).all()


@pytest.mark.usefixtures("instructions")
def test_squares_too_large_for_float64_are_an_error():
    X = np.array([[1e300], [-1e300], [0.0]])
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="too large for float64"):
        ours.assign(X, X[:2].copy(), seen_from_zero(X))
    with pytest.raises(ValueError, match="too large for float64"):
        KMeans(2, init=X[:2]).fit(X)


@pytest.mark.usefixtures("instructions")
def test_denormal_rows_are_chosen_once():
    """Also where float32 numbers that are not normal could be taken for 0."""
    X = (np.arange(60).reshape(20, 3) * 1e-41).astype(np.float32)
    frame = moments(X, np.ones(20), FAR)
    how = (20, 4, 4, 3.0, 1e-9, 1e-30)
    for order in None, np.arange(20):
        chosen = native.greedy(X, frame.origin, np.ones(20), order, how, np.random.default_rng(0).random, 1)
        assert sorted(chosen) == list(range(20))


@pytest.mark.usefixtures("ways", "instructions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_got_in_after_the_check_do_no_harm(rng, value, dtype):
    """Labels are those of clusters, whatever they are."""
    for n, d, k in ((40, 1, 2), (500, 12, 30)):
        X = rng.normal(size=(n, d)).astype(dtype)
        centers, frame = X[:k].astype(float), seen_from_zero(X)
        X[rng.integers(n, size=9), rng.integers(d, size=9)] = value
        weights = np.ones(n)
        for labels in (
            ours.assign(X, centers, frame),
            ours.lloyd_step(X, weights, centers, frame)[0],
            ours.bounded_step(
                X,
                weights,
                centers,
                (rng.integers(k, size=n).astype(np.int32), np.full(n, -np.inf), np.zeros(k)),
                (0, 0),
                frame,
            )[0],
            native.greedy(X, np.zeros(d), weights, None, (k, 3, 4, 3.0, 1e-9, 1e-15), rng.random, 2),
        ):
            assert np.min(labels) >= 0
            assert np.max(labels) < n
        ours.distances(X, centers, frame)
        ours.sq_distances_to(X, np.arange(3), frame)
        for begin in (X[:k].astype(float), np.full((k, d), value)):
            memory = [np.zeros(k), np.zeros((k, d)), np.zeros(k), np.zeros((k, d))]
            labels = np.full(n, -1, dtype=np.int32)
            how = False, (np.zeros(d), 1.0, False, False), dtype == "float32", 5, 0.0, 2
            native.iterate(X, np.zeros(d), weights, begin, labels, np.full(n, -np.inf), *memory, *how)
            assert ((labels >= 0) & (labels < k)).all()


def test_sorted_rows_are_those_of_a_stable_sort(rng):
    for n in (1, 2, 999, 1000, 5003):
        for keys in (
            rng.normal(size=n),
            np.round(rng.normal(size=n)),
            rng.integers(0, 3, size=n) * -0.0,
            1 + rng.integers(0, 9, size=n) * 2.0**-52,
            rng.normal(size=n) * 10.0 ** rng.integers(-320, 300, size=n),
        ):
            rows = np.empty(n, dtype=np.int64)
            native.sorted_rows(keys, rows)
            assert_array_equal(rows, np.argsort(keys, kind="stable"))


# n, d, k = 50, 3, 4; calls that make no sense, and the errors that they raise
def no_sense():
    n, d, k = 50, 3, 4
    X, o, w, C = np.random.default_rng(0).normal(size=(n, d)), np.zeros(d), np.ones(n), np.eye(4)[:, :3].copy()
    labels, slack, path, sums = np.full(n, -1, "i4"), np.full(n, -np.inf), np.zeros(k), np.zeros((k, d))
    step = {"X": X, "origin": o, "sample_weight": w, "centers": C, "labels": labels, "slack": slack, "path": path}
    step |= {"sums": sums, "weights": np.zeros(k), "floats": False, "n_threads": 1}
    frame = {"frame": (o, 1.0, False, False), "begun": False, "most": 1, "tol": 0.0, "centers_old": C.copy()}
    iterate = step | frame
    run = {name: iterate[name] for name in iterate if name not in ("slack", "path", "sums", "begun", "centers_old")}
    run |= {"bounded": True}
    assign = {name: step[name] for name in ("X", "origin", "centers", "labels", "floats", "n_threads")}
    total = {name: step[name] for name in ("X", "origin", "sample_weight", "sums", "weights", "n_threads")}
    total |= {"labels": np.zeros(n, "i4")}
    own = {name: total[name] for name in ("X", "origin", "labels", "n_threads")} | {
        "centers": C,
        "squares": np.zeros(n),
    }
    within = {name: own[name] for name in own if name != "squares"} | {"sample_weight": w}
    greedy = {name: step[name] for name in ("X", "origin", "sample_weight", "n_threads")}
    greedy |= {"order": None, "how": (3, 2, 4, 3.0, 1e-9, 1e-15), "uniforms": np.random.default_rng(0).random}
    apart = {"X": X, "origin": o, "points": C, "n_threads": 1}
    read_only = only_to_be_read(labels)
    mixed = np.where(np.arange(n) == 7, -9, 0).astype("i4")
    for name, call in (("assign", assign), ("step", step), ("iterate", iterate), ("run", run)):
        for labels in (
            np.zeros(n),
            np.zeros(2 * n, "i4")[::2],
            read_only,
            np.zeros(n - 1, "i4"),
            np.zeros((n, 1), "i4"),
        ):
            yield name, call, {"labels": labels}
        for rows in (
            X[None],
            X[:, :2],
            X.astype("i8"),
            X + 0j,
            X.astype(">f8"),
            X.astype("u4"),
            None,
            "X",
            X[:0],
            X[:, :0],
        ):
            yield name, call, {"X": rows}
        yield name, call, {"X": X[:, :0], "origin": o[:0], "centers": C[:, :0]}
        yield (
            name,
            call,
            {"centers": C[:0], "path": path[:0], "sums": sums[:0], "weights": path[:0], "centers_old": C[:0]},
        )
        yield name, call, {"centers": C[:, :2]}
        yield name, call, {"origin": np.zeros(d + 1)}
    for name, call in (("step", step), ("iterate", iterate)):
        for labels in (np.full(n, k, "i4"), np.full(n, 2**31 - 1, "i4"), mixed, -mixed - 1):
            yield name, call, {"labels": labels}
        for wrong in ({"slack": slack[1:]}, {"slack": slack[::-1]}, {"path": path[1:]}, {"sums": sums[1:]}):
            yield name, call, wrong
        for wrong in ({"weights": path[1:]}, {"sums": sums.T.copy().T}, {"sums": sums.astype("f4")}):
            yield name, call, wrong
        yield name, call, {"sample_weight": w[1:]}
    for wrong in ({"frame": (o,)}, {"frame": ("x", 1.0, False, False)}, {"centers": only_to_be_read(C)}):
        yield "iterate", iterate, wrong
    for labels in (np.full(n, k, "i4"), np.full(n, -1, "i4"), np.zeros(n - 1, "i4")):
        yield "sum", total, {"labels": labels}
        yield "sq_distances_to_own", own, {"labels": labels}
        yield "inertia", within, {"labels": labels}
    for wrong in ({"most": 0}, {"weights": path[1:]}, {"weights": path.astype("f4")}, {"sample_weight": w[1:]}):
        yield "run", run, wrong
    for wrong in ({"sample_weight": w[1:]}, {"centers": C[:, :2]}, {"X": X[:, :2]}):
        yield "inertia", within, wrong
    yield "sum", total, {"sums": sums[:, :2]}
    yield "sq_distances_to_own", own, {"squares": np.zeros(n, "f4")}
    yield "sq_distances_to_own", own, {"squares": np.zeros(2 * n)[::2]}
    for shape in ((k, n - 1), (k - 1, n), (n, k)):
        yield "sq_distances_to", apart | {"squares": np.zeros((k, n))}, {"squares": np.zeros(shape)}
    for result in (np.zeros((n, k), "i4"), np.zeros((n, k), order="F"), np.zeros((k, n)), np.zeros((n, k), "f2")):
        yield "distances", apart | {"result": np.zeros((n, k))}, {"result": result}
    for order in (np.arange(n + 1), np.arange(n) + 1, np.arange(n) - 1):
        yield "greedy", greedy, {"order": order}
    for how in ((3, 2), (0, 2, 4, 3.0, 0, 0), (3, 0, 4, 3.0, 0, 0), (3, 2, 0, 3.0, 0, 0), (3, 2, 4, 0.0, 0, 0)):
        yield "greedy", greedy, {"how": how}
    for uniforms in (lambda m: np.zeros(m + 1), lambda m: 1 / 0, lambda m: "x", None):
        yield "greedy", greedy, {"uniforms": uniforms}
    yield "greedy", greedy, {"X": X[:0], "sample_weight": w[:0]}
    yield "keys", {"X": X, "origin": o, "direction": o, "result": np.zeros(n)}, {"result": np.zeros(n - 1)}
    yield "keys", {"X": X, "origin": o, "direction": o, "result": np.zeros(n)}, {"direction": np.zeros(d - 1)}
    yield "sorted_rows", {"keys": w, "rows": np.zeros(n, "i8")}, {"rows": np.zeros(n, "i4")}


def test_what_makes_no_sense_is_an_error():
    """Neither a crash nor results that are written to a copy, which is then lost."""
    for name, call, wrong in no_sense():
        with pytest.raises((TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError)):  # noqa: PT012
            getattr(native, name)(**{**call, **{key: value for key, value in wrong.items() if key in call}})
            pytest.fail(f"{name} takes {wrong}")


def test_what_makes_sense_is_none():
    """The calls beside which those that make no sense stand."""
    for name, call in {name: call for name, call, _ in no_sense()}.items():
        getattr(native, name)(**call)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("stopping", [{"tol": 0}, {"tol": 1e-2}, {"tol": 0, "max_iter": 3}], ids=str)
@pytest.mark.parametrize("kind", ["blobs", "cosine", "far centers"])
@pytest.mark.filterwarnings("ignore:KMeans did not converge")
def test_a_whole_run_is_that_of_its_iterations(rng, monkeypatch, algorithm, stopping, kind):
    X = blobs(rng, 1500, 3, n_clusters=9, spread=2)
    init = X[:9].copy()
    init[6:] += 1e4 * (kind == "far centers")
    metric = "cosine" if kind == "cosine" else "euclidean"
    model = KMeans(9, init=init, algorithm=algorithm, metric=metric, **stopping)
    whole = clone(model).fit(X)
    without(monkeypatch, "run_at_once")
    expected = clone(model).fit(X)
    for name in ("labels_", "cluster_centers_", "inertia_", "cluster_sizes_", "n_iter_", "converged_"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(expected, name), err_msg=name)
    for name in ("inertia", "center_shift", "n_changed"):
        assert whole.history_[name] == expected.history_[name]


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_the_number_of_threads(rng, dtype, algorithm):
    X, found = rng.normal(size=(20_000, 11)).astype(dtype), []
    before = native.set_thresholds(0, -1)
    for n_threads in (1, 2, 3, 7):
        with threadpool_limits(n_threads, user_api="blas"):
            model = KMeans(40, random_state=0, max_iter=5, algorithm=algorithm).fit(X)
            found.append([model.cluster_centers_.tobytes(), model.labels_.tobytes(), model.inertia_])
            found[-1] += [model.transform(X).tobytes(), model.predict(X).tobytes()]
    native.set_thresholds(*before)
    assert all(other == found[0] for other in found[1:])


def test_rows_may_change_during_a_fit(rng):
    """Clusters are wrong then, or there is an error, but nothing worse."""
    X = rng.normal(size=(30_000, 6))
    ended, start = threading.Event(), X[:30].copy()

    def change():
        numbers = np.random.default_rng(1)
        while not ended.is_set():
            X[numbers.integers(len(X), size=5000)] = numbers.choice([1.0, np.nan, 1e300, -3.0], size=(5000, 1))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for algorithm in ("lloyd", "elkan") * 3:
            for init in (start, "k-means++"):
                X[:] = np.random.default_rng(2).normal(size=X.shape)
                try:
                    labels = KMeans(30, init=init, max_iter=8, algorithm=algorithm, random_state=0).fit(X).labels_
                except (ValueError, ArithmeticError):
                    continue
                except RuntimeWarning:
                    continue
                assert ((labels >= 0) & (labels < 30)).all()
    finally:
        ended.set()
        thread.join()


INTERRUPTED = """
    import os, signal, threading
    import numpy as np
    from kmeans_xp.backends._native import native

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored for what it runs aside
    X = np.random.default_rng(0).normal(size=(60_000, 32))
    for n_threads in (1, 2):
        for _ in range(20):
            labels = np.full(len(X), -1, dtype=np.int32)
            timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                native.assign(X, np.zeros(32), X[:4000].copy(), False, labels, n_threads)
                timer.join()  # the pass was faster: once more
            except KeyboardInterrupt:
                if labels.min() < 0:
                    print("interrupted")
                    break
"""


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_ctrl_c_ends_a_pass_of_a_child_before_all_rows_are_labelled():
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["interrupted"] * 2, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_child_fits_while_and_after_its_parent_does(rng):
    from test_threads import exit_code_of_child

    X, codes = rng.normal(size=(40_000, 8)), []

    def fit(on_iteration=None):
        return KMeans(20, init=X[:20].copy(), max_iter=4, tol=0, on_iteration=on_iteration).fit(X).labels_

    with threadpool_limits(2, user_api="blas"):
        expected = fit()

        def check():
            assert_array_equal(fit(), expected)

        fit(lambda iteration: codes.append(exit_code_of_child(check)))
        busy = threading.Thread(target=fit)
        busy.start()
        codes.append(exit_code_of_child(check))
        busy.join()
        codes.append(exit_code_of_child(check))
    assert set(codes) == {0}


@pytest.mark.usefixtures("instructions")
def test_slack_is_never_more_than_there_is(rng):
    """Over many steps whose centers move: no row that is not looked at has the wrong label."""
    before = native.set_thresholds(np.inf, -1)
    for dtype, scale in (("float64", 1), ("float64", 1e-3), ("float32", 1)):
        X = (rng.normal(size=(900, 3)) * scale + [1e3, 0, 0]).astype(dtype)
        frame, k = moments(X, np.ones(900), FAR), 25
        centers = frame.enter(X[:k])
        labels, slack, path = np.full(900, -1, dtype=np.int32), np.full(900, -np.inf), np.zeros(k)
        totals = np.zeros((k, 3)), np.zeros(k)
        for _ in range(15):
            labels, slack, *totals, _, _ = ours.bounded_step(
                X, np.ones(900), centers, (labels, slack, path), totals, frame
            )
            assert_array_equal(labels, steps.assign.portable(X, centers, frame))
            expected = steps.update.portable(X, np.ones(900), labels, k, frame)
            assert_allclose(totals[0], expected[0], atol=1e-8 * scale * 900)
            assert_allclose(totals[1], expected[1], atol=1e-9)
            moved = np.where(totals[1][:, None] > 0, totals[0] / np.maximum(totals[1], 1)[:, None], centers)
            moved = centers + 0.7 * (moved - centers)
            path, centers = bounds.advance(path, moved, centers), moved
    native.set_thresholds(*before)


def test_an_extension_that_cannot_be_loaded_steps_aside(tmp_path):
    """With the reason in `show_versions`, and the same labels."""
    package = tmp_path / "kmeans_xp"
    root = os.path.dirname(os.path.dirname(backends.__file__))
    __import__("shutil").copytree(root, package, ignore=lambda *_: ["__pycache__"])
    [file] = (package / "backends" / "_native").glob("_kmeans*.*")
    file.write_bytes(b"not an extension")
    code = """
        import numpy as np, kmeans_xp
        X = np.random.default_rng(0).normal(size=(100, 2))
        print(kmeans_xp.__file__, *kmeans_xp.KMeans(3, init=X[:3]).fit(X).labels_)
        kmeans_xp.show_versions()
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.stderr == ""
    place, *labels = done.stdout.splitlines()[0].split()
    assert place.startswith(str(tmp_path))
    X = np.random.default_rng(0).normal(size=(100, 2))
    assert_array_equal(np.array(labels, dtype=int), KMeans(3, init=X[:3]).fit(X).labels_)
    assert "passes over NumPy arrays: plain NumPy, as " in done.stdout
    assert backend_for("numpy").passes_in_use().startswith("native, ")
