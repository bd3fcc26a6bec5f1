// Scores of a block of rows from a few centers, which are kept in vector registers and reduced there to the two lowest of
// each row. For passes.cpp.
#pragma once
#include "blocks.hpp"

namespace kmeans {
namespace {

// The nearest two centers of each row of a block.
template <class C>
struct Nearest {
    alignas(VECTOR) C reach[LANES<C>];   // at most how far the nearest is
    alignas(VECTOR) C second[LANES<C>];  // at least how far the second is
    alignas(VECTOR) C lead[LANES<C>];    // how much higher its score is, less what is in doubt on account of ||x||²
    alignas(VECTOR) int32_t index[LANES<C>];
};

template <class C>
struct LowestTwo {
    Reals<C> lowest[2], second[2];
    Integers<C> index[2];
};

// Add products of some features of a block of rows with those of N centers.
template <int N, class C>
inline void add_products(const C* block, Index begin, Index end, const C* const (&center)[N], Reals<C> (&sums)[N][2]) {
    using V = Reals<C>;
    for (Index f = begin; f < end; f++) {
        const V x0 = load<V>(block + f * LANES<C>), x1 = load<V>(block + f * LANES<C> + WIDTH<C>);
#pragma GCC unroll 6
        for (int c = 0; c < N; c++) {
            const V factor = splat<V>(center[c][f]);
            sums[c][0] += factor * x0;
            sums[c][1] += factor * x1;
        }
    }
}

// The same of all features, by stretches.
template <int N, class C>
inline void add_all_products(const C* block, Index n_features, const C* const (&center)[N], Reals<C> (&scores)[N][2]) {
    Index f = 0;
    for (; f + STRETCH < n_features; f += STRETCH) {
        Reals<C> sums[N][2] = {};
        add_products<N>(block, f, f + STRETCH, center, sums);
#pragma GCC unroll 6
        for (int c = 0; c < N; c++) {
            scores[c][0] += sums[c][0];
            scores[c][1] += sums[c][1];
        }
    }
    add_products<N>(block, f, n_features, center, scores);
}

// Compare a block of rows with N centers.
template <int N, class C>
inline void compare_with(const C* block, Index n_features, const C* minus_2_centers, const C* sq_norms,
                         const int32_t* which, LowestTwo<C>& found) {
    using V = Reals<C>;
    V scores[N][2];
    const C* center[N];
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        scores[c][0] = scores[c][1] = splat<V>(sq_norms[which[c]]);
        center[c] = minus_2_centers + which[c] * n_features;
    }
    add_all_products<N>(block, n_features, center, scores);
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        const Integers<C> name = splat<Integers<C>>(which[c]);
        for (int half = 0; half < 2; half++) {
            const V score = scores[c][half];
            found.index[half] = score < found.lowest[half] ? name : found.index[half];
            found.second[half] = lower(higher(score, found.lowest[half]), found.second[half]);
            found.lowest[half] = lower(score, found.lowest[half]);
        }
    }
}

// Put up to a block of rows into `block` (at least n_features, lanes); -> (lanes,) ||x||² of them if they are known.
template <class C>
const C* gather_for(const Job<C>& job, const Index* which, Index count, C* block) {
    if (job.compact.numbers == nullptr) {
        gather_any(job.rows, which, count, block);
        return nullptr;
    }
    gather_compact(job.compact, which, count, block);
    return block + job.rows.n_features * LANES<C>;
}

// ||x||² of the rows of a block, if they are not known.
template <class C>
struct Norms {
    Reals<C> half[2];
};
template <class C>
inline Norms<C> sq_norms_of(const C* block, Index n_features, const C* known) {
    using V = Reals<C>;
    if (known != nullptr) return {{load<V>(known), load<V>(known + WIDTH<C>)}};
    Norms<C> norms{};
    for (int half = 0; half < 2; half++)
        for (Index begin = 0; begin < n_features; begin += STRETCH) {
            V sum{};
            for (Index f = begin; f < least(begin + STRETCH, n_features); f++) {
                const V x = load<V>(block + f * LANES<C> + half * WIDTH<C>);
                sum += x * x;
            }
            norms.half[half] += sum;
        }
    return norms;
}

// What the lowest scores of a block come to.
template <class C>
inline void conclude(const Job<C>& job, const Norms<C>& norms, const LowestTwo<C>& two, Nearest<C>& found) {
    using V = Reals<C>;
    for (int half = 0; half < 2; half++) {
        const V norm = norms.half[half], zero{};
        const V error = splat<V>(job.rounding.offset) + splat<V>(job.rounding.coefficient) * norm;
        const Index at = half * WIDTH<C>;
        store(found.reach + at, higher(two.lowest[half] + norm, zero) + error);
        store(found.second + at, higher(two.second[half] + norm - error, zero));
        store(found.lead + at, two.second[half] - two.lowest[half] - splat<V>(job.rounding.doubt) * norm);
        for (Index i = 0; i < WIDTH<C>; i++) found.index[at + i] = int32_t(two.index[half][i]);
    }
    for (Index i = 0; i < LANES<C>; i++) {
        found.reach[i] = root(found.reach[i]);
        found.second[i] = root(found.second[i]);
    }
}

template <class C>
void nearest_two(const Job<C>& job, const C* block, const C* norms, const int32_t* candidates, Index n_candidates,
                 Nearest<C>& found) {
    using V = Reals<C>;
    const Index n_features = job.rows.n_features;
    LowestTwo<C> two;
    for (int half = 0; half < 2; half++) {
        two.lowest[half] = two.second[half] = splat<V>(C(__builtin_inf()));
        two.index[half] = Integers<C>{};
    }
    const C *centers = job.minus_2_centers, *sq_norms = job.sq_norms;
    Index done = 0;
    for (; done + 6 <= n_candidates; done += 6)
        compare_with<6>(block, n_features, centers, sq_norms, candidates + done, two);
    switch (n_candidates - done) {
        case 5: compare_with<5>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 4: compare_with<4>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 3: compare_with<3>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 2: compare_with<2>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 1: compare_with<1>(block, n_features, centers, sq_norms, candidates + done, two); break;
        default: break;
    }
    conclude(job, sq_norms_of(block, n_features, norms), two, found);
}

}  // namespace
}  // namespace kmeans
