// Rows sorted by their labels, those of one label in their order: a counting sort of parts of `size` rows.

// How many rows of each part have a label. A block has a part.
extern "C" __global__ void count_labels(const int* __restrict__ labels,  // IN  (n_samples,)
                                        int n_samples, int size,
                                        int* counts)                     // OUT (n_clusters, n_parts), starts at 0
{
    const long long begin = (long long)blockIdx.x * size;
    const long long end = begin + size < n_samples ? begin + size : n_samples;
    for (long long i = begin + threadIdx.x; i < end; i += blockDim.x)
        atomicAdd(counts + (size_t)labels[i] * gridDim.x + blockIdx.x, 1);
}

// Rows with a label in the parts before each, and in all parts. A warp has a label; blockDim.x is 32.
extern "C" __global__ void scan_parts(int n_clusters, int n_parts,
                                      int* __restrict__ counts,       // IN, OUT (n_clusters, n_parts)
                                      long long* __restrict__ sizes)  // OUT (n_clusters + 1,), the last one 0
{
    const int cluster = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (cluster == n_clusters && lane == 0) sizes[cluster] = 0;
    if (cluster >= n_clusters) return;  // all lanes of a warp
    int* own = counts + (size_t)cluster * n_parts;
    int before = 0;
    for (int first = 0; first < n_parts; first += 32) {
        const int count = first + lane < n_parts ? own[first + lane] : 0;
        int sum = count;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int lower = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += lower;
        }
        if (first + lane < n_parts) own[first + lane] = before + sum - count;
        before += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) sizes[cluster] = before;
}

// Where the rows with each label begin: of numbers, the sums of those before them. One block of 256 threads.
extern "C" __global__ void scan_labels(int n, long long* __restrict__ sizes)  // IN, OUT (n,)
{
    __shared__ long long sums[256];
    const int thread = threadIdx.x;
    const int most = (n + 255) / 256, begin = thread * most < n ? thread * most : n, end = begin + most < n ? begin + most : n;
    long long sum = 0;
    for (int i = begin; i < end; ++i) sum += sizes[i];
    sums[thread] = sum;
    __syncthreads();  // sums is filled
    long long before = 0;
    for (int other = 0; other < thread; ++other) before += sums[other];
    for (int i = begin; i < end; ++i) {
        const long long size = sizes[i];
        sizes[i] = before;
        before += size;
    }
}

// Put each row in its place. A warp has a part, and takes 32 rows at a time; blockDim.x is 32.
extern "C" __global__ void place_rows(const int* __restrict__ labels,        // IN  (n_samples,)
                                      const long long* __restrict__ starts,  // IN  (n_clusters + 1,)
                                      int n_samples, int size, int n_parts,
                                      int* counts,                           // IN, OUT (n_clusters, n_parts) rows with
                                                                             //     a label before those to come
                                      int* __restrict__ order,               // OUT (n_samples,) rows, sorted
                                      int* __restrict__ sorted)              // OUT (n_samples,) their labels
{
    const int part = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (part >= n_parts) return;  // all lanes of a warp
    const long long begin = (long long)part * size;
    const long long end = begin + size < n_samples ? begin + size : n_samples;
    for (long long first = begin; first < end; first += 32) {
        const long long row = first + lane;
        const bool is_row = row < end;
        const int label = is_row ? labels[row] : -1;
        const unsigned equal = __match_any_sync(0xffffffffu, label);
        const int leader = __ffs(equal) - 1;
        int before = 0;
        if (is_row && lane == leader) before = atomicAdd(counts + (size_t)label * n_parts + part, __popc(equal));
        before = __shfl_sync(0xffffffffu, before, leader);
        if (!is_row) continue;
        const long long place = starts[label] + before + __popc(equal & ((1u << lane) - 1));
        order[place] = (int)row;
        sorted[place] = label;
    }
}
