"""How the CUDA kernels beside this file are compiled and launched, for any library whose arrays they are to read.

Which instances there are, how many blocks and how much memory they take on a device. Of a library nothing is known
here: what is needed of it is given (a compiler with the interface of `cupy.RawModule`, its error for lack of memory).
"""

import dataclasses
import functools
import math
import re
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
CERTAIN = "relabel_certain", "relabel_half", "relabel_wide"
DENSE = "stale_rows", "relabel", *CERTAIN, "sort", "sums", "moved", "distances", "move", "seeding", "problems"
SORT = "count_labels", "scan_parts", "scan_labels", "place_rows"
SPARSE = "sparse_rows", "sparse_products", "sparse_sums"

BLOCK = 256  # threads
TYPES = {"float16": "Half", "bfloat16": "Bfloat16", "float32": "float", "float64": "double"}  # of rows, in numbers.cuh
INDICES = {"int32": "int", "int64": "long long"}  # of sparse rows
# Rows and centers that a block of `relabel` takes at a time, and one of its threads: for many centers, and up to FEW
SHAPES = {"float32": ((128, 128, 8, 8), (256, 32, 8, 4)), "float64": ((64, 64, 4, 4), (128, 32, 4, 4))}
FEW = 32
NARROW, WIDE = {"float32": 40, "float64": 32}, 80  # centers that a warp of `relabel_certain` takes at a time
# What tensor cores multiply: "tf32" by `relabel_certain`; "float16" by `relabel_half` and `relabel_wide`, which no GPU
# has run yet
PRODUCTS = "tf32"
HALF_SHAPES = {1: (64, 8), 2: (64, 8), 4: (32, 6), 8: (32, 6)}  # for 16 features each: centers in a tile, and warps
WIDE_ROWS, WIDE_CENTERS = 128, 256  # that a block of `relabel_wide` takes at a time
RING = 3  # slots for tiles that pass through shared memory
KEYS = np.uint32(256)  # centers that a key can tell apart
BLOCKS_A_PROCESSOR = 4  # at most, of those that go on to the next rows: enough to keep it busy to the end
TENSOR_CORES = 80  # compute capability that has them for TF32, and copies that go on beside them
SUMS_BLOCK = 128  # threads of `sum_few`, each of which has sums of all clusters in shared memory: it limits how many
MIN_TILE = 2**12  # rows below which a tile is not halved any more
MOST_ROWS = 2**30  # of a tile: kernels number them by 32 bits
MIN_CHUNK = 32  # rows that are summed by one thread
MIN_PART = 256  # rows that a warp sorts
# Scratch bytes a row: the rows to look at and the uncertain ones (8); or their order by labels (4), sorted labels (4),
# what sorting counts (up to 20), and a few partial sums
ROW_BYTES = 48
MOST_TRIALS = 16  # of greedy k-means++, as in `choose_trial`
CHOICE = 4 + MOST_TRIALS  # numbers, as in `Choice`


@dataclasses.dataclass(frozen=True)
class Device:
    """What launches depend on."""

    multiprocessors: int
    threads: int  # that a multiprocessor runs at a time
    block_shared: int  # bytes of shared memory that a block can have
    shared: int  # and those of a multiprocessor
    capability: int  # such as 80

    def going_on(self, count, size):
        """Blocks of a kernel whose blocks have `size` things at a time, and go on to the next of `count`."""
        return min(blocks(count, size), BLOCKS_A_PROCESSOR * self.multiprocessors)


def instances(dtype, products):
    """The kernels for dense rows of a type, and for what tensor cores multiply: name, instance."""
    computed = "float64" if dtype == "float64" else "float32"
    row, number = TYPES[dtype], TYPES[computed]
    many, few = (f"relabel<{row}, {number}, {', '.join(map(str, shape))}>" for shape in SHAPES[computed])
    others = "sum_runs", "sum_few", "largest_terms", "move_rows", "sq_distances_to", "sq_distances_to_own"
    exact = {"relabel": many, "relabel_few": few, **{name: f"{name}<{row}>" for name in others}}
    if dtype == computed:
        exact |= problem_instances(computed)
    if products == "tf32":
        return exact | {f"relabel_certain_{n}": f"relabel_certain<{row}, {n}>" for n in (NARROW[computed], WIDE)}
    shapes = ((n, f"{row}, {n}, {width}, {warps}") for n, (width, warps) in HALF_SHAPES.items())
    half = {f"relabel_half_{n}": f"relabel_half<{shape}>" for n, shape in shapes}
    return exact | half | {"relabel_wide": f"relabel_wide<{row}>", "tile_halves": "tile_halves"}


def problem_instances(dtype):
    """Those of problems side by side, whose rows are float32 or float64."""
    number = TYPES[dtype]
    many, few = (f"relabel_problems<{number}, {', '.join(map(str, shape))}>" for shape in SHAPES[dtype])
    others = "frame_problems", "choose_rows", "sum_problems", "inertia_of_problems"
    return {"relabel_problems": many, "relabel_few_problems": few, **{name: f"{name}<{number}>" for name in others}}


def plain_instances():
    """The other kernels of DENSE."""
    names = "stale_rows", "add_runs", "scale_columns", "add_moved", "sum_up", "shifts", "advance_paths"
    names += "weigh_trials", "choose_trial", "sum_up_problems"
    names += SORT
    plain = {name: name for name in names}
    moves = {f"move_centers_{of}": f"move_centers<{TYPES[of]}>" for of in ("float32", "float64")}
    moves |= {f"move_problems_{of}": f"move_problems<{TYPES[of]}>" for of in ("float32", "float64")}
    coefficients = {f"coefficients_{of}": f"coefficients<{TYPES[of]}>" for of in ("float32", "float64")}
    tiles = {f"tile_centers_{n}": f"tile_centers<{n}>" for n in (*NARROW.values(), WIDE)}
    return {**plain, **moves, **coefficients, **tiles}


def sparse_instances(number, index):
    """The kernels for sparse rows with numbers and indices of a type: name, instance."""
    number, index = TYPES[number], INDICES[index]
    of_numbers = "largest", "divide", "sum_columns"
    of_both = "sq_distances_to_own", "scatter", "gather", "merge"
    names = {name: f"{name}<{number}>" for name in of_numbers}
    names |= {name: f"{name}<{number}, {index}>" for name in of_both}
    return names | {f"multiply_{columns}": f"multiply<{number}, {index}, {columns}>" for columns in (1, 4)}


def source(files, folder=FOLDER):
    """The text of files, each header that they include in the place where it is first needed.

    No folder for the compiler to search: CuPy keeps what it compiled by the text, and would not see a header change.
    """
    included = set()

    def header(match):
        return "" if match[1] in included else included.add(match[1]) or text(match[1])

    def text(name):
        return re.sub(r'^#include "(.*)"\n', header, (folder / name).read_text(encoding="utf-8"), flags=re.MULTILINE)

    return "\n".join(text(f"{name}.cu") for name in files)


def compiled(raw_module, files, names):
    """Kernels by name."""
    module = raw_module(code=source(files), options=("-std=c++17",), name_expressions=list(names.values()))
    return {name: module.get_function(instance) for name, instance in names.items()}


def launch(kernel, grid, block, *arguments, shared_mem=0):
    """Launch: Python's int for parameters of type int, None for NULL."""
    grid, block = (shape if isinstance(shape, tuple) else (shape,) for shape in (grid, block))
    arguments = (np.int32(x) if isinstance(x, int) else np.uintp(0) if x is None else x for x in arguments)
    if shared_mem > 48 * 1024 and shared_mem > kernel.max_dynamic_shared_size_bytes:  # more must be asked for
        kernel.max_dynamic_shared_size_bytes = shared_mem
    kernel(grid, block, tuple(arguments), shared_mem=shared_mem)


def for_tiles(function, n_samples, copied, tile_bytes, out_of_memory, free_and_total):
    """Call `function` for slices of rows that need up to `tile_bytes`, `copied` bytes being copied of each row."""
    n_rows = min(n_samples, MOST_ROWS, max(MIN_TILE, tile_bytes // (ROW_BYTES + copied)))
    start = 0
    while start < n_samples:
        rows = slice(start, min(start + n_rows, n_samples))
        try:
            function(rows)
        except out_of_memory as error:
            if n_rows <= MIN_TILE:
                free, total = free_and_total()
                raise MemoryError(
                    f"No memory on the GPU for {n_rows} rows at a time: some {n_rows * (ROW_BYTES + copied)} bytes are "
                    f"needed, {free} of {total} are free. Use fewer clusters or features, or free memory."
                ) from error
            n_rows = max(MIN_TILE, n_rows // 2)
            continue
        start = rows.stop


def scratch_bytes(device, n_samples, n_features, n_clusters, tile_bytes):
    """Device memory of an iteration beyond X, labels and slack (12 bytes a row), and copies of rows not contiguous.

    And beyond what sums by the rows that changed cluster keep: labels once more, 4 bytes a row.
    """
    n_rows = min(n_samples, max(MIN_TILE, tile_bytes // ROW_BYTES))
    if sums_bytes(n_features, n_clusters) <= device.block_shared:
        n_runs = 16 * device.multiprocessors * n_clusters
    else:
        n_runs = blocks(n_rows, chunk_of_runs(device, n_rows, n_features)) + n_clusters
    # Of the size of the centers: -2 c, totals of a tile and of all, and what the loop makes of them
    return ROW_BYTES * n_rows + 8 * (n_features + 1) * (n_runs + 8 * n_clusters)


def size_of_parts(device, n_samples, n_clusters):
    """Rows of each part that is sorted by a warp: for as many as run at a time, and few counts (of each cluster)."""
    most = max(1, min(4 * n_samples // n_clusters, device.multiprocessors * device.threads // 32))
    return max(MIN_PART, blocks(n_samples, most))


def row_dtype(given, computed):
    """The type of rows that a kernel is to read if it is to compute in a type: half precision is read as it is."""
    keeps = given.itemsize == 2 and np.dtype(computed) == np.float32
    return given if keeps else np.dtype(computed)


@functools.cache
def plan_certain(device, n_features, n_clusters, dtype):
    """How `relabel_certain` is to run, or None if it had better not.

    Its width; tiles that it has room for, and whether rows stay; bytes of shared memory. Narrow, there are two blocks
    on a multiprocessor; wide, one, which reads rows of many features less often.
    """
    few_features = n_features < 8 and n_clusters > FEW  # most of the work is not in products
    if device.capability < TENSOR_CORES or few_features:
        return None
    narrow = n_clusters <= NARROW[dtype.name] or n_features <= 128
    most = min(device.block_shared, device.shared // (1 + narrow) - 1024)
    width, n_groups = NARROW[dtype.name] if narrow else WIDE, blocks(n_features, 16)
    tile, rows, origin = 4 * 17 * width, 64 * BLOCK * n_groups, 16 * dtype.itemsize * n_groups
    n_tiles = n_groups * blocks(n_clusters, width)
    free = most - origin
    stay = narrow and n_clusters > width and rows + min(4, n_tiles) * tile <= free
    room = min(n_tiles, (free - stay * rows) // tile)
    return (width, (room, int(stay)), room * tile + origin + stay * rows) if room > 0 else None


@dataclasses.dataclass(frozen=True)
class HalfPlan:
    """How `relabel_half` or `relabel_wide` is to run."""

    kernel: str
    n_groups: int  # of 16 features, in a tile of centers
    width: int  # centers in a tile
    rows: int  # that a block has at a time
    threads: int
    room: int  # tiles of centers, or groups of the rows' features, that shared memory has at a time
    shared: int  # bytes of it that are asked for


@functools.cache
def plan_half(device, n_features, n_clusters):
    """The plan for products of float16, or None if they had better not be used."""
    few_features = n_features < 8 and n_clusters > FEW  # most of the work is not in products
    if device.capability < TENSOR_CORES or few_features:
        return None
    n_groups = blocks(n_features, 16)
    if n_groups > max(HALF_SHAPES):
        return plan_wide(device, n_groups)
    n_groups = power_of_2(n_groups, max(HALF_SHAPES))
    width, warps = HALF_SHAPES[n_groups]
    tile, origin = width * (32 * n_groups + 4), 8 * 16 * n_groups
    most = min(device.block_shared, device.shared // 2 - 1024)  # two blocks on a multiprocessor
    n_tiles = blocks(n_clusters, width)
    room = n_tiles if n_tiles * tile + origin <= most else RING
    rows = 32 * warps
    shared = room * tile + origin
    return HalfPlan(f"relabel_half_{n_groups}", n_groups, width, rows, rows, room, shared) if shared <= most else None


def plan_wide(device, n_groups):
    """That of `relabel_wide`."""
    ring, group = RING * 32 * WIDE_CENTERS, 32 * WIDE_ROWS
    found = 4 * WIDE_ROWS * (2 + 3 * 4)  # static
    room = min(n_groups, (device.block_shared - found - ring) // group)
    plan = HalfPlan("relabel_wide", n_groups, WIDE_CENTERS, WIDE_ROWS, BLOCK, room, ring + room * group)
    return plan if room > 0 else None


def half_precision(spread, n_features):
    """What certificates of float16 products need, see certificate.cuh: scale, accumulation, vanishing.

    Scaled, the square root of `spread` is 16 to 32: numbers may be 2,000 times as large, and keep all bits down to the
    200,000th part. Rows beyond are uncertain, or become so.
    """
    exponent = 4 - math.floor(math.log2(spread) / 2) if 0 < spread < math.inf else 0
    scale = 2.0 ** min(max(exponent, -100), 100)
    padded = 16 * blocks(n_features, 16)
    accumulation = (2 * padded + 16) * 2.0**-23
    # Below 2^-126 numbers are zero on the way to float32, before they are scaled; their squares are from 2^-63 on
    vanishing = math.sqrt(padded) * (2.0**-125 * scale + 2.0**-60)
    return np.float64(scale), np.float32(accumulation), np.float32(vanishing)


def sums_bytes(n_features, n_clusters):
    """Shared memory of a block of `sum_few`: sums of each of its threads, and weights of each of its rows."""
    return 8 * n_clusters * (SUMS_BLOCK + SUMS_BLOCK // power_of_2(n_features, SUMS_BLOCK))


def chunk_of_few(device, n_samples, n_features, shared):
    """Rows that a block of `sum_few` sums, if it has so much shared memory."""
    columns = power_of_2(n_features, SUMS_BLOCK)
    across = blocks(n_features, columns)
    n_blocks = max(1, device.multiprocessors * min(16, device.block_shared // shared) // across)
    return max(MIN_CHUNK * SUMS_BLOCK // columns, blocks(n_samples, n_blocks))


def chunk_of_runs(device, n_samples, n_features):
    """Sorted rows that a thread sums, for about as many threads as the device runs at a time, one for each column."""
    columns = power_of_2(n_features, BLOCK)
    n_threads = device.multiprocessors * device.threads
    return max(MIN_CHUNK, blocks(n_samples * columns * blocks(n_features, columns), n_threads))


def blocks(count, size):
    """How many blocks of a size hold `count`."""
    return -(-count // size)


def power_of_2(count, most):
    """The smallest power of 2 that is at least `count`, or `most`."""
    return min(most, 1 << (count - 1).bit_length())
