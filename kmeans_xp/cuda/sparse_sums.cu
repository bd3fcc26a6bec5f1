// Sums of the sparse rows of each cluster, from their numbers sorted by column.

// Add weighted sums of the rows of each cluster to totals, given the numbers sorted by column.
//
// A block has a column, the one after the last being the weight, and `width` clusters. Each of its warps takes a
// stretch of the column's numbers and adds them one after the other to sums of its own in shared memory, blockDim.y *
// width numbers: 32 are read at a time, and a lane adds those whose cluster is its own modulo 32. Then the block adds up
// the sums of its warps in their order.
template <typename T>
__global__ void sum_columns(const T* __restrict__ values, const int* __restrict__ rows,  // IN, sorted by column
                            const long long* __restrict__ starts,        // IN  (n_features + 1,) of the columns in them
                            const int* __restrict__ labels,              // IN  (n_rows,)
                            const double* __restrict__ sample_weight,    // IN  (n_rows,)
                            long long n_rows, long long n_features, long long n_clusters, long long width,
                            double* __restrict__ totals)                 // IN, OUT (n_clusters, n_features + 1)
{
    extern __shared__ double sums[];  // (blockDim.y, n_here)
    const long long column = blockIdx.x, first_cluster = blockIdx.y * width;
    const int n_here = (int)(n_clusters - first_cluster < width ? n_clusters - first_cluster : width);
    const bool is_weight = column == n_features;
    const long long begin = is_weight ? 0 : starts[column], end = is_weight ? n_rows : starts[column + 1];
    if (begin == end) return;  // all threads of a block
    const int lane = threadIdx.x;
    double* own = sums + threadIdx.y * n_here;
    for (int c = lane; c < n_here; c += 32) own[c] = 0.0;

    const long long length = (end - begin + blockDim.y - 1) / blockDim.y, from = begin + threadIdx.y * length;
    const long long to = from + length < end ? from + length : end;
    for (long long next = from; next < to; next += 32) {
        const int n_next = to - next < 32 ? (int)(to - next) : 32;
        long long label = -1;
        double x = 0.0;
        if (lane < n_next) {
            const long long j = next + lane, row = is_weight ? j : rows[j];
            label = labels[row] - first_cluster;
            x = sample_weight[row] * (is_weight ? 1.0 : (double)values[j]);
        }
        const int place = 0 <= label && label < n_here ? (int)label : -1;
        for (int source = 0; source < n_next; ++source) {
            const int c = __shfl_sync(0xffffffffu, place, source);
            const double term = __shfl_sync(0xffffffffu, x, source);
            if (c >= 0 && c % 32 == lane) own[c] += term;  // own[c] is this lane's, from its first 0.0 on
        }
    }
    __syncthreads();  // sums is filled
    for (int c = threadIdx.y * 32 + lane; c < n_here; c += blockDim.y * 32) {
        double sum = 0.0;
        for (int y = 0; y < blockDim.y; ++y) sum += sums[y * n_here + c];
        totals[(size_t)(first_cluster + c) * (n_features + 1) + column] += sum;
    }
}
