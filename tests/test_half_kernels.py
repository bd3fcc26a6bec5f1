"""The kernels that compare rows by products of float16, on the CPU: what they call certain (docs/certificates.md) is.

Their tensor cores are those of the stand-in, which add up as exactly as float32 does, or cut sums off as no GPU should.
"""

import functools

import numpy as np
import pytest
import test_kernels
from conftest import brute_force
from test_kernels import TYPES, narrowed

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

    names = {name for dtype in TYPES for name in _cuda.instances(dtype, "float16").values()}
    names = sorted(name for name in names if name.startswith(("relabel_half", "relabel_wide", "tile_halves")))
    options = () if cut is None else (f"-DCUT_BITS={cut[0]}", f"-DCUT_PRODUCTS={cut[1]}")
    code = _cuda.source(HALF, test_kernels.FOLDER)
    return Module(code=code, name_expressions=names, options=options, seed=seed)


def launching(kernels):
    """As `cuda.launch`."""

    def launch(name, grid, block, *arguments, shared_mem=0):
        arguments = tuple(np.int32(x) if isinstance(x, int) else x for x in arguments)
        kernel = kernels.get_function(name)
        kernel.max_dynamic_shared_size_bytes = max(shared_mem, 48 * 1024)
        kernel(grid, block, arguments, shared_mem=shared_mem)

    return launch


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


def relabel_half(launch, dtype, X, origin, centers, path, labels, slack=None, rows=None, device=LARGE, spread=None):
    """Run the kernel: rows changed, and the list of those that are uncertain."""
    n, d = X.shape
    plan = _cuda.plan_half(device, d, len(centers))
    if spread is None:
        spread = float(np.mean(np.sum((numbers_of(X, dtype) - origin) ** 2, axis=1)))
    scale, *bounds = _cuda.half_precision(spread, d)
    tiles, largest = tiled(launch, centers, plan, scale)
    listed = (None, None) if rows is None else (rows.astype(np.int32), np.array([len(rows)], dtype=np.uint64))
    n_changed, n_uncertain = np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    uncertain = np.full(n, -5, dtype=np.int32)
    coefficient = np.float32(20 * (d + 8) * np.finfo(np.float32).eps)
    given = X, origin.astype(float), tiles, path, *listed, n, d, len(centers), coefficient, scale, *bounds, largest
    job = *given, labels, slack, n_changed, plan.room, _cuda.KEYS, uncertain, n_uncertain
    kernel = _cuda.instances(dtype, "float16")[plan.kernel]
    launch(kernel, 2, plan.threads, *job, shared_mem=plan.shared)
    found = int(n_uncertain[0])
    assert (uncertain[found:] == -5).all()
    return int(n_changed[0]), uncertain[:found]


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
    assert (found <= gap * (1 + 1e-9) + 1e-12).all()
    return len(certain) / len(looked_at)


def plain_distances(X, centers):
    """`brute_force`, without all differences in memory."""
    return (X**2).sum(axis=1)[:, None] - 2 * X @ centers.T + (centers**2).sum(axis=1)


def blobs(rng, n, d, k, dtype):
    """Rows around centers that overlap a little, their origin, and the centers relative to that."""
    centers = rng.normal(size=(k, d)) * 3 / d**0.25
    X, _ = narrowed(centers[rng.integers(k, size=n)] + rng.normal(size=(n, d)) + 2.0, dtype)
    return X, np.full(d, 2.0), centers


SIZES = [(1, 2), (13, 33), (16, 2500), (17, 100), (33, 1), (64, 33), (128, 1025), (129, 33), (200, 300), (768, 33)]


@pytest.mark.parametrize(("d", "k"), [*SIZES, (800, 300)])
@pytest.mark.parametrize("device", [LARGE, SMALL], ids=["large", "small"])
def test_certain_labels_are_right(launch, rng, d, k, device):
    """All tiles at once or through a ring, all features of the rows at once or in turns; all rows, or a list."""
    X, origin, centers = blobs(rng, 200, d, k, "float32")
    assert check(launch, "float32", X, origin, centers, device=device) > 0.8
    check(launch, "float32", X, origin, centers, rng.permutation(200)[:45], device=device)
