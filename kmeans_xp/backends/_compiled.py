"""Passes over the rows of a NumPy array, compiled by Numba, which is an extra.

The distances of a few rows from a few centers are kept in vector registers, and reduced there to the two lowest of each
row: no distances in memory, and most of the processor's arithmetic peak from 16 features on. That kernel is written in
LLVM's vector instructions; the rest is plain Numba. Everything runs without the interpreter's lock, and the compiled
code is cached on disk.
"""

import os
from functools import partial

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

if hasattr(os, "register_at_fork"):  # not on Windows
    # A child that is forked while another thread compiles would wait for it for ever
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )

VECTOR = 64  # bytes of a vector of rows, whatever the processor has: LLVM splits it
TILE = 4096  # rows whose bounds are looked at in one go
CENTERS = (6, 2)  # centers whose scores are in registers at a time, and those for the rest

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})


@intrinsic
def lanes_of(typing_context, array):
    """Numbers of the dtype of an array in a vector: a constant, so that loops over them become vector instructions."""
    count = VECTOR * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, signature, arguments: context.get_constant(types.intp, count)


@intrinsic
def nearest_two(
    typing_context, block, n_features, centers, sq_norms, candidates, n_candidates, rounding, reach, second, lead, index
):  # fmt: skip
    """The nearest of some centers to each of a vector of rows, at most how far it is, and at least how far the second.

    block (n_features * lanes,) has the rows, feature after feature; centers (n_clusters * n_features,) the -2 c;
    candidates (n_candidates,) int32 are ascending, an even number of them. All are flat.
    -> reach, second (lanes,), which allow for `rounding` as `bounds.sure_gap`; lead, how much higher the second score
    is, less what is in doubt on account of ||x||²; index (lanes,) int32. Ties go to the lowest index.
    """

    def generate(context, builder, signature, arguments):
        pointers = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        block, n_features, centers, sq_norms, candidates, n_candidates, rounding, reach, second, lead, index = pointers
        scalar, intp, int32 = context.get_value_type(signature.args[0].dtype), n_features.type, ir.IntType(32)
        size = signature.args[0].dtype.bitwidth // 8
        lanes = VECTOR // size
        vector, indices = ir.VectorType(scalar, lanes), ir.VectorType(ir.IntType(8 * size), lanes)

        def splat(value):
            one = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
            one = builder.insert_element(one, value, int32(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(int32, lanes), [0] * lanes))

        def element(pointer, *position):
            return builder.load(builder.gep(pointer, position))

        def store(value, pointer):
            builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 4

        def load(pointer, position):
            pointer = builder.gep(pointer, [builder.mul(position, intp(lanes))])
            return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)

        multiply = partial(builder.fmul, flags=("contract",))  # a product and a sum become one instruction
        add = partial(builder.fadd, flags=("contract",))
        infinity = ir.Constant(vector, [float("inf")] * lanes)
        best, runner_up = (cgutils.alloca_once_value(builder, infinity) for _ in range(2))
        winner = cgutils.alloca_once_value(builder, ir.Constant(indices, [0] * lanes))
        scores = [cgutils.alloca_once(builder, vector) for _ in range(max(CENTERS))]

        def score(first, n_centers):
            """Scores of some of the candidates, and what they change."""
            chosen = [element(candidates, builder.add(first, intp(c))) for c in range(n_centers)]
            rows = []
            for center, total in zip(chosen, scores, strict=False):
                center = builder.zext(center, intp)
                builder.store(splat(element(sq_norms, center)), total)
                rows.append(builder.gep(centers, [builder.mul(center, n_features)]))
            with cgutils.for_range(builder, n_features, intp=intp) as loop:
                x = load(block, loop.index)
                for row, total in zip(rows, scores, strict=False):
                    product = multiply(splat(element(row, loop.index)), x)
                    builder.store(add(builder.load(total), product), total)
            low, next_low, who = builder.load(best), builder.load(runner_up), builder.load(winner)
            for center, total in zip(chosen, scores, strict=False):
                new = builder.load(total)
                wins = builder.fcmp_ordered("<", new, low)
                loser = builder.select(wins, low, new)
                next_low = builder.select(builder.fcmp_ordered("<", loser, next_low), loser, next_low)
                center = center if size == 4 else builder.zext(center, ir.IntType(64))
                who = builder.select(wins, splat(center), who)
                low = builder.select(wins, new, low)
            for value, variable in ((low, best), (next_low, runner_up), (who, winner)):
                builder.store(value, variable)

        done = intp(0)
        for n_centers in CENTERS:
            rest = builder.srem(builder.sub(n_candidates, done), intp(n_centers))
            until = builder.sub(n_candidates, rest)
            with cgutils.for_range_slice(builder, done, until, intp(n_centers), intp=intp) as (first, _):
                score(first, n_centers)
            done = until

        zero = ir.Constant(vector, [0.0] * lanes)
        norm = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, n_features, intp=intp) as loop:
            x = load(block, loop.index)
            builder.store(add(builder.load(norm), multiply(x, x)), norm)
        norm = builder.load(norm)
        coefficient, offset, doubt = (splat(builder.extract_value(rounding, i)) for i in range(3))
        error = add(offset, multiply(coefficient, norm))
        root = builder.module.declare_intrinsic(
            f"llvm.sqrt.v{lanes}f{8 * size}", fnty=ir.FunctionType(vector, [vector])
        )

        def not_negative(value):
            return builder.select(builder.fcmp_ordered(">", value, zero), value, zero)

        nearest = builder.fadd(not_negative(builder.fadd(builder.load(best), norm)), error)
        rival = not_negative(builder.fsub(builder.fadd(builder.load(runner_up), norm), error))
        ahead = builder.fsub(builder.load(runner_up), builder.load(best))
        store(builder.fsub(ahead, builder.fmul(doubt, norm)), lead)
        store(builder.call(root, [nearest]), reach)
        store(builder.call(root, [rival]), second)
        who = builder.load(winner)
        store(who if size == 4 else builder.trunc(who, ir.VectorType(int32, lanes)), index)
        return context.get_dummy_value()

    triple = types.UniTuple(block.dtype, 3)
    signature = types.void(
        block, types.intp, centers, sq_norms, candidates, types.intp, triple, reach, second, lead, index
    )  # fmt: skip
    return signature, generate


@njit(inline="always")
def gather(X, origin, rows, count, block):
    """Put up to a vector of rows of X, relative to the origin, into a block; repeat the last one to fill it."""
    lanes = lanes_of(block)
    for i in range(0, lanes, 4):
        a, b = rows[min(i, count - 1)], rows[min(i + 1, count - 1)]
        c, d = rows[min(i + 2, count - 1)], rows[min(i + 3, count - 1)]
        for f in range(X.shape[1]):
            block[f * lanes + i] = X[a, f] - origin[f]
            block[f * lanes + i + 1] = X[b, f] - origin[f]
            block[f * lanes + i + 2] = X[c, f] - origin[f]
            block[f * lanes + i + 3] = X[d, f] - origin[f]


def assign(part, n_parts, *job):
    """`steps.assign` for a part of the rows. -> list of the numbers of rows whose label is in doubt"""
    return [_assign(part, n_parts, *job)]


@compiled
def _assign(part, n_parts, X, origin, centers, sq_norms, doubt, labels):
    """The same, but for the list."""
    n_samples, n_features = X.shape
    n_clusters = sq_norms.shape[0] - 1
    lanes = lanes_of(centers)
    block = np.empty(n_features * lanes, centers.dtype)
    reach, second, lead = np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype)
    index, rows = np.empty(lanes, np.int32), np.empty(lanes, np.int64)
    candidates, n_candidates = np.arange(n_clusters + 1).astype(np.int32), (n_clusters + 1) // 2 * 2
    rounding = (0.0, 0.0, doubt)
    begin, end = n_samples * part // n_parts, n_samples * (part + 1) // n_parts
    doubtful, n_doubtful = np.empty(end - begin, np.int64), 0
    for start in range(begin, end, lanes):
        count = min(lanes, end - start)
        for i in range(count):
            rows[i] = start + i
        gather(X, origin, rows, count, block)
        nearest_two(
            block, n_features, centers, sq_norms, candidates, n_candidates, rounding, reach, second, lead, index
        )
        for i in range(count):
            labels[start + i] = index[i]
            doubtful[n_doubtful] = start + i
            n_doubtful += not lead[i] > doubt * sq_norms[index[i]]
    return doubtful[:n_doubtful].copy()


@compiled
def cluster_sums(part, n_parts, X, origin, labels, sample_weight, sums, weights):
    """`steps.update` for a part of the rows, added to sums and weights."""
    n_samples = X.shape[0]
    for row in range(n_samples * part // n_parts, n_samples * (part + 1) // n_parts):
        add_row(X, origin, row, sample_weight[row], labels[row], sums, weights)


@njit(inline="always")
def add_row(X, origin, row, weight, cluster, sums, weights):
    """Add a row, relative to the origin, to a cluster."""
    weights[cluster] += weight
    for f in range(X.shape[1]):
        sums[cluster, f] += weight * (np.float64(X[row, f]) - origin[f])


@compiled
def sq_distances_to_own(part, n_parts, X, origin, labels, centers, squares):
    """`steps.sq_distances_to_own` for a part of the rows."""
    n_samples, n_features = X.shape
    fours = n_features // 4 * 4
    for row in range(n_samples * part // n_parts, n_samples * (part + 1) // n_parts):
        center = labels[row]
        even = odd = 0.0  # sums that don't wait for each other
        for f in range(0, fours, 4):
            a = np.float64(X[row, f]) - origin[f] - centers[center, f]
            b = np.float64(X[row, f + 1]) - origin[f + 1] - centers[center, f + 1]
            c = np.float64(X[row, f + 2]) - origin[f + 2] - centers[center, f + 2]
            d = np.float64(X[row, f + 3]) - origin[f + 3] - centers[center, f + 3]
            even += a * a + c * c
            odd += b * b + d * d
        for f in range(fours, n_features):
            a = np.float64(X[row, f]) - origin[f] - centers[center, f]
            even += a * a
        squares[row] = even + odd


@compiled
def distances(part, n_parts, X, origin, centers, result):
    """`steps.distances` for a part of the rows, summed directly. centers (n_features, n_clusters)"""
    n_samples, n_features = X.shape
    squares = np.empty(centers.shape[1])
    for row in range(n_samples * part // n_parts, n_samples * (part + 1) // n_parts):
        squares[:] = 0
        for f in range(n_features):
            x = np.float64(X[row, f]) - origin[f]
            for center in range(centers.shape[1]):
                difference = x - centers[f, center]
                squares[center] += difference * difference
        for center in range(centers.shape[1]):
            result[row, center] = np.sqrt(squares[center])


@compiled
def stale_rows(start, stop, labels, slack, path, rows):
    """Fill `rows` with those that must be looked at. -> how many"""
    count = 0
    for row in range(start, stop):
        label = labels[row]
        rows[count] = row
        count += label < 0 or slack[row] <= path[label]
    return count


@compiled
def by_cluster(rows, labels, ends, ordered):
    """Order rows by their labels (counting sort); `ends` (n_clusters + 1,) becomes where each cluster ends."""
    ends[:] = 0
    for row in rows:
        ends[labels[row] + 1] += 1
    for label in range(ends.shape[0] - 1):
        ends[label + 1] += ends[label]
    for row in rows:
        label = labels[row]
        ordered[ends[label]] = row
        ends[label] += 1


def relabel(part, n_parts, *job):
    """`bounds.bounded_step` for every `n_parts`-th tile of rows; adds to sums and weights.

    -> rows changed, looked at, and as `assign` those in doubt, which are left as they are.

    With distances `between` the centers, rows are taken cluster by cluster.
    """
    n_changed, n_active, doubtful = _relabel(part, n_parts, *job)
    return n_changed, n_active, [doubtful]


@compiled
def _relabel(part, n_parts, X, sample_weight, origin, centers, sq_norms, rounding, state, between, sums, weights):
    """The same, but for the list."""
    labels, slack, path = state
    between, nearest_other = between
    n_samples, n_clusters = X.shape[0], path.shape[0]
    enough = max(TILE, 64 * n_clusters)  # for the rows of a cluster to fill vectors
    rows, ordered = np.empty(enough + TILE, np.int64), np.empty(enough + TILE, np.int64)
    ends = np.empty(n_clusters + 1, np.int64)
    n_tiles = (n_samples + TILE - 1) // TILE
    doubtful = np.empty((n_tiles + n_parts - 1) // n_parts * TILE, np.int64)
    n_changed = n_active = count = n_doubtful = 0
    for start in range(part * TILE, n_samples, n_parts * TILE):
        count += stale_rows(start, min(start + TILE, n_samples), labels, slack, path, rows[count:])
        if count < enough and start + n_parts * TILE < n_samples:
            continue
        n_active += count
        if between.shape[0] > 0:
            by_cluster(rows[:count], labels, ends, ordered)
            begin = count = 0
            for label in range(n_clusters):
                changed, count, n_doubtful = compare_cluster(
                    label, ordered[begin : ends[label]], rows, count, X, sample_weight, origin, centers, sq_norms,
                    between[label], nearest_other[label], rounding, state, doubtful, n_doubtful, sums, weights,
                )  # fmt: skip
                n_changed += changed
                begin = ends[label]
        changed, n_doubtful = compare(
            rows[:count], X, sample_weight, origin, centers, sq_norms, rounding, state, doubtful, n_doubtful,
            sums, weights,
        )  # fmt: skip
        n_changed += changed
        count = 0
    return n_changed, n_active, doubtful[:n_doubtful].copy()


@compiled
def compare(
    rows, X, sample_weight, origin, centers, sq_norms, rounding, state, doubtful, n_doubtful, sums, weights
):  # fmt: skip
    """Find the nearest two centers for each of the rows, and write down what follows. -> rows changed, n_doubtful"""
    n_features, n_clusters, lanes = X.shape[1], sq_norms.shape[0] - 1, lanes_of(centers)
    block = np.empty(n_features * lanes, centers.dtype)
    reach, second, lead = np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype)
    index = np.empty(lanes, np.int32)
    everyone, n_even = np.arange(n_clusters + 1).astype(np.int32), (n_clusters + 1) // 2 * 2
    n_changed = 0
    for first in range(0, rows.shape[0], lanes):
        count = min(lanes, rows.shape[0] - first)
        gather(X, origin, rows[first:], count, block)
        nearest_two(block, n_features, centers, sq_norms, everyone, n_even, rounding, reach, second, lead, index)
        changed, n_doubtful = write_down(
            rows, first, count, index, reach, second, lead, rounding[2], sq_norms, X, origin, sample_weight, state,
            doubtful, n_doubtful, sums, weights,
        )  # fmt: skip
        n_changed += changed
    return n_changed, n_doubtful


@compiled
def compare_cluster(
    own, rows, rest, n_rest, X, sample_weight, origin, centers, sq_norms, between, nearest_other, rounding,
    state, doubtful, n_doubtful, sums, weights,
):  # fmt: skip
    """`compare` for the rows of one cluster. -> rows whose label changed, n_rest, n_doubtful

    Let u be the distance of a row from its center, and s that of this center from the nearest other. If 2 u < s, the
    row stays. Else its nearest two centers are within 2 u + s of its own, and it is compared with those (J. Newling and
    F. Fleuret, "Fast k-means with accurate bounds", 2016). If that costs more than to compare the rows
    of a vector that may not stay with all centers, those are added to `rest` instead.
    """
    slack, path = state[1], state[2]
    n_features, n_clusters, lanes = X.shape[1], path.shape[0], lanes_of(centers)
    block = np.empty(n_features * lanes, centers.dtype)
    reach, second, lead = np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype), np.empty(lanes, centers.dtype)
    index = np.empty(lanes, np.int32)
    only_own = np.array([own, n_clusters], dtype=np.int32)
    candidates, n_candidates = np.empty(n_clusters + 2, np.int32), 0
    limit = -1.0  # of the candidates
    n_changed = 0
    for first in range(0, rows.shape[0], lanes):
        count = min(lanes, rows.shape[0] - first)
        gather(X, origin, rows[first:], count, block)
        nearest_two(block, n_features, centers, sq_norms, only_own, 2, rounding, reach, second, lead, index)
        widest, n_left = 0.0, 0
        for i in range(count):
            gap = nearest_other - 2.0 * reach[i]
            slack[rows[first + i]] = path[own] + gap
            n_left += gap <= 0
            widest = max(widest, 2.0 * reach[i] + nearest_other)
        if n_left == 0:
            continue
        if widest > limit:
            limit, n_candidates = 1.1 * widest, 0
            for center in range(n_clusters):
                candidates[n_candidates] = center
                n_candidates += between[center] <= limit
            if n_candidates % 2:
                candidates[n_candidates] = n_clusters  # the center that is never nearest
                n_candidates += 1
        if lanes * n_candidates > n_left * n_clusters:
            for i in range(count):
                row = rows[first + i]
                rest[n_rest] = row
                n_rest += slack[row] <= path[own]
            continue
        nearest_two(
            block, n_features, centers, sq_norms, candidates, n_candidates, rounding, reach, second, lead, index
        )
        changed, n_doubtful = write_down(
            rows, first, count, index, reach, second, lead, rounding[2], sq_norms, X, origin, sample_weight, state,
            doubtful, n_doubtful, sums, weights,
        )  # fmt: skip
        n_changed += changed
    return n_changed, n_rest, n_doubtful


@njit(inline="always")
def write_down(
    rows, first, count, index, reach, second, lead, doubt, sq_norms, X, origin, sample_weight, state,
    doubtful, n_doubtful, sums, weights,
):  # fmt: skip
    """Labels and slack of a vector of rows, and what changes in the sums. -> rows whose label changed, n_doubtful"""
    labels, slack, path = state
    n_changed = 0
    for i in range(count):
        row, new = rows[first + i], index[i]
        if not lead[i] > doubt * sq_norms[new]:
            doubtful[n_doubtful] = row
            n_doubtful += 1
            continue
        old = labels[row]
        slack[row] = path[new] + (np.float64(second[i]) - reach[i])
        if new != old:
            n_changed += 1
            labels[row] = new
            add_row(X, origin, row, sample_weight[row], new, sums, weights)
            if old >= 0:
                add_row(X, origin, row, -sample_weight[row], old, sums, weights)
    return n_changed, n_doubtful
