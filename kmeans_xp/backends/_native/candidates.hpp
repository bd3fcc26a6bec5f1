// How much candidates of greedy k-means++ lower the sum of squared distances. For passes.cpp.
#pragma once
#include "distances.hpp"

namespace kmeans {
namespace {

void pack(const Rows& rows, Index begin, Index end, float* packed) {
    constexpr Index lanes = LANES<float>;
    const Index d = rows.n_features;
    Index which[lanes];
    for (Index block = begin; block < end; block++) {
        float* to = packed + block * (d + 1) * lanes;
        const Index count = least(lanes, rows.n_samples - block * lanes);
        for (Index i = 0; i < count; i++) which[i] = block * lanes + i;
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
        for (Index i = 0; i < some; i++) which[i] = begin + first + i;
        double* found = block + job.rows.n_features * lanes;
        gather_any(job.rows, which, some, block);
        squares_of_block(block, job.rows.n_features, job.points, job.n, found);
        for (Index c = 0; c < job.n; c++)
            for (Index i = 0; i < some; i++) squares[c * all + first + i] = found[c * lanes + i];
    }
}

// A bit for each row of a block: whether the bound is not beyond the limit.
inline uint32_t within(const float* bounds, const float* limits) {
#if defined(__AVX512F__)
    return uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds), _mm512_loadu_ps(limits), _CMP_NGT_UQ)) |
           uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds + 16), _mm512_loadu_ps(limits + 16), _CMP_NGT_UQ)) << 16;
#else
    uint32_t bits = 0;
    for (Index i = 0; i < LANES<float>; i++) bits |= uint32_t(!(bounds[i] > limits[i])) << i;
    return bits;
#endif
}

Index try_candidates(const Candidates& job, Index begin, Index end, double* potentials, Hit* hits, char* workspace) {
    const Flushing flushing(job.packed != nullptr);
    constexpr Index lanes = LANES<float>;
    const Index d = job.rows.n_features, n_samples = job.rows.n_samples;
    float* bounds = reinterpret_cast<float*>(workspace);                  // (n, lanes)
    double* squares = reinterpret_cast<double*>(bounds + job.n * lanes);  // the same
    double* memory = squares + job.n * lanes;
    Index n_hits = 0;
    double rest = 0;  // what is left whichever candidate is chosen
    for (Index block = begin; block < end; block++) {
        const Index first = block * lanes, count = least(lanes, n_samples - first);
        const double *known = job.closest.squares + first, *weight = job.sample_weight + first;
        double mass[lanes] = {};
        float limits[lanes];
        double total = 0;
        int n_reached = 0;
        for (Index i = 0; i < lanes; i++) limits[i] = -1;
        for (Index i = 0; i < count; i++) {
            const bool reached = known[i] > job.closest.within[job.closest.nearest[first + i]];
            mass[i] = weight[i] * known[i];
            limits[i] = reached ? float(known[i] * (1 + 1e-6)) : -1.0f;
            n_reached += reached;
        }
#pragma omp simd reduction(+ : total)
        for (Index i = 0; i < lanes; i++) total += mass[i];
        if (n_reached == 0) {
            rest += total;
            continue;
        }
        bool all = job.packed == nullptr;
        if (!all) {
            const float* rows = job.packed + block * (d + 1) * lanes;
            Index c = 0;
            for (; c + 4 <= job.n; c += 4) lower_bounds<4>(job, rows, c, bounds);
            if (c + 2 <= job.n) lower_bounds<2>(job, rows, c, bounds), c += 2;
            if (c < job.n) lower_bounds<1>(job, rows, c, bounds);
            Index n_near = 0;
            for (c = 0; c < job.n; c++) n_near += __builtin_popcount(within(bounds + c * lanes, limits));
            all = 2 * n_near > job.n * count;  // few distances are measured one by one
        }
        if (all) squares_of_neighbors(job, first, count, squares, memory);
        for (Index c = 0; c < job.n; c++) {
            uint32_t near = 0;
            if (all) {
#pragma omp simd reduction(| : near)
                for (Index i = 0; i < count; i++) near |= uint32_t(squares[c * lanes + i] < known[i]) << i;
            } else {
                near = within(bounds + c * lanes, limits);
            }
            if (near == 0) {
                potentials[c] += total;
                continue;
            }
            double left[lanes], sum = 0;
            std::memcpy(left, mass, sizeof(mass));
            for (; near; near &= near - 1) {
                const Index i = __builtin_ctz(near);
                const double square =
                    all ? squares[c * lanes + i] : sq_distance_of_any(job.rows, first + i, job.points + c * d);
                if (!(square < known[i])) continue;
                hits[n_hits++] = {first + i, c, square};
                left[i] = weight[i] * square;
            }
#pragma omp simd reduction(+ : sum)
            for (Index i = 0; i < lanes; i++) sum += left[i];
            potentials[c] += sum;
        }
    }
    for (Index c = 0; c < job.n; c++) potentials[c] += rest;
    return n_hits;
}

}  // namespace
}  // namespace kmeans
