// Pruning: which rows must be compared with the centers.
#include "warp.cuh"

// List the rows that must be looked at: slack <= path[label], or without a label. The order of the list varies.
extern "C" __global__ void stale_rows(const int* __restrict__ labels,    // IN  (n_samples,)
                                      const double* __restrict__ slack,  // IN  (n_samples,)
                                      const double* __restrict__ path,   // IN  (n_clusters,)
                                      int n_samples,
                                      const unsigned long long* __restrict__ most_rows,  // IN  0: none are listed
                                      int* __restrict__ rows,            // OUT (n_samples,), the first *n_rows of them
                                      unsigned long long* n_rows,        // OUT, starts at 0
                                      unsigned long long* n_active)      // OUT, added to
{
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    bool stale = false;
    if (row < at_most(most_rows, n_samples)) {
        const int label = labels[row];
        stale = label < 0 || slack[row] <= path[label];
    }
    const unsigned stale_lanes = __ballot_sync(0xffffffffu, stale);
    const int lane = threadIdx.x & 31;
    unsigned long long first = 0;
    if (lane == 0 && stale_lanes) {
        first = atomicAdd(n_rows, (unsigned long long)__popc(stale_lanes));
        atomicAdd(n_active, (unsigned long long)__popc(stale_lanes));
    }
    first = __shfl_sync(0xffffffffu, first, 0);
    if (stale) rows[first + __popc(stale_lanes & ((1u << lane) - 1))] = row;
}
