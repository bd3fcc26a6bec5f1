// The passes of cupy.py. Rows are taken relative to the origin, x = X[row] - origin; n_samples is that of a tile, below
// 2^31, while offsets into X are size_t. Nothing here depends on the order in which blocks run, so results are the same
// from run to run.

struct Half { unsigned short bits; };      // float16
struct Bfloat16 { unsigned short bits; };

// An entry of X as a number to compute with: float, double for double.
__device__ __forceinline__ float number(float x) { return x; }
__device__ __forceinline__ double number(double x) { return x; }
__device__ __forceinline__ float number(Half x)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
#else
    return __half2float(x.bits);  // of the stand-in
#endif
}
__device__ __forceinline__ float number(Bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <typename T>
struct Nearest {  // of the centers seen so far
    T score, second;
    int label;
};

// Ties go to the lowest label.
template <typename T>
__device__ __forceinline__ void merge(Nearest<T>& a, T score, T second, int label)
{
    const bool wins = score < a.score || (score == a.score && label < a.label);
    const T loser = wins ? a.score : score;
    const T rest = second < a.second ? second : a.second;
    a.second = loser < rest ? loser : rest;
    a.score = wins ? score : a.score;
    a.label = wins ? label : a.label;
}

// List the rows that must be looked at: slack <= path[label], or without a label. The order of the list varies.
extern "C" __global__ void stale_rows(const int* __restrict__ labels,    // IN  (n_samples,)
                                      const double* __restrict__ slack,  // IN  (n_samples,)
                                      const double* __restrict__ path,   // IN  (n_clusters,)
                                      int n_samples,
                                      int* __restrict__ rows,            // OUT (n_samples,), the first *n_rows of them
                                      unsigned long long* n_rows)        // OUT, starts at 0
{
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    bool stale = false;
    if (row < n_samples) {
        const int label = labels[row];
        stale = label < 0 || slack[row] <= path[label];
    }
    const unsigned stale_lanes = __ballot_sync(0xffffffffu, stale);
    const int lane = threadIdx.x & 31;
    unsigned long long first = 0;
    if (lane == 0 && stale_lanes) first = atomicAdd(n_rows, (unsigned long long)__popc(stale_lanes));
    first = __shfl_sync(0xffffffffu, first, 0);
    if (stale) rows[first + __popc(stale_lanes & ((1u << lane) - 1))] = row;
}

// Compare rows with all centers: label, and slack as in bounds.bounded_step.
//
// A block takes ROWS rows against CENTERS centers at a time, FEATURES features of both in shared memory; a thread has
// the scores of R rows and C centers in registers, and keeps the two lowest of each row. No scores in memory. Rows are
// of type Row, numbers of type T.
template <typename Row, typename T, int ROWS, int CENTERS, int R, int C>
__global__ void __launch_bounds__((ROWS / R) * (CENTERS / C), 2)  // two blocks fit on a multiprocessor
relabel(const Row* __restrict__ X,              // IN  (n_samples, n_features)
        const T* __restrict__ origin,           // IN  (n_features,)
        const T* __restrict__ minus_2_centers,  // IN  (n_clusters, n_features)
        const T* __restrict__ sq_norms,         // IN  (n_clusters,) of the centers
        const double* __restrict__ path,        // IN  (n_clusters,)
        const int* __restrict__ rows,           // IN  (n_rows,) to look at; NULL: all
        const unsigned long long* __restrict__ n_rows,  // IN
        int n_samples, int n_features, int n_clusters,
        T coefficient, const T* __restrict__ offset,    // IN  of Frame.rounding, times ||x||^2 and the largest ||c||^2
        int* __restrict__ labels,               // IN, OUT (n_samples,)
        double* __restrict__ slack,             // OUT (n_samples,), or NULL
        unsigned long long* n_changed)          // OUT, added to
{
    constexpr int THREADS = (ROWS / R) * (CENTERS / C), LANES = CENTERS / C;  // LANES threads share R rows
    constexpr int FEATURES = 16, VECTOR = 16 / sizeof(T), GROUP = LANES * VECTOR;
    static_assert(ROWS <= THREADS && LANES <= 32 && C % VECTOR == 0 && R % VECTOR == 0, "");
    __shared__ __align__(16) T x_tile[FEATURES][ROWS + VECTOR];
    __shared__ __align__(16) T c_tile[FEATURES][CENTERS + VECTOR];
    __shared__ T sq_rows[ROWS];
    __shared__ int row_of[ROWS];

    const int count = rows ? (int)*n_rows : n_samples;
    const int begin = blockIdx.x * ROWS;
    if (begin >= count) return;
    const int thread = threadIdx.x, lane = thread % LANES, first_row = thread / LANES * R;
    if (thread < ROWS) {
        const int i = begin + thread < count ? begin + thread : count - 1;  // the last row fills the block
        row_of[thread] = rows ? rows[i] : i;
    }

    Nearest<T> nearest[R];
    const T infinity = (T)__int_as_float(0x7f800000);
#pragma unroll
    for (int r = 0; r < R; ++r) nearest[r] = {infinity, infinity, 0};
    T sq_row = (T)0;  // ||x||^2 of row_of[thread]

    for (int c0 = 0; c0 < n_clusters; c0 += CENTERS) {
        T score[R][C];
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) score[r][c] = (T)0;

        for (int f0 = 0; f0 < n_features; f0 += FEATURES) {
            __syncthreads();  // row_of is filled, the tiles are used
            for (int t = thread; t < ROWS * FEATURES; t += THREADS) {
                const int r = t / FEATURES, f = t % FEATURES;
                x_tile[f][r] = f0 + f < n_features ? number(X[(size_t)row_of[r] * n_features + f0 + f]) - origin[f0 + f] : (T)0;
            }
            for (int t = thread; t < CENTERS * FEATURES; t += THREADS) {
                const int c = t / FEATURES, f = t % FEATURES;
                c_tile[f][c] = c0 + c < n_clusters && f0 + f < n_features
                                   ? minus_2_centers[(size_t)(c0 + c) * n_features + f0 + f] : (T)0;
            }
            __syncthreads();  // the tiles are filled
            const int n_here = n_features - f0 < FEATURES ? n_features - f0 : FEATURES;
            if (c0 == 0 && thread < ROWS)
                for (int f = 0; f < n_here; ++f) sq_row += x_tile[f][thread] * x_tile[f][thread];
#pragma unroll 2
            for (int f = 0; f < n_here; ++f) {
                T x[R], center[C];
#pragma unroll
                for (int r = 0; r < R; ++r) x[r] = x_tile[f][first_row + r];
#pragma unroll
                for (int c = 0; c < C; ++c) center[c] = c_tile[f][c / VECTOR * GROUP + lane * VECTOR + c % VECTOR];
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int c = 0; c < C; ++c) score[r][c] += x[r] * center[c];
            }
        }
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const int label = c0 + c / VECTOR * GROUP + lane * VECTOR + c % VECTOR;
            if (label < n_clusters) {
                const T sq_norm = sq_norms[label];
#pragma unroll
                for (int r = 0; r < R; ++r) merge(nearest[r], score[r][c] + sq_norm, infinity, label);
            }
        }
    }

    if (thread < ROWS) sq_rows[thread] = sq_row;
    __syncthreads();  // sq_rows is filled
    int changed = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int step = LANES / 2; step > 0; step /= 2) {
            const T score = __shfl_xor_sync(0xffffffffu, nearest[r].score, step);
            const T second = __shfl_xor_sync(0xffffffffu, nearest[r].second, step);
            const int label = __shfl_xor_sync(0xffffffffu, nearest[r].label, step);
            merge(nearest[r], score, second, label);
        }
        if (lane == 0 && begin + first_row + r < count) {
            const int row = row_of[first_row + r], label = nearest[r].label;
            changed += labels[row] != label;
            labels[row] = label;
            if (slack) {  // as bounds.sure_gap
                const T squares = sq_rows[first_row + r], error = coefficient * squares + *offset;
                T near = nearest[r].score + squares, far = nearest[r].second + squares - error;
                near = sqrt((near > (T)0 ? near : (T)0) + error);
                far = sqrt(far > (T)0 ? far : (T)0);
                slack[row] = path[label] + ((double)far - (double)near);
            }
        }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) changed += __shfl_xor_sync(0xffffffffu, changed, step);
    if (thread % 32 == 0 && changed) atomicAdd(n_changed, (unsigned long long)changed);
}

// Index of the lowest score of each row plus the squared norm of the center, for scores -2 x.c in memory. blockDim.x is 32.
template <typename T>
__global__ void label_by_scores(const T* __restrict__ scores,    // IN  (n_samples, n_clusters)
                                const T* __restrict__ sq_norms,  // IN  (n_clusters,)
                                int n_samples, int n_clusters,
                                int* __restrict__ labels)        // OUT (n_samples,)
{
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_samples) return;  // all lanes of a warp
    const T infinity = (T)__int_as_float(0x7f800000);
    Nearest<T> nearest = {infinity, infinity, 0};
    for (int c = threadIdx.x; c < n_clusters; c += 32)
        merge(nearest, scores[(size_t)row * n_clusters + c] + sq_norms[c], infinity, c);
    for (int step = 16; step > 0; step /= 2) {
        const T score = __shfl_xor_sync(0xffffffffu, nearest.score, step);
        merge(nearest, score, infinity, __shfl_xor_sync(0xffffffffu, nearest.label, step));
    }
    if (threadIdx.x == 0) labels[row] = nearest.label;
}

// Weighted sums of runs of rows of one cluster, rows being sorted by cluster.
//
// The sorted rows are cut into chunks of `chunk` rows. A chunk has a run for each cluster in it, and the run of cluster
// c in chunk j is number j + c: both ascend along the rows, so no two runs share a number. blockDim.x threads each have
// a column, the last column being the weight; blockDim.y chunks share a block.
template <typename Row>
__global__ void sum_runs(const Row* __restrict__ X,            // IN  (n_samples, n_features)
                         const double* __restrict__ origin,    // IN  (n_features,)
                         const long long* __restrict__ order,  // IN  (n_samples,) rows sorted by label
                         const int* __restrict__ labels,       // IN  (n_samples,)
                         const double* __restrict__ sample_weight,  // IN (n_samples,)
                         int n_samples, int n_features, int chunk,
                         double* __restrict__ runs)            // OUT (n_chunks + n_clusters, n_features + 1)
{
    const int j = blockIdx.x * blockDim.y + threadIdx.y;
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    const long long begin = (long long)j * chunk;
    if (column > n_features || begin >= n_samples) return;
    const long long end = begin + chunk < n_samples ? begin + chunk : n_samples;
    const double shift = column < n_features ? origin[column] : 0.0;
    int label = labels[order[begin]];
    double sum = 0.0;
#pragma unroll 4
    for (long long i = begin; i < end; ++i) {
        const long long row = order[i];
        if (labels[row] != label) {
            runs[(size_t)(j + label) * (n_features + 1) + column] = sum;
            label = labels[row];
            sum = 0.0;
        }
        const double x = column < n_features ? (double)number(X[(size_t)row * n_features + column]) - shift : 1.0;
        sum += sample_weight[row] * x;
    }
    runs[(size_t)(j + label) * (n_features + 1) + column] = sum;
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
// A thread has a column, the last column being the weight, and every blockDim.y-th row of the chunk. It adds to sums of
// its own for all clusters, in shared memory, blockDim.x * blockDim.y * n_clusters numbers; then the block adds those up
// in the order of threadIdx.y.
template <typename Row>
__global__ void sum_few(const Row* __restrict__ X,              // IN  (n_samples, n_features)
                        const double* __restrict__ origin,      // IN  (n_features,)
                        const int* __restrict__ labels,         // IN  (n_samples,)
                        const double* __restrict__ sample_weight,  // IN (n_samples,)
                        int n_samples, int n_features, int n_clusters, int chunk,
                        double* __restrict__ parts)             // OUT (n_chunks, n_clusters, n_features + 1)
{
    extern __shared__ double sums[];  // (blockDim.y, n_clusters, blockDim.x)
    const int column = blockIdx.y * blockDim.x + threadIdx.x, group = n_clusters * blockDim.x;
    double* own = sums + threadIdx.y * group + threadIdx.x;
    for (int c = 0; c < n_clusters; ++c) own[c * blockDim.x] = 0.0;
    const double shift = column < n_features ? origin[column] : 0.0;
    const long long begin = (long long)blockIdx.x * chunk;
    const long long end = begin + chunk < n_samples ? begin + chunk : n_samples;
    if (column <= n_features) {
#pragma unroll 4
        for (long long row = begin + threadIdx.y; row < end; row += blockDim.y) {
            const double x = column < n_features ? (double)number(X[(size_t)row * n_features + column]) - shift : 1.0;
            own[labels[row] * blockDim.x] += sample_weight[row] * x;
        }
    }
    __syncthreads();  // sums is filled
    for (int c = threadIdx.y; c < n_clusters; c += blockDim.y) {
        double sum = 0.0;
        for (int y = 0; y < blockDim.y; ++y) sum += sums[y * group + c * blockDim.x + threadIdx.x];
        if (column <= n_features) parts[((size_t)blockIdx.x * n_clusters + c) * (n_features + 1) + column] = sum;
    }
}

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
