// Sums of clusters by the rows that changed cluster: the same bits whatever the order.
//
// What a row adds to a sum, its weight times x, is a multiple of a power of two, cut off `bits` * 2 bits below the largest
// such number of the column: two integers, of up to `bits` bits each. Integers are added, and taken away again, exactly and
// in any order; there is room for those of all rows. The weight is one more column.
#include "numbers.cuh"
#include "warp.cuh"

// The largest |weight * x| of each column, and the largest weight. blockDim.x threads each have a column.
template <typename Row>
__global__ void largest_terms(const Row* __restrict__ X,          // IN  (n_samples, n_features)
                              const double* __restrict__ origin,  // IN  (n_features,)
                              const double* __restrict__ sample_weight,  // IN (n_samples,)
                              int n_samples, int n_features,
                              double* largest)                    // OUT (n_features + 1,), starts at 0
{
    __shared__ double found[256];
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    double most = 0.0;
    if (column <= n_features) {
        const double shift = column < n_features ? origin[column] : 0.0;
        for (long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y; row < n_samples; row += gridDim.x * blockDim.y) {
            const double x = column < n_features ? (double)number(X[(size_t)row * n_features + column]) - shift : 1.0;
            const double term = fabs(sample_weight[row] * x);
            most = term > most || term != term ? term : most;
        }
    }
    found[threadIdx.y * blockDim.x + threadIdx.x] = most;
    __syncthreads();  // found is filled
    if (threadIdx.y == 0 && column <= n_features) {
        for (int y = 1; y < blockDim.y; ++y) {
            const double other = found[y * blockDim.x + threadIdx.x];
            most = other > most || other != other ? other : most;
        }
        raise_to(largest + column, most);
    }
}

// What the numbers of each column are multiplied by, so that the largest one is below 2^bits: a power of two.
extern "C" __global__ void scale_columns(const double* __restrict__ largest,  // IN  (n_columns,)
                                         int n_columns, int bits,
                                         double* __restrict__ scales)         // OUT (n_columns,)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n_columns) return;
    int exponent = 0;
    frexp(largest[column], &exponent);
    const int up = bits - exponent < 1000 ? bits - exponent : 1000;
    scales[column] = largest[column] > 0.0 ? ldexp(1.0, up) : 1.0;
}

// Add rows to their clusters, and take them away from those that they were in. A warp takes 32 rows at a time, and then
// one after the other of those that changed cluster. What is no number, or too large for a column, makes a total NaN.
template <typename Row>
__global__ void move_rows(const Row* __restrict__ X,            // IN  (n_samples, n_features)
                          const double* __restrict__ origin,    // IN  (n_features,)
                          const double* __restrict__ sample_weight,  // IN (n_samples,)
                          const int* __restrict__ labels,       // IN  (n_samples,)
                          int n_samples, int n_features, int n_clusters, int bits,
                          const double* __restrict__ scales,    // IN  (n_features + 1,)
                          int* __restrict__ labels_before,      // IN, OUT (n_samples,) that the sums belong to
                          double* totals,                       // IN, OUT (n_clusters, n_features + 1)
                          unsigned long long* moved)            // IN, OUT (2, n_clusters, n_features + 1)
{
    const int lane = threadIdx.x % 32, n_columns = n_features + 1;
    const size_t size = (size_t)n_clusters * n_columns;
    const double next = ldexp(1.0, bits);
    const int stride = gridDim.x * blockDim.x;
    for (int first = blockIdx.x * blockDim.x + threadIdx.x - lane; first < n_samples; first += stride) {
        const int own = first + lane;
        const int to = own < n_samples ? labels[own] : 0, from = own < n_samples ? labels_before[own] : 0;
        unsigned changed = __ballot_sync(0xffffffffu, to != from);
        if (to != from) labels_before[own] = to;
        while (changed) {
            const int which = __ffs(changed) - 1, row = first + which;
            changed &= changed - 1;
            const size_t here = (size_t)__shfl_sync(0xffffffffu, to, which) * n_columns;
            const size_t there = (size_t)__shfl_sync(0xffffffffu, from, which) * n_columns;
            const double weight = sample_weight[row];
            for (int f = lane; f < n_columns; f += 32) {
                const double x = f < n_features ? (double)number(X[(size_t)row * n_features + f]) - origin[f] : 1.0;
                const double term = weight * x * scales[f];
                if (!(fabs(term) <= next)) {
                    atomicExch((unsigned long long*)totals + here + f, 0x7ff8000000000000ull);
                    continue;
                }
                const double whole = rint(term);
                const long long parts[2] = {(long long)whole, (long long)rint((term - whole) * next)};
#pragma unroll
                for (int p = 0; p < 2; ++p)
                    if (parts[p] != 0) {
                        atomicAdd(moved + p * size + here + f, (unsigned long long)parts[p]);
                        atomicAdd(moved + p * size + there + f, (unsigned long long)-parts[p]);
                    }
            }
        }
    }
}

// Totals with what moved since.
extern "C" __global__ void add_moved(const double* __restrict__ totals,  // IN  (n_clusters, n_columns)
                                     const unsigned long long* __restrict__ moved,  // IN  (2, n_clusters, n_columns)
                                     const double* __restrict__ scales,  // IN  (n_columns,)
                                     int n_clusters, int n_columns, int bits,
                                     double* __restrict__ sums)          // OUT (n_clusters, n_columns)
{
    const size_t size = (size_t)n_clusters * n_columns, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    const double whole = (double)(long long)moved[i], rest = (double)(long long)moved[size + i];
    sums[i] = totals[i] + (whole + rest * ldexp(1.0, -bits)) / scales[i % n_columns];
}
