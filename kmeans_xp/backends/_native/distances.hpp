// Sums of clusters, and squared distances that are summed directly. For passes.cpp.
#pragma once
#include "blocks.hpp"

namespace kmeans {
namespace {

// Call function(begin, end) for every n_parts-th tile of rows.
template <class Function>
inline void for_tiles(Index n_samples, Part part, Function function) {
    const Index tile = rows_of_tile(n_samples, part.n_parts);
    for (Index begin = part.number * tile; begin < n_samples; begin += part.n_parts * tile)
        function(begin, least(begin + tile, n_samples));
}

// Call function(T(), rows, place, row) for every n_parts-th tile of rows, one after the other: of narrow ones, whole
// rows in float64, where `row` has another place.
template <class Function>
inline void for_rows(const Rows& rows, Part part, Function function) {
    if (!is_narrow(rows)) {
        with_type_of(rows, [&](auto type) {
            for_tiles(rows.n_samples, part, [&](Index begin, Index end) {
                for (Index row = begin; row < end; row++) function(type, rows, row, row);
            });
        });
        return;
    }
    double* numbers = new double[MOST_LANES * rows.n_features];
    for_tiles(rows.n_samples, part, [&](Index begin, Index end) {
        Index which[MOST_LANES];
        for (Index first = begin; first < end; first += MOST_LANES) {
            const Index count = least(MOST_LANES, end - first);
            for (Index i = 0; i < count; i++) which[i] = first + i;
            const Rows wide = widened(rows, which, count, 0, rows.n_features, numbers);
            for (Index i = 0; i < count; i++) function(double(), wide, i, first + i);
        }
    });
    delete[] numbers;
}

void sum(const Rows& rows, const double* sample_weight, const int32_t* labels, Part part, Totals& totals) {
    for_rows(rows, part, [&](auto type, const Rows& some, Index place, Index row) {
        double* sums = sums_of(totals, labels[row], rows.n_features);
        totals.weights[labels[row]] += sample_weight[row];
        add_row<decltype(type)>(some, place, sample_weight[row], sums);
    });
}

void sum_changes(const Rows& rows, const double* sample_weight, const int32_t* before, const int32_t* labels, Index begin,
                 Index end, double* sums, double* weights) {
    with_type(rows.dtype, [&](auto type) {
        for (Index row = 0; row < rows.n_samples; row++) {
            const Index now = labels[row], was = before == nullptr ? -1 : before[row];
            if (now == was) continue;
            if (begin <= now && now < end) {
                weights[now] += sample_weight[row];
                add_row<decltype(type)>(rows, row, sample_weight[row], sums + now * rows.n_features);
            }
            if (begin <= was && was < end) {
                weights[was] -= sample_weight[row];
                add_row<decltype(type)>(rows, row, -sample_weight[row], sums + was * rows.n_features);
            }
        }
    });
}

template <class T>
inline double sq_distance(const char* place, Index step, const double* origin, const double* center, Index n_features) {
    double total = 0;
    if (n_features <= FEW) {
        for_few(n_features, [&](Index f) {
            const double apart = double(number_at<T>(place + f * step)) - origin[f] - center[f];
            total += apart * apart;
        });
        return total;
    }
#pragma omp simd reduction(+ : total)
    for (Index f = 0; f < n_features; f++) {
        const double apart = double(number_at<T>(place + f * step)) - origin[f] - center[f];
        total += apart * apart;
    }
    return total;
}

// Of a row of numbers T from a point.
template <class T>
inline double sq_distance_of(const Rows& rows, Index row, const double* point) {
    const char* place = rows.data + row * rows.row_stride;
    return rows.column_stride == Index(sizeof(T))
               ? sq_distance<T>(place, sizeof(T), rows.origin, point, rows.n_features)
               : sq_distance<T>(place, rows.column_stride, rows.origin, point, rows.n_features);
}

// The same of numbers of any type; `numbers` (n_features,) is to compute with.
inline double sq_distance_of_any(const Rows& rows, Index row, const double* point, double* numbers) {
    if (is_narrow(rows))
        return sq_distance_of<double>(widened(rows, &row, 1, 0, rows.n_features, numbers), 0, point);
    return with_type_of(rows, [&](auto type) { return sq_distance_of<decltype(type)>(rows, row, point); });
}

void own(const Rows& rows, const int32_t* labels, const double* centers, Part part, double* squares) {
    for_rows(rows, part, [&](auto type, const Rows& some, Index place, Index row) {
        squares[row] = sq_distance_of<decltype(type)>(some, place, centers + labels[row] * rows.n_features);
    });
}

// Squared distances of a block of rows from N points, summed directly: (N, lanes).
template <int N>
inline void squares_from(const double* block, Index n_features, const double* points, double* result) {
    using V = Reals<double>;
    V total[N][2] = {};
    for (Index f = 0; f < n_features; f++) {
        const V x0 = load<V>(block + f * LANES<double>), x1 = load<V>(block + f * LANES<double> + WIDTH<double>);
#pragma GCC unroll 4
        for (int c = 0; c < N; c++) {
            const V point = splat<V>(points[c * n_features + f]), apart0 = x0 - point, apart1 = x1 - point;
            total[c][0] += apart0 * apart0;
            total[c][1] += apart1 * apart1;
        }
    }
    for (int c = 0; c < N; c++) {
        store(result + c * LANES<double>, total[c][0]);
        store(result + c * LANES<double> + WIDTH<double>, total[c][1]);
    }
}

void squares_of_block(const double* block, Index n_features, const double* points, Index n_points, double* result) {
    Index c = 0;
    for (; c + 4 <= n_points; c += 4)
        squares_from<4>(block, n_features, points + c * n_features, result + c * LANES<double>);
    points += c * n_features;
    result += c * LANES<double>;
    switch (n_points - c) {
        case 3: squares_from<3>(block, n_features, points, result); break;
        case 2: squares_from<2>(block, n_features, points, result); break;
        case 1: squares_from<1>(block, n_features, points, result); break;
        default: break;
    }
}

// Call function(begin, count, squares) for blocks of rows; squares (n_points, lanes).
template <class Function>
inline void for_blocks(const Squares& job, const Index* which, Index n_which, char* workspace, Function function) {
    double* block = reinterpret_cast<double*>(workspace);
    double* squares = block + job.rows.n_features * LANES<double>;
    for (Index first = 0; first < n_which; first += LANES<double>) {
        const Index count = least(LANES<double>, n_which - first);
        gather_any(job.rows, which + first, count, block);
        squares_of_block(block, job.rows.n_features, job.points, job.n_points, squares);
        function(first, count, squares);
    }
}

void squares_of(const Squares& job, const Index* which, Index n_which, double* result, Index stride, char* workspace) {
    for_blocks(job, which, n_which, workspace, [&](Index first, Index count, const double* squares) {
        for (Index c = 0; c < job.n_points; c++)
            for (Index i = 0; i < count; i++) result[c * stride + first + i] = squares[c * LANES<double> + i];
    });
}

void squares(const Squares& job, Index begin, Index end, double* result, Index stride, char* workspace) {
    Index which[LANES<double>];
    for (Index first = begin; first < end; first += LANES<double>) {
        const Index count = least(LANES<double>, end - first);
        for (Index i = 0; i < count; i++) which[i] = first + i;
        squares_of(job, which, count, result + (first - begin), stride, workspace);
    }
}

void distances(const Squares& job, Part part, void* result, bool is_float, char* workspace) {
    const Index k = job.n_points;
    for_tiles(job.rows.n_samples, part, [&](Index begin, Index end) {
        Index which[LANES<double>];
        for (Index start = begin; start < end; start += LANES<double>) {
            const Index some = least(LANES<double>, end - start);
            for (Index i = 0; i < some; i++) which[i] = start + i;
            for_blocks(job, which, some, workspace, [&](Index, Index count, double* squares) {
                for (Index i = 0; i < k * LANES<double>; i++) squares[i] = root(squares[i]);
                for (Index i = 0; i < count; i++)
                    for (Index c = 0; c < k; c++) {
                        const double distance = squares[c * LANES<double> + i];
                        if (is_float)
                            static_cast<float*>(result)[(start + i) * k + c] = float(distance);
                        else
                            static_cast<double*>(result)[(start + i) * k + c] = distance;
                    }
            });
        }
    });
}

}  // namespace
}  // namespace kmeans
