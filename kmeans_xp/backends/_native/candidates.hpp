// How much candidates of greedy k-means++ lower the sum of squared distances. For passes.cpp.
#pragma once
#include "distances.hpp"

namespace kmeans {
namespace {

void pack(const Rows& rows, const Index* order, Index begin, Index end, float* packed) {
    constexpr Index lanes = LANES<float>;
    const Index d = rows.n_features;
    Index which[lanes];
    for (Index block = begin; block < end; block++) {
        float* to = packed + block * (d + 1) * lanes;
        const Index count = least(lanes, rows.n_samples - block * lanes);
        for (Index i = 0; i < count; i++) which[i] = row_at(order, block * lanes + i);
        gather_any(rows, which, count, to);
        float* norms = to + d * lanes;
        for (Index i = 0; i < lanes; i++) norms[i] = 0;
        for (Index f = 0; f < d; f++)
            for (Index i = 0; i < lanes; i++) norms[i] += to[f * lanes + i] * to[f * lanes + i];
    }
}

// At least the squared distance of each row of a packed block from N candidates, (N, lanes).
template <int N>
inline void lower_bounds(const Candidates& job, const float* block, Index first, float* bounds) {
    using V = Reals<float>;
    constexpr Index lanes = LANES<float>;
    const Index d = job.rows.n_features;
    V total[N][2] = {};
    for (Index f = 0; f < d; f++) {
        const V x0 = load<V>(block + f * lanes), x1 = load<V>(block + f * lanes + WIDTH<float>);
#pragma GCC unroll 4
        for (int c = 0; c < N; c++) {
            const V factor = splat<V>(job.minus_2_points[(first + c) * d + f]);
            total[c][0] += factor * x0;
            total[c][1] += factor * x1;
        }
    }
    for (int c = 0; c < N; c++)
        for (int half = 0; half < 2; half++) {
            const V norms = load<V>(block + d * lanes + half * WIDTH<float>) + splat<V>(job.sq_norms[first + c]);
            const V bound = total[c][half] + norms - (norms * splat<V>(job.doubt) + splat<V>(job.least));
            store(bounds + (first + c) * lanes + half * WIDTH<float>, bound);
        }
}

// Squared distances of a few rows that stand together from all candidates, (n, lanes).
inline void squares_of_neighbors(const Candidates& job, Index begin, Index count, double* squares, double* block) {
    constexpr Index lanes = LANES<double>, all = LANES<float>;
    Index which[lanes];
    for (Index first = 0; first < count; first += lanes) {
        const Index some = least(lanes, count - first);
        for (Index i = 0; i < some; i++) which[i] = row_at(job.order, begin + first + i);
        double* found = block + job.rows.n_features * lanes;
        gather_any(job.rows, which, some, block);
        squares_of_block(block, job.rows.n_features, job.points, job.n, found);
        for (Index c = 0; c < job.n; c++)
            for (Index i = 0; i < some; i++) squares[c * all + first + i] = found[c * lanes + i];
    }
}

// A bit for each row of a block: whether the bound is not beyond the limit.
inline uint32_t rows_within(const float* bounds, const float* limits) {
#if defined(__AVX512F__)
    return uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds), _mm512_loadu_ps(limits), _CMP_NGT_UQ)) |
           uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds + 16), _mm512_loadu_ps(limits + 16), _CMP_NGT_UQ)) << 16;
#else
    uint32_t bits = 0;
    for (Index i = 0; i < LANES<float>; i++) bits |= uint32_t(!(bounds[i] > limits[i])) << i;
    return bits;
#endif
}

// Rows of a block as a center for them is tried.
struct OfBlock {
    Index first, count;
    const double* known;         // (count,) squared distances from the nearest center
    double weight[LANES<float>], mass[LANES<float>];  // 0 beyond the rows
    double total = 0;            // of the mass
    float limits[LANES<float>];  // at least `known` of rows that candidates may be nearer to
    bool reached = false;        // whether there are any

    OfBlock(const Candidates& job, Index block)
        : first(block * LANES<float>), count(least(LANES<float>, job.rows.n_samples - first)),
          known(job.closest.squares + first), weight{}, mass{} {
        constexpr double never = -__FLT_MAX__;
        for (float& limit : limits) limit = never;
        double within[LANES<float>];
        for (Index i = 0; i < count; i++) within[i] = job.closest.within[job.closest.nearest[first + i]];
#pragma omp simd reduction(+ : total)
        for (Index i = 0; i < count; i++) {
            const double square = known[i], each = job.sample_weight[first + i];
            weight[i] = each;
            mass[i] = each * square;
            total += each * square;
            limits[i] = float(square > within[i] ? square * (1 + 1e-6) : never);
        }
        int n_reached = 0;
#pragma omp simd reduction(+ : n_reached)
        for (Index i = 0; i < LANES<float>; i++) n_reached += limits[i] > -1.0f;
        reached = n_reached > 0;
    }
};

double estimate_gains(const Candidates& job, Index begin, Index end, Gain* gains, uint32_t* near, char* workspace) {
    using V = Reals<float>;
    const Flushing flushing(true);
    constexpr Index lanes = LANES<float>;
    const Index d = job.rows.n_features;
    float* bounds = reinterpret_cast<float*>(workspace);  // (n, lanes)
    double total = 0;
    for (Index block = begin; block < end; block++) {
        const OfBlock of(job, block);
        uint32_t* bits = near + block * job.n;
        total += of.total;
        for (Index c = 0; c < job.n; c++) bits[c] = 0;
        if (!of.reached) continue;
        const float *rows = job.packed + block * (d + 1) * lanes, *norms = rows + d * lanes;
        Index c = 0;
        for (; c + 4 <= job.n; c += 4) lower_bounds<4>(job, rows, c, bounds);
        if (c + 2 <= job.n) lower_bounds<2>(job, rows, c, bounds), c += 2;
        if (c < job.n) lower_bounds<1>(job, rows, c, bounds);
        for (c = 0; c < job.n; c++) {
            bits[c] = rows_within(bounds + c * lanes, of.limits);
            if (bits[c] == 0) continue;
            float high[lanes], low[lanes];
            for (Index i = 0; i < lanes; i += WIDTH<float>) {
                const V limit = load<V>(of.limits + i), gain = limit - load<V>(bounds + c * lanes + i);
                const V margin = (load<V>(norms + i) + splat<V>(job.sq_norms[c])) * splat<V>(job.doubt) + splat<V>(job.least);
                const V sure = gain - (margin + margin + limit * splat<V>(4e-6f));
                store(high + i, gain > V{} ? gain : V{});
                store(low + i, sure > V{} ? sure : V{});
            }
            double most = 0, least = 0;
#pragma omp simd reduction(+ : most, least)
            for (Index i = 0; i < lanes; i++) {
                most += of.weight[i] * double(high[i]);
                least += of.weight[i] * double(low[i]);
            }
            gains[c].most += most * (1 + 1e-6);
            gains[c].least += least * (1 - 1e-6);
        }
    }
    return total;
}

void try_candidates(const Candidates& job, Index begin, Index end, double* potentials, uint32_t* near, char* workspace) {
    constexpr Index lanes = LANES<float>;
    double* squares = reinterpret_cast<double*>(workspace);  // (n, lanes)
    for (Index block = begin; block < end; block++) {
        const OfBlock of(job, block);
        uint32_t* bits = near + block * job.n;
        if (of.reached) squares_of_neighbors(job, of.first, of.count, squares, squares + job.n * lanes);
        for (Index c = 0; c < job.n; c++) {
            uint32_t nearer = 0;
            if (of.reached) {
#pragma omp simd reduction(| : nearer)
                for (Index i = 0; i < of.count; i++) nearer |= uint32_t(squares[c * lanes + i] < of.known[i]) << i;
            }
            bits[c] = nearer;
            double left[lanes], sum = 0;
            for (Index i = 0; i < lanes; i++) left[i] = of.mass[i];
            for (; nearer; nearer &= nearer - 1) {
                const Index i = __builtin_ctz(nearer);
                left[i] = of.weight[i] * squares[c * lanes + i];
            }
#pragma omp simd reduction(+ : sum)
            for (Index i = 0; i < lanes; i++) sum += left[i];
            potentials[c] += sum;
        }
    }
}

void take_candidate(const Candidates& job, Index chosen, Index begin, Index end, const uint32_t* near, int32_t center,
                    char* workspace) {
    constexpr Index lanes = LANES<float>;
    Candidates one = job;
    one.n = 1;
    one.points = job.points + chosen * job.rows.n_features;
    double* squares = reinterpret_cast<double*>(workspace);  // (lanes,)
    for (Index block = begin; block < end; block++) {
        uint32_t bits = near[block * job.n + chosen];
        if (bits == 0) continue;
        const Index first = block * lanes, count = least(lanes, job.rows.n_samples - first);
        const bool most = 2 * __builtin_popcount(bits) > count;
        if (most) squares_of_neighbors(one, first, count, squares, squares + lanes);
        for (; bits; bits &= bits - 1) {
            const Index i = __builtin_ctz(bits), place = first + i, row = row_at(job.order, place);
            const double square = most ? squares[i] : sq_distance_of_any(job.rows, row, one.points, squares + lanes);
            if (!(square < job.closest.squares[place])) continue;
            job.closest.squares[place] = square;
            job.closest.nearest[place] = center;
        }
    }
}

}  // namespace
}  // namespace kmeans
