"""The CUDA kernels of many problems side by side, on the CPU as in test_kernels.py."""

import functools

import numpy as np
import pytest
from conftest import brute_force
from test_kernels import FOLDER, SHAPES, TYPES, launching, simulator

from kmeans_xp import cuda as _cuda
from kmeans_xp.seeding.greedy import choose

NUMBERS = "float32", "float64"
JOBS = [(70, 1, 4), (130, 3, 5), (500, 3, 7), (300, 33, 40), (600, 40, 9)]  # most rows, features, clusters


def relabel(dtype, shape):
    return f"relabel_problems<{TYPES[dtype]}, {', '.join(map(str, shape))}>"


@functools.cache
def module(seed):
    simulator()
    from kernelsim import Module

    names = [relabel(dtype, shape) for dtype in NUMBERS for shape in SHAPES[dtype]]
    own = "frame_problems", "choose_rows", "sum_problems", "inertia_of_problems", "move_problems", "move_centers"
    names += [f"{kernel}<{TYPES[dtype]}>" for kernel in own for dtype in NUMBERS]
    return Module(code=_cuda.source(_cuda.DENSE, FOLDER), name_expressions=names, seed=seed)


@pytest.fixture(params=[0, 1, 2], ids="order{}".format)
def launch(request):
    return launching(module(request.param))


class Job:
    """Problems of several sizes, one of them without rows; and rows around them that are none of theirs."""

    def __init__(self, rng, n, d, k, dtype):
        self.count = np.array([n, 0, k, n // 2, 17], dtype=np.int32)
        self.first = np.cumsum(self.count + 3) - self.count
        self.n_rows, self.n_problems = int(self.first[-1] + self.count[-1] + 2), len(self.count)
        self.d, self.k, self.dtype = d, k, dtype
        self.X = (rng.normal(size=(self.n_rows, d)) + np.arange(self.n_rows)[:, None] // 100).astype(dtype)
        self.weights = rng.uniform(size=self.n_rows) * (rng.integers(4, size=self.n_rows) > 0) + 1e-3
        self.origins = rng.normal(size=(self.n_problems, d)).astype(dtype).astype(float)
        self.centers = rng.normal(size=(self.n_problems, k, d))
        self.rows = self.X, self.weights, self.first, self.count
        self.running = np.array([5, 5, 5, 0, 5], dtype=np.uint64)

    @property
    def parts(self):
        """The number of each problem that has rows, and where these are."""
        return [
            (i, slice(int(a), int(a + n))) for i, (a, n) in enumerate(zip(self.first, self.count, strict=True)) if n
        ]

    def beyond(self, values):
        """Those of rows that belong to no problem."""
        own = np.zeros(self.n_rows, dtype=bool)
        for _, rows in self.parts:
            own[rows] = True
        return values[..., ~own]

    def labels(self, rng):
        return rng.integers(self.k, size=self.n_rows).astype(np.int32)


@pytest.fixture(params=JOBS, ids=lambda job: "-".join(map(str, job)))
def shape(request):
    return request.param


@pytest.fixture(params=NUMBERS)
def job(request, rng, shape):
    return Job(rng, *shape, request.param)


def test_frames(launch, rng, job):
    origins, spreads = np.full((job.n_problems, job.d), np.nan), np.full(job.n_problems, -5.0)
    keys, least, direction = np.full(job.n_rows, -5.0), np.full(job.n_rows, -5.0), rng.normal(size=job.d)
    given = job.d, direction, np.float64(0.5), origins, spreads, keys, least
    launch(f"frame_problems<{TYPES[job.dtype]}>", job.n_problems, 256, *job.rows, *given)
    for i, rows in job.parts:
        X, weights = job.X[rows].astype(float), job.weights[rows]
        mean = np.average(X, axis=0, weights=weights)
        np.testing.assert_allclose(origins[i], mean, rtol=1e-6 if job.dtype == "float32" else 1e-12, atol=1e-7)
        np.testing.assert_array_equal(origins[i], origins[i].astype(job.dtype))
        X = X - origins[i]
        squares = (X**2).sum(axis=1)
        np.testing.assert_allclose(spreads[i], np.average(squares, weights=weights), rtol=1e-12)
        np.testing.assert_allclose(keys[rows], X @ direction, atol=1e-10)
        np.testing.assert_allclose(least[rows], squares / 2, rtol=1e-12)
    assert np.isnan(spreads[1])
    assert (job.beyond(keys) == -5).all()
    assert (job.beyond(least) == -5).all()


def chosen_of(launch, job, rng, order, least, closest, n_chosen, draws, uniforms, n_trials):
    """Choices of a round: rows, how many, and the distances from the nearest."""
    chosen, n_chosen = np.full((job.n_problems, job.k), -5), n_chosen.copy()
    found, n_draws = closest.copy(), uniforms.shape[1]
    scratch = np.full(job.n_rows, np.nan), np.full((n_trials, job.n_rows), np.nan), np.full(n_draws, -5)
    begins, draws = (values.astype(np.int32) for values in (np.cumsum(draws) - draws, draws))
    given = order, least, begins, draws, uniforms, n_draws, job.d, job.k, n_trials
    job_of_round = np.float64(1e-9), np.uintp(job.n_rows), found, *scratch, np.full(n_draws, np.nan), chosen, n_chosen
    launch(f"choose_rows<{TYPES[job.dtype]}>", job.n_problems, 256, *job.rows, *given, *job_of_round)
    assert (job.beyond(found) == job.beyond(closest)).all()
    return chosen, n_chosen, found


@pytest.mark.parametrize("round_of", ["first", "few accepted", "all accepted", "only centers", "some that are done"])
def test_choices_are_those_of_greedy_k_means_plus_plus(launch, rng, job, round_of):
    n_trials, is_first = 3, round_of == "first"
    order, least, closest = np.arange(job.n_rows), np.full(job.n_rows, 1e-9), np.full(job.n_rows, -5.0)
    n_before = np.where(job.count > 0, 0 if is_first else min(2, job.k - 1), job.k).astype(np.int32)
    draws = np.where(job.count > 0, 1 if is_first else n_trials * (2 + np.arange(job.n_problems) * 3), 0)
    if round_of == "some that are done":
        draws[3] = 0
    uniforms = rng.uniform(size=(2, int(draws.sum())))
    if round_of == "all accepted":
        uniforms[1] = 0
    for _, rows in job.parts:
        order[rows] = rng.permutation(order[rows])
        X = job.X[rows].astype(float)
        closest[rows] = 0 if round_of == "only centers" else brute_force(X, X[:2]).min(axis=1) + 1e-10
    found = chosen_of(launch, job, rng, order, least, closest, n_before, draws, uniforms, n_trials)
    for i, rows in job.parts:
        own = slice(int(draws[:i].sum()), int(draws[: i + 1].sum()))
        expected, lowered, places = [], np.where(closest[rows] > 1e-9, closest[rows], 0), order[rows] - rows.start
        X, weights = job.X[rows].astype(float), job.weights[rows]
        if draws[i] == 0:
            lowered = closest[rows]
        else:
            mass = weights if is_first or lowered.sum() == 0 else weights * lowered
            sums = np.cumsum(mass[places])
            drawn = places[np.searchsorted(sums, uniforms[0, own] * sums[-1], side="right")]
            if is_first:
                expected, lowered = drawn, brute_force(X, X[drawn])[:, 0]
            else:
                given = brute_force(X, X[drawn]).T, weights, drawn, uniforms[1, own], n_trials
                lowered, expected = choose.portable(lowered, *given, job.k - n_before[i])
        chosen, n_chosen, distances = found[0][i], found[1][i], found[2][rows]
        assert n_chosen == n_before[i] + len(expected)
        np.testing.assert_array_equal(chosen[n_before[i] : n_chosen] - rows.start, expected)
        assert (chosen[: n_before[i]] == -5).all()
        assert (chosen[n_chosen:] == -5).all()
        np.testing.assert_allclose(distances, lowered, rtol=1e-9)
        np.testing.assert_array_equal(distances == 0, lowered == 0)


def test_rows_without_mass_are_not_drawn(launch, rng):
    """Whichever threads have them, and at the ends of the random numbers too."""
    job = Job(rng, 600, 2, 4, "float64")
    job.weights[:] = 0
    only = {i: rows.start + min(300 + i, rows.stop - rows.start - 1) for i, rows in job.parts}
    job.weights[list(only.values())] = 0.5
    for uniform in 0.0, 0.5, np.nextafter(1, 0):
        draws = (job.count > 0).astype(int)
        closest, order = np.full(job.n_rows, -5.0), np.arange(job.n_rows)
        given = order, np.zeros(job.n_rows), closest, np.zeros(5, dtype=np.int32), draws, np.full((2, 4), uniform), 2
        chosen, n_chosen, _ = chosen_of(launch, job, rng, *given)
        np.testing.assert_array_equal(n_chosen, draws)
        assert {i: chosen[i, 0] for i in only} == only


def test_labels(launch, rng, job):
    for tile in SHAPES[job.dtype]:
        before = job.labels(rng)
        labels, n_changed = before.copy(), np.full(job.n_problems, 2, dtype=np.uint64)
        centers = job.centers.astype(job.dtype)
        given = job.origins.astype(job.dtype), -2 * centers, np.vecdot(centers, centers), job.d, job.k, job.running
        grid = -(-int(job.count.max()) // tile[0]), job.n_problems
        launch(relabel(job.dtype, tile), grid, 256, job.X, job.first, job.count, *given, labels, n_changed)
        for i, rows in job.parts:
            if not job.running[i]:
                np.testing.assert_array_equal(labels[rows], before[rows])
                continue
            distances = np.sqrt(brute_force(job.X[rows].astype(float) - job.origins[i], job.centers[i]))
            ordered = np.sort(distances, axis=1)
            clear = ordered[:, 1] - ordered[:, 0] > 1e-3
            np.testing.assert_array_equal(labels[rows][clear], distances.argmin(axis=1)[clear])
            assert n_changed[i] == 2 + np.count_nonzero(labels[rows] != before[rows])
        assert n_changed[[1, 3]].tolist() == [2, 2]
        np.testing.assert_array_equal(job.beyond(labels), job.beyond(before))


def test_sums(launch, rng, job):
    labels, shape = job.labels(rng), (job.n_problems, job.k, job.d + 1)
    labels[labels == 1] = 0  # one is empty, one has many rows
    totals, sizes = np.full(shape, -5.0), np.full(shape[:2], -5, dtype=np.int32)
    given = job.origins, labels, job.d, job.k, job.running, totals, sizes
    launch(f"sum_problems<{TYPES[job.dtype]}>", (-(-job.k // 8), job.n_problems), (32, 8), *job.rows, *given)
    for i, rows in job.parts:
        if not job.running[i]:
            assert (totals[i] == -5).all()
            assert (sizes[i] == -5).all()
            continue
        members = labels[rows] == np.arange(job.k)[:, None]
        weighted = members * job.weights[rows]
        np.testing.assert_allclose(totals[i, :, :-1], weighted @ (job.X[rows] - job.origins[i]), atol=1e-9)
        np.testing.assert_allclose(totals[i, :, -1], weighted.sum(axis=1), rtol=1e-12)
        np.testing.assert_array_equal(sizes[i], members.sum(axis=1))


def test_moves_are_those_of_each_problem(launch, rng, job):
    p, k, d = job.n_problems, job.k, job.d
    totals = rng.normal(size=(p, k, d + 1))
    totals[:, :, -1] = rng.integers(1, 4, size=(p, k))
    totals[0, 1] = 0
    spreads, n_changed = rng.uniform(50, 100, size=p), np.array([4, 5, 0, 6, 7], dtype=np.uint64)
    centers, parts, numbers = np.full((p, k, d), -5.0), np.full((p, k, 2), -5.0), np.full((3, p, 5), -5.0)
    running = np.array([1, 2, 3, 0, 5], dtype=np.uint64)
    given = totals, job.centers, job.origins, k, d, running, centers, parts
    launch(f"move_problems<{TYPES[job.dtype]}>", (-(-k // 8), p), (32, 8), *given)
    n_done = np.array([0, 2, 1, 0, 0], dtype=np.uint64)
    ends = spreads, k, d, np.float64(1e-9), running, n_done, numbers
    launch("sum_up_problems", p, 32, parts, totals, n_changed, *ends)
    assert n_done.tolist() == [1, 3, 2, 0, 1]
    assert (numbers[[1, 2, 0, 0], [0, 0, 1, 2]] == -5).all()
    numbers = numbers[[0, 2, 1, 0, 0], np.arange(5)]
    strides = np.uintp(d + 1), np.uintp(1), np.uintp(d + 1)
    for i in range(p):
        if i == 3:
            assert {*centers[i].ravel(), *parts[i].ravel(), *numbers[i]} == {-5}
            continue
        sums, weights = totals[i].copy(), totals[i, :, -1:].copy()
        own, own_parts, own_numbers = np.full((k, d), np.nan), np.full((k, 2), np.nan), np.full(5, np.nan)
        both = np.repeat(weights, d + 1, axis=1)  # with the stride
        job_of_one = sums, both, job.centers[i].copy(), job.origins[i].copy(), k, d, *strides, 0, None, own, own_parts
        launch(f"move_centers<{TYPES[job.dtype]}>", -(-k // 8), (32, 8), *job_of_one)
        counts = n_changed[i : i + 1].copy(), np.zeros(1, dtype=np.uint64)
        ends = spreads[i], k, np.float64(1e-9 * spreads[i] / d), np.float64(0), np.float64(1)
        launch("sum_up", 1, 32, own_parts, both, strides[0], *counts, *ends, None, own_numbers)
        np.testing.assert_array_equal(centers[i], own)
        np.testing.assert_array_equal(numbers[i], own_numbers)
    assert running.tolist() == [0, 2, 0, 0, 5], "of an empty cluster, and of labels that stay"


def test_the_tolerance_is_that_of_the_variance_of_a_column(launch):
    """Centers that moved by 6 together, squared."""
    for spread, goes_on in ((11.0, True), (13.0, False)):
        running, parts, totals = np.ones(1, dtype=np.uint64), np.full((1, 3, 2), 2.0), np.ones((1, 3, 3))
        given = (
            np.array([7], dtype=np.uint64),
            np.array([spread]),
            3,
            2,
            np.float64(1),
            running,
            np.zeros(1, dtype=np.uint64),
            np.full((1, 1, 5), np.nan),
        )
        launch("sum_up_problems", 1, 32, parts, totals, *given)
        assert running[0] == goes_on


def test_inertia(launch, rng, job):
    labels, inertia = job.labels(rng), np.full(job.n_problems, np.nan)
    given = job.origins, job.centers, labels, job.d, job.k, inertia
    launch(f"inertia_of_problems<{TYPES[job.dtype]}>", job.n_problems, 256, *job.rows, *given)
    expected = np.zeros(job.n_problems)
    for i, rows in job.parts:
        differences = job.X[rows] - job.origins[i] - job.centers[i][labels[rows]]
        expected[i] = job.weights[rows] @ (differences**2).sum(axis=1)
    np.testing.assert_allclose(inertia, expected, rtol=1e-12)
