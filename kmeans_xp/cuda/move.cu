// From sums to centers, and to what the loop must know.
#include "warp.cuh"

// New centers: means of the rows, rounded to Rounded relative to zero; an empty cluster keeps its old one. blockDim.x
// is 32: a warp for each.
template <typename Rounded>
__global__ void move_centers(const double* __restrict__ sums,         // IN  (n_clusters, n_features), with strides
                             const double* __restrict__ weights,      // IN  (n_clusters,)
                             const double* __restrict__ centers_old,  // IN  (n_clusters, n_features)
                             const double* __restrict__ origin,       // IN  (n_features,)
                             int n_clusters, int n_features, size_t row_stride, size_t column_stride,
                             double* __restrict__ centers,            // OUT (n_clusters, n_features)
                             double* __restrict__ parts)              // OUT (n_clusters, 2): of shift, and of
                                                                      //     2 c.sum - weight ||c||^2 for the old center
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y;
    if (cluster >= n_clusters) return;  // all lanes of a warp
    const double weight = weights[cluster];
    double shift = 0.0, explained = 0.0;
    for (int f = threadIdx.x; f < n_features; f += 32) {
        const double old = centers_old[(size_t)cluster * n_features + f], sum = sums[cluster * row_stride + f * column_stride];
        const double mean = weight == 0.0 ? old : sum / weight;
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

// What the loop wants to know of an iteration. One warp.
extern "C" __global__ void sum_up(const double* __restrict__ parts,    // IN  (n_clusters, 2), as above
                                  const double* __restrict__ weights,  // IN  (n_clusters,)
                                  const double* __restrict__ n_changed,  // IN
                                  const double* __restrict__ n_active,   // IN
                                  double spread, int n_clusters,
                                  double* __restrict__ numbers)  // OUT n_changed, n_active, shift, inertia, empty clusters
{
    double shift = 0.0, explained = 0.0, weight = 0.0, empty = 0.0;
    for (int c = threadIdx.x; c < n_clusters; c += 32) {
        shift += parts[2 * c];
        explained += parts[2 * c + 1];
        weight += weights[c];
        empty += weights[c] == 0.0;
    }
    shift = sum_of_warp(shift);
    explained = sum_of_warp(explained);
    weight = sum_of_warp(weight);
    empty = sum_of_warp(empty);
    if (threadIdx.x == 0) {
        const double inertia = weight * spread - explained;
        numbers[0] = *n_changed;
        numbers[1] = *n_active;
        numbers[2] = shift;
        numbers[3] = inertia < 0.0 ? 0.0 : inertia;  // NaN stays
        numbers[4] = empty;
    }
}
