// The passes of _cupy_kernels.py over sparse rows. Row r has the numbers begin[r] to end[r] - 1 of `data`, of type T,
// and their columns in `indices`, of type I, ascending. So a choice of rows is two arrays: no number is copied for it.
// Everything is summed in float64 and in an order that depends on the rows alone: the same bits from run to run.
// Blocks are (lanes over numbers or columns, warps), one row a warp, unless it says otherwise.

// Sum over the lanes of a warp, the same in all of them.
template <typename V>
__device__ __forceinline__ V warp_sum(V value)
{
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

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
    sum = warp_sum(sum);
    const double all = sq_norms[labels[row]], left = all - warp_sum(taken);
    if (threadIdx.x == 0) sq_distances[row] = sum + (last - first < n_features && left > rounding * all ? left : 0.0);
}

// Largest absolute value in each row.
template <typename T>
__global__ void largest(const T* __restrict__ data,                                              // IN
                        const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                        long long n_rows,
                        T* __restrict__ values)                                                  // OUT (n_rows,)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;  // all lanes of a warp
    T value = (T)0;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) {
        const T x = data[j] < (T)0 ? -data[j] : data[j];
        value = x > value ? x : value;
    }
    for (int step = 16; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    if (threadIdx.x == 0) values[row] = value;
}

// The rows divided by a number each.
template <typename T>
__global__ void divide(const T* __restrict__ data,                                              // IN
                       const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                       const T* __restrict__ by, long long n_rows,                              // IN  (n_rows,)
                       T* __restrict__ divided)                                                 // OUT, where the rows are
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) divided[j] = data[j] / by[row];
}

// The numbers of rows in a dense array of any strides, which is zero.
template <typename T, typename I>
__global__ void scatter(const T* __restrict__ data, const I* __restrict__ indices,               // IN
                        const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                        long long n_rows, long long row_stride, long long column_stride,
                        double* __restrict__ dense)                                              // OUT
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32)
        dense[(size_t)row * row_stride + (size_t)indices[j] * column_stride] = (double)data[j];
}

// The numbers of rows one after the other, their columns and rows; those of a row from places[row] on.
template <typename T, typename I>
__global__ void gather(const T* __restrict__ data, const I* __restrict__ indices,               // IN
                       const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                       const long long* __restrict__ places, long long n_rows,                  // IN  (n_rows,)
                       T* __restrict__ values, I* __restrict__ columns, int* __restrict__ rows)  // OUT
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    const long long shift = places[row] - begin[row];
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) {
        values[j + shift] = data[j];
        columns[j + shift] = indices[j];
        rows[j + shift] = (int)row;
    }
}

// Sums of numbers that follow each other and have one place: at the first of them, 0 at the others. A thread a number.
template <typename T, typename I>
__global__ void merge(const T* __restrict__ values, const I* __restrict__ columns, const int* __restrict__ rows,  // IN
                      long long n_numbers,
                      T* __restrict__ merged)                                                  // OUT (n_numbers,)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_numbers) return;
    T sum = (T)0;
    if (i == 0 || rows[i] != rows[i - 1] || columns[i] != columns[i - 1])
        for (long long j = i; j < n_numbers && rows[j] == rows[i] && columns[j] == columns[i]; ++j) sum += values[j];
    merged[i] = sum;
}

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
