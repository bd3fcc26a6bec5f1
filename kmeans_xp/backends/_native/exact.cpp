// The nearest center of a row for which scores leave a doubt, as `nearest.nearest_by_differences`: the same bits on
// every processor, so it must be compiled without contraction of products and sums.
#include <cmath>
#include <vector>

#include "numbers.hpp"

namespace kmeans {

double number_of(const Rows& rows, Index row, Index f) {
    const char* place = rows.data + row * rows.row_stride + f * rows.column_stride;
    return with_type(rows.dtype, [&](auto type) { return double(number_at<decltype(type)>(place)); });
}

namespace {

// `nearest.row_sums`: of halves with halves. The values are overwritten.
double row_sum(double* values, Index n) {
    double odd = 0;
    for (; n > 1; n /= 2) {
        if (n % 2) odd += values[n - 1];
        for (Index i = 0; i < n / 2; i++) values[i] += values[n / 2 + i];
    }
    return values[0] + odd;
}

}  // namespace

template <class C>
int32_t nearest_by_differences(const Job<C>& job, Index row, void* workspace) {
    const Index d = job.rows.n_features, k = job.n_clusters;
    double *x = static_cast<double*>(workspace), *products = x + d, *squares = products + d;
    bool finite = true;
    for (Index f = 0; f < d; f++) {
        x[f] = number_of(job.rows, row, f) - job.rows.origin[f];
        finite = finite && std::isfinite(x[f]);
    }
    double least = INFINITY;
    bool in_range = true;
    for (Index c = 0; c < k; c++) {
        const double* center = job.centers + c * d;
        double even = 0, odd = 0;
        Index f = 0;
        for (; f + 1 < d; f += 2) {
            const double a = center[f] - x[f], b = center[f + 1] - x[f + 1];
            even += a * a;
            odd += b * b;
        }
        if (f < d) even += (center[f] - x[f]) * (center[f] - x[f]);
        squares[c] = even + odd;
        in_range = in_range && squares[c] < INFINITY;
        least = squares[c] < least ? squares[c] : least;
    }
    if (!in_range) {  // or no number, which a caller finds out
        __atomic_store_n(finite ? job.too_large : job.not_finite, 1, __ATOMIC_RELAXED);
        return 0;
    }
    // Centers beyond this are farther whatever rounding does, here and below
    const double near = least + 4 * (double(d) + 4) * 0x1p-52 * least;
    Index best = -1;
    double lowest = INFINITY;
    for (Index c = 0; c < k; c++) {
        if (!(squares[c] <= near)) continue;
        for (Index f = 0; f < d; f++) {
            const double apart = job.centers[c * d + f] - x[f];
            products[f] = apart * apart;
        }
        const double square = row_sum(products, d);
        if (square < lowest || best < 0) lowest = square, best = c;
    }
    const double* b = job.centers + best * d;
    Index first = best;
    lowest = INFINITY;
    for (Index c = 0; c < k; c++) {
        if (!(squares[c] <= near)) continue;
        const double* a = job.centers + c * d;
        for (Index f = 0; f < d; f++) products[f] = (a[f] - b[f]) * ((a[f] - x[f]) + (b[f] - x[f]));
        const double rival = row_sum(products, d);
        if (rival < lowest) lowest = rival, first = c;
    }
    return int32_t(first);
}

void squares_of_pairs(const Rows& rows, const Index* which, const int32_t* clusters, Index n_pairs,
                      const double* centers, double* squares) {
    const Index d = rows.n_features;
    std::vector<double> row(d), products(d);
    for (Index i = 0; i < n_pairs; i++) {
        const double* center = centers + clusters[i] * d;
        if (i == 0 || which[i] != which[i - 1])
            for (Index f = 0; f < d; f++) row[f] = number_of(rows, which[i], f) - rows.origin[f];
        for (Index f = 0; f < d; f++) products[f] = (row[f] - center[f]) * (row[f] - center[f]);
        squares[i] = row_sum(products.data(), d);
    }
}

namespace {

template <class T>
void products_with(const char* row, const double* origin, const double* direction, Index n, double* products) {
    for (Index f = 0; f < n; f++)
        products[f] = (double(number_at<T>(row + f * Index(sizeof(T)))) - origin[f]) * direction[f];
}

}  // namespace

void keys_of_rows(const Rows& rows, const double* direction, double* keys) {
    const Index d = rows.n_features;
    std::vector<double> products(d);
    for (Index row = 0; row < rows.n_samples; row++) {
        const char* place = rows.data + row * rows.row_stride;
        with_type(rows.dtype, [&](auto type) {
            using T = decltype(type);
            if (rows.column_stride == Index(sizeof(T)))
                products_with<T>(place, rows.origin, direction, d, products.data());
            else
                for (Index f = 0; f < d; f++) products[f] = (number_of(rows, row, f) - rows.origin[f]) * direction[f];
        });
        keys[row] = row_sum(products.data(), d);
    }
}

template int32_t nearest_by_differences(const Job<float>&, Index, void*);
template int32_t nearest_by_differences(const Job<double>&, Index, void*);

}  // namespace kmeans
