// Which two centers are nearest to each row, and what follows. For passes.cpp.
#pragma once
#include "leading.hpp"

namespace kmeans {
namespace {

// Memory of a part, cut up.
template <class C>
struct Workspace {
    C* block;           // (n_features, lanes)
    Index *rows, *ordered, *ends;
    int32_t *everyone, *candidates;
    double* exact;      // for settling
    LeadingMemory<C> leading;  // if there are leading coordinates

    Workspace(char* memory, const Job<C>& job)
        : leading(memory + workspace_bytes(job.rows.n_samples, job.rows.n_features, job.n_clusters), job.rows.n_features) {
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
        const bool adds = totals->sums != nullptr;
        if (job.slack == nullptr) {
            if (adds) add_row_of_any(job.rows, row, job.sample_weight[row], label, *totals);
            continue;
        }
        const double gap = sure ? double(found.second[i]) - double(found.reach[i]) : -__builtin_inf();
        job.slack[row] = gap == gap ? job.path[label] + gap : -__builtin_inf();
        if (adds && label != before) {
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
        if (first % (16 * LANES<C>) == 0 && first > 0 && job.stops(job.stopping)) return;  // centers may be many
        const Index count = least(LANES<C>, n_rows - first);
        const C* norms = gather_for(job, which + first, count, memory.block);
        if (job.leading.n_axes > 0)
            nearest_two_by_leading(job, memory.block, count, norms, memory.leading, found);
        else
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

template <class C>
Index count_candidates(const Job<C>& job, const Index* which, Index n_which, char* workspace) {
    const Flushing flushing(sizeof(C) == 4);
    Workspace<C> memory(workspace, job);
    Nearest<C> found;
    Index n_compared = 0;
    for (Index first = 0; first < n_which; first += LANES<C>) {
        const Index count = least(LANES<C>, n_which - first);
        const C* norms = gather_for(job, which + first, count, memory.block);
        n_compared += nearest_two_by_leading(job, memory.block, count, norms, memory.leading, found);
    }
    return n_compared;
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
