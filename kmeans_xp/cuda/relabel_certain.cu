// The nearest center of each row, by tensor cores, where rounding leaves no doubt.
#include "four.cuh"
#include "nearest.cuh"
#include "warp.cuh"

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

// As `coefficients`, of CENTERS centers and 16 features at a time: -2 c, and zeros where there are none, then ||c||^2,
// and infinity. Rows of tiles have the same centers.
template <int CENTERS>
__global__ void tile_centers(const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                             int n_clusters, int n_features,
                             float* __restrict__ tiles,           // OUT (n_rows, n_columns, CENTERS * 17)
                             float* largest)                      // OUT of the ||c||^2; starts at 0
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
    if (threadIdx.x == 0 && cluster < n_clusters) raise_to(largest, sq_norm);
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
                const int* __restrict__ rows,           // IN  (n_rows,) to look at; NULL: the first ones
                const unsigned long long* __restrict__ n_rows,  // IN  or more; NULL: n_samples
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
    const int count = at_most(n_rows, n_samples);
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
        const int mine = own_of(row, lane), before = labels[mine];
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
            keep_own(best, lane);
            merge(own, best[0].score, best[0].second, best[0].label);
        }
        // Each number of a product is rounded by up to 2^-11 of it. Of Frame.rounding, a twentieth is the error now. Where
        // numbers are so small that some have been flushed to zero, nothing is certain
        const float sq_row = sum_of_own(squares, lane), rounding = coefficient * (sq_row + *largest);
        const float error = 2.02f / 1024.0f * sqrt(sq_row) * sqrt(*largest);
        const float lowest = own.score > -sq_row ? own.score : -sq_row;
        const bool is_mine = begin + first_row + lane * 8 + group < count;
        const bool is_certain = own.second - lowest > 2.0f * (error + 0.1f * rounding) && rounding > 1e-30f;
        if (is_mine && is_certain) {
            changed += before != own.label;
            labels[mine] = own.label;
            if (slack) slack[mine] = path[own.label] + sure_gap(own, sq_row, error + rounding);
        }
        list_rows(is_mine && !is_certain, mine, uncertain, n_uncertain);
    }
    count_changes(changed, n_changed);
}
