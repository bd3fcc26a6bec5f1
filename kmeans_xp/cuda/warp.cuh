// What the 32 threads of a warp do together.

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
