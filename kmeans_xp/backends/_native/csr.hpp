// Sparse rows against a table of centers, and how centers are put into the table. For passes.cpp.
#pragma once
#include "blocks.hpp"

namespace kmeans {
namespace {

// Call function(T(), I()) for the types of the numbers and of their columns.
template <class Function>
inline auto with_types_of(const SparseRows& rows, Function function) {
    if (rows.dtype == Dtype::float32) return rows.wide ? function(float(), int64_t()) : function(float(), int32_t());
    return rows.wide ? function(double(), int64_t()) : function(double(), int32_t());
}

// Products of the numbers of a row with N vectors of the table's columns. The vectors stay in registers. So many numbers
// `together` need not wait for each other; the same for all columns, so that equal centers have equal scores.
template <int N, int together, class T, class I>
inline void multiply(const char* numbers, const char* columns, Index size, const double* table, Index width,
                     double* products) {
    using V = Reals<double>;
    V total[together][N] = {};
    const auto add = [&](Index i, V* sums) {
        const V number = splat<V>(double(number_at<T>(numbers + i * Index(sizeof(T)))));
        const double* factors = table + Index(number_at<I>(columns + i * Index(sizeof(I)))) * width;
#pragma GCC unroll 8
        for (int v = 0; v < N; v++) sums[v] += number * load<V>(factors + v * WIDTH<double>);
    };
    Index i = 0;
    for (; i + together <= size; i += together)
#pragma GCC unroll 4
        for (int j = 0; j < together; j++) add(i + j, total[j]);
    for (; i < size; i++) add(i, total[0]);
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) {
        for (int j = 1; j < together; j++) total[0][v] += total[j][v];
        store(products + v * WIDTH<double>, total[0][v]);
    }
}

template <class T, class I>
void multiply_all(const char* numbers, const char* columns, Index size, const double* table, Index width,
                  double* products) {
    constexpr Index step = WIDTH<double>;
    switch (width / step) {
        case 1: return multiply<1, 4, T, I>(numbers, columns, size, table, width, products);
        case 2: return multiply<2, 4, T, I>(numbers, columns, size, table, width, products);
        case 3: return multiply<3, 2, T, I>(numbers, columns, size, table, width, products);
        case 4: return multiply<4, 2, T, I>(numbers, columns, size, table, width, products);
        default: break;
    }
    Index done = 0;
    for (; done + 8 * step <= width; done += 8 * step)
        multiply<8, 1, T, I>(numbers, columns, size, table + done, width, products + done);
    for (; done + 4 * step <= width; done += 4 * step)
        multiply<4, 1, T, I>(numbers, columns, size, table + done, width, products + done);
    for (; done < width; done += step)
        multiply<1, 1, T, I>(numbers, columns, size, table + done, width, products + done);
}

template <class T>
inline double sum_of_squares(const char* numbers, Index size) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (Index i = 0; i < size; i++) {
        const double number = double(number_at<T>(numbers + i * Index(sizeof(T))));
        total += number * number;
    }
    return total;
}

struct TwoScores {
    double lowest, second;
    int32_t label;
};

// The least of the lanes.
template <class V>
inline auto least_of(V values) {
    constexpr Index n = sizeof(V) / sizeof(values[0]);
    decltype(values[0] + 0) all[n];
    store(all, values);
#pragma GCC unroll 4
    for (Index half = n / 2; half > 0; half /= 2)
#pragma GCC unroll 4
        for (Index i = 0; i < half; i++) all[i] = all[i + half] < all[i] ? all[i + half] : all[i];
    return all[0];
}

// The lowest two of the scores, of equal ones the first; whatever, where all are no numbers.
inline TwoScores lowest_two(const double* products, const Table& table) {
    using V = Reals<double>;
    using Names = Integers<double>;
    constexpr Index step = WIDTH<double>;
    V lowest = splat<V>(__builtin_inf()), second = lowest;
    Names name{}, index{};
    for (Index i = 0; i < step; i++) name[i] = i;
    for (Index c = 0; c < table.width; c += step) {
        const V score = load<V>(products + c) + load<V>(table.constants + c);
        index = score < lowest ? name : index;
        second = lower(higher(score, lowest), second);
        lowest = lower(score, lowest);
        name += step;
    }
    const double best = least_of(lowest);
    const int32_t label = int32_t(least_of(lowest == best ? index : splat<Names>(INT64_MAX)));
    // Of other lanes the lowest is the second
    return {best, least_of(index == label ? second : lowest), label};
}

template <class T, class I>
Changes relabel_rows(const SparseJob& job, Index begin, Index end, Change* changes, double* products) {
    constexpr Index tile = 256;  // rows after which is asked whether to stop
    const SparseRows& rows = job.rows;
    const Table& table = job.table;
    Changes count{};
    for (Index row = begin; row < end; row++) {
        if ((row - begin) % tile == 0 && job.stops(job.stopping)) break;
        const int32_t before = job.labels[row];
        if (job.slack != nullptr && before >= 0 && job.slack[row] > job.path[before]) continue;
        count.n_active++;
        const Index first = rows.begins[row], size = rows.begins[row + 1] - first;
        const char* numbers = rows.data + first * Index(sizeof(T));
        multiply_all<T, I>(numbers, rows.columns + first * Index(sizeof(I)), size, table.numbers, table.width, products);
        const TwoScores found = lowest_two(products, table);
        const int32_t label = found.label;
        job.labels[row] = label;
        const bool is_new = label != before;
        count.n_changed += is_new;
        if (job.slack == nullptr) {
            changes[count.n++] = {row, -1, label};
            continue;
        }
        const double norm = sum_of_squares<T>(numbers, size) + products[table.n_clusters] + job.sq_origin;
        const double error = job.rounding * largest(norm, 0) + job.offset;
        const double reach = root(largest(found.lowest + norm, 0) + error);
        const double gap = root(largest(found.second + norm - error, 0)) - reach;
        job.slack[row] = gap == gap ? job.path[label] + gap : -__builtin_inf();
        if (is_new) changes[count.n++] = {row, before, label};
    }
    return count;
}

Changes relabel_sparse(const SparseJob& job, Index begin, Index end, Change* changes, double* workspace) {
    return with_types_of(job.rows, [&](auto number, auto column) {
        return relabel_rows<decltype(number), decltype(column)>(job, begin, end, changes, workspace);
    });
}

// Have features begin to end of a center be what `center_of(feature)` is: in the table, and in the totals.
template <class Center>
inline void put_center(const Tabulation& job, Index c, Index begin, Index end, double* totals, Center center_of) {
    const Index width = job.table.width;
    const double* __restrict__ origin = job.origin;
    const double* __restrict__ old = job.centers_old + c * job.n_features;
    const double* __restrict__ sums = job.sums == nullptr ? old : job.sums + c * job.n_features;
    double* __restrict__ numbers = job.table.numbers + c;
    double moved = 0, squared = 0, with_origin = 0, crossed = 0;
    constexpr Index n = 64;  // of which the vectors are loaded together
    double part[n];
    for (; begin < end; begin += n) {
        const Index count = least(n, end - begin);
#pragma omp simd reduction(+ : moved, squared, with_origin, crossed)
        for (Index i = 0; i < count; i++) {
            const Index f = begin + i;
            const double center = center_of(f), apart = center - old[f];
            part[i] = -2 * center;
            moved += apart * apart;
            squared += center * center;
            with_origin += origin[f] * center;
            crossed += old[f] * sums[f];
        }
        for (Index i = 0; i < count; i++) numbers[(begin + i) * width] = part[i];
    }
    totals[MOVED * width + c] += moved;
    totals[SQUARED * width + c] += squared;
    totals[WITH_ORIGIN * width + c] += with_origin;
    totals[CROSSED * width + c] += crossed;
}

void tabulate(const Tabulation& job, Index part) {
    const Table& table = job.table;
    const Index chunk = part % job.n_chunks, group = part / job.n_chunks, d = job.n_features, width = table.width;
    const Index last = d * (chunk + 1) / job.n_chunks;
    double* totals = job.totals + chunk * N_TOTALS * width;
    for (Index c = group * TOGETHER; c < (group + 1) * TOGETHER; c++)
        for (Index i = 0; i < N_TOTALS; i++) totals[i * width + c] = 0;
    constexpr Index some = 256;  // features of which the lines of the table stay in the cache
    for (Index begin = d * chunk / job.n_chunks; begin < last; begin += some) {
        const Index end = least(begin + some, last);
        for (Index c = group * TOGETHER; c < (group + 1) * TOGETHER; c++) {
            double* __restrict__ center = job.centers + c * d;
            if (c >= table.n_clusters) {
                const double factor = c == table.n_clusters ? -2 : 0;
                for (Index f = begin; f < end; f++) table.numbers[f * width + c] = factor == 0 ? 0 : factor * job.origin[f];
            } else if (job.sums == nullptr) {
                put_center(job, c, begin, end, totals, [=](Index f) { return center[f]; });
            } else {
                const double *old = job.centers_old + c * d, *sums = job.sums + c * d, *origin = job.frame_origin;
                const double weight = job.weights[c], norm = job.norms == nullptr ? 1 : job.norms[c];
                // An empty cluster keeps its center, and so does one in the middle of the sphere
                const bool stays = weight == 0, is_direction = job.norms != nullptr;
                const auto put = [&](auto mean) {
                    const auto at = [=](Index f) { return is_direction ? (mean(f) + origin[f]) / norm : mean(f) + origin[f]; };
                    if (is_direction && !(norm > 0)) {
                        put_center(job, c, begin, end, totals, [=](Index f) { return center[f] = old[f]; });
                    } else if (job.to_floats) {
                        put_center(job, c, begin, end, totals,
                                   [=](Index f) { return center[f] = double(float(at(f))) - origin[f]; });
                    } else {
                        put_center(job, c, begin, end, totals, [=](Index f) { return center[f] = at(f) - origin[f]; });
                    }
                };
                if (stays)
                    put([=](Index f) { return old[f]; });
                else
                    put([=](Index f) { return sums[f] / weight; });
            }
        }
    }
}

}  // namespace
}  // namespace kmeans
