// Squared distances, summed directly in float64.
#include "numbers.cuh"

// Squared distance of each row from its center, summed directly in float64. blockDim.x threads, a power of 2 up to 32,
// share a row.
template <typename Row>
__global__ void sq_distances_to_own(const Row* __restrict__ X,           // IN  (n_samples, n_features)
                                    const double* __restrict__ origin,   // IN  (n_features,)
                                    const int* __restrict__ labels,      // IN  (n_samples,)
                                    const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                                    int n_samples, int n_features,
                                    double* __restrict__ sq_distances)   // OUT (n_samples,)
{
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    double sum = 0.0;
    if (row < n_samples) {
        const size_t x = (size_t)row * n_features, c = (size_t)labels[row] * n_features;
        for (int f = threadIdx.x; f < n_features; f += blockDim.x) {
            const double difference = ((double)number(X[x + f]) - origin[f]) - centers[c + f];
            sum += difference * difference;
        }
    }
    for (int step = blockDim.x / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (row < n_samples && threadIdx.x == 0) sq_distances[row] = sum;
}

// Squared distances of rows from points, summed directly. A block takes 64 rows and 32 points, a thread 4 of each.
template <typename Row>
__global__ void __launch_bounds__(128)
sq_distances_to(const Row* __restrict__ X,          // IN  (n_samples, n_features)
                const double* __restrict__ origin,  // IN  (n_features,)
                const double* __restrict__ points,  // IN  (n_points, n_features), relative to the origin
                int n_samples, int n_features, int n_points,
                size_t stride,                      // IN  from the distances from a point to those from the next
                double* __restrict__ sq_distances)  // OUT (n_points, n_samples)
{
    constexpr int ROWS = 64, POINTS = 32, FEATURES = 16, THREADS = 128;
    __shared__ double x_tile[FEATURES][ROWS + 1], p_tile[FEATURES][POINTS + 1];
    const int thread = threadIdx.x, first_row = blockIdx.x * ROWS, first_point = blockIdx.y * POINTS;
    const int row = thread % 16, point = thread / 16;  // and every 16th and 8th
    double sums[4][4] = {};
    for (int f0 = 0; f0 < n_features; f0 += FEATURES) {
        __syncthreads();  // the tiles have been read
        for (int t = thread; t < ROWS * FEATURES; t += THREADS) {
            const int r = t / FEATURES, f = t % FEATURES;
            const bool inside = first_row + r < n_samples && f0 + f < n_features;
            const size_t place = (size_t)(first_row + r) * n_features + f0 + f;
            x_tile[f][r] = inside ? (double)number(X[place]) - origin[f0 + f] : 0.0;
        }
        for (int t = thread; t < POINTS * FEATURES; t += THREADS) {
            const int p = t / FEATURES, f = t % FEATURES;
            const bool inside = first_point + p < n_points && f0 + f < n_features;
            p_tile[f][p] = inside ? points[(size_t)(first_point + p) * n_features + f0 + f] : 0.0;
        }
        __syncthreads();  // the tiles are filled
#pragma unroll 4
        for (int f = 0; f < FEATURES; ++f)
#pragma unroll
            for (int p = 0; p < 4; ++p)
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const double difference = x_tile[f][row + 16 * r] - p_tile[f][point + 8 * p];
                    sums[p][r] += difference * difference;
                }
    }
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int i = first_row + row + 16 * r, j = first_point + point + 8 * p;
            if (i < n_samples && j < n_points) sq_distances[(size_t)j * stride + i] = sums[p][r];
        }
}
