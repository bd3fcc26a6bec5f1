// What the 32 threads of a warp do together.

// Add up the changes that the threads of a block have seen. All threads of a warp are here.
__device__ __forceinline__ void count_changes(int changed, unsigned long long* n_changed)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) changed += __shfl_xor_sync(0xffffffffu, changed, step);
    if (threadIdx.x % 32 == 0 && changed) atomicAdd(n_changed, (unsigned long long)changed);
}

// What a count on the device says, if that is less.
__device__ __forceinline__ int at_most(const unsigned long long* count, int most)
{
    return count && *count < (unsigned long long)most ? (int)*count : most;
}

// Whether a run of iterations has come to its end, so that those that have been launched already do nothing.
__device__ __forceinline__ bool has_ended(const unsigned long long* most_rows) { return most_rows && *most_rows == 0; }

// Raise *largest to a number from zero on: of such numbers, larger ones have larger bits, and NaN the largest.
__device__ __forceinline__ void raise_to(float* largest, float x) { atomicMax((unsigned*)largest, __float_as_uint(x)); }
__device__ __forceinline__ void raise_to(double* largest, double x)
{
    atomicMax((unsigned long long*)largest, (unsigned long long)__double_as_longlong(x));
}

// The sum over the lanes of a warp, for all of them.
__device__ __forceinline__ double sum_of_warp(double x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Append the rows for which `is_listed` to a list, in any order. All threads of a warp are here.
__device__ __forceinline__ void list_rows(bool is_listed, int row, int* list, unsigned long long* n_listed)
{
    const unsigned listed = __ballot_sync(0xffffffffu, is_listed);
    if (listed) {
        unsigned long long place = 0;
        if (threadIdx.x % 32 == 0) place = atomicAdd(n_listed, (unsigned long long)__popc(listed));
        place = __shfl_sync(0xffffffffu, place, 0);
        if (is_listed) list[place + __popc(listed & ((1u << threadIdx.x % 32) - 1))] = row;
    }
}

// Four threads share four rows: that of a lane, and the sum of what they have of it. Each passes on two rows, then one.
template <typename T>
__device__ __forceinline__ T own_of(const T (&of_rows)[4], int lane)
{
    return lane == 0 ? of_rows[0] : lane == 1 ? of_rows[1] : lane == 2 ? of_rows[2] : of_rows[3];
}

__device__ __forceinline__ float sum_of_own(float (&of_rows)[4], int lane)
{
#pragma unroll
    for (int apart = 2; apart > 0; apart /= 2) {
        const bool high = lane & apart;
#pragma unroll
        for (int r = 0; r < apart; ++r) {
            const float passed = high ? of_rows[r] : of_rows[r + apart], rest = high ? of_rows[r + apart] : of_rows[r];
            of_rows[r] = rest + __shfl_xor_sync(0xffffffffu, passed, apart);
        }
    }
    return of_rows[0];
}
