"""kmeans_batch: each problem as if it were fitted alone."""

import itertools
import signal
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import load, without
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import kmeans_xp.estimators.problems as module
from kmeans_xp import KMeans, kmeans_batch
from kmeans_xp.arrays import to_numpy


def alone(X, n_clusters, seed, sample_weight=None, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n_clusters, random_state=seed, **parameters).fit(X, sample_weight=sample_weight)


def assert_same(batch, fitted):
    for problem, model in enumerate(fitted):
        centers, inertia, n_iter = (to_numpy(values[problem, ...]) for values in (batch[0], batch[2], batch[3]))
        assert_array_equal(centers, to_numpy(model.cluster_centers_))
        assert (inertia, n_iter) == (model.inertia_, model.n_iter_)
    labels = np.concatenate([to_numpy(model.labels_) for model in fitted])
    assert_array_equal(to_numpy(batch.labels).ravel(), labels)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
def test_problems_are_fitted_as_if_alone(rng, lib, dtype, weighted):
    X = rng.normal(size=(5, 60, 3)).astype(dtype)
    X[3] *= 1e3
    weights = rng.uniform(size=(5, 60)) * 10.0 ** np.arange(-3, 2)[:, None] if weighted else None
    given = None if weights is None else lib.asarray(weights, "float64")
    batch = kmeans_batch(lib.asarray(X, dtype), 4, sample_weight=given, random_state=0)
    for values, kind in zip(batch, (dtype, "int32", "float64", "int64"), strict=True):
        lib.assert_owns(values, kind)
    assert (batch.centers.shape, batch.labels.shape) == ((5, 4, 3), (5, 60))
    of_each = [None] * 5 if weights is None else [lib.asarray(w, "float64") for w in weights]
    assert_same(batch, [alone(lib.asarray(x, dtype), 4, 0, w) for x, w in zip(X, of_each, strict=True)])


@pytest.mark.parametrize("parameters", [{}, {"n_init": 3, "tol": 0}, {"algorithm": "lloyd", "max_iter": 2}])
@pytest.mark.parametrize("together", [3, 1024])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.filterwarnings("ignore:Problem")
def test_ragged_problems_with_seeds_of_their_own(rng, monkeypatch, parameters, together, at_once):
    monkeypatch.setattr(module, "TOGETHER", together)
    if not at_once:
        without(monkeypatch, "fits_at_once")
    offsets = np.concatenate(([0], np.cumsum(rng.integers(7, 90, size=20))))
    X, seeds = rng.normal(size=(offsets[-1], 5)), rng.integers(2**32, size=20)
    X[offsets[4] : offsets[5]] = np.repeat(rng.normal(size=(3, 5)), 30, axis=0)[: offsets[5] - offsets[4]]  # 3 rows
    weights = rng.uniform(size=len(X))
    given = {"offsets": offsets, "random_state": seeds, "sample_weight": weights}
    batch = kmeans_batch(X, 7, **given, **parameters)
    parts = [slice(*offsets[i : i + 2]) for i in range(20)]
    fitted = [alone(X[own], 7, int(seed), weights[own], **parameters) for own, seed in zip(parts, seeds, strict=True)]
    assert batch.labels.shape == (len(X),)
    assert_same(batch, fitted)


OTHERS = {
    "random": {"init": "random", "n_init": 2},
    "given centers": {"init": np.eye(4, 3)},
    "cosine": {"metric": "cosine"},
    "refined": {"refine": True},
    "bounded sizes": {"size_min": 10},
    "watched": {"on_iteration": lambda _: None},
}


@pytest.mark.parametrize("others", OTHERS)
def test_parameters_that_need_the_interpreter(rng, others):
    X = rng.normal(size=(3, 50, 3))
    batch = kmeans_batch(X, 4, random_state=1, **OTHERS[others])
    assert_same(batch, [alone(x, 4, 1, **OTHERS[others]) for x in X])


KINDS = {
    "a list": lambda X: X.tolist(),
    "Fortran order": np.asfortranarray,
    "every other problem": lambda X: np.repeat(X, 2, axis=0)[::2],
    "uint8": lambda X: (np.abs(X) * 50).astype("uint8"),
    "int": lambda X: (X * 50).astype(int),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_rows(rng, kind):
    X = KINDS[kind](rng.normal(size=(4, 30, 2)))
    assert_same(kmeans_batch(X, 3, random_state=0), [alone(x, 3, 0) for x in X])


def test_sparse_rows_and_data_frames(rng):
    X = rng.normal(size=(90, 4)) * rng.integers(2, size=(90, 4))
    offsets = [0, 40, 90]
    for rows in sparse.csr_array(X), sparse.csr_matrix(X):
        batch = kmeans_batch(rows, 3, offsets=offsets, random_state=0)
        assert_same(batch, [alone(rows[:40], 3, 0), alone(rows[40:], 3, 0)])
    weights = pd.Series(rng.uniform(size=90))
    for rows in pd.DataFrame(X), sparse.coo_matrix(X), sparse.bsr_array(X), sparse.dia_array(X):
        batch = kmeans_batch(rows, 3, offsets=offsets, random_state=0, sample_weight=weights)
        rows = X if isinstance(rows, pd.DataFrame) else rows.tocsr()
        assert_same(batch, [alone(rows[own], 3, 0, weights[own]) for own in (slice(0, 40), slice(40, 90))])


def test_rows_of_dask_are_refused():
    dask = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="compute"):
        kmeans_batch(dask.ones((3, 5, 2)), 2)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_an_interruption_does_not_wait_for_a_helper(rng, monkeypatch):
    """The caller is done with a small problem, and a thread has a large one, which takes much longer than a second."""
    X = rng.normal(size=(22_000, 32))
    interrupt = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        began = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            kmeans_batch(X, 400, offsets=[0, 500, 22_000], random_state=0, tol=0, n_init=100)
        assert time.perf_counter() - began < 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, interrupt)


@pytest.mark.parametrize("state", [lambda: np.random.RandomState(8), lambda: None])
def test_an_instance_gives_a_seed_to_each_problem(rng, state):
    X = rng.normal(size=(6, 40, 2))
    np.random.seed(8)
    seeds = np.random.RandomState(8).randint(2**31 - 1, size=6)
    assert_same(kmeans_batch(X, 3, random_state=state()), [alone(x, 3, s) for x, s in zip(X, seeds, strict=True)])


def test_many_draws(rng):
    """More than are drawn at first."""
    X = rng.normal(size=(3, 300, 2))
    batch = kmeans_batch(X, 20, random_state=[1, 1, 2], n_init=30)
    assert_same(batch, [alone(x, 20, seed, n_init=30) for x, seed in zip(X, (1, 1, 2), strict=True)])


def wrong():
    X, flat = np.random.default_rng(0).normal(size=(3, 9, 2)), np.ones((9, 2))
    bad = X.copy()
    bad[1, 2, 0] = np.nan
    weights = np.ones((3, 9))
    weights[2] = 0
    huge = X.copy()
    huge[1, 0] = 1e300
    yield "2-D", {"X": flat}, r"n_problems, n_samples, n_features\) is expected, or offsets"
    yield "no rows", {"X": X[:, :0]}, "has no numbers"
    yield "3-D with offsets", {"X": X, "offsets": [0, 3]}, r"With offsets, X of shape \(n_samples, n_features\)"
    yield "offsets of words", {"X": flat, "offsets": ["a", "b"]}, "offsets must be integers"
    yield "an empty problem", {"X": flat, "offsets": [0, 5, 5, 9]}, "no problem be empty"
    yield "offsets that end early", {"X": flat, "offsets": [0, 5]}, "from 0 to the number of rows, 9"
    yield "few rows", {"X": flat, "offsets": [0, 8, 9]}, "Problem 1: n_samples=1 should be >= n_clusters=2"
    yield "NaN", {"X": bad}, "Problem 1: Input X contains NaN"
    yield "too large", {"X": huge}, "Problem 1: "
    yield "weights of another shape", {"X": X, "sample_weight": np.ones(9)}, "expected .3, 9."
    yield "no weight", {"X": X, "sample_weight": weights}, "Problem 2: Sample weights must contain"
    yield "negative weights", {"X": X, "sample_weight": weights - 0.5}, "Problem 2: Negative"
    yield "seeds of other problems", {"X": X, "random_state": [1, 2]}, "one for each of the 3 problems"
    yield "a negative seed", {"X": X, "random_state": -1}, "an int from 0 to"
    yield "two of three axes are missing", {"X": None}, r"got \(\)"
    yield "no cluster", {"X": X, "n_clusters": 0}, "n_clusters"


@pytest.mark.parametrize(
    ("kind", "given", "message"), list(wrong()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_makes_no_sense_is_said(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kmeans_batch(**{"n_clusters": 2} | given)


def test_troubles_are_said_once(rng):
    X = rng.normal(size=(4, 200, 2))
    with pytest.warns(ConvergenceWarning, match="Problem 0, one of 4, did not converge in max_iter=1") as caught:
        kmeans_batch(X, 5, max_iter=1, random_state=0)
    assert (len(caught), caught[0].filename) == (1, __file__)
    X[2] = 7.0
    with pytest.warns(ConvergenceWarning, match=r"Problem 2, one of 1: Number of distinct clusters \(1\)") as caught:
        kmeans_batch(X, 5, random_state=0)
    assert len(caught) == 1


def offsets_of(rng, n_problems, n_clusters, most):
    return np.concatenate(([0], np.cumsum(rng.integers(n_clusters, most, size=n_problems))))


def equal_rows(rng, n_rows, n_features):
    return np.repeat(rng.normal(size=(3, n_features)), n_rows, axis=0)[:n_rows]


ON_CUDA = {
    "normal": lambda rng, n, d: rng.normal(size=(n, d)),
    "clear clusters": lambda rng, n, d: rng.normal(size=(n, d)) + 50 * rng.integers(3, size=(n, 1)),
    "a grid, with ties": lambda rng, n, d: rng.integers(3, size=(n, d)).astype(float),
    "equal rows": equal_rows,
    "one place": lambda _, n, d: np.full((n, d), 3.25),
    "far from zero": lambda rng, n, d: rng.normal(size=(n, d)) + 1e7,
    "tiny": lambda rng, n, d: rng.normal(size=(n, d)) * 1e-12,
    "beyond float32": lambda rng, n, d: rng.normal(size=(n, d)) * 1e12,
    "outliers": lambda rng, n, d: np.concatenate((rng.normal(size=(n - 1, d)), np.full((1, d), 1e7))),
}


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@pytest.mark.filterwarnings("ignore:Problem")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("d", "k", "weighted", "parameters"),
    [(1, 4, False, {}), (5, 7, True, {"n_init": 3, "tol": 0}), (40, 40, False, {"max_iter": 3}), (3, 1, True, {})],
    ids=str,
)
def test_on_cuda_problems_are_fitted_as_if_alone(cupy, rng, dtype, d, k, weighted, parameters):
    """Whichever are side by side, and however long each takes."""
    offsets, seeds = offsets_of(rng, 2 * len(ON_CUDA), k, 300), rng.integers(2**32, size=2 * len(ON_CUDA))
    parts = [slice(*offsets[i : i + 2]) for i in range(len(seeds))]
    kinds = list(ON_CUDA.values()) * 2
    rows = [kind(rng, own.stop - own.start, d) for kind, own in zip(kinds, parts, strict=True)]
    X = cupy.asarray(np.concatenate(rows).astype(dtype))
    weights = rng.uniform(size=len(X)) * (rng.integers(4, size=len(X)) > 0) + 1e-9 if weighted else None
    batch = kmeans_batch(X, k, offsets=offsets, random_state=seeds, sample_weight=weights, **parameters)
    of_each = [None if weights is None else weights[own] for own in parts]
    fitted = [alone(X[own], k, int(s), w, **parameters) for own, s, w in zip(parts, seeds, of_each, strict=True)]
    assert_same(batch, fitted)
    assert [isinstance(values, cupy.ndarray) for values in batch] == [True] * 4
    assert batch.centers.dtype == dtype
    assert len({model.n_iter_ for model in fitted}) > 2 or parameters or k == 1


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ON_CUDA)
@pytest.mark.parametrize("n_init", [1, 4])
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_on_cuda_fits_at_once_are_those_of_their_parts(cupy, backend, rng, monkeypatch, kind, n_init):
    """But for the last bits: sums are added in another order."""
    X = cupy.asarray(ON_CUDA[kind](rng, 400, 4))
    model = KMeans(3, random_state=0, n_init=n_init, tol=0)
    ours = model.fit(X)
    labels, centers, inertia = ours.labels_.get(), ours.cluster_centers_.get(), ours.inertia_
    n_iter, sizes, predicted = ours.n_iter_, ours.cluster_sizes_.get(), ours.predict(X).get()
    monkeypatch.delattr(backend, "fits_at_once")
    theirs = model.fit(X)
    assert_array_equal(labels, theirs.labels_.get())
    assert_array_equal(labels, predicted)
    scale = np.abs(centers).max()
    np.testing.assert_allclose(centers, theirs.cluster_centers_.get(), rtol=0, atol=1e-14 * scale)
    np.testing.assert_allclose(inertia, theirs.inertia_, rtol=1e-10, atol=1e-25 * scale**2)
    assert n_iter == theirs.n_iter_
    np.testing.assert_allclose(sizes, theirs.cluster_sizes_.get())


@pytest.mark.gpu
@pytest.mark.parametrize("room", ["for all", "for three"])
def test_on_cuda_neither_launches_nor_waits_grow_with_problems(cupy, backend, rng, monkeypatch, room):
    gpusim = pytest.importorskip("gpusim")
    if room == "for three":  # which come after the others
        monkeypatch.setattr(backend._cupy_problems, "SCRATCH", 30_000)
    X = rng.normal(size=(40, 80, 3))

    def asked(X, **parameters):
        X = cupy.asarray(X)
        with gpusim.sync_counts() as counts:
            kmeans_batch(X, 6, random_state=0, **parameters)
        return np.array([counts.to_host, counts.waits, counts.launches, counts.to_device])

    asked(X)  # compiles, and checks what was compiled
    equal = [asked(np.repeat(X[:1], n, axis=0)) for n in (2, 3, 40)]
    of_each = np.array([asked(x[None]) for x in X])
    if room == "for all":
        assert_array_equal(equal[1:], [equal[0]] * 2)
        with monkeypatch.context() as patch:
            patch.setattr(backend._cupy_problems, "WORTH_A_GRAPH", 99)
            of_each, one_by_one = np.array([asked(x[None]) for x in X]), asked(X)
        assert (one_by_one < 1.5 * of_each.max(axis=0)).all()
        assert (asked(X) <= one_by_one).all(), "by graphs they are no more"
    else:
        assert (equal[2] > 5 * equal[1]).all()
        assert (asked(X) < of_each.sum(axis=0) / 2).all()


@pytest.mark.gpu
@pytest.mark.parametrize("way", [*OTHERS, "many rows", "many numbers", "many differences", "float16", "int", "elkan"])
@pytest.mark.filterwarnings("ignore:Problem")
def test_on_cuda_the_rest_is_a_loop(cupy, backend, rng, monkeypatch, way):
    """Of other parameters and of rows that the kernels are not for; some problems may be the one, some the other."""
    monkeypatch.setattr(backend._cupy_problems, "MOST_ROWS", 45 if way == "many rows" else 2**13)
    monkeypatch.setattr(backend._cupy_problems, "MOST_NUMBERS", 45 * 3 if way == "many numbers" else 2**17)
    differences = 45 * 3 * 4 * 3 if way == "many differences" else 2**28
    monkeypatch.setattr(backend._cupy_problems, "MOST_DIFFERENCES", differences)
    X = cupy.asarray((rng.normal(size=(150, 3)) * 50).astype({"float16": "float16", "int": int}.get(way, float)))
    parameters = {"elkan": {"algorithm": "elkan"}, **OTHERS}.get(way, {})
    offsets = [0, 45, 105, 150]
    batch = kmeans_batch(X, 4, offsets=offsets, random_state=0, **parameters)
    assert_same(batch, [alone(X[a:b], 4, 0, **parameters) for a, b in itertools.pairwise(offsets)])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Problem")
def test_on_cuda_some_problems_are_made_by_their_parts(cupy, backend, rng, monkeypatch):
    """Those in which a cluster loses its rows; the others have drawn nothing for them."""
    X = rng.normal(size=(6, 50, 2))
    X[2] = 1.0
    X[4, 3:] = X[4, 2]
    found, fits = [], backend.fits_at_once

    def noting(*given):
        found.append(fits(*given))
        return found[-1]

    monkeypatch.setattr(backend, "fits_at_once", noting)
    batch = kmeans_batch(cupy.asarray(X), 5, random_state=0, n_init=2)
    assert [run is None for run in found[0][-1]] == [False, False, True, False, True, False]
    assert_same(batch, [alone(cupy.asarray(x), 5, 0, n_init=2) for x in X])


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("kind", "given", "message"), list(wrong())[6:12], ids=lambda value: value if isinstance(value, str) else ""
)
def test_on_cuda_errors_name_the_problem(cupy, kind, given, message):
    with pytest.raises(ValueError, match=message):
        kmeans_batch(**{"n_clusters": 2} | given | {"X": cupy.asarray(given["X"])})


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors_on_cuda_have_the_bits_of_cupy(cupy, rng, dtype):
    torch = load("torch-cuda").xp
    X = rng.normal(size=(5, 60, 3)).astype(dtype)
    X[1] = np.round(X[1])
    ours, theirs = (kmeans_batch(of, 4, random_state=0) for of in (torch.asarray(X, device="cuda"), cupy.asarray(X)))
    for one, other in zip(ours, theirs, strict=True):
        assert (type(one), one.device.type) == (torch.Tensor, "cuda")
        assert_array_equal(to_numpy(one), to_numpy(other))
