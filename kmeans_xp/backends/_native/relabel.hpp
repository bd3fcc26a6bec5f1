// Which two centers are nearest to each row, and what follows. Scores of a block of rows from a few centers are kept in
// vector registers, and reduced there to the two lowest of each row. For passes.cpp.
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
    Index f = 0;
    for (; f + STRETCH < n_features; f += STRETCH) {
        V sums[N][2] = {};
        add_products<N>(block, f, f + STRETCH, center, sums);
#pragma GCC unroll 6
        for (int c = 0; c < N; c++) {
            scores[c][0] += sums[c][0];
            scores[c][1] += sums[c][1];
        }
    }
    add_products<N>(block, f, n_features, center, scores);
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
    for (int half = 0; half < 2; half++) {
        V norm{};
        if (norms != nullptr) norm = load<V>(norms + half * WIDTH<C>);
        for (Index begin = 0; begin < n_features && norms == nullptr; begin += STRETCH) {
            V sum{};
            for (Index f = begin; f < least(begin + STRETCH, n_features); f++) {
                const V x = load<V>(block + f * LANES<C> + half * WIDTH<C>);
                sum += x * x;
            }
            norm += sum;
        }
        const V error = splat<V>(job.rounding.offset) + splat<V>(job.rounding.coefficient) * norm, zero{};
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

// Memory of a part, cut up.
template <class C>
struct Workspace {
    C* block;           // (n_features, lanes)
    Index *rows, *ordered, *ends;
    int32_t *everyone, *candidates;
    double* exact;      // for settling

    Workspace(char* memory, const Job<C>& job) {
        const Index n_rows = room_for_rows(job.rows.n_samples, job.n_clusters), d = job.rows.n_features, k = job.n_clusters;
        block = reinterpret_cast<C*>(memory);
        exact = reinterpret_cast<double*>(memory + 8 * MOST_LANES * d);
        rows = reinterpret_cast<Index*>(exact + 4 * d + k);
        ordered = rows + n_rows;
        ends = ordered + n_rows;
        everyone = reinterpret_cast<int32_t*>(ends + k + 1);
        candidates = everyone + k;
        for (Index c = 0; c < k; c++) everyone[c] = int32_t(c);
    }
};

// Labels of rows, as their block was compared, and what follows.
template <class C>
void write_down(const Job<C>& job, const Index* which, Index count, const Nearest<C>& found, Totals* totals,
                Workspace<C>& memory) {
    for (Index i = 0; i < count; i++) {
        const Index row = which[i];
        int32_t label = found.index[i];
        const bool sure = found.lead[i] > job.rounding.doubt * job.sq_norms[label] + job.rounding.least;
        if (!sure) {
            const Flushing in_float64(false);
            label = job.settle(job, row, memory.exact);
        }
        const int32_t before = job.labels[row];
        job.labels[row] = label;
        if (totals == nullptr) continue;
        totals->n_changed += label != before;
        totals->n_settled += !sure;
        if (job.slack == nullptr) {
            add_row_of_any(job.rows, row, job.sample_weight[row], label, *totals);
            continue;
        }
        const double gap = sure ? double(found.second[i]) - double(found.reach[i]) : -__builtin_inf();
        job.slack[row] = gap == gap ? job.path[label] + gap : -__builtin_inf();
        if (label != before) {
            add_row_of_any(job.rows, row, job.sample_weight[row], label, *totals);
            if (before >= 0) add_row_of_any(job.rows, row, -job.sample_weight[row], before, *totals);
        }
    }
}

// Find the nearest two centers of each of the rows, and write down what follows.
template <class C>
void compare(const Job<C>& job, const Index* which, Index n_rows, Totals* totals, Workspace<C>& memory) {
    Nearest<C> found;
    for (Index first = 0; first < n_rows; first += LANES<C>) {
        const Index count = least(LANES<C>, n_rows - first);
        const C* norms = gather_for(job, which + first, count, memory.block);
        nearest_two(job, memory.block, norms, memory.everyone, job.n_clusters, found);
        write_down(job, which + first, count, found, totals, memory);
    }
}

// `compare` for rows of one cluster; the number of rows put into `rest`, beside those that are there.
//
// Let u be the distance of a row from its center, and s that of this center from the nearest other. If 2 u < s, the row
// stays. Else its nearest two centers are within 2 u + s of its own, and it is compared with those (J. Newling and
// F. Fleuret, "Fast k-means with accurate bounds", 2016). If that costs more than to compare the rows of a block that
// may not stay with all centers, those are added to `rest` instead.
template <class C>
Index compare_cluster(const Job<C>& job, int32_t own, const Index* which, Index n_rows, Index* rest, Index n_rest,
                      Totals* totals, Workspace<C>& memory) {
    Nearest<C> found;
    const Index k = job.n_clusters;
    const double *between = job.between + own * k, nearest_other = job.nearest_other[own];
    double limit = -1;  // of the candidates
    Index n_candidates = 0;
    for (Index first = 0; first < n_rows; first += LANES<C>) {
        const Index count = least(LANES<C>, n_rows - first), *some = which + first;
        const C* norms = gather_for(job, some, count, memory.block);
        nearest_two(job, memory.block, norms, &own, 1, found);
        double widest = 0;
        Index n_left = 0;
        for (Index i = 0; i < count; i++) {
            const double gap = nearest_other - 2.0 * double(found.reach[i]);
            const bool stays = gap > 0;  // not, if it is no number
            job.slack[some[i]] = stays ? job.path[own] + gap : -__builtin_inf();
            n_left += !stays;
            widest = largest(widest, 2.0 * double(found.reach[i]) + nearest_other);
        }
        if (n_left == 0) continue;
        if (!(widest <= limit)) {
            limit = 1.1 * widest;
            n_candidates = 0;
            for (Index center = 0; center < k; center++) {
                memory.candidates[n_candidates] = int32_t(center);
                n_candidates += !(between[center] > limit);
            }
        }
        if (LANES<C> * n_candidates > n_left * k) {
            for (Index i = 0; i < count; i++) {
                rest[n_rest] = some[i];
                n_rest += !(job.slack[some[i]] > job.path[own]);
            }
            continue;
        }
        nearest_two(job, memory.block, norms, memory.candidates, n_candidates, found);
        write_down(job, some, count, found, totals, memory);
    }
    return n_rest;
}

// Label some rows by the lowest score, and by how much the second is higher: for whoever looks closer at some of them.
template <class C>
void lead(const Job<C>& job, const Index* which, Index n_which, double* leads, char* workspace) {
    const Flushing flushing(sizeof(C) == 4);
    Workspace<C> memory(workspace, job);
    Nearest<C> found;
    for (Index first = 0; first < n_which; first += LANES<C>) {
        const Index count = least(LANES<C>, n_which - first);
        const C* norms = gather_for(job, which + first, count, memory.block);
        nearest_two(job, memory.block, norms, memory.everyone, job.n_clusters, found);
        for (Index i = 0; i < count; i++) {
            job.labels[which[first + i]] = found.index[i];
            leads[first + i] = double(found.lead[i]);
        }
    }
}

// Order rows by their labels (counting sort); `ends` become where each cluster ends.
void by_cluster(const Index* rows, Index n_rows, const int32_t* labels, Index n_clusters, Index* ends, Index* ordered) {
    for (Index c = 0; c <= n_clusters; c++) ends[c] = 0;
    for (Index i = 0; i < n_rows; i++) ends[labels[rows[i]] + 1]++;
    for (Index c = 0; c < n_clusters; c++) ends[c + 1] += ends[c];
    for (Index i = 0; i < n_rows; i++) ordered[ends[labels[rows[i]]]++] = rows[i];
}

template <class C>
void look_at(const Job<C>& job, Index n_rows, Totals* totals, Workspace<C>& memory) {
    if (job.between != nullptr) {
        by_cluster(memory.rows, n_rows, job.labels, job.n_clusters, memory.ends, memory.ordered);
        Index begin = 0, n_rest = 0;
        for (Index own = 0; own < job.n_clusters; own++) {
            const Index end = memory.ends[own];
            n_rest = compare_cluster(job, int32_t(own), memory.ordered + begin, end - begin, memory.rows, n_rest,
                                     totals, memory);
            begin = end;
        }
        n_rows = n_rest;
    }
    compare(job, memory.rows, n_rows, totals, memory);
}

// Write down which rows begin to end are stale: their label may change. `rows` has room for all; -> how many.
template <class C>
Index stale_rows(const Job<C>& job, Index begin, Index end, Index* rows) {
    Index count = 0, row = begin;
#if defined(__AVX512F__)
    __m512i numbers = _mm512_add_epi64(_mm512_set1_epi64(begin), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    for (; row + 8 <= end; row += 8, numbers = _mm512_add_epi64(numbers, _mm512_set1_epi64(8))) {
        const __m256i labels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.labels + row));
        const __mmask8 labeled = _mm256_cmpge_epi32_mask(labels, _mm256_setzero_si256());
        const __m512d never = _mm512_set1_pd(__builtin_inf());
        const __m512d path = _mm512_mask_i32gather_pd(never, labeled, labels, job.path, 8);
        const __mmask8 stale = _mm512_cmp_pd_mask(_mm512_loadu_pd(job.slack + row), path, _CMP_NGT_UQ);
        _mm512_storeu_si512(rows + count, _mm512_maskz_compress_epi64(stale, numbers));
        count += __builtin_popcount(stale);
    }
#endif
    for (; row < end; row++) {
        const int32_t label = job.labels[row];
        rows[count] = row;
        count += label < 0 || !(job.slack[row] > job.path[label]);
    }
    return count;
}

// Look at the rows of every n_parts-th tile whose label may change, or at all of them.
template <class C>
void relabel(const Job<C>& job, Part part, Totals* totals, char* workspace) {
    const Flushing flushing(sizeof(C) == 4);
    Workspace<C> memory(workspace, job);
    const Index n_samples = job.rows.n_samples, tile = rows_of_tile(n_samples, part.n_parts);
    const Index stride = part.n_parts * tile;
    const Index enough = job.between == nullptr ? 1 : enough_rows(job.n_clusters);
    Index count = 0;
    for (Index start = part.number * tile; start < n_samples; start += stride) {
        const Index stop = least(start + tile, n_samples);
        if (job.slack == nullptr) {
            for (Index row = start; row < stop; row++) memory.rows[count++] = row;
        } else {
            count += stale_rows(job, start, stop, memory.rows + count);
        }
        if (count < enough && start + stride < n_samples) continue;
        if (totals != nullptr) totals->n_active += count;
        look_at(job, count, totals, memory);
        count = 0;
        if (job.stops(job.stopping)) return;
    }
}

}  // namespace
}  // namespace kmeans
