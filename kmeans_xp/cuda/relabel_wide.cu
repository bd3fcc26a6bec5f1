// The nearest center of each row by products of float16, where rounding leaves no doubt, for rows of many features.
#include "certificate.cuh"
#include "half.cuh"
#include "warp.cuh"

// A block has 128 rows and takes 256 centers at a time, a warp 64 of each: PRODUCTS_DOWN products of 16 rows, and
// PRODUCTS_ACROSS of 8 centers.
constexpr int WARPS_DOWN = 2, WARPS_ACROSS = 4, PRODUCTS_DOWN = 4, PRODUCTS_ACROSS = 8;
constexpr int WIDE_THREADS = WARPS_DOWN * WARPS_ACROSS * 32;
constexpr int WIDE_ROWS = WARPS_DOWN * PRODUCTS_DOWN * 16, WIDE_CENTERS = WARPS_ACROSS * PRODUCTS_ACROSS * 8;

// As `relabel_half`, for any number of features. The rows, rounded to float16, are kept in shared memory, 16 features of
// all of them in a group: all groups, or as many as there is `room` for, which then take turns for each tile of centers. Of
// the centers 16 features come through a ring at a time.
template <typename Row>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
relabel_wide(const Row* __restrict__ X,              // IN  (n_samples, n_features)
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
             int room, unsigned times,               // IN  groups of features; 256
             int* __restrict__ uncertain,            // OUT (n_samples,), the first *n_uncertain of them
             unsigned long long* n_uncertain)        // OUT, starts at 0
{
    constexpr int CHUNK = WIDE_CENTERS * 2, NORMS = WIDE_CENTERS / 4, TOLD_APART = 128 / PRODUCTS_ACROSS;  // of uint4
    static_assert(WIDE_ROWS / 16 * 32 == WIDE_THREADS && WIDE_ROWS <= WIDE_THREADS, "");
    extern __shared__ uint4 slots[];  // (RING, CHUNK), rows (WIDE_ROWS / 16, room, 32)
    __shared__ float squares_of[WIDE_ROWS], sq_residuals_of[WIDE_ROWS];
    __shared__ Nearest<float> found[WARPS_ACROSS][WIDE_ROWS];
    typedef decltype(number(Row())) Number;
    const int thread = threadIdx.x, warp = thread / 32, group = thread % 32 / 4, lane = thread % 4;
    const int down = warp % WARPS_DOWN, across = warp / WARPS_DOWN, n_groups = (n_features + 15) / 16;
    const int count = at_most(n_rows, n_samples), n_tiles = (n_clusters + WIDE_CENTERS - 1) / WIDE_CENTERS;
    const bool whole = n_features % 4 == 0 && (size_t)X % sizeof(Four<Row>) == 0;
    const size_t tile_size = (size_t)n_groups * CHUNK + NORMS;
    uint4* kept = slots + RING * CHUNK;
    Ring<CHUNK, WIDE_THREADS> ring = {slots, tiles, tiles + n_tiles * tile_size, tiles, n_groups, NORMS, 0, 0};
    ring.start();

    const float infinity = __int_as_float(0x7f800000);
    const Centers all(largest);
    const Outcome outcome = {path, labels, slack, coefficient, scale};
    int changed = 0;
    for (int begin = blockIdx.x * WIDE_ROWS; begin < count; begin += gridDim.x * WIDE_ROWS) {
        auto row_at = [&](int in_block) {
            const int i = begin + in_block < count ? begin + in_block : count - 1;
            return rows ? rows[i] : i;
        };
        // A warp brings 16 rows, of which a thread has a fourth of two
        const int brought[2] = {row_at(warp * 16 + group), row_at(warp * 16 + 8 + group)};
        float squares[2] = {}, sq_residuals[2] = {};
        auto bring = [&](int first, int end) {
#pragma unroll (sizeof(Row) == 8 ? 1 : 2)  // more would take registers from the scores
            for (int k = first; k < end; ++k) {
                const Four<double> from = four(origin, k * 16 + lane * 4, n_features, false);
                const Four<Number> o = {(Number)from.of[0], (Number)from.of[1], (Number)from.of[2], (Number)from.of[3]};
                uint2 both[2];
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const Four<Row> x = four(X + (size_t)brought[r] * n_features, k * 16 + lane * 4, n_features, whole);
                    both[r] = rounded(scaled(x, o, (Number)scale), squares[r], sq_residuals[r]);
                }
                kept[(warp * room + k - first) * 32 + thread % 32] = {both[0].x, both[1].x, both[0].y, both[1].y};
            }
        };
        auto publish = [&] {
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int apart = 1; apart < 4; apart *= 2) {
                    squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], apart);
                    sq_residuals[r] += __shfl_xor_sync(0xffffffffu, sq_residuals[r], apart);
                }
            if (lane < 2) {
                squares_of[warp * 16 + lane * 8 + group] = lane ? squares[1] : squares[0];
                sq_residuals_of[warp * 16 + lane * 8 + group] = lane ? sq_residuals[1] : sq_residuals[0];
            }
        };
        auto place_of = [&](int m, int r) { return (down * PRODUCTS_DOWN + m) * 16 + r * 8 + group; };

        float units[PRODUCTS_DOWN][2];
        Keys keys[PRODUCTS_DOWN][2];
        auto unpack = [&](int first_center) {
#pragma unroll
            for (int m = 0; m < PRODUCTS_DOWN; ++m)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int j = keys[m][r].best & 255, n = j / 2 % PRODUCTS_ACROSS, tile = j / 2 / PRODUCTS_ACROSS;
                    const int product = (tile * WARPS_ACROSS + across) * PRODUCTS_ACROSS + n;
                    Nearest<float> best = {score_of(keys[m][r].best, units[m][r]), score_of(keys[m][r].second, units[m][r]),
                                           first_center + product * 8 + lane * 2 + j % 2};
#pragma unroll
                    for (int apart = 1; apart < 4; apart *= 2) {
                        const float score = __shfl_xor_sync(0xffffffffu, best.score, apart);
                        const float second = __shfl_xor_sync(0xffffffffu, best.second, apart);
                        merge(best, score, second, __shfl_xor_sync(0xffffffffu, best.label, apart));
                    }
                    if (lane == 0) {
                        Nearest<float>& so_far = found[across][place_of(m, r)];
                        if (first_center) merge(best, so_far.score, so_far.second, so_far.label);
                        so_far = best;
                    }
                    keys[m][r] = {NO_KEY, NO_KEY};
                }
        };
#pragma unroll 1
        for (int tile = 0; tile < n_tiles; ++tile) {
            float score[PRODUCTS_DOWN][PRODUCTS_ACROSS][4] = {};
#pragma unroll 1
            for (int first = 0; first < n_groups; first += room) {
                const int end = first + room < n_groups ? first + room : n_groups;
                if (tile == 0 || room < n_groups) {
                    __syncthreads();  // kept has been read, and found and squares_of for the rows before
                    bring(first, end);
                    if (tile == 0 && end == n_groups) publish();  // all that is written is read after the ring's next turn
                }
#pragma unroll 1
                for (int k = 0; k < end - first; ++k) {
                    const uint4* chunk = ring.turn() + across * PRODUCTS_ACROSS * 16 + thread % 32;
                    uint4 x[PRODUCTS_DOWN];
#pragma unroll
                    for (int m = 0; m < PRODUCTS_DOWN; ++m)
                        x[m] = kept[((down * PRODUCTS_DOWN + m) * room + k) * 32 + thread % 32];
#pragma unroll
                    for (int n = 0; n < PRODUCTS_ACROSS; n += 2) {
                        const uint4 c = chunk[n * 16];
#pragma unroll
                        for (int m = 0; m < PRODUCTS_DOWN; ++m) {
                            const unsigned of_rows[4] = {x[m].x, x[m].y, x[m].z, x[m].w};
                            multiply_add(score[m][n], of_rows, c.x, c.y);
                            multiply_add(score[m][n + 1], of_rows, c.z, c.w);
                        }
                    }
                }
            }
            if (tile == 0)
#pragma unroll
                for (int m = 0; m < PRODUCTS_DOWN; ++m)
#pragma unroll
                    for (int r = 0; r < 2; ++r) {
                        keys[m][r] = {NO_KEY, NO_KEY};
                        units[m][r] = unit_of(RowNorms(squares_of[place_of(m, r)], 0.0f, vanishing), all);
                    }
            const float2* sq_norms = (const float2*)(tiles + tile * tile_size + n_groups * CHUNK);
            const unsigned j = (unsigned)(tile % TOLD_APART) * PRODUCTS_ACROSS * 2;
#pragma unroll
            for (int n = 0; n < PRODUCTS_ACROSS; ++n) {
                const float2 sq_norm = sq_norms[(across * PRODUCTS_ACROSS + n) * 4 + lane];
#pragma unroll
                for (int m = 0; m < PRODUCTS_DOWN; ++m)
#pragma unroll
                    for (int r = 0; r < 2; ++r)
                        consider(keys[m][r], key_of(score[m][n][2 * r] + sq_norm.x, units[m][r], times, j + 2 * n),
                                 key_of(score[m][n][2 * r + 1] + sq_norm.y, units[m][r], times, j + 2 * n + 1));
            }
            if (tile % TOLD_APART == TOLD_APART - 1 || tile + 1 == n_tiles) unpack((tile - tile % TOLD_APART) * WIDE_CENTERS);
        }
        __syncthreads();  // found is filled

        const bool is_mine = thread < WIDE_ROWS && begin + thread < count;
        const int mine = is_mine ? row_at(thread) : 0;
        bool is_certain = false;
        if (is_mine) {
            Nearest<float> best = found[0][thread];
#pragma unroll
            for (int i = 1; i < WARPS_ACROSS; ++i) {
                const Nearest<float> other = found[i][thread];
                merge(best, other.score, other.second, other.label);
            }
            const RowNorms norms(squares_of[thread], sq_residuals_of[thread], vanishing);
            const float unit = unit_of(norms, all), error = norms.error(all, unit, accumulation);
            is_certain = outcome.settle(mine, best, squares_of[thread], error, all, changed);
        }
        list_rows(is_mine && !is_certain, mine, uncertain, n_uncertain);
    }
    ring.stop();
    count_changes(changed, n_changed);
}
