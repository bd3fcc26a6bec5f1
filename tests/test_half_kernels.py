"""The kernels that compare rows by products of float16, on the CPU: what they call certain (docs/certificates.md) is.

Their tensor cores are those of the stand-in, which add up as exactly as float32 does, or cut sums off as no GPU should.
"""

import dataclasses
import functools

import numpy as np
import pytest
import test_kernels
from conftest import brute_force
from test_kernels import TYPES, launching, narrowed

from kmeans_xp import cuda as _cuda

HALF = "relabel_half", "relabel_wide"
LARGE = _cuda.Device(multiprocessors=1, threads=2048, block_shared=232448, shared=233472, capability=90)
SMALL = _cuda.Device(multiprocessors=1, threads=1536, block_shared=101376, shared=102400, capability=120)
# Bits that tensor cores look at, of so many products at a time: those of Hopper, of Ampere, and two worse ones
CUTS = (25, 16), (24, 8), (23, 16), (23, 4)


@functools.cache
def module(seed, cut=None):
    test_kernels.simulator()
    from kernelsim import Module

    dtypes = ["float32"] if cut else list(TYPES)
    names = {name for dtype in dtypes for name in _cuda.instances(dtype, "float16").values()}
    names = sorted(name for name in names if name.startswith(("relabel_half", "relabel_wide", "tile_halves")))
    options = () if cut is None else (f"-DCUT_BITS={cut[0]}", f"-DCUT_PRODUCTS={cut[1]}")
    code = _cuda.source(HALF, test_kernels.FOLDER)
    return Module(code=code, name_expressions=names, options=options, seed=seed)


@pytest.fixture(params=[0, 1, 2], ids="order{}".format)
def launch(request):
    return launching(module(request.param))


def tiled(launch, centers, plan, scale):
    k, d = centers.shape
    n_tiles = -(-k // plan.width)
    tiles = np.full((n_tiles, plan.width * (16 * plan.n_groups + 2)), 0xFFFF, dtype=np.uint16)
    largest = np.zeros(3, dtype=np.float32)
    job = centers.astype(float), k, d, plan.n_groups, plan.width, scale, tiles, largest
    launch("tile_halves", n_tiles * plan.width // 8, (32, 8), *job)
    return tiles, largest


def relabel_half(launch, dtype, X, origin, centers, path, labels, slack, rows, spread=None, first=0, **planned):
    """Run the kernel: rows changed, and the list of those that are uncertain. `first` is that of test_kernels."""
    n, d = X.shape
    at = [np.uintp(x.ctypes.data - first * x.strides[0]) for x in (X, labels, slack)]
    plan = planned.get("plan") or _cuda.plan_half(planned.get("device", LARGE), d, len(centers))
    if spread is None:
        spread = float(np.mean(np.sum((numbers_of(X, dtype) - origin) ** 2, axis=1)))
    scale, *bounds = _cuda.half_precision(spread, d)
    tiles, largest = tiled(launch, centers, plan, scale)
    listed = (None, None) if rows is None else ((rows + first).astype(np.int32), np.array([len(rows)], dtype=np.uint64))
    n_changed, n_uncertain = np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    uncertain = np.full(n, -5, dtype=np.int32)
    coefficient = np.float32(20 * (d + 8) * np.finfo(np.float32).eps)
    given = at[0], origin.astype(float), tiles, path, *listed, n, d, len(centers), coefficient, scale, *bounds, largest
    job = *given, *at[1:], n_changed, plan.room, _cuda.KEYS, uncertain, n_uncertain
    kernel = _cuda.instances(dtype, "float16")[plan.kernel]
    launch(kernel, 2, plan.threads, *job, shared_mem=plan.shared)
    found = int(n_uncertain[0])
    assert (uncertain[found:] == -5).all()
    return int(n_changed[0]), uncertain[:found] - first


def numbers_of(X, dtype):
    return ((X.astype("uint32") << 16).view("float32") if dtype == "bfloat16" else X).astype(float)


def check(launch, dtype, X, origin, centers, rows=None, **how):
    """Labels that are certain are right, no slack is too large, other rows are listed: the share that is certain."""
    n, k = len(X), len(centers)
    looked_at = np.arange(n) if rows is None else rows
    path = np.linspace(0, 1, k)
    labels, slack = np.full(n, -1, dtype=np.int32), np.full(n, -7.0)
    n_changed, uncertain = relabel_half(launch, dtype, X, origin, centers, path, labels, slack, rows, **how)
    assert len(np.unique(uncertain)) == len(uncertain)
    assert set(uncertain) <= set(looked_at)
    certain = np.setdiff1d(looked_at, uncertain)
    others = np.setdiff1d(np.arange(n), certain)
    assert (labels[others] == -1).all()
    assert (slack[others] == -7).all()
    assert n_changed == len(certain)
    assert ((labels[certain] >= 0) & (labels[certain] < k)).all()
    if len(certain) == 0:
        return 0.0

    differences = numbers_of(X, dtype)[certain] - origin
    squares = brute_force(differences, centers) if k * X.size < 1e7 else plain_distances(differences, centers)
    ordered, own = np.sort(squares, axis=1), squares[np.arange(len(certain)), labels[certain]]
    for row in np.flatnonzero(own > ordered[:, 0]):  # which float64 may have got wrong
        exact = differences[row].astype(np.longdouble) - centers.astype(np.longdouble)
        exact = (exact**2).sum(axis=1)
        assert exact[labels[certain[row]]] == exact.min(), f"row {certain[row]}"
    gap = np.sqrt(ordered[:, 1]) - np.sqrt(ordered[:, 0]) if k > 1 else np.full(len(certain), np.inf)
    found = slack[certain] - path[labels[certain]]
    assert k > 1 or np.isinf(found).all()
    assert (found <= gap * (1 + 1e-9) + 1e-12 * np.sqrt(ordered[:, -1]) + 1e-15).all()
    return len(certain) / len(looked_at)


def plain_distances(X, centers):
    """`brute_force`, without all differences in memory."""
    return (X**2).sum(axis=1)[:, None] - 2 * X @ centers.T + (centers**2).sum(axis=1)


def blobs(rng, n, d, k, dtype="float32", scale=1.0):
    """Rows around centers that overlap a little, and some around the origin; that; the centers relative to it."""
    centers = rng.normal(size=(k, d)) * 3 / d**0.25
    X = centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    X[::10] *= 0.1 * (rng.uniform(size=(-(-n // 10), 1)) < 0.5)
    X, _ = narrowed((X + 2.0) * scale, dtype)
    return X, np.full(d, 2.0 * scale), centers * scale


def on_bisectors(rng, n, d, k):
    """Rows that are nearly as near to another center."""
    centers = rng.normal(size=(k, d))
    one, other = centers[rng.integers(k, size=(2, n))]
    return (one + other) / 2 + (one - other) * 2.0 ** -rng.uniform(4, 24, size=(n, 1)), centers


def rounded_alike(rng, n, d):
    """Two opposite centers; every number is rounded in favour of the wrong one, which the last feature decides about.

    Numbers above a power of two are rounded down, and those below up, by nearly as much as there can be.
    """
    half = d // 2
    down, up = 1 + 0.49 * 2**-10, 1 - 0.49 * 2**-11
    center = np.array([down] * half + [-up] * half + [-1.0])
    X = np.array([[down] * half + [up] * half + [0.0]] * n)
    lead = X[0] @ center
    X[:, -1] = np.linspace(0.4, 1.1, n) * lead
    flips = rng.choice([-1.0, 1.0], size=d)
    return X * flips, np.stack([center, -center]) * flips


def cut_off(n, d, bits):
    """Two centers, exact numbers: a large product, small ones that are cut off beside it, the large one again.

    The small ones favour the first center, and are lost; the last feature favours the other, by less.
    """
    small = 1.40625 * 2.0 ** ((1 - bits - 1) // 2)
    row = np.full(d, small * (1.0 if bits % 2 else 2.0**-0.5 // 2**-11 * 2**-11))
    center = np.full(d, small)
    row[0], row[-32], row[-31:] = 1.0, -1.0, 0.0
    center[0], center[-32], center[-31:] = 1.0, 1.0, 0.0
    centers = np.stack([center, center])
    centers[1, 1:-32] *= -1
    centers[:, -1] = -1.0, 1.0
    lead = row[1:-32] @ center[1:-32]
    X = np.repeat(row[None], n, axis=0)
    X[:, -1] = np.float16(np.linspace(0.05, 1.2, n) * lead * 16) / 16.0
    return X, centers


def norms_rounded_apart(rng, n):
    """Two centers, exact numbers: the norms of the centers, in float32, favour the one that is farther.

    They are far larger than the products. In units of 2^-20 the squares are 1 and 3 above a multiple of 4, their last
    place, and the products make up for 3.
    """
    one = rng.integers(1450, 1600, size=16)
    one[1] = one[0]
    while (one**2).sum() % 4 != 1:
        one[2] += 1
        one[3:] += rng.integers(2, size=13)
    other = one + np.array([1, -1] + [0] * 14)
    X = rng.integers(-8, 9, size=(n, 16))
    X[:, :2] = 2, -1
    return X / 2.0**11, np.stack([one, other]) / 2.0**10


# Rows, features, clusters: few rows, or more than two blocks have at a time
SIZES = [
    *((530, 1, 2), (530, 13, 33), (90, 16, 2500), (530, 17, 100), (40, 33, 1), (400, 64, 33), (40, 128, 1025)),
    *((300, 129, 33), (40, 200, 300), (40, 768, 33), (40, 290, 257), (40, 800, 33)),
]


@pytest.mark.parametrize(("n", "d", "k"), SIZES)
@pytest.mark.parametrize("device", [LARGE, SMALL], ids=["large", "small"])
def test_certain_labels_are_right(launch, rng, n, d, k, device):
    """All tiles at once or through a ring, all features of the rows at once or in turns; all rows, or a list."""
    X, origin, centers = blobs(rng, n, d, k)
    assert check(launch, "float32", X, origin, centers, device=device) > 0.8
    check(launch, "float32", X, origin, centers, rng.permutation(n)[: n // 3], device=device)


def test_many_clusters_of_many_features(launch, rng):
    """More than a key can tell apart."""
    X, origin, centers = blobs(rng, 40, 16, 4500)
    assert check(launch, "float32", X, origin, centers, plan=_cuda.plan_wide(LARGE, 1)) > 0.8


@pytest.mark.parametrize("kernel", ["relabel_half_1", "relabel_wide"])
def test_taking_turns(launch, rng, kernel):
    """As much as a device of next to no shared memory would have room for; small enough for ThreadSanitizer."""
    wide = kernel == "relabel_wide"
    X, origin, centers = blobs(rng, 70, 40 if wide else 13, 400)
    plan = _cuda.plan_wide(LARGE, 3) if wide else _cuda.plan_half(LARGE, 13, 400)
    plan = dataclasses.replace(plan, room=2 if wide else _cuda.RING)
    assert plan.kernel == kernel
    assert check(launch, "float32", X, origin, centers, plan=plan) > 0.7


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("d", [3, 60, 100, 130])
@pytest.mark.parametrize("first", [0, 2**30], ids=["near", "far"])
def test_rows_of_all_types(launch, rng, dtype, d, first):
    """Numbered far beyond 2^31 elements too, and of float64 some whose difference float32 would lose."""
    X, origin, centers = blobs(rng, 60, d, 9, dtype)
    if dtype == "float64":
        X, origin = X + 1e8, origin + 1e8
    rows = rng.permutation(60)[:50] if first else None
    assert check(launch, dtype, X, origin, centers, rows, first=first) > 0.8


@pytest.fixture(scope="module", params=[None, *CUTS], ids=str)
def cutting(request):
    """How many bits are left, or None, and `launch`."""
    return request.param, launching(module(0, request.param))


@pytest.mark.parametrize(("d", "k"), [(16, 40), (64, 30), (140, 9)])
def test_rows_between_two_centers(cutting, rng, d, k):
    X, centers = on_bisectors(rng, 200, d, k)
    assert 0.2 < check(cutting[1], "float32", X.astype("float32"), np.zeros(d), centers) < 0.9


@pytest.mark.parametrize("d", [16, 128, 384])
def test_numbers_that_are_rounded_alike(cutting, rng, d):
    """Here the bound is all but reached."""
    X, centers = rounded_alike(rng, 60, d + 1 if d == 384 else d - 1)
    check(cutting[1], "float32", X.astype("float32"), np.zeros(X.shape[1]), centers)


@pytest.mark.parametrize("d", [128, 400])
def test_products_that_are_cut_off(cutting, d):
    cut, launch = cutting
    X, centers = cut_off(60, d, cut[0] if cut else 23)
    check(launch, "float32", X.astype("float32"), np.zeros(d), centers)


def test_norms_that_are_rounded_apart(launch, rng):
    X, centers = norms_rounded_apart(rng, 500)
    assert (brute_force(X, centers).argmin(axis=1) == 1).all()
    for plan in (None, _cuda.plan_wide(LARGE, 1)):
        check(launch, "float32", X.astype("float32"), np.zeros(16), centers, plan=plan, spread=0.02)


@pytest.mark.parametrize("d", [16, 140])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30], ids="scale {:g}".format)
def test_numbers_of_any_size(launch, rng, d, dtype, scale):
    X, origin, centers = blobs(rng, 60, d, 9, dtype, scale)
    assert check(launch, dtype, X, origin, centers) > 0.8


@pytest.mark.parametrize("d", [16, 140])
@pytest.mark.parametrize("of", ["rows", "features", "numbers"])
def test_numbers_of_mixed_size(launch, rng, d, of):
    """Subnormal ones, as float16 and float32, and zeros."""
    shape = {"rows": (80, 1), "features": (1, d), "numbers": (80, d)}[of]
    X = (rng.normal(size=(80, d)) * 10.0 ** rng.uniform(-8, 3, size=shape)).astype("float32")
    X[::9, ::2] *= 1e-38
    X[::11] = 0.0
    check(launch, "float32", X, np.zeros(d), X[1::8].astype(float))
    check(launch, "float32", X * np.float32(1e-30), np.zeros(d), X[1::8].astype(float) * 1e-30)


@pytest.mark.parametrize("d", [16, 140])
@pytest.mark.parametrize("factor", [1e-12, 1e-4, 1e4, 1e20], ids="spread {:g}".format)
def test_rows_of_another_scale_than_their_frame(launch, rng, d, factor):
    """Beyond the range of float16, or so small in it that nothing is left of them, they are uncertain."""
    X, origin, centers = blobs(rng, 60, d, 9)
    share = check(launch, "float32", X, origin, centers, spread=50.0 * factor)
    assert share > 0.5 if 1e-6 < factor < 1e6 else share < 0.15  # rows of zeros are what they are


@pytest.mark.parametrize("d", [16, 140])
def test_numbers_that_are_none(launch, rng, d):
    X, origin, centers = blobs(rng, 60, d, 9)
    others = np.arange(60) % 5 > 2
    X[::5] = np.nan
    X[1::5, 3] = np.inf
    X[2::5, 4] = -3e38
    labels, slack = np.full(60, -1, dtype=np.int32), np.full(60, -7.0)
    how = {"rows": None, "spread": 50.0}
    _, uncertain = relabel_half(launch, "float32", X, origin, centers, np.zeros(9), labels, slack, **how)
    assert set(uncertain) >= set(np.flatnonzero(~others))
    assert (labels[others] >= 0).mean() > 0.8


@pytest.mark.parametrize("d", [2, 140])
def test_nothing_is_certain_about_ties(launch, rng, d):
    X = rng.integers(9, size=(40, d)).astype("float32")
    centers = np.repeat(X[::-4].astype(float), 3, axis=0)
    assert check(launch, "float32", X, np.zeros(d), centers) < 0.8
    assert check(launch, "float32", X, np.zeros(d), np.repeat(X[:1].astype(float), 30, axis=0)) == 0
    assert check(launch, "float32", X * 0, np.zeros(d), centers * 0) == 0


@pytest.mark.parametrize("d", [1, 8, 16, 17, 40, 64, 65, 128, 129, 768, 800, 5000])
@pytest.mark.parametrize("k", [1, 32, 33, 5000])
@pytest.mark.parametrize("device", [LARGE, SMALL], ids=["large", "small"])
def test_a_plan_fits_the_device(d, k, device):
    plan = _cuda.plan_half(device, d, k)
    if d < 8 and k > _cuda.FEW:
        assert plan is None
        return
    assert 16 * plan.n_groups >= d
    assert plan.room >= 1
    blocks_a_processor, found = (1, 7168) if plan.kernel == "relabel_wide" else (2, 0)
    assert plan.shared + found <= device.block_shared
    assert blocks_a_processor * (plan.shared + found + 1024) <= device.shared


def test_devices_without_the_instructions_have_no_plan():
    older = _cuda.Device(multiprocessors=40, threads=1024, block_shared=65536, shared=65536, capability=75)
    assert _cuda.plan_half(older, 16, 100) is None
