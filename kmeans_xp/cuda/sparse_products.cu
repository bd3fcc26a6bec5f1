// Sparse rows, stored as sparse_rows.cu says, times a matrix, and their distances from centers.
#include "warp.cuh"

// Rows times a dense matrix.
//
// A warp has a row and blockDim.x * C of the columns, C of them a lane; blockDim.x is a power of 2 up to 32, and
// blockDim.x * blockDim.y = 32: where there are fewer columns than lanes, the others take other numbers of the row.
template <typename T, typename I, int C>
__global__ void multiply(const T* __restrict__ data, const I* __restrict__ indices,         // IN
                         const long long* __restrict__ begin, const long long* __restrict__ end,  // IN (n_rows,)
                         const double* __restrict__ dense,                                  // IN  (n_features, n_columns)
                         long long n_rows, long long n_columns,
                         double* __restrict__ product)                                      // OUT (n_rows, n_columns)
{
    const long long row = (long long)blockIdx.x * blockDim.z + threadIdx.z;
    if (row >= n_rows) return;  // all lanes of a warp
    const long long first = (long long)blockIdx.y * blockDim.x * C + threadIdx.x, last = end[row];
    double sums[C];
#pragma unroll
    for (int c = 0; c < C; ++c) sums[c] = 0.0;
#pragma unroll 4
    for (long long j = begin[row] + threadIdx.y; j < last; j += blockDim.y) {
        const double x = (double)data[j];
        const double* of_feature = dense + (size_t)indices[j] * n_columns;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const long long column = first + c * blockDim.x;
            if (column < n_columns) sums[c] += x * of_feature[column];
        }
    }
    for (int step = 16; step >= blockDim.x; step /= 2)
#pragma unroll
        for (int c = 0; c < C; ++c) sums[c] += __shfl_xor_sync(0xffffffffu, sums[c], step);
    if (threadIdx.y != 0) return;
#pragma unroll
    for (int c = 0; c < C; ++c) {
        const long long column = first + c * blockDim.x;
        if (column < n_columns) product[(size_t)row * n_columns + column] = sums[c];
    }
}

// Squared distance of each row from the center of its cluster, as SparseRows.sq_distances_of_tile: feature by feature
// where the row has a number; where it has none, what is left of the center's squares, unless that is rounding.
template <typename T, typename I>
__global__ void sq_distances_to_own(const T* __restrict__ data, const I* __restrict__ indices,  // IN
                                    const long long* __restrict__ begin, const long long* __restrict__ end,  // IN
                                    const double* __restrict__ origin,    // IN  (n_features,)
                                    const int* __restrict__ labels,       // IN  (n_rows,)
                                    const double* __restrict__ centers,   // IN  (n_clusters, n_features), from the origin
                                    const double* __restrict__ sq_norms,  // IN  (n_clusters,) of them relative to zero
                                    double rounding, long long n_rows, long long n_features,
                                    double* __restrict__ sq_distances)    // OUT (n_rows,)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;  // all lanes of a warp
    const double* center = centers + (size_t)labels[row] * n_features;
    const long long first = begin[row], last = end[row];
    double sum = 0.0, taken = 0.0;
    for (long long j = first + threadIdx.x; j < last; j += 32) {
        const I f = indices[j];
        const double difference = (double)data[j] - origin[f] - center[f], absolute = center[f] + origin[f];
        sum += difference * difference;
        taken += absolute * absolute;
    }
    sum = sum_of_warp(sum);
    const double all = sq_norms[labels[row]], left = all - sum_of_warp(taken);
    if (threadIdx.x == 0) sq_distances[row] = sum + (last - first < n_features && left > rounding * all ? left : 0.0);
}
