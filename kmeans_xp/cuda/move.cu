// From sums to centers, and to what the loop must know.
#include "warp.cuh"

// New centers: means of the rows, or of directions those scaled to norm 1, rounded to Rounded relative to zero. An empty
// cluster keeps its old one, and so does one whose mean has no direction. blockDim.x is 32: a warp for each.
template <typename Rounded>
__device__ __forceinline__ void move_clusters(
        const double* __restrict__ sums,         // IN  (n_clusters, n_features), with strides
        const double* __restrict__ weights,      // IN  (n_clusters,), with a stride
        const double* __restrict__ centers_old,  // IN  (n_clusters, n_features)
        const double* __restrict__ origin,       // IN  (n_features,)
        int n_clusters, int n_features, size_t row_stride, size_t column_stride,
        size_t weight_stride,
        int spherical,  // whether rows are directions
        const unsigned long long* __restrict__ most_rows,  // IN  0: the run has ended; NULL: no run
        double* __restrict__ centers,            // OUT (n_clusters, n_features)
        double* __restrict__ parts)              // OUT (n_clusters, 2): of shift, and of
                                                 //     2 c.sum - weight ||c||^2 for the old center
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y;
    if (cluster >= n_clusters || has_ended(most_rows)) return;  // all lanes of a warp
    const double weight = weights[cluster * weight_stride];
    auto mean_of = [&](double old, double sum) { return weight == 0.0 ? old : sum / weight; };
    double norm = 1.0;
    if (spherical) {
        norm = 0.0;
        for (int f = threadIdx.x; f < n_features; f += 32) {
            const double old = centers_old[(size_t)cluster * n_features + f];
            const double place = mean_of(old, sums[cluster * row_stride + f * column_stride]) + origin[f];
            norm += place * place;
        }
        norm = sqrt(sum_of_warp(norm));
    }
    double shift = 0.0, explained = 0.0;
    for (int f = threadIdx.x; f < n_features; f += 32) {
        const double old = centers_old[(size_t)cluster * n_features + f], sum = sums[cluster * row_stride + f * column_stride];
        double mean = mean_of(old, sum);
        if (spherical) mean = norm > 0.0 ? (mean + origin[f]) / norm - origin[f] : old;
        const double center = (double)(Rounded)(mean + origin[f]) - origin[f];
        centers[(size_t)cluster * n_features + f] = center;
        shift += (center - old) * (center - old);
        explained += old * (2.0 * sum - weight * old);
    }
    shift = sum_of_warp(shift);
    explained = sum_of_warp(explained);
    if (threadIdx.x == 0) {
        parts[2 * cluster] = shift;
        parts[2 * cluster + 1] = explained;
    }
}

template <typename Rounded>
__global__ void move_centers(const double* __restrict__ sums, const double* __restrict__ weights,
                             const double* __restrict__ centers_old, const double* __restrict__ origin, int n_clusters,
                             int n_features, size_t row_stride, size_t column_stride, size_t weight_stride,
                             int spherical, const unsigned long long* __restrict__ most_rows,
                             double* __restrict__ centers, double* __restrict__ parts)
{
    move_clusters<Rounded>(sums, weights, centers_old, origin, n_clusters, n_features, row_stride, column_stride,
                           weight_stride, spherical, most_rows, centers, parts);
}

// What the loop wants to know of an iteration, and whether the run ends with it. One warp.
//
// It ends as no label changes, as the centers move by no more than `tol` (squared), as a cluster may be empty, or with a
// number that is not finite. Then *most_rows becomes 0: iterations that have been launched already look at no row, move
// no center and write no numbers.
__device__ __forceinline__ void conclude(
        const double* __restrict__ parts,    // IN  (n_clusters, 2), as above
        const double* __restrict__ weights,  // IN  (n_clusters,), with a stride
        size_t weight_stride,
        const unsigned long long* __restrict__ n_changed,  // IN
        const unsigned long long* __restrict__ n_active,   // IN
        double spread, int n_clusters, double tol,
        double faint,  // share of the weight up to which a cluster may be empty
        double cost,   // of a squared distance of 1
        unsigned long long* most_rows,  // IN, OUT; NULL: no run
        double* __restrict__ numbers)  // OUT n_changed, n_active, shift, inertia, empty clusters
{
    if (has_ended(most_rows)) return;
    double shift = 0.0, explained = 0.0, weight = 0.0, empty = 0.0;
    for (int c = threadIdx.x; c < n_clusters; c += 32) {
        shift += parts[2 * c];
        explained += parts[2 * c + 1];
        weight += weights[c * weight_stride];
    }
    shift = sum_of_warp(shift);
    explained = sum_of_warp(explained);
    weight = sum_of_warp(weight);
    for (int c = threadIdx.x; c < n_clusters; c += 32) empty += weights[c * weight_stride] <= faint * weight;
    empty = sum_of_warp(empty);
    if (threadIdx.x == 0) {
        const double inertia = weight * spread - explained;
        numbers[0] = (double)*n_changed;
        numbers[1] = (double)*n_active;
        numbers[2] = shift;
        numbers[3] = inertia < 0.0 ? 0.0 : cost * inertia;  // NaN stays
        numbers[4] = empty;
        const bool goes_on = *n_changed > 0 && shift > tol && empty == 0.0 && isfinite(shift) && isfinite(inertia);
        if (most_rows && !goes_on) *most_rows = 0;
    }
}

extern "C" __global__ void sum_up(const double* __restrict__ parts, const double* __restrict__ weights,
                                  size_t weight_stride, const unsigned long long* __restrict__ n_changed,
                                  const unsigned long long* __restrict__ n_active, double spread, int n_clusters,
                                  double tol, double faint, double cost,
                                  unsigned long long* left,  // IN, OUT (2,) most_rows, and how many rows of
                                                             //     numbers are written; NULL: no run, and none
                                  double* __restrict__ numbers)  // OUT (.., 5), the next row
{
    if (has_ended(left)) return;
    const unsigned long long row = left ? left[1] : 0;
    conclude(parts, weights, weight_stride, n_changed, n_active, spread, n_clusters, tol, faint, cost, left,
             numbers + 5 * row);
    if (left && threadIdx.x == 0) left[1] = row + 1;
}

// How far centers have moved, squared. blockDim.x is 32: a warp for each.
extern "C" __global__ void shifts(const double* __restrict__ centers,      // IN  (n_clusters, n_features)
                                  const double* __restrict__ centers_old,  // IN  (n_clusters, n_features)
                                  int n_clusters, int n_features,
                                  double* __restrict__ parts)  // OUT (n_clusters, 2), the first of each
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y;
    if (cluster >= n_clusters) return;  // all lanes of a warp
    const size_t first = (size_t)cluster * n_features;
    double shift = 0.0;
    for (int f = threadIdx.x; f < n_features; f += 32) {
        const double moved = centers[first + f] - centers_old[first + f];
        shift += moved * moved;
    }
    shift = sum_of_warp(shift);
    if (threadIdx.x == 0) parts[2 * cluster] = shift;
}

// Paths after the centers moved: see bounds.advance. One warp.
extern "C" __global__ void advance_paths(const double* __restrict__ parts,  // IN  (n_clusters, 2), the first of each as above
                                   int n_clusters,
                                   const unsigned long long* __restrict__ most_rows,  // IN  0: the run has ended
                                   double* __restrict__ path)  // IN, OUT (n_clusters,)
{
    if (has_ended(most_rows)) return;
    double fastest = 0.0, second = 0.0;  // of all, of those that are not `leader`
    int leader = n_clusters;
    for (int c = threadIdx.x; c < n_clusters; c += 32) {
        const double moved = sqrt(parts[2 * c]);
        if (moved > fastest) {
            second = fastest;
            fastest = moved;
            leader = c;
        } else if (moved > second)
            second = moved;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const double other = __shfl_xor_sync(0xffffffffu, fastest, step);
        const double behind = __shfl_xor_sync(0xffffffffu, second, step);
        const int number = __shfl_xor_sync(0xffffffffu, leader, step);
        const double loser = other < fastest ? other : fastest;
        second = second > behind ? second : behind;
        second = second > loser ? second : loser;
        if (other > fastest || (other == fastest && number < leader)) leader = number;
        fastest = other > fastest ? other : fastest;
    }
    for (int c = threadIdx.x; c < n_clusters; c += 32)
        path[c] = (path[c] + sqrt(parts[2 * c]) + (c == leader ? second : fastest)) * (1.0 + 1e-12);  // rounding up
}
