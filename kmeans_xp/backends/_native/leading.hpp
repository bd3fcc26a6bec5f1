// Comparing rows with many centers by a few leading coordinates first. For passes.cpp.
//
// Rows x and centers c have coordinates along some orthogonal axes, and x', c' are those. Of what is left, only the
// lengths are known: x·c <= x'·c' + |x - x'| |c - c'| (Cauchy and Schwarz). So that much is the lowest that a score
// ||c||² - 2 x·c can be, and takes as many products as there are axes, and one. A center is compared with a row in full
// if its lowest score is not beyond the row's best (or second best, for bounds) so far.
//
// Rounding of coordinates: |(x·a) - fl(x·a)| <= r ||x||, where r = (roundings of a sum + 4) epsilon has that of the
// axis too, so x' is in doubt by sqrt(n_axes) r ||x||, and so is x'·c' by that times ||c||, which 2 ||x|| ||c|| <=
// ||x||² + ||c||² bounds. What is left of ||x||² is in doubt by 2 sqrt(n_axes) r ||x||²: it is made so much larger.
// `Lloyd::lead_by` has the constants.
#pragma once
#include "scores.hpp"

namespace kmeans {
namespace {

// x·c of one row and one center. By stretches, as other scores are.
template <class C>
inline C product(const C* x, const C* c, Index n) {
    using V = Reals<C>;
    C total = 0;
    for (Index begin = 0; begin < n; begin += 4 * STRETCH) {
        const Index end = least(begin + 4 * STRETCH, n);
        V sums[4] = {};
        Index f = begin;
        for (; f + 4 * WIDTH<C> <= end; f += 4 * WIDTH<C>)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sums[i] += load<V>(x + f + i * WIDTH<C>) * load<V>(c + f + i * WIDTH<C>);
        for (; f + WIDTH<C> <= end; f += WIDTH<C>) sums[0] += load<V>(x + f) * load<V>(c + f);
        const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        C some = 0;
        for (Index i = 0; i < WIDTH<C>; i++) some += sum[i];
        for (; f < end; f++) some += x[f] * c[f];
        total += some;
    }
    return total;
}

// Lowest possible scores of a block from N centers that stand together, (N, lanes).
template <int N, class C>
inline void lowest_scores(const C* coordinates, Index n, const C* minus_2_centers, const C* sq_norms, C* scores) {
    using V = Reals<C>;
    V sums[N][2];
    const C* center[N];
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        sums[c][0] = sums[c][1] = splat<V>(sq_norms[c]);
        center[c] = minus_2_centers + c * n;
    }
    add_products<N>(coordinates, 0, n, center, sums);
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        store(scores + c * LANES<C>, sums[c][0]);
        store(scores + c * LANES<C> + WIDTH<C>, sums[c][1]);
    }
}

// Coordinates of a block along N axes.
template <int N, class C>
inline void coordinates_along(const C* block, Index n_features, const C* axes, C* coordinates) {
    using V = Reals<C>;
    V sums[N][2] = {};
    const C* axis[N];
#pragma GCC unroll 6
    for (int a = 0; a < N; a++) axis[a] = axes + a * n_features;
    add_all_products<N>(block, n_features, axis, sums);
#pragma GCC unroll 6
    for (int a = 0; a < N; a++) {
        store(coordinates + a * LANES<C>, sums[a][0]);
        store(coordinates + a * LANES<C> + WIDTH<C>, sums[a][1]);
    }
}

// What is known of a block of rows while it is compared with one center after the other.
template <class C>
struct Search {
    alignas(VECTOR) C best[LANES<C>], second[LANES<C>];  // scores, of centers that were compared in full
    alignas(VECTOR) C others[LANES<C>];                  // lowest possible score of those that were not
    alignas(VECTOR) C limit[LANES<C>];                   // from which on others leave no doubt
    alignas(VECTOR) C margin[LANES<C>];
    alignas(VECTOR) int32_t index[LANES<C>];
    bool two;  // whether the second is sought as well as the best

    void compare(const Job<C>& job, const C* row, Index lane, Index center) {
        const Index d = job.rows.n_features;
        const C score = job.sq_norms[center] + product(row, job.minus_2_centers + center * d, d);
        if (score < best[lane]) {
            second[lane] = best[lane];
            best[lane] = score;
            index[lane] = int32_t(center);
        } else if (score < second[lane]) {
            second[lane] = score;
        }
        limit[lane] = (two ? second[lane] : best[lane]) + margin[lane];
    }
};

// Memory for a block, cut up.
template <class C>
struct LeadingMemory {
    C *coordinates, *rows, *scores;

    LeadingMemory(char* memory, Index n_features)
        : coordinates(reinterpret_cast<C*>(memory)), rows(coordinates + (MOST_AXES + 1) * LANES<C>),
          scores(rows + stride(n_features) * LANES<C>) {}

    static Index stride(Index n_features) { return n_features + WIDTH<C>; }  // of rows: they are not to share lines
};

// Whether any lane of a vector is not beyond its limit; NaN is.
template <class C>
inline bool any_within(const C* scores, const C* limits) {
    using V = Reals<C>;
    const auto within = (load<V>(scores) <= load<V>(limits)) |
                        (load<V>(scores + WIDTH<C>) <= load<V>(limits + WIDTH<C>));
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask(__m512i(within), __m512i(within)) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256(__m256i(within), __m256i(within));
#else
    for (Index i = 0; i < WIDTH<C>; i++)
        if (within[i]) return true;
    return false;
#endif
}

// Which of some centers has the lowest score for each row of a block.
template <class C>
inline void find_lowest(const C* scores, Index n_centers, int32_t* which) {
    using V = Reals<C>;
    for (int half = 0; half < 2; half++) {
        V lowest = load<V>(scores + half * WIDTH<C>);
        Integers<C> index{};
        for (Index c = 1; c < n_centers; c++) {
            const V score = load<V>(scores + c * LANES<C> + half * WIDTH<C>);
            index = score < lowest ? splat<Integers<C>>(int32_t(c)) : index;
            lowest = lower(score, lowest);
        }
        for (Index i = 0; i < WIDTH<C>; i++) which[half * WIDTH<C> + i] = int32_t(index[i]);
    }
}

// `nearest_two` by leading coordinates; -> with how many centers rows were compared in full.
template <class C>
Index nearest_two_by_leading(const Job<C>& job, const C* block, Index count, const C* known_norms,
                             const LeadingMemory<C>& memory, Nearest<C>& found) {
    using V = Reals<C>;
    const Leading<C>& leading = job.leading;
    const Index d = job.rows.n_features, m = leading.n_axes, k = job.n_clusters, stride = memory.stride(d);
    const Norms<C> norms = sq_norms_of(block, d, known_norms);
    Index axis = 0;
    for (; axis + 6 <= m; axis += 6)
        coordinates_along<6>(block, d, leading.axes + axis * d, memory.coordinates + axis * LANES<C>);
    for (; axis < m; axis++)
        coordinates_along<1>(block, d, leading.axes + axis * d, memory.coordinates + axis * LANES<C>);
    Search<C> search;
    search.two = job.slack != nullptr;
    for (int half = 0; half < 2; half++) {
        const Index at = half * WIDTH<C>;
        V left = norms.half[half];
        for (Index a = 0; a < m; a++) {
            const V x = load<V>(memory.coordinates + a * LANES<C> + at);
            left -= x * x;
        }
        store(memory.coordinates + m * LANES<C> + at,
              higher(left, V{}) + splat<V>(leading.left) * norms.half[half]);
        store(search.margin + at, splat<V>(leading.margin_offset) + splat<V>(leading.margin) * norms.half[half]);
    }
    for (Index i = 0; i < LANES<C>; i++) {
        C& left = memory.coordinates[m * LANES<C> + i];
        left = root(left);
        search.best[i] = search.second[i] = search.others[i] = C(__builtin_inf());
        search.limit[i] = -C(__builtin_inf());  // as it stays where there is no row
        search.index[i] = 0;
    }
    for (Index f = 0; f < d; f++)
        for (Index i = 0; i < count; i++) memory.rows[i * stride + f] = block[f * LANES<C> + i];

    Index n_compared = 0;
    for (Index first = 0; first < k; first += CENTERS_OF_TILE) {
        const Index n = least(CENTERS_OF_TILE, k - first);
        const C *centers = leading.minus_2_centers + first * (m + 1), *sq_norms = job.sq_norms + first;
        Index c = 0;
        for (; c + 6 <= n; c += 6)
            lowest_scores<6>(memory.coordinates, m + 1, centers + c * (m + 1), sq_norms + c, memory.scores + c * LANES<C>);
        for (; c < n; c++)
            lowest_scores<1>(memory.coordinates, m + 1, centers + c * (m + 1), sq_norms + c, memory.scores + c * LANES<C>);
        if (first == 0) {  // those first that are likely to be the nearest
            int32_t lowest[LANES<C>];
            find_lowest(memory.scores, n, lowest);
            for (Index i = 0; i < count; i++) {
                search.compare(job, memory.rows + i * stride, i, lowest[i]);
                memory.scores[lowest[i] * LANES<C> + i] = C(__builtin_nan(""));  // within no limit, nor the lowest
            }
            n_compared += count;
        }
        for (c = 0; c < n; c++) {
            const C* scores = memory.scores + c * LANES<C>;
            if (!any_within(scores, search.limit)) {
                for (int half = 0; half < 2; half++) {
                    const Index at = half * WIDTH<C>;
                    store(search.others + at, lower(load<V>(scores + at), load<V>(search.others + at)));  // if NaN: this
                }
                continue;
            }
            for (Index i = 0; i < count; i++) {
                if (scores[i] <= search.limit[i]) {
                    search.compare(job, memory.rows + i * stride, i, first + c);
                    n_compared++;
                } else if (scores[i] < search.others[i]) {
                    search.others[i] = scores[i];
                }
            }
        }
    }
    LowestTwo<C> two;
    for (int half = 0; half < 2; half++) {
        const Index at = half * WIDTH<C>;
        two.lowest[half] = load<V>(search.best + at);
        const V error = splat<V>(leading.offset) + splat<V>(leading.error) * norms.half[half];
        two.second[half] = lower(load<V>(search.second + at), load<V>(search.others + at) - error);
        for (Index i = 0; i < WIDTH<C>; i++) two.index[half][i] = search.index[at + i];
    }
    conclude(job, norms, two, found);
    return n_compared;
}

}  // namespace
}  // namespace kmeans
