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

// The same for a center with a label higher than those before.
template <typename T>
__device__ __forceinline__ void consider(Nearest<T>& a, T score, int label)
{
    a.label = score < a.score ? label : a.label;
    a.second = fmin(a.second, fmax(a.score, score));
    a.score = fmin(a.score, score);
}

// How much farther the second nearest center is at least, for an error of a squared distance; as bounds.sure_gap.
template <typename T>
__device__ __forceinline__ double sure_gap(const Nearest<T>& nearest, T squares, T error)
{
    const T near = nearest.score + squares, far = nearest.second + squares - error;
    return (double)sqrt(far > (T)0 ? far : (T)0) - (double)sqrt((near > (T)0 ? near : (T)0) + error);
}

// Add up the changes that the threads of a block have seen. All threads of a warp are here.
__device__ __forceinline__ void count_changes(int changed, unsigned long long* n_changed)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) changed += __shfl_xor_sync(0xffffffffu, changed, step);
    if (threadIdx.x % 32 == 0 && changed) atomicAdd(n_changed, (unsigned long long)changed);
}

// The sum over the lanes of a warp, for all of them.
__device__ __forceinline__ double sum_of_warp(double x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Four numbers of a row from number f on, read at once where they lie so that they can be.
template <typename Row>
struct __align__(4 * sizeof(Row)) Four { Row of[4]; };

template <typename Row>
__device__ __forceinline__ Four<Row> four(const Row* row, int f, int n_features, bool whole)
{
    Four<Row> numbers = {};
    if (whole) {
        if (f < n_features) numbers = *(const Four<Row>*)(row + f);
    } else
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (f + i < n_features) numbers.of[i] = row[f + i];
    return numbers;
}

// The same relative to the origin, rounded to float32. Where numbers are double, so is the difference: they may lie far
// from zero.
template <typename Row, typename T>
__device__ __forceinline__ Four<float> relative(const Four<Row>& x, const Four<T>& o)
{
    return {{(float)(number(x.of[0]) - o.of[0]), (float)(number(x.of[1]) - o.of[1]),
             (float)(number(x.of[2]) - o.of[2]), (float)(number(x.of[3]) - o.of[3])}};
}

// What `relabel_certain` keeps of rows on their way: the numbers, or of double, which takes more registers, differences.
template <typename Row>
struct Waiting {
    Four<Row> x;
    template <typename T> __device__ void fill(const Four<Row>& numbers, const Four<T>&) { x = numbers; }
    template <typename T> __device__ Four<float> shifted(const Four<T>& o) const { return relative(x, o); }
};
template <>
struct Waiting<double> {
    Four<float> x;
    __device__ void fill(const Four<double>& numbers, const Four<double>& o) { x = relative(numbers, o); }
    __device__ Four<float> shifted(const Four<double>&) const { return x; }
};

// A number that is rounded when tensor cores cut it off to 10 bits.
__device__ __forceinline__ float half_up(float x) { return __uint_as_float(__float_as_uint(x) + 0x1000u); }

// sums += x @ c on the tensor cores, x (16, 8) and c (8, 8). A warp shares them: with g = lane / 4 and t = lane % 4, a
// thread has the numbers (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4) of x; (t, g), (t + 4, g) of c; and
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1) of sums.
__device__ __forceinline__ void multiply_add(float (&sums)[4], float x0, float x1, float x2, float x3, float c0, float c1)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(__float_as_uint(x0)), "r"(__float_as_uint(x1)), "r"(__float_as_uint(x2)), "r"(__float_as_uint(x3)),
          "r"(__float_as_uint(c0)), "r"(__float_as_uint(c1)));
#elif !defined(__CUDA_ARCH__)  // of the stand-in
    __shared__ float all[8][6][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const float mine[6] = {x0, x1, x2, x3, c0, c1};
    for (int i = 0; i < 6; ++i) all[warp][i][lane] = __uint_as_float(__float_as_uint(mine[i]) & 0xffffe000u);
    __syncwarp();
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 4; ++i)
            sums[i] += all[warp][i / 2 + k / 4 * 2][g * 4 + k % 4] * all[warp][4 + k / 4][(2 * t + i % 2) * 4 + k % 4];
    __syncwarp();
#endif
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

    const int count = rows ? (int)*n_rows : n_samples;
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

// Compare rows with all centers on tensor cores: `relabel` for the rows whose label is certain in spite of numbers rounded
// to 10 bits (TF32). The others are listed, for `relabel` to look at; the order of the list varies.
//
// A warp takes 32 rows, and CENTERS centers at a time; of both it multiplies 16 features, those of the rows in registers,
// while the next are on their way there. The centers come in tiles of so many numbers, which wait in shared memory: all
// of them, and no warp waits for another; or as many as there is room for, and the block goes through them together. If
// there is room for the rows too (`stay`), they are kept for the next centers. In which order features are added does not
// matter: four that lie side by side belong to two products, so that a thread reads its four at once.
template <typename Row, int CENTERS>
__global__ void __launch_bounds__(256, CENTERS > 40 ? 1 : 2)
relabel_certain(const Row* __restrict__ X,              // IN  (n_samples, n_features)
                const double* __restrict__ origin,      // IN  (n_features,)
                const float4* __restrict__ tiles,       // IN  of the centers, see `tile_centers`
                const double* __restrict__ path,        // IN  (n_clusters,)
                const int* __restrict__ rows,           // IN  (n_rows,) to look at; NULL: all
                const unsigned long long* __restrict__ n_rows,  // IN
                int n_samples, int n_features, int n_clusters,
                float coefficient, const float* __restrict__ largest,  // IN  Frame.rounding, and the largest ||c||^2
                int* __restrict__ labels,               // IN, OUT (n_samples,)
                double* __restrict__ slack,             // OUT (n_samples,), or NULL
                unsigned long long* n_changed,          // OUT, added to
                int room, int stay,                     // tiles that fit into shared memory, and whether the rows do
                int* __restrict__ uncertain,            // OUT (n_samples,), the first *n_uncertain of them
                unsigned long long* n_uncertain)        // OUT, starts at 0
{
    constexpr int TILE = CENTERS * 4 + CENTERS / 4;  // of float4
    extern __shared__ float4 shared[];               // (room, TILE), origin (n_groups, 4 of Number), rows (n_groups, 256, 4)
    const int count = rows ? (int)*n_rows : n_samples;
    const int thread = threadIdx.x, group = thread % 32 / 4, lane = thread % 4, first_row = thread / 32 * 32;
    const bool whole = n_features % 4 == 0 && (size_t)X % sizeof(Four<Row>) == 0;
    const int n_groups = (n_features + 15) / 16, n_tiles = n_groups * ((n_clusters + CENTERS - 1) / CENTERS);
    typedef decltype(number(Row())) Number;
    Four<Number>* shift = (Four<Number>*)(shared + room * TILE);
    float4* kept = (float4*)(shift + n_groups * 4);
    auto fetch = [&](int first_tile) {
        const int n = n_tiles - first_tile < room ? n_tiles - first_tile : room;
        __syncthreads();  // those before have been read
#pragma unroll 4
        for (int i = thread; i < n * TILE; i += 256) shared[i] = tiles[(size_t)first_tile * TILE + i];
        __syncthreads();  // the tiles are here
    };
    for (int i = thread; i < n_groups * 16; i += 256) shift[i / 4].of[i % 4] = i < n_features ? (Number)origin[i] : (Number)0;
    if (n_tiles <= room)
        fetch(0);
    else
        __syncthreads();  // shift is filled

    // A thread has its quad of the features of the rows r * 8 + group of the warp, and answers for that with r = lane
    int row[4];
    Waiting<Row> next[4];
    auto find = [&](int begin) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int place = begin + first_row + r * 8 + group, i = place < count ? place : count - 1;
            row[r] = rows ? rows[i] : i;
        }
    };
    auto load = [&](int part) {
        const Four<Number>& o = shift[part * 4 + lane];
#pragma unroll
        for (int r = 0; r < 4; ++r)
            next[r].fill(four(X + (size_t)row[r] * n_features, part * 16 + lane * 4, n_features, whole), o);
    };

    const float infinity = __int_as_float(0x7f800000);
    const int stride = gridDim.x * 256;
    int changed = 0, begin = blockIdx.x * 256;
    if (begin < count) {
        find(begin);
        load(0);
    }
    for (; begin < count; begin += stride) {
        const int mine = lane == 0 ? row[0] : lane == 1 ? row[1] : lane == 2 ? row[2] : row[3], before = labels[mine];
        float squares[4] = {};
        Nearest<float> own = {infinity, infinity, 0};
        int slot = 0, tiles_left = n_tiles;
        for (int c0 = 0; c0 < n_clusters; c0 += CENTERS) {
            float score[2][CENTERS / 8][4] = {};
            const float4* tile = shared;
            for (int part = 0; part < n_groups; ++part) {
                if (n_tiles > room && slot == 0) fetch(n_tiles - tiles_left);
                --tiles_left;
                float4 x[4];
                if (c0 == 0 || !stay) {
                    const Four<Number> o = shift[part * 4 + lane];
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        const Four<float> shifted = next[r].shifted(o);
                        x[r] = {shifted.of[0], shifted.of[1], shifted.of[2], shifted.of[3]};
                        if (c0 == 0) squares[r] += x[r].x * x[r].x + x[r].y * x[r].y + x[r].z * x[r].z + x[r].w * x[r].w;
                        x[r] = {half_up(x[r].x), half_up(x[r].y), half_up(x[r].z), half_up(x[r].w)};
                        if (stay) kept[(part * 256 + first_row + r * 8 + group) * 4 + lane] = x[r];
                    }
                } else
#pragma unroll
                    for (int r = 0; r < 4; ++r) x[r] = kept[(part * 256 + first_row + r * 8 + group) * 4 + lane];
                if (tiles_left == 0) {
                    if (begin + stride < count) {
                        find(begin + stride);
                        load(0);
                    }
                } else if (!stay || (c0 == 0 && part + 1 < n_groups))
                    load(part + 1 < n_groups ? part + 1 : 0);
                tile = shared + slot * TILE;
                slot = slot + 1 == room ? 0 : slot + 1;
#pragma unroll
                for (int n = 0; n < CENTERS / 8; ++n)
                    if (c0 + n * 8 < n_clusters) {
                        const float4 c = tile[(n * 8 + group) * 4 + lane];
#pragma unroll
                        for (int m = 0; m < 2; ++m) {
                            multiply_add(score[m][n], x[2 * m].x, x[2 * m + 1].x, x[2 * m].y, x[2 * m + 1].y, c.x, c.y);
                            multiply_add(score[m][n], x[2 * m].z, x[2 * m + 1].z, x[2 * m].w, x[2 * m + 1].w, c.z, c.w);
                        }
                    }
            }

            const float2* sq_norms = (const float2*)(tile + CENTERS * 4);
            Nearest<float> best[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) best[r] = {infinity, infinity, 0};
#pragma unroll
            for (int n = 0; n < CENTERS / 8; ++n)
                if (c0 + n * 8 < n_clusters) {
                    const float2 sq_norm = sq_norms[n * 4 + lane];
                    const int label = c0 + n * 8 + lane * 2;
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        consider(best[r], score[r / 2][n][r % 2 * 2] + sq_norm.x, label);
                        consider(best[r], score[r / 2][n][r % 2 * 2 + 1] + sq_norm.y, label + 1);
                    }
                }
            // Four threads share four rows. Each passes on two, then one, and is left with what all know of its own
#pragma unroll
            for (int apart = 2; apart > 0; apart /= 2) {
                const bool high = lane & apart;
#pragma unroll
                for (int r = 0; r < apart; ++r) {
                    const Nearest<float> low_row = best[r], high_row = best[r + apart];
                    const float score = __shfl_xor_sync(0xffffffffu, high ? low_row.score : high_row.score, apart);
                    const float second = __shfl_xor_sync(0xffffffffu, high ? low_row.second : high_row.second, apart);
                    const int label = __shfl_xor_sync(0xffffffffu, high ? low_row.label : high_row.label, apart);
                    best[r].score = high ? high_row.score : low_row.score;
                    best[r].second = high ? high_row.second : low_row.second;
                    best[r].label = high ? high_row.label : low_row.label;
                    merge(best[r], score, second, label);
                }
            }
            merge(own, best[0].score, best[0].second, best[0].label);
        }
#pragma unroll
        for (int apart = 2; apart > 0; apart /= 2) {
            const bool high = lane & apart;
#pragma unroll
            for (int r = 0; r < apart; ++r) {
                const float passed = high ? squares[r] : squares[r + apart], rest = high ? squares[r + apart] : squares[r];
                squares[r] = rest + __shfl_xor_sync(0xffffffffu, passed, apart);
            }
        }

        // Each number of a product is rounded by up to 2^-11 of it. Of Frame.rounding, a twentieth is the error now. Where
        // numbers are so small that some have been flushed to zero, nothing is certain
        const float sq_row = squares[0], rounding = coefficient * (sq_row + *largest);
        const float error = 2.02f / 1024.0f * sqrt(sq_row) * sqrt(*largest);
        const float lowest = own.score > -sq_row ? own.score : -sq_row;
        const bool is_mine = begin + first_row + lane * 8 + group < count;
        const bool is_certain = own.second - lowest > 2.0f * (error + 0.1f * rounding) && rounding > 1e-30f;
        if (is_mine && is_certain) {
            changed += before != own.label;
            labels[mine] = own.label;
            if (slack) slack[mine] = path[own.label] + sure_gap(own, sq_row, error + rounding);
        }
        const unsigned listed = __ballot_sync(0xffffffffu, is_mine && !is_certain);
        if (listed) {
            unsigned long long place = 0;
            if (thread % 32 == 0) place = atomicAdd(n_uncertain, (unsigned long long)__popc(listed));
            place = __shfl_sync(0xffffffffu, place, 0);
            if (is_mine && !is_certain) uncertain[place + __popc(listed & ((1u << thread % 32) - 1))] = mine;
        }
    }
    count_changes(changed, n_changed);
}

// Weighted sums of runs of rows of one cluster, rows being sorted by cluster.
//
// The sorted rows are cut into chunks of `chunk` rows. A chunk has a run for each cluster in it, and the run of cluster
// c in chunk j is number j + c: both ascend along the rows, so no two runs share a number. blockDim.x threads each have
// a column, and the first one the weights, which go into a last column; blockDim.y chunks share a block.
template <typename Row>
__global__ void sum_runs(const Row* __restrict__ X,            // IN  (n_samples, n_features)
                         const double* __restrict__ origin,    // IN  (n_features,)
                         const long long* __restrict__ order,  // IN  (n_samples,) rows sorted by label
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
            const long long here = i + a < end ? i + a : end - 1, row = order[here];
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

// -2 c and ||c||^2 of centers. blockDim.x is 32: a warp for each.
template <typename T>
__global__ void coefficients(const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                             int n_clusters, int n_features,
                             T* __restrict__ minus_2_centers,     // OUT (n_clusters, n_features)
                             T* __restrict__ sq_norms)            // OUT (n_clusters,)
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
    if (threadIdx.x == 0) sq_norms[cluster] = (T)sum;
}

// The same for `relabel_certain`, of CENTERS centers and 16 features at a time: -2 c, and zeros where there are none,
// then ||c||^2, and infinity. Rows of tiles have the same centers.
template <int CENTERS>
__global__ void tile_centers(const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                             int n_clusters, int n_features,
                             float* __restrict__ tiles,           // OUT (n_rows, n_columns, CENTERS * 17)
                             float* __restrict__ sq_norms)        // OUT (n_clusters,)
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y;  // of as many as there are in the tiles
    const int n_groups = (n_features + 15) / 16;
    float* first = tiles + (size_t)(cluster / CENTERS) * n_groups * CENTERS * 17;
    double sum = 0.0;
    for (int f = threadIdx.x; f < n_groups * 16; f += 32) {
        const bool inside = cluster < n_clusters && f < n_features;
        const double center = inside ? centers[(size_t)cluster * n_features + f] : 0.0;
        first[(size_t)(f / 16) * CENTERS * 17 + cluster % CENTERS * 16 + f % 16] = half_up((float)(-2.0 * center));
        sum += center * center;
    }
    sum = sum_of_warp(sum);
    const float sq_norm = cluster < n_clusters ? (float)sum : __int_as_float(0x7f800000);
    for (int part = threadIdx.x; part < n_groups; part += 32)
        first[(size_t)part * CENTERS * 17 + CENTERS * 16 + cluster % CENTERS] = sq_norm;
    if (threadIdx.x == 0 && cluster < n_clusters) sq_norms[cluster] = sq_norm;
}

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

// Where greedy k-means++ has got to in a round of draws; see seeding.choose.
struct Choice {
    int best;      // draw that was chosen last, or -1
    int n_chosen;
    int next;      // draw from which on they have not had their turn
    int n_trials;  // draws that are to be compared: fewer than wanted, and nothing more is chosen
    int trials[16];
};

// Lower `closest` to the draw chosen last, and sum weight * min(closest, squares) for each of the trials.
extern "C" __global__ void weigh_trials(const double* __restrict__ squares,        // IN  (n_draws, n_samples)
                                        const double* __restrict__ sample_weight,  // IN  (n_samples,)
                                        int n_samples, int n_trials,
                                        const Choice* __restrict__ choice,         // IN
                                        double* __restrict__ closest,              // IN, OUT (n_samples,)
                                        double* __restrict__ parts)                // OUT (gridDim.x, n_trials)
{
    __shared__ double of_warps[16][8];
    const bool weighs = choice->n_trials == n_trials;
    double sums[16];
#pragma unroll
    for (int t = 0; t < 16; ++t) sums[t] = 0.0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n_samples; i += gridDim.x * blockDim.x) {
        double near = closest[i];
        if (choice->best >= 0) {
            const double square = squares[(size_t)choice->best * n_samples + i];
            closest[i] = near = square < near ? square : near;
        }
        if (!weighs) continue;
        const double weight = sample_weight[i];
#pragma unroll
        for (int t = 0; t < 16; ++t)
            if (t < n_trials) {
                const double square = squares[(size_t)choice->trials[t] * n_samples + i];
                sums[t] += weight * (square < near ? square : near);
            }
    }
    if (!weighs) return;
#pragma unroll
    for (int t = 0; t < 16; ++t) {
        const double sum = sum_of_warp(sums[t]);
        if (threadIdx.x % 32 == 0) of_warps[t][threadIdx.x / 32] = sum;
    }
    __syncthreads();  // of_warps is filled
    if (threadIdx.x < n_trials) {
        double sum = 0.0;
        for (int warp = 0; warp < 8; ++warp) sum += of_warps[threadIdx.x][warp];
        parts[blockIdx.x * n_trials + threadIdx.x] = sum;
    }
}

// Choose the trial with the lowest sum, unless this is the first call; then list the next trials: draws whose distance
// from the nearest center still reaches their threshold. One warp.
extern "C" __global__ void choose_trial(const double* __restrict__ squares,     // IN  (n_draws, n_samples)
                                        const double* __restrict__ closest,     // IN  (n_samples,), without the choice
                                        const double* __restrict__ parts,       // IN  (n_parts, n_trials); NULL at first
                                        const long long* __restrict__ draws,    // IN  (n_draws,) rows
                                        const double* __restrict__ thresholds,  // IN  (n_draws,)
                                        int n_samples, int n_draws, int n_trials, int n_parts,
                                        Choice* __restrict__ choice,            // IN, OUT
                                        long long* __restrict__ chosen)         // OUT rows, choice->n_chosen of them
{
    const int lane = threadIdx.x;
    int best = choice->best, next = choice->next;
    if (parts) {
        if (choice->n_trials < n_trials) return;
        double lowest = 0.0, mine = 0.0;  // of all trials, of that with the number of the lane
        for (int t = 0; t < n_trials; ++t) {
            double sum = 0.0;
            for (int part = lane; part < n_parts; part += 32) sum += parts[part * n_trials + t];
            sum = sum_of_warp(sum);
            if (t == 0 || sum < lowest) lowest = sum;
            if (t == lane) mine = sum;
        }
        // The first that is the lowest but for rounding: `first_lowest` of seeding.py
        const unsigned low = __ballot_sync(0xffffffffu, lane < n_trials && mine <= lowest * (1.0 + 1e-9));
        const int trial = low ? __ffs(low) - 1 : 0;
        best = choice->trials[trial];
        if (lane == 0) chosen[choice->n_chosen++] = draws[best];
    }
    int found = 0;
    __syncwarp();  // trials have been read
    while (next < n_draws && found < n_trials) {
        const int draw = next + lane;
        bool accepted = false;
        if (draw < n_draws) {
            const long long row = draws[draw];
            double near = closest[row];
            if (best >= 0) {
                const double square = squares[(size_t)best * n_samples + row];
                near = square < near ? square : near;
            }
            accepted = thresholds[draw] <= near;
        }
        const unsigned all = __ballot_sync(0xffffffffu, accepted);
        const int place = found + __popc(all & ((1u << lane) - 1));
        if (accepted && place < n_trials) choice->trials[place] = draw;
        const unsigned last = __ballot_sync(0xffffffffu, accepted && place == n_trials - 1);
        found += __popc(all);
        next += last ? __ffs(last) : 32;
    }
    if (lane == 0) {
        choice->best = best;
        choice->next = next;
        choice->n_trials = found < n_trials ? found : n_trials;
    }
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
