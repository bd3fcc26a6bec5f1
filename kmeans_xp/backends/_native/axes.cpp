// The directions in which rows differ most.
#include <algorithm>
#include <cmath>
#include <vector>

#include "lloyd.hpp"

namespace kmeans {
namespace {

constexpr Index ROWS_FOR_AXES = 512;

// Make vectors orthogonal and of norm 1, one after the other; twice, for what rounding leaves. One of zeros stays.
void orthonormalise(double* vectors, Index n, Index d) {
    for (Index i = 0; i < n; i++) {
        double* own = vectors + i * d;
        for (int again = 0; again < 2; again++) {
            for (Index j = 0; j < i; j++) {
                const double* other = vectors + j * d;
                const double along = dot(own, other, d);
                for (Index f = 0; f < d; f++) own[f] -= along * other[f];
            }
            const double norm = std::sqrt(dot(own, own, d));
            for (Index f = 0; f < d; f++) own[f] = norm > 0 ? own[f] / norm : 0;
        }
    }
}

}  // namespace

std::vector<double> leading_axes(const Rows& rows, Index n_axes, Team& team) {
    const Index d = rows.n_features, n = std::min(rows.n_samples, ROWS_FOR_AXES);
    std::vector<double> some(n * d), axes(n_axes * d), along(n * n_axes);
    const double step = double(rows.n_samples) / double(n);
    for (Index i = 0; i < n; i++)
        for (Index f = 0; f < d; f++) some[i * d + f] = number_of(rows, Index(double(i) * step), f) - rows.origin[f];
    // Any start would do, and rows are near what is looked for
    for (Index a = 0; a < n_axes; a++) std::copy_n(&some[a * n / n_axes * d], d, &axes[a * d]);
    for (int iteration = 0; iteration < 4; iteration++) {
        orthonormalise(axes.data(), n_axes, d);
        team.run(16, true, [&](Index part, int) {
            for (Index i = n * part / 16; i < n * (part + 1) / 16; i++)
                for (Index a = 0; a < n_axes; a++) along[i * n_axes + a] = dot(&some[i * d], &axes[a * d], d);
        });
        team.run(16, true, [&](Index part, int) {
            for (Index a = n_axes * part / 16; a < n_axes * (part + 1) / 16; a++) {
                std::fill_n(&axes[a * d], d, 0.0);
                for (Index i = 0; i < n; i++)
                    for (Index f = 0; f < d; f++) axes[a * d + f] += along[i * n_axes + a] * some[i * d + f];
            }
        });
    }
    orthonormalise(axes.data(), n_axes, d);
    return axes;
}

}  // namespace kmeans
