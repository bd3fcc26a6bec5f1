// Many problems at a time: sets of rows, each clustered by itself. An axis of the grid, or the whole of it, are the
// problems. Problem p has count[p] rows from row first[p] on, of X and of all that has a number for each row; what it has
// else stands at place p of its array. What is computed of a problem does not depend on the others.
#include "numbers.cuh"
#include "warp.cuh"

constexpr int MOST_TRIALS = 16;  // of greedy k-means++

// The sum of a number of each of the 256 threads of a block, in the order of the warps, for all of them.
__device__ __forceinline__ double sum_of_block(double x)
{
    __shared__ double of_warps[8];
    x = sum_of_warp(x);
    __syncthreads();  // the last sum has been read
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();  // of_warps is filled
    double sum = 0.0;
    for (int warp = 0; warp < 8; ++warp) sum += of_warps[warp];
    return sum;
}

// Squared distance of two rows.
template <typename Row>
__device__ __forceinline__ double sq_distance(const Row* a, const Row* b, int n_features)
{
    double sum = 0.0;
    for (int f = 0; f < n_features; ++f) {
        const double difference = (double)a[f] - (double)b[f];
        sum += difference * difference;
    }
    return sum;
}

// The frame of each problem: the weighted mean of its rows, rounded to Row, and the weighted mean of their squared
// distances from it; NaN without weight. And of each row the key that rows are sorted by before some are drawn, and the
// squared distance from an equal row up to which it is rounding. A block of 256 threads has a problem.
template <typename Row>
__global__ void frame_problems(const Row* __restrict__ X,                 // IN  (n_rows, n_features)
                               const double* __restrict__ sample_weight,  // IN  (n_rows,)
                               const long long* __restrict__ first,       // IN  (n_problems,)
                               const int* __restrict__ count,             // IN  (n_problems,)
                               int n_features,
                               const double* __restrict__ direction,      // IN  (n_features,)
                               double rounding,                           // relative to that from the origin
                               double* __restrict__ origins,              // OUT (n_problems, n_features)
                               double* __restrict__ spreads,              // OUT (n_problems,)
                               double* __restrict__ keys,                 // OUT (n_rows,)
                               double* __restrict__ least)                // OUT (n_rows,)
{
    __shared__ double parts[256];
    const int thread = threadIdx.x, n = count[blockIdx.x];
    const size_t begin = first[blockIdx.x];
    const Row* rows = X + begin * n_features;
    const double* weights = sample_weight + begin;
    double* origin = origins + (size_t)blockIdx.x * n_features;

    double weight = 0.0;
    for (int i = thread; i < n; i += 256) weight += weights[i];
    weight = sum_of_block(weight);

    int columns = 1;  // that have 256 / columns threads each
    while (columns < n_features && columns < 32) columns *= 2;
    for (int f0 = 0; f0 < n_features; f0 += columns) {
        const int f = f0 + thread % columns;
        double sum = 0.0;
        if (f < n_features)
            for (int i = thread / columns; i < n; i += 256 / columns)
                sum += weights[i] * (double)rows[(size_t)i * n_features + f];
        __syncthreads();  // parts have been read
        parts[thread] = sum;
        __syncthreads();  // parts is filled
        if (thread < columns && f < n_features) {
            for (int part = thread + columns; part < 256; part += columns) sum += parts[part];
            origin[f] = (double)(Row)(sum / weight);
        }
    }
    __syncthreads();  // origin is filled

    double squares = 0.0;
    for (int i = thread; i < n; i += 256) {
        double key = 0.0, square = 0.0;
        for (int f = 0; f < n_features; ++f) {
            const double x = (double)rows[(size_t)i * n_features + f] - origin[f];
            key += x * direction[f];
            square += x * x;
        }
        keys[begin + i] = key;
        least[begin + i] = rounding * square;
        squares += weights[i] * square;
    }
    squares = sum_of_block(squares);
    if (thread == 0) spreads[blockIdx.x] = squares / weight;
}

// A round of greedy k-means++, or the first choice, of each problem; see greedy_rows and choose of seeding/greedy.py.
//
// Rows are drawn by random numbers, of which a problem has `draws` from place `begins` on, through the rows in `order`.
// The distance from the nearest center has to reach its threshold, the random number times what it was at the draw, for
// a draw to be compared with others. A block of 256 threads has a problem.
template <typename Row>
__global__ void choose_rows(const Row* __restrict__ X,                 // IN  (n_rows, n_features)
                            const double* __restrict__ sample_weight,  // IN  (n_rows,)
                            const long long* __restrict__ first,       // IN  (n_problems,)
                            const int* __restrict__ count,             // IN  (n_problems,)
                            const long long* __restrict__ order,       // IN  (n_rows,) rows of X, by problem and key
                            const double* __restrict__ least,          // IN  (n_rows,) as above
                            const int* __restrict__ begins,            // IN  (n_problems,)
                            const int* __restrict__ draws,             // IN  (n_problems,)
                            const double* __restrict__ uniforms,       // IN  (2, n_draws) by which rows are drawn, and
                                                                       //     of thresholds
                            int n_draws, int n_features, int n_clusters, int n_trials,
                            double tie,                                // relative difference of equal sums
                            size_t stride,                             // IN  from a trial to the next in `lowered`
                            double* __restrict__ closest,              // IN, OUT (n_rows,)
                            double* cumulative,                        // scratch (n_rows,)
                            double* lowered,                           // scratch (n_trials, n_rows)
                            long long* candidates,                     // scratch (n_draws,)
                            double* thresholds,                        // scratch (n_draws,)
                            long long* __restrict__ chosen,            // IN, OUT (n_problems, n_clusters) rows of X
                            int* __restrict__ n_chosen)                // IN, OUT (n_problems,)
{
    __shared__ double before[256];
    __shared__ double total;
    __shared__ int trials[MOST_TRIALS], found, next, best;
    const int thread = threadIdx.x, problem = blockIdx.x, n = count[problem], here = draws[problem];
    const size_t begin = first[problem];
    const double* weights = sample_weight + begin;
    const Row* rows = X + begin * n_features;
    double *near = closest + begin, *sums = cumulative + begin;
    candidates += begins[problem];
    thresholds += begins[problem];
    chosen += (size_t)problem * n_clusters;
    uniforms += begins[problem];
    const int done = n_chosen[problem];
    if (here == 0) return;  // all are chosen

    for (int i = thread; i < n && done > 0; i += 256) near[i] = near[i] > least[begin + i] ? near[i] : 0.0;
    __syncthreads();  // rows that are centers are at distance 0
    // By weight alone at first, and once all rows are centers
    const int each = (n + 255) / 256, low = thread * each < n ? thread * each : n, high = low + each < n ? low + each : n;
    for (int by_weight = done == 0; by_weight < 2; ++by_weight) {
        auto mass = [&](int place) {
            const size_t row = order[begin + place] - begin;
            return by_weight ? weights[row] : weights[row] * near[row];
        };
        double sum = 0.0;
        for (int place = low; place < high; ++place) sum += mass(place);
        __syncthreads();  // the last total has been read
        before[thread] = sum;
        __syncthreads();  // before has the sums of the threads
        if (thread == 0) {
            double so_far = 0.0;
            for (int other = 0; other < 256; ++other) {
                const double of_thread = before[other];
                before[other] = so_far;
                so_far += of_thread;
            }
            total = so_far;
        }
        __syncthreads();  // before has what comes before them
        sum = 0.0;
        for (int place = low; place < high; ++place) {
            sum += mass(place);
            sums[place] = before[thread] + sum;
        }
        if (total > 0.0) break;
    }
    __syncthreads();  // sums is filled
    for (int draw = thread; draw < here; draw += 256) {
        const double target = uniforms[draw] * total;
        int from = 0, to = n;  // the first place beyond the target, which passes over rows without mass
        while (from < to) {
            const int middle = (from + to) / 2;
            if (sums[middle] > target) to = middle;
            else from = middle + 1;
        }
        const long long row = order[begin + (from < n ? from : n - 1)] - begin;
        candidates[draw] = row;
        thresholds[draw] = done > 0 ? uniforms[n_draws + draw] * near[row] : 0.0;
    }
    if (thread == 0) next = 0;
    __syncthreads();  // candidates is filled

    if (done == 0) {
        const long long row = candidates[0];
        for (int i = thread; i < n; i += 256)
            near[i] = sq_distance(rows + (size_t)i * n_features, rows + row * n_features, n_features);
        if (thread == 0) {
            chosen[0] = begin + row;
            n_chosen[problem] = 1;
        }
        return;
    }
    int n_now = done;
    while (n_now < n_clusters) {
        if (thread < 32) {  // list the next trials, as choose_trial
            int n_found = 0, from = next;
            while (from < here && n_found < n_trials) {
                const int draw = from + thread;
                const bool accepted = draw < here && thresholds[draw] <= near[candidates[draw]];
                const unsigned all = __ballot_sync(0xffffffffu, accepted);
                const int place = n_found + __popc(all & ((1u << thread) - 1));
                if (accepted && place < n_trials) trials[place] = draw;
                const unsigned last = __ballot_sync(0xffffffffu, accepted && place == n_trials - 1);
                n_found += __popc(all);
                from += last ? __ffs(last) : 32;
            }
            __syncwarp();  // all have read where to begin
            if (thread == 0) {
                next = from;
                found = n_found;
            }
        }
        __syncthreads();  // trials are listed
        if (found < n_trials) break;
        double potential = 0.0, lowest = 0.0;  // that of the trial with the number of the thread, and of all
        for (int t = 0; t < n_trials; ++t) {
            const Row* trial = rows + candidates[trials[t]] * n_features;
            double sum = 0.0;
            for (int i = thread; i < n; i += 256) {
                const double square = sq_distance(rows + (size_t)i * n_features, trial, n_features);
                const double less = square < near[i] ? square : near[i];
                lowered[t * stride + begin + i] = less;
                sum += weights[i] * less;
            }
            sum = sum_of_block(sum);
            if (t == 0 || sum < lowest) lowest = sum;
            if (t == thread) potential = sum;
        }
        if (thread < 32) {  // the first that is the lowest but for rounding
            const unsigned equal = __ballot_sync(0xffffffffu, thread < n_trials && potential <= lowest * (1.0 + tie));
            if (thread == 0) best = equal ? __ffs(equal) - 1 : 0;
        }
        __syncthreads();  // best is known
        for (int i = thread; i < n; i += 256) near[i] = lowered[best * stride + begin + i];
        if (thread == 0) chosen[n_now] = begin + candidates[trials[best]];
        ++n_now;
        __syncthreads();  // near is lowered, and trials have been read
    }
    if (thread == 0) n_chosen[problem] = n_now;
}

// `relabel` of each problem, the second axis of the grid.
template <typename T, int ROWS, int CENTERS, int R, int C>
__global__ void __launch_bounds__((ROWS / R) * (CENTERS / C), 2)
relabel_problems(const T* __restrict__ X,                // IN  (n_rows, n_features)
                 const long long* __restrict__ first,    // IN  (n_problems,)
                 const int* __restrict__ count,          // IN  (n_problems,)
                 const T* __restrict__ origins,          // IN  (n_problems, n_features)
                 const T* __restrict__ minus_2_centers,  // IN  (n_problems, n_clusters, n_features)
                 const T* __restrict__ sq_norms,         // IN  (n_problems, n_clusters)
                 int n_features, int n_clusters,
                 const unsigned long long* __restrict__ most_rows,  // IN  (n_problems,) 0: the run has ended
                 int* __restrict__ labels,               // IN, OUT (n_rows,)
                 unsigned long long* n_changed)          // OUT (n_problems,), added to
{
    const size_t problem = blockIdx.y, begin = first[problem];
    if (has_ended(most_rows + problem)) return;
    label_rows<T, T, ROWS, CENTERS, R, C>(
        X + begin * n_features, origins + problem * n_features, minus_2_centers + problem * n_clusters * n_features,
        sq_norms + problem * n_clusters, nullptr, nullptr, nullptr, count[problem], n_features, n_clusters, (T)0,
        nullptr, labels + begin, nullptr, n_changed + problem);
}

// Weighted sums of the rows of each cluster, and in a last column their weights.
//
// A warp has a cluster of the problem that is the second axis of the grid: it lists the rows of the cluster, 32 and more
// at a time, and adds them up, each of its lanes a column and every so manieth row of the list. blockDim is (32, 8).
template <typename Row>
__global__ void sum_problems(const Row* __restrict__ X,                 // IN  (n_rows, n_features)
                             const double* __restrict__ sample_weight,  // IN  (n_rows,)
                             const long long* __restrict__ first,       // IN  (n_problems,)
                             const int* __restrict__ count,             // IN  (n_problems,)
                             const double* __restrict__ origins,        // IN  (n_problems, n_features)
                             const int* __restrict__ labels,            // IN  (n_rows,)
                             int n_features, int n_clusters,
                             const unsigned long long* __restrict__ most_rows,  // IN  (n_problems,) 0: the run has ended
                             double* __restrict__ totals,               // OUT (n_problems, n_clusters, n_features + 1)
                             int* __restrict__ sizes)                   // OUT (n_problems, n_clusters) their rows
{
    __shared__ int listed[8][64];
    const int lane = threadIdx.x, cluster = blockIdx.x * 8 + threadIdx.y, n = count[blockIdx.y];
    if (cluster >= n_clusters || has_ended(most_rows + blockIdx.y)) return;  // all lanes of a warp
    const size_t begin = first[blockIdx.y];
    const double* origin = origins + (size_t)blockIdx.y * n_features;
    double* total = totals + ((size_t)blockIdx.y * n_clusters + cluster) * (n_features + 1);
    int* list = listed[threadIdx.y];
    int columns = 1;
    while (columns <= n_features && columns < 32) columns *= 2;
    for (int f0 = 0; f0 <= n_features; f0 += columns) {
        const int f = f0 + lane % columns;
        const double shift = f < n_features ? origin[f] : 0.0;
        double sum = 0.0;
        auto add = [&](int n_rows) {
            for (int place = lane / columns; place < n_rows; place += 32 / columns) {
                const size_t row = begin + list[place];
                const double weight = sample_weight[row];
                if (f < n_features) sum += weight * ((double)X[row * n_features + f] - shift);
                if (f == n_features) sum += weight;
            }
        };
        int n_listed = 0, size = 0;
        for (int i0 = 0; i0 < n; i0 += 32) {
            const bool own = i0 + lane < n && labels[begin + i0 + lane] == cluster;
            const unsigned all = __ballot_sync(0xffffffffu, own);
            if (own) list[n_listed + __popc(all & ((1u << lane) - 1))] = i0 + lane;
            n_listed += __popc(all);
            size += __popc(all);
            if (n_listed < 32) continue;
            __syncwarp();  // the list is filled
            add(32);
            n_listed -= 32;
            __syncwarp();  // the first 32 have been read
            if (lane < n_listed) list[lane] = list[32 + lane];
            __syncwarp();  // the rest has been read
        }
        __syncwarp();  // the list is filled
        add(n_listed);
        for (int step = 16; step >= columns; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane < columns && f <= n_features) total[f] = sum;
        if (lane == 0 && f0 == 0) sizes[(size_t)blockIdx.y * n_clusters + cluster] = size;
        __syncwarp();  // the list has been read
    }
}

// `move_centers` of each problem, the second axis of the grid.
template <typename Rounded>
__global__ void move_problems(const double* __restrict__ totals,       // IN  (n_problems, n_clusters, n_features + 1)
                              const double* __restrict__ centers_old,  // IN  (n_problems, n_clusters, n_features)
                              const double* __restrict__ origins,      // IN  (n_problems, n_features)
                              int n_clusters, int n_features,
                              const unsigned long long* __restrict__ most_rows,  // IN (n_problems,) 0: the run has ended
                              double* __restrict__ centers,            // OUT (n_problems, n_clusters, n_features)
                              double* __restrict__ parts)              // OUT (n_problems, n_clusters, 2)
{
    const size_t problem = blockIdx.y, cluster = problem * n_clusters, columns = n_features + 1;
    const double* sums = totals + cluster * columns;
    move_clusters<Rounded>(sums, sums + n_features, centers_old + cluster * n_features, origins + problem * n_features,
                           n_clusters, n_features, columns, 1, columns, 0, most_rows + problem,
                           centers + cluster * n_features, parts + 2 * cluster);
}

// `sum_up` of each problem: a warp.
extern "C" __global__ void sum_up_problems(const double* __restrict__ parts,    // IN  (n_problems, n_clusters, 2)
                                           const double* __restrict__ totals,   // IN  (n_problems, n_clusters,
                                                                                //      n_features + 1)
                                           const unsigned long long* __restrict__ n_changed,  // IN (n_problems,)
                                           const double* __restrict__ spreads,  // IN  (n_problems,)
                                           int n_clusters, int n_features,
                                           double tol,                          // relative to the variance of a column
                                           unsigned long long* most_rows,       // IN, OUT (n_problems,)
                                           unsigned long long* n_done,          // IN, OUT (n_problems,) rows of
                                                                                //         numbers that are written
                                           double* __restrict__ numbers)        // OUT (.., n_problems, 5), the next row
{
    const size_t problem = blockIdx.x, cluster = problem * n_clusters, columns = n_features + 1;
    const unsigned long long none = 0;
    const double spread = spreads[problem];
    if (has_ended(most_rows + problem)) return;
    const size_t row = n_done[problem];
    conclude(parts + 2 * cluster, totals + cluster * columns + n_features, columns, n_changed + problem, &none, spread,
             n_clusters, tol * spread / n_features, 0.0, 1.0, most_rows + problem, numbers + 5 * (row * gridDim.x + problem));
    if (threadIdx.x == 0) n_done[problem] = row + 1;
}

// Weighted sum of the squared distances of the rows from their centers. A block of 256 threads has a problem.
template <typename Row>
__global__ void inertia_of_problems(const Row* __restrict__ X,                 // IN  (n_rows, n_features)
                                    const double* __restrict__ sample_weight,  // IN  (n_rows,)
                                    const long long* __restrict__ first,       // IN  (n_problems,)
                                    const int* __restrict__ count,             // IN  (n_problems,)
                                    const double* __restrict__ origins,        // IN  (n_problems, n_features)
                                    const double* __restrict__ centers,        // IN  (n_problems, n_clusters,
                                                                               //      n_features)
                                    const int* __restrict__ labels,            // IN  (n_rows,)
                                    int n_features, int n_clusters,
                                    double* __restrict__ inertia)              // OUT (n_problems,)
{
    const int n = count[blockIdx.x];
    const size_t begin = first[blockIdx.x], problem = blockIdx.x;
    const double* origin = origins + problem * n_features;
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) {
        const Row* row = X + (begin + i) * n_features;
        const double* center = centers + (problem * n_clusters + labels[begin + i]) * n_features;
        double square = 0.0;
        for (int f = 0; f < n_features; ++f) {
            const double difference = ((double)row[f] - origin[f]) - center[f];
            square += difference * difference;
        }
        sum += sample_weight[begin + i] * square;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) inertia[blockIdx.x] = sum;
}
