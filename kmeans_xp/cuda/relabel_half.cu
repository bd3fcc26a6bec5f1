// The nearest center of each row by products of float16, where rounding leaves no doubt: as `relabel_certain`, with half
// the bytes and twice the rate. Rows are read once and stay on the chip while all centers pass by.
#include "certificate.cuh"
#include "half.cuh"
#include "warp.cuh"

// Centers as they are multiplied with, `width` of them in a tile: -2 c, scaled and rounded to float16, and zeros where
// there are none; then ||c||^2, and infinity. In a tile a lane reads 16 bytes that are its own, those of 16 features of
// two centers. blockDim.x is 32: a warp for each center, of as many as there are in the tiles.
__global__ void tile_halves(const double* __restrict__ centers,  // IN  (n_clusters, n_features)
                            int n_clusters, int n_features, int n_groups, int width, double scale,
                            unsigned short* __restrict__ tiles,  // OUT (n_tiles, width * (16 * n_groups + 2))
                            float* __restrict__ largest)         // OUT (3,) of ||m^||^2, ||m - m^||^2, ||c||^2; starts at 0
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y, in_tile = cluster % width;
    unsigned short* tile = tiles + (size_t)(cluster / width) * width * (16 * n_groups + 2);
    double sq_half = 0.0, sq_residual = 0.0, sq_norm = 0.0;
    for (int f = threadIdx.x; f < 16 * n_groups; f += 32) {
        const double c = cluster < n_clusters && f < n_features ? scale * centers[(size_t)cluster * n_features + f] : 0.0;
        const unsigned half = halves((float)(-2.0 * c), 0.0f) & 0xffffu;
        const int lane = in_tile % 8 * 4 + f % 16 / 4, pair = in_tile / 16, of_pair = in_tile / 8 % 2;
        tile[((f / 16 * (width / 16) + pair) * 32 + lane) * 8 + of_pair * 4 + f % 4] = (unsigned short)half;
        const double m = low_half(half), residual = -2.0 * c - m;
        sq_half += m * m;
        sq_residual += residual * residual;
        sq_norm += c * c;
    }
    const double squares[3] = {sum_of_warp(sq_half), sum_of_warp(sq_residual), sum_of_warp(sq_norm)};
    if (threadIdx.x == 0) {
        const bool is_one = cluster < n_clusters;
        ((float*)(tile + 16 * n_groups * width))[in_tile] = is_one ? (float)squares[2] : __int_as_float(0x7f800000);
        for (int i = 0; i < 3; ++i)
            if (is_one) raise_to(largest + i, (float)squares[i]);
    }
}

// Compare rows with all centers for up to 16 * GROUPS features. The rows whose label is certain get it, the others are
// listed, for `relabel` to look at; the order of the list varies.
//
// A warp has 32 rows in registers, and takes CENTERS centers at a time. Their tiles wait in shared memory: all of them, and
// no warp waits for another; or they come through a ring, and the block goes through them together. A thread has the best
// two of a fourth of the centers, for four rows.
template <typename Row, int GROUPS, int CENTERS, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 2)
relabel_half(const Row* __restrict__ X,              // IN  (n_samples, n_features)
             const double* __restrict__ origin,      // IN  (n_features,)
             const uint4* __restrict__ tiles,        // IN  of the centers, see `tile_halves`
             const double* __restrict__ path,        // IN  (n_clusters,)
             const int* __restrict__ rows,           // IN  (n_rows,) to look at; NULL: the first ones
             const unsigned long long* __restrict__ n_rows,  // IN  or more; NULL: n_samples
             int n_samples, int n_features, int n_clusters,
             float coefficient, double scale, float accumulation, float vanishing,  // IN  see certificate.cuh
             const float* __restrict__ largest,      // IN  see `tile_halves`
             int* __restrict__ labels,               // IN, OUT (n_samples,)
             double* __restrict__ slack,             // OUT (n_samples,), or NULL
             unsigned long long* n_changed,          // OUT, added to
             int room, unsigned times,               // IN  slots for tiles: all of them, or RING; 256
             int* __restrict__ uncertain,            // OUT (n_samples,), the first *n_uncertain of them
             unsigned long long* n_uncertain)        // OUT, starts at 0
{
    constexpr int N = CENTERS / 8, TILE = CENTERS * (2 * GROUPS) + CENTERS / 4;  // products side by side; of uint4
    constexpr int TOLD_APART = 128 / N, BATCH = GROUPS == 1 || sizeof(Row) == 8 ? 1 : 2;
    extern __shared__ uint4 slots[];  // (room, TILE), origin (GROUPS, 16) of Number
    typedef decltype(number(Row())) Number;
    const int thread = threadIdx.x, group = thread % 32 / 4, lane = thread % 4, first_row = thread / 32 * 32;
    const int count = at_most(n_rows, n_samples), n_tiles = (n_clusters + CENTERS - 1) / CENTERS;
    const bool whole = n_features % 4 == 0 && (size_t)X % sizeof(Four<Row>) == 0, is_resident = n_tiles <= room;
    Four<Number>* shift = (Four<Number>*)(slots + room * TILE);
    for (int i = thread; i < GROUPS * 16; i += WARPS * 32)
        shift[i / 4].of[i % 4] = i < n_features ? (Number)origin[i] : (Number)0;
    Ring<TILE, WARPS * 32> ring = {slots, tiles, tiles + (size_t)n_tiles * TILE, tiles, 1, 0, 0, 0};
    if (is_resident) {
        for (int tile = 0; tile < n_tiles; ++tile) ring.fetch(tile);
        ring.stop();
    } else
        ring.start();
    __syncthreads();  // shift is filled, and the tiles if they are to stay

    const float infinity = __int_as_float(0x7f800000);
    const Centers all(largest);
    const Outcome outcome = {path, labels, slack, coefficient, scale};
    int changed = 0;
    for (int begin = blockIdx.x * WARPS * 32; begin < count; begin += gridDim.x * WARPS * 32) {
        int row[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int place = begin + first_row + r * 8 + group, i = place < count ? place : count - 1;
            row[r] = rows ? rows[i] : i;
        }
        unsigned x[GROUPS][2][4];
        float squares[4] = {}, sq_residuals[4] = {}, units[4];
#pragma unroll
        for (int first = 0; first < GROUPS; first += BATCH) {
            Four<Row> loaded[BATCH][4];  // all on their way at once
#pragma unroll
            for (int k = 0; k < BATCH; ++k)
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    loaded[k][r] = four(X + (size_t)row[r] * n_features, (first + k) * 16 + lane * 4, n_features, whole);
#pragma unroll
            for (int k = 0; k < BATCH; ++k)
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const Four<float> numbers = scaled(loaded[k][r], shift[(first + k) * 4 + lane], (Number)scale);
                    const uint2 both = rounded(numbers, squares[r], sq_residuals[r]);
                    x[first + k][r / 2][r % 2] = both.x;
                    x[first + k][r / 2][r % 2 + 2] = both.y;
                }
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 1);
            squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 2);
            units[r] = unit_of(RowNorms(squares[r], 0.0f, vanishing), all);
        }

        Nearest<float> best[4];
        Keys keys[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            best[r] = {infinity, infinity, 0};
            keys[r] = {NO_KEY, NO_KEY};
        }
        auto unpack = [&](int first_center) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const int j = keys[r].best & 255, label = first_center + j / 2 * 8 + lane * 2 + j % 2;
                merge(best[r], score_of(keys[r].best, units[r]), score_of(keys[r].second, units[r]), label);
                keys[r] = {NO_KEY, NO_KEY};
            }
        };
#pragma unroll 1
        for (int tile = 0; tile < n_tiles; ++tile) {
            const uint4* of_tile = is_resident ? slots + tile * TILE : ring.turn();
            const float2* sq_norms = (const float2*)(of_tile + 2 * GROUPS * CENTERS);
            float score[2][N][4] = {};
#pragma unroll
            for (int k = 0; k < GROUPS; ++k)
#pragma unroll
                for (int n = 0; n < N; n += 2) {
                    const uint4 c = of_tile[(k * N + n) * 16 + thread % 32];
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        multiply_add(score[m][n], x[k][m], c.x, c.y);
                        multiply_add(score[m][n + 1], x[k][m], c.z, c.w);
                    }
                }
            const unsigned j = (unsigned)(tile % TOLD_APART) * N * 2;
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const float2 sq_norm = sq_norms[n * 4 + lane];
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    consider(keys[r], key_of(score[r / 2][n][r % 2 * 2] + sq_norm.x, units[r], times, j + 2 * n),
                             key_of(score[r / 2][n][r % 2 * 2 + 1] + sq_norm.y, units[r], times, j + 2 * n + 1));
            }
            if (tile % TOLD_APART == TOLD_APART - 1 || tile + 1 == n_tiles) unpack((tile - tile % TOLD_APART) * CENTERS);
        }

        // One of the four lanes of a row answers for it
        keep_own(best, lane);
        const int mine = own_of(row, lane);
        const float square = own_of(squares, lane);
        const RowNorms norms(square, sum_of_own(sq_residuals, lane), vanishing);
        const float error = norms.error(all, own_of(units, lane), accumulation);
        const bool is_mine = begin + first_row + lane * 8 + group < count;
        const bool is_certain = is_mine && outcome.settle(mine, best[0], square, error, all, changed);
        list_rows(is_mine && !is_certain, mine, uncertain, n_uncertain);
    }
    ring.stop();
    count_changes(changed, n_changed);
}
