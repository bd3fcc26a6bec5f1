// Sums of the rows of each cluster, and their weights.
#include "numbers.cuh"

// Weighted sums of runs of rows of one cluster, rows being sorted by cluster.
//
// The sorted rows are cut into chunks of `chunk` rows. A chunk has a run for each cluster in it, and the run of cluster
// c in chunk j is number j + c: both ascend along the rows, so no two runs share a number. blockDim.x threads each have
// a column, and the first one the weights, which go into a last column; blockDim.y chunks share a block.
template <typename Row>
__global__ void sum_runs(const Row* __restrict__ X,            // IN  (n_samples, n_features)
                         const double* __restrict__ origin,    // IN  (n_features,)
                         const int* __restrict__ order,        // IN  (n_samples,) rows sorted by label
                         const int* __restrict__ labels,       // IN  (n_samples,) of the sorted rows
                         const double* __restrict__ sample_weight,  // IN (n_samples,)
                         int n_samples, int n_features, int chunk,
                         double* __restrict__ runs)            // OUT (n_chunks + n_clusters, n_features + 1)
{
    constexpr int AHEAD = 8;  // rows that are on their way at a time
    const int j = blockIdx.x * blockDim.y + threadIdx.y;
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    const long long begin = (long long)j * chunk;
    if (column >= n_features || begin >= n_samples) return;
    const long long end = begin + chunk < n_samples ? begin + chunk : n_samples;
    const double shift = origin[column];
    int label = labels[begin];
    double sum = 0.0, weight = 0.0;
    auto finish = [&]() {
        double* run = runs + (size_t)(j + label) * (n_features + 1);
        run[column] = sum;
        if (column == 0) run[n_features] = weight;
    };
    for (long long i = begin; i < end; i += AHEAD) {
        Row x[AHEAD];
        double w[AHEAD];
        int label_of[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const long long here = i + a < end ? i + a : end - 1;
            const int row = order[here];
            x[a] = X[(size_t)row * n_features + column];
            w[a] = i + a < end ? sample_weight[row] : 0.0;
            label_of[a] = labels[here];
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (label_of[a] != label) {
                finish();
                label = label_of[a];
                sum = weight = 0.0;
            }
            sum += w[a] * ((double)number(x[a]) - shift);
            weight += w[a];
        }
    }
    finish();
}

// Add up the runs of each cluster, in their order. A block (32, 8) has a cluster and 32 columns.
extern "C" __global__ void add_runs(const double* __restrict__ runs,      // IN  (n_chunks + n_clusters, n_columns)
                                    const long long* __restrict__ starts,  // IN  (n_clusters + 1,) in sorted rows
                                    int n_columns, int chunk,
                                    double* __restrict__ totals)          // OUT (n_clusters, n_columns)
{
    __shared__ double parts[8][32];
    const int cluster = blockIdx.x, column = blockIdx.y * 32 + threadIdx.x;
    const long long begin = starts[cluster], end = starts[cluster + 1];
    double sum = 0.0;
    if (begin < end && column < n_columns)
        for (long long j = begin / chunk + threadIdx.y; j <= (end - 1) / chunk; j += 8)
            sum += runs[(size_t)(j + cluster) * n_columns + column];
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();  // parts is filled
    if (threadIdx.y == 0 && column < n_columns) {
        for (int part = 1; part < 8; ++part) sum += parts[part][threadIdx.x];
        totals[(size_t)cluster * n_columns + column] = sum;
    }
}

// Weighted sums of the rows of few clusters, which need no sorting: each block has those of `chunk` rows.
//
// A thread has a column, the first one the weights too, which go into a last column, and every blockDim.y-th row of the
// chunk. It adds to sums of its own for all clusters, in shared memory; then the block adds those up in the order of
// threadIdx.y. While rows are added, the next ones are on their way.
template <typename Row>
__global__ void __launch_bounds__(128)
sum_few(const Row* __restrict__ X,              // IN  (n_samples, n_features)
        const double* __restrict__ origin,      // IN  (n_features,)
        const int* __restrict__ labels,         // IN  (n_samples,)
        const double* __restrict__ sample_weight,  // IN (n_samples,)
        int n_samples, int n_features, int n_clusters, int chunk,
        double* __restrict__ parts)             // OUT (n_chunks, n_clusters, n_features + 1)
{
    constexpr int AHEAD = 8;
    extern __shared__ double sums[];  // (blockDim.y, n_clusters, blockDim.x), and weights (blockDim.y, n_clusters)
    const int column = blockIdx.y * blockDim.x + threadIdx.x, group = n_clusters * blockDim.x;
    double* own = sums + threadIdx.y * group + threadIdx.x;
    double* weights = sums + blockDim.y * group;
    const bool weighs = column == 0;
    for (int c = 0; c < n_clusters; ++c) {
        own[c * blockDim.x] = 0.0;
        if (threadIdx.x == 0) weights[threadIdx.y * n_clusters + c] = 0.0;
    }
    const double shift = column < n_features ? origin[column] : 0.0;
    const long long begin = (long long)blockIdx.x * chunk;
    const long long end = begin + chunk < n_samples ? begin + chunk : n_samples;
    Row x[AHEAD];
    double w[AHEAD];
    int label_of[AHEAD];
    auto load = [&](long long first) {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const long long row = first + a * blockDim.y, here = row < end ? row : end - 1;
            x[a] = X[(size_t)here * n_features + column];
            w[a] = row < end ? sample_weight[here] : 0.0;
            label_of[a] = labels[here];
        }
    };
    if (column < n_features) {
        const int step = AHEAD * blockDim.y;
        load(begin + threadIdx.y);
        for (long long first = begin + threadIdx.y; first < end; first += step) {
            double weighted[AHEAD], weight[AHEAD];
            int label[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                weight[a] = w[a];
                weighted[a] = w[a] * ((double)number(x[a]) - shift);
                label[a] = label_of[a];
            }
            load(first + step);
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                own[label[a] * blockDim.x] += weighted[a];
                if (weighs) weights[threadIdx.y * n_clusters + label[a]] += weight[a];
            }
        }
    }
    __syncthreads();  // sums is filled
    for (int c = threadIdx.y; c < n_clusters; c += blockDim.y) {
        double sum = 0.0, weight = 0.0;
        for (int y = 0; y < blockDim.y; ++y) {
            sum += sums[y * group + c * blockDim.x + threadIdx.x];
            weight += weights[y * n_clusters + c];
        }
        double* part = parts + ((size_t)blockIdx.x * n_clusters + c) * (n_features + 1);
        if (column < n_features) part[column] = sum;
        if (weighs) part[n_features] = weight;
    }
}
