// The nearest center of each row, in the type of distances.
#include "nearest.cuh"
#include "numbers.cuh"
#include "warp.cuh"

// -2 c and ||c||^2 of centers. blockDim.x is 32: a warp for each.
template <typename T>
__global__ void coefficients(const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                             int n_clusters, int n_features,
                             T* __restrict__ minus_2_centers,     // OUT (n_clusters, n_features)
                             T* __restrict__ sq_norms,            // OUT (n_clusters,)
                             T* largest)                          // OUT of these; starts at 0
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y;
    if (cluster >= n_clusters) return;  // all lanes of a warp
    const size_t first = (size_t)cluster * n_features;
    double sum = 0.0;
    for (int f = threadIdx.x; f < n_features; f += 32) {
        const double center = centers[first + f];
        minus_2_centers[first + f] = (T)(-2.0 * center);
        sum += center * center;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) {
        sq_norms[cluster] = (T)sum;
        raise_to(largest, (T)sum);
    }
}

// Compare rows with all centers: label, and slack as in bounds.bounded_step.
//
// A block takes ROWS rows against CENTERS centers at a time, FEATURES features of both in shared memory; a thread has
// the scores of R rows and C centers in registers, and keeps the two lowest of each row. No scores in memory. Rows are
// of type Row, numbers of type T.
template <typename Row, typename T, int ROWS, int CENTERS, int R, int C>
__device__ __forceinline__ void label_rows(
        const Row* __restrict__ X,              // IN  (n_samples, n_features)
        const T* __restrict__ origin,           // IN  (n_features,)
        const T* __restrict__ minus_2_centers,  // IN  (n_clusters, n_features)
        const T* __restrict__ sq_norms,         // IN  (n_clusters,) of the centers
        const double* __restrict__ path,        // IN  (n_clusters,)
        const int* __restrict__ rows,           // IN  (n_rows,) to look at; NULL: the first ones
        const unsigned long long* __restrict__ n_rows,  // IN  or more; NULL: n_samples
        int n_samples, int n_features, int n_clusters,
        T coefficient, const T* __restrict__ largest,   // IN  Frame.rounding, and the largest ||c||^2
        int* __restrict__ labels,               // IN, OUT (n_samples,)
        double* __restrict__ slack,             // OUT (n_samples,), or NULL
        unsigned long long* n_changed)          // OUT, added to
{
    constexpr int THREADS = (ROWS / R) * (CENTERS / C), LANES = CENTERS / C;  // LANES threads share R rows
    constexpr int FEATURES = 16, VECTOR = 16 / sizeof(T), GROUP = LANES * VECTOR;
    constexpr int ROWS_APART = THREADS / FEATURES, BATCH = ROWS / ROWS_APART < 4 ? ROWS / ROWS_APART : 4;
    static_assert(ROWS <= THREADS && LANES <= 32 && C % VECTOR == 0 && R % VECTOR == 0, "");
    static_assert(ROWS % (BATCH * ROWS_APART) == 0 && CENTERS % ROWS_APART == 0, "");
    __shared__ __align__(16) T x_tile[FEATURES][ROWS + VECTOR];
    __shared__ __align__(16) T c_tile[FEATURES][CENTERS + VECTOR];
    __shared__ Nearest<T> found[ROWS];
    __shared__ int row_of[ROWS];

    const int count = at_most(n_rows, n_samples);
    const int thread = threadIdx.x, lane = thread % LANES, first_row = thread / LANES * R;
    const int own_f = thread % FEATURES, own_r = thread / FEATURES;  // what a thread brings of the tiles
    int changed = 0;
    for (int begin = blockIdx.x * ROWS; begin < count; begin += gridDim.x * ROWS) {
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
                const bool inside = f0 + own_f < n_features;
                const T shift = inside ? origin[f0 + own_f] : (T)0;
#pragma unroll
                for (int first = 0; first < ROWS; first += BATCH * ROWS_APART) {
                    Row loaded[BATCH];  // all on their way at once
#pragma unroll
                    for (int i = 0; i < BATCH; ++i)
                        if (inside) loaded[i] = X[(size_t)row_of[first + own_r + i * ROWS_APART] * n_features + f0 + own_f];
#pragma unroll
                    for (int i = 0; i < BATCH; ++i)
                        x_tile[own_f][first + own_r + i * ROWS_APART] = inside ? number(loaded[i]) - shift : (T)0;
                }
#pragma unroll
                for (int i = 0; i < CENTERS / ROWS_APART; ++i) {
                    const int c = own_r + i * ROWS_APART;
                    c_tile[own_f][c] = c0 + c < n_clusters && inside
                                           ? minus_2_centers[(size_t)(c0 + c) * n_features + f0 + own_f] : (T)0;
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
                    for (int r = 0; r < R; ++r) consider(nearest[r], score[r][c] + sq_norm, label);
                }
            }
        }

#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int step = LANES / 2; step > 0; step /= 2) {
                const T score = __shfl_xor_sync(0xffffffffu, nearest[r].score, step);
                const T second = __shfl_xor_sync(0xffffffffu, nearest[r].second, step);
                const int label = __shfl_xor_sync(0xffffffffu, nearest[r].label, step);
                merge(nearest[r], score, second, label);
            }
            if (lane == 0) found[first_row + r] = nearest[r];
        }
        __syncthreads();  // found is filled
        if (thread < ROWS && begin + thread < count) {
            const int row = row_of[thread], label = found[thread].label;
            changed += labels[row] != label;
            labels[row] = label;
            if (slack) slack[row] = path[label] + sure_gap(found[thread], sq_row, coefficient * (sq_row + *largest));
        }
        __syncthreads();  // row_of has been read
    }
    count_changes(changed, n_changed);
}

template <typename Row, typename T, int ROWS, int CENTERS, int R, int C>
__global__ void __launch_bounds__((ROWS / R) * (CENTERS / C), 2)  // two blocks fit on a multiprocessor
relabel(const Row* __restrict__ X, const T* __restrict__ origin, const T* __restrict__ minus_2_centers,
        const T* __restrict__ sq_norms, const double* __restrict__ path, const int* __restrict__ rows,
        const unsigned long long* __restrict__ n_rows, int n_samples, int n_features, int n_clusters, T coefficient,
        const T* __restrict__ largest, int* __restrict__ labels, double* __restrict__ slack,
        unsigned long long* n_changed)
{
    label_rows<Row, T, ROWS, CENTERS, R, C>(X, origin, minus_2_centers, sq_norms, path, rows, n_rows, n_samples,
                                            n_features, n_clusters, coefficient, largest, labels, slack, n_changed);
}
