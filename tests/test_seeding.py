"""Seeding: the law it follows, the same points on every library, and the quality of what it starts."""

import re
import tracemalloc

import numpy as np
import pytest
import sklearn
from conftest import blobs, brute_force, in_memory, inertia, load, moments, without
from scipy import sparse
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from kmeans_xp import KMeans, MiniBatchKMeans, kmeans_plusplus, passes, seeding
from kmeans_xp.arrays import to_numpy
from kmeans_xp.data.memory import InMemory
from kmeans_xp.estimators import runs
from kmeans_xp.seeding import chain, draws, greedy, hierarchical, plus_plus

METHODS = sorted(seeding.METHODS)


def seeds(method, X, k, seed, sample_weight=None, lib=None):
    """Numbers of the rows, the first of equal ones."""
    lib = lib or load("numpy")
    weights = lib.asarray(np.ones(len(X)) if sample_weight is None else sample_weight, dtype="float64")
    data = in_memory(lib.asarray(X), weights)
    frame = passes.moments(data, 2**16)
    centers = seeding.first_centers(method, data, k, frame, check_random_state(seed))
    return brute_force(to_numpy(frame.leave(centers)), X).argmin(axis=1)


def use_two_levels(monkeypatch):
    """Have k-means++ choose few centers as it chooses many."""
    for module in (plus_plus, runs):
        monkeypatch.setattr(module, "MANY", 2)


@pytest.fixture(params=["all rows", "sample", "two levels"])
def looks_at(request, monkeypatch):
    """k-means++ as it is with few rows, with many, and with many clusters."""
    if request.param == "sample":
        monkeypatch.setattr(greedy, "MIN_SAMPLE", 100)
        monkeypatch.setattr(greedy, "SAMPLE_PER_CLUSTER", 5)
    elif request.param == "two levels":
        use_two_levels(monkeypatch)


@pytest.fixture(params=["one level", "two levels"])
def levels(request, monkeypatch):
    """k-means++ of all rows, for few clusters and for many."""
    if request.param == "two levels":
        use_two_levels(monkeypatch)


def test_batches_of_candidates_follow_the_law_of_one_at_a_time(rng, monkeypatch):
    """Mean potential of what greedy k-means++ picks, with distances measured anew for each center and less often."""
    X, weights = blobs(rng, 600, 2, n_clusters=12, spread=6), np.ones(600)
    frame = moments(X, weights, 2**20)
    order = passes.canonical_order(X, frame)

    def potentials(staleness):
        monkeypatch.setattr(greedy, "STALENESS", staleness)
        rows = [greedy.greedy(X, weights, 12, frame, np.random.RandomState(seed), order) for seed in range(150)]
        return np.array([inertia(X, X[chosen]) for chosen in rows])

    fresh, batches = potentials(10**9), potentials(0.25)
    error = np.hypot(fresh.std(), batches.std()) / 150**0.5
    assert abs(fresh.mean() - batches.mean()) < 4 * error


def test_a_start_refined_on_a_sample_is_weighted_and_near_the_optimum(lib, rng, monkeypatch):
    monkeypatch.setattr(greedy, "MIN_SAMPLE", 200)
    X = blobs(rng, 4000, 3, n_clusters=5, spread=20)
    far = X[0] + 1000
    X = np.concat([X, np.tile(far, (50, 1))])
    weights = np.ones(len(X))
    weights[-50:] = 0
    model = KMeans(5, random_state=0).fit(lib.asarray(X), sample_weight=lib.asarray(weights, dtype="float64"))
    best = KMeans(5, random_state=0, n_init=5, init="random").fit(X, sample_weight=weights)
    assert model.inertia_ < best.inertia_ * 1.001
    assert model.n_iter_ <= best.n_iter_ + 3
    assert abs(to_numpy(model.cluster_centers_)).max() < 500


@pytest.mark.usefixtures("looks_at")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_seed_picks_the_same_rows_on_every_library(foreign, rng, method, dtype):
    X = blobs(rng, 2000, 5, dtype=dtype)
    X[1000:1200] = X[:200]
    weights = rng.uniform(size=2000)
    for seed in range(3):
        expected = seeds(method, X, 15, seed, weights)
        np.testing.assert_array_equal(seeds(method, X, 15, seed, weights, foreign), expected)


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("method", ["k-means++", "k-means||"])
def test_points_depend_neither_on_the_order_of_rows_nor_on_how_weight_is_written(rng, method):
    X = blobs(rng, 300, 4)
    weights = rng.integers(0, 4, size=300)
    order = rng.permutation(300)
    repeated = X.repeat(weights, axis=0)
    for seed in range(5):
        points = X[seeds(method, X, 12, seed, weights)]
        np.testing.assert_array_equal(X[order][seeds(method, X[order], 12, seed, weights[order])], points)
        np.testing.assert_array_equal(repeated[seeds(method, repeated, 12, seed)], points)


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_distinct_and_carry_weight(rng, method):
    X = blobs(rng, 200, 3)
    weights = rng.uniform(size=200) * (rng.uniform(size=200) < 0.3)
    for k in (1, 2, 20, np.count_nonzero(weights)):
        rows = seeds(method, X, k, 0, weights)
        assert rows.shape == (k,)
        assert len(set(rows.tolist())) == k
        assert (weights[rows] > 0).all()


@pytest.mark.usefixtures("looks_at")
@pytest.mark.parametrize("method", METHODS)
def test_fewer_points_than_clusters(method):
    X = np.array([[0.0], [1.0], [1.0], [2.0]])
    weights = np.array([1.0, 1, 1, 0])
    rows = seeds(method, X, 4, 0, weights)
    assert rows.shape == (4,)
    assert (weights[rows] > 0).all()
    if method != "random":
        assert set(X[rows, 0]) == {0.0, 1.0}


def test_the_first_draws_follow_their_law():
    """First row by weight; a second one, if not greedy, by weight times squared distance."""
    X = np.array([[0.0], [1.0], [3.0], [3.0]])
    weights = np.array([4.0, 2.0, 1.0, 0.0])
    frame = moments(X, weights, 2**16)
    order = passes.canonical_order(X, frame)
    uniforms = np.random.default_rng(0).uniform(size=200_000)

    first = np.bincount(draws.places_by(weights, order, uniforms), minlength=4) / 200_000
    np.testing.assert_allclose(first, weights / 7, atol=0.005)
    closest = draws.nearer(X, X[:1], np.full(4, np.inf), frame)
    np.testing.assert_allclose(closest, [0, 1, 9, 9], atol=1e-12)
    second = np.bincount(draws.places_by(weights * closest, order, uniforms), minlength=4) / 200_000
    np.testing.assert_allclose(second, [0, 2 / 11, 9 / 11, 0], atol=0.005)


def test_the_coreset_estimates_any_inertia(rng):
    X, weights = blobs(rng, 5000, 3), rng.uniform(size=5000)
    data = in_memory(X, weights)
    frame = passes.moments(data, 2**16)
    _, sample_weights, rows = greedy.coreset(data, 500, frame, rng)
    np.testing.assert_allclose(sample_weights.sum(), weights.sum(), rtol=0.05)
    for centers in (X[:1] + 5, X[:10], rng.normal(scale=10, size=(4, 3))):
        np.testing.assert_allclose(inertia(X[rows], centers, sample_weights), inertia(X, centers, weights), rtol=0.15)
    np.testing.assert_array_equal(rows, np.sort(rows), "in the order of the rows")


HARD = [
    "ten far rows of a million",
    "tiny far clusters",
    "many true clusters",
    "1,000 true clusters",
    "uneven weights",
    "heavy tail",
    "duplicates",
]


@pytest.mark.quality
@pytest.mark.parametrize("shape", HARD)
def test_a_sample_is_enough_for_hard_data(shape):
    """Final inertia of some seeds against scikit-learn's k-means++ on all rows, at the real sample size."""
    rng = np.random.default_rng(3)
    n, k, n_seeds = 60_000, 20, 5
    if shape == "ten far rows of a million":
        n, n_seeds = 1_000_000, 6
    elif shape == "1,000 true clusters":
        k, n_seeds = 1000, 2
    X, weights = blobs(rng, n, 3, n_clusters=15, spread=5), np.ones(n)
    if shape == "ten far rows of a million":
        X[:10] += [1000, 0, 0]
    elif shape == "tiny far clusters":
        X[:10] += [100, 0, 0]
        X[10:20] -= [0, 300, 0]
    elif shape == "many true clusters":
        X, k = blobs(rng, n, 6, n_clusters=150, spread=8), 150
    elif shape == "1,000 true clusters":
        X = blobs(rng, n, 6, n_clusters=k, spread=8)
    elif shape == "uneven weights":
        weights = np.exp(rng.normal(scale=3, size=n))
    elif shape == "heavy tail":
        X = rng.standard_t(2.5, size=(n, 3))
    else:
        X = np.round(X / 2)
    ours, theirs = [], []
    for seed in range(n_seeds):
        model = KMeans(k, random_state=seed).fit(X, sample_weight=weights)
        ours.append(model.inertia_)
        theirs.append(cluster.KMeans(k, random_state=seed).fit(X, sample_weight=weights).inertia_)
    assert np.mean(ours) < np.mean(theirs) * 1.05
    if shape == "ten far rows of a million":
        assert (np.bincount(model.labels_, minlength=k) == 10).any(), "they are a cluster"


def test_random_follows_the_weights():
    X, weights = np.arange(3.0)[:, None], np.array([6.0, 3.0, 1.0])
    first = [seeds("random", X, 2, seed, weights)[0] for seed in range(3000)]
    np.testing.assert_allclose(np.bincount(first) / 3000, weights / 10, atol=0.03)


@pytest.mark.usefixtures("levels")
@pytest.mark.quality
@pytest.mark.parametrize("method", ["k-means++", "k-means||"])
@pytest.mark.parametrize("shape", ["blobs", "heavy tail", "tiny far clusters", "uneven weights"])
def test_final_inertia_is_as_good_as_scikit_learns(method, shape):
    """Mean over seeds; the margin is what the mean of 12 runs scatters."""
    rng = np.random.default_rng(8)
    X, weights, k = blobs(rng, 2000, 4, n_clusters=20, spread=4), np.ones(2000), 20
    if shape == "heavy tail":
        X = rng.standard_t(2, size=(2000, 3))
    elif shape == "tiny far clusters":
        X[:8] += rng.normal(scale=1e3, size=(4, 4)).repeat(2, axis=0)
    elif shape == "uneven weights":
        weights = np.exp(rng.normal(scale=3, size=2000))
    params = {"n_clusters": k, "tol": 0}
    ours, theirs = [], []
    for seed in range(12):
        model = KMeans(init=method, random_state=seed, **params).fit(X, sample_weight=weights)
        ours.append(inertia(X, model.cluster_centers_, weights))
        model = cluster.KMeans(random_state=seed, **params).fit(X, sample_weight=weights)
        theirs.append(inertia(X, model.cluster_centers_, weights))
    assert np.mean(ours) < np.mean(theirs) * 1.06


def test_kmeans_plusplus(lib, rng):
    host = blobs(rng, 100, 3, dtype="float32")
    centers, indices = kmeans_plusplus(lib.asarray(host), 7, random_state=2)
    lib.assert_owns(centers, "float32")
    lib.assert_owns(indices, "int64")
    np.testing.assert_array_equal(to_numpy(centers), host[to_numpy(indices)])
    weighted, _ = kmeans_plusplus(host, 1, sample_weight=np.arange(100) == 42, random_state=0)
    np.testing.assert_array_equal(weighted, host[42:43])
    with pytest.raises(ValueError, match="n_samples=100 should be >= n_clusters=101"):
        kmeans_plusplus(host, 101)
    with pytest.raises(ValueError, match="The 'n_clusters' parameter"):
        kmeans_plusplus(host, 0)


def test_kmeans_plusplus_goes_on_from_centers_that_there_are(lib, rng):
    host = blobs(rng, 400, 3, n_clusters=9, spread=20, dtype="float32")
    X, old = lib.asarray(host), lib.asarray(host[:2] + 0.25)
    centers, indices = kmeans_plusplus(X, 8, centers=old, random_state=0)
    lib.assert_owns(centers, "float32")
    lib.assert_owns(indices, "int64")
    rows = to_numpy(indices)
    assert rows[:2].tolist() == [-1, -1]
    np.testing.assert_array_equal(to_numpy(centers), np.concat([to_numpy(old), host[rows[2:]]]))
    alone, _ = kmeans_plusplus(host, 6, random_state=0)
    assert inertia(host, to_numpy(centers)) < inertia(host, alone)  # not where those are that there were
    same, none = kmeans_plusplus(X, 2, centers=old)
    np.testing.assert_array_equal(to_numpy(same), to_numpy(old))
    assert none.shape == (2,)


@pytest.mark.parametrize("kind", ["sparse", "slices", "more than a sample", "integers"])
def test_centers_that_there_are_beside_other_rows(rng, kind):
    host = np.rint(blobs(rng, 30_000 if kind == "more than a sample" else 300, 4, n_clusters=6, spread=20))
    X = {"sparse": sparse.csr_matrix, "slices": as_source, "integers": lambda X: X.astype("int16")}
    centers, indices = kmeans_plusplus(X.get(kind, np.asarray)(host), 6, centers=host[:3], random_state=0)
    np.testing.assert_array_equal(centers, np.concat([host[:3], host[indices[3:]]]))
    assert len(np.unique(centers, axis=0)) == 6


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (np.zeros((4, 2)), "centers has 4 rows: there shall be no more than n_clusters=3"),
        (np.zeros((2, 3)), r"centers \(2, 3\) does not match the number of features of the data 2"),
        (np.full((1, 2), np.nan), "Input centers contains NaN"),
        (np.zeros(2), "Expected 2D array"),
    ],
)
def test_bad_centers_that_there_are(centers, message):
    with pytest.raises(ValueError, match=message):
        kmeans_plusplus(np.zeros((9, 2)), 3, centers=centers)


@pytest.mark.parametrize("shape", ["one-hot", "grid", "circle", "duplicates"])
@pytest.mark.parametrize("method", ["k-means++", "k-means||"])
def test_ties_between_candidates_do_not_depend_on_the_order_of_rows(method, shape, rng):
    """Potentials that are equal but for the rounding of their sums."""
    circle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    X = {
        "one-hot": np.eye(20),
        "grid": np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2),
        "circle": np.stack([np.cos(circle), np.sin(circle)], axis=1),
        "duplicates": np.repeat(rng.normal(size=(12, 3)), 5, axis=0),
    }[shape]
    weights = np.full(len(X), 2)
    for seed in range(25):
        order = rng.permutation(len(X))
        points = X[seeds(method, X, 9, seed)]
        np.testing.assert_array_equal(X[order][seeds(method, X[order], 9, seed)], points)
        np.testing.assert_array_equal(X[seeds(method, X, 9, seed, weights)], points)
        twice = X.repeat(2, axis=0)
        np.testing.assert_array_equal(twice[seeds(method, twice, 9, seed)], points)


@pytest.mark.usefixtures("levels")
def test_every_distinct_row_is_chosen_before_one_is_chosen_again(lib, rng):
    X = np.repeat(rng.normal(size=(12, 3)), 5, axis=0)
    for seed in range(20):
        rows = seeds("k-means++", X, 12, seed, lib=lib)
        assert len(np.unique(X[rows], axis=0)) == 12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_samples", [3000, 30_000], ids=["few rows", "more than a sample"])
def test_every_method_works_wherever_rows_lie(rng, method, n_samples):
    """Its law is the same; of few rows it chooses the same ones."""
    X, weights = blobs(rng, n_samples, 8, n_clusters=6, spread=20), rng.integers(0, 3, size=n_samples).astype(float)
    X[weights == 0] += 1e3

    class Slices:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            return X[rows]

    for seed in range(3):
        job = {"init": method, "n_init": 1 + 4 * (method == "random"), "random_state": seed}
        memory, blocks = (KMeans(6, **job).fit(given, sample_weight=weights) for given in (X, Slices()))
        assert abs(blocks.cluster_centers_).max() < 500
        if n_samples == 3000:
            np.testing.assert_array_equal(memory.labels_, blocks.labels_)
        else:
            assert blocks.inertia_ < 3 * memory.inertia_


@pytest.mark.parametrize("shape", ["uneven", "heavy tail", "few different", "as many as rows"])
def test_many_clusters_come_from_coarse_ones(rng, shape):
    """As many centers as there shall be, all of them different rows, and nearly as good as those of one level."""
    X, k = np.concat([blobs(rng, 2900, 3, n_clusters=300, spread=9), rng.normal(scale=40, size=(100, 3))]), 400
    if shape == "heavy tail":
        X = rng.standard_t(1, size=(3000, 3))
    elif shape == "few different":
        X, k = X[:450].repeat(4, axis=0), 440
    elif shape == "as many as rows":
        X, k = X[::3], 999
    frame = moments(X, np.ones(len(X)), 2**20)
    centers = frame.leave(hierarchical.hierarchical(X, np.ones(len(X)), k, frame, np.random.RandomState(0)))
    assert centers.shape == (k, 3)
    assert len(np.unique(centers, axis=0)) == k
    one_level = X[seeds("k-means++", X, k, 0)]
    assert inertia(X, centers) <= 1.3 * inertia(X, one_level) + 1e-9


def test_the_largest_gains_are_allotted():
    gains = [np.array([np.inf, 5.0, 1.0, 4.0]), np.array([np.inf]), np.array([np.inf, 3.0, 2.0])]
    np.testing.assert_array_equal(hierarchical.allotted(gains, 3), [1, 1, 1])
    np.testing.assert_array_equal(hierarchical.allotted(gains, 6), [3, 1, 2])


def test_a_chain_ends_by_the_law_of_k_means_plus_plus():
    """In the limit of a long chain: the second center by squared distance from the first, whatever is proposed."""
    rng = np.random.default_rng(0)
    squares, proposal = np.array([1.0, 4.0, 0.0, 3.0]), np.array([0.4, 0.1, 0.3, 0.2])
    ends = []
    for _ in range(20_000):
        rows = rng.choice(4, size=60, p=proposal)
        ends.append(rows[chain.last_of_chain(squares[rows] / proposal[rows], rng.uniform(size=60))])
    np.testing.assert_allclose(np.bincount(ends, minlength=4) / 20_000, squares / 8, atol=0.015)


def test_the_docstrings_list_the_methods():
    for estimator, n_runs in ((KMeans, 10), (MiniBatchKMeans, 3)):
        assert f"init : {{{', '.join(map(repr, seeding.METHODS))}}}, array-like" in estimator.__doc__
        assert f"'auto' is\n        {n_runs} for 'random', {n_runs} for callables, otherwise 1." in estimator.__doc__
        assert "{" not in estimator.__doc__.replace("{'", "")
        assert max(map(len, estimator.__doc__.splitlines())) <= 120
    for name, method in seeding.METHODS.items():
        assert f"        '{name}' : " in KMeans.__doc__
        for reference in re.findall(r"\[\d+\]_", method.description):
            assert f".. {reference[:-1]} " in KMeans.__doc__


def as_source(X):
    class Slices:
        shape, dtype, n_reads = X.shape, X.dtype, 0

        def __getitem__(self, rows):
            self.n_reads += 1
            return X[rows]

    return Slices()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-160, 1e140])
def test_every_method_takes_numbers_of_any_size(rng, method, scale):
    X = blobs(rng, 21_000, 3, n_clusters=4, spread=20) * scale
    for rows in (X, X[:300], as_source(X)):
        model = KMeans(4, init=method, random_state=0, n_init=1, max_iter=2).set_params(tol=1e9).fit(rows)
        assert len(np.unique(model.cluster_centers_, axis=0)) == 4


def test_chains_among_few_different_rows_take_few_passes(rng):
    X = (np.arange(25_000) % 5)[:, None] * np.ones((1, 4))
    rows = as_source(X)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(5\)"):
        KMeans(50, init="afk-mc2", random_state=0, max_iter=1).fit(rows)
    assert rows.n_reads < 25


def test_chains_on_sparse_rows_keep_them_sparse():
    X = sparse.random(3000, 20_000, density=5e-4, format="csr", random_state=0)
    with sklearn.config_context(working_memory=8):
        tracemalloc.start()
        KMeans(3, init="afk-mc2", random_state=0, max_iter=1, tol=1e9).fit(X)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("method", METHODS)
def test_what_a_seeding_remembers_is_gone_in_the_iterations(rng, monkeypatch, method):
    without(monkeypatch, "fits_at_once")
    remembered, X = [], blobs(rng, 25_000, 3)

    def remembering(run):
        return lambda data, *args: (run(data, *args), remembered.append(data.block.drawing))[0]

    for name in "run_at_once", "iterate":
        monkeypatch.setattr(InMemory, name, remembering(getattr(InMemory, name)))
        n_before = len(remembered)
        KMeans(6, init=method, n_init=1, random_state=0).fit(X)
        assert len(remembered) > n_before
        without(monkeypatch, "run_at_once")
    assert remembered.count(None) == len(remembered)
