// Sparse rows in other forms. Row r has the numbers begin[r] to end[r] - 1 of `data`, of type T, and their columns in
// `indices`, of type I, ascending. So a choice of rows is two arrays: no number is copied for it. Everything is summed
// in float64 and in an order that depends on the rows alone: the same bits from run to run. Blocks are (lanes over
// numbers or columns, warps), one row a warp, unless it says otherwise; the same in the other files for sparse rows.

// Largest absolute value in each row.
template <typename T>
__global__ void largest(const T* __restrict__ data,                                              // IN
                        const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                        long long n_rows,
                        T* __restrict__ values)                                                  // OUT (n_rows,)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;  // all lanes of a warp
    T value = (T)0;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) {
        const T x = data[j] < (T)0 ? -data[j] : data[j];
        value = x > value ? x : value;
    }
    for (int step = 16; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    if (threadIdx.x == 0) values[row] = value;
}

// The rows divided by a number each.
template <typename T>
__global__ void divide(const T* __restrict__ data,                                              // IN
                       const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                       const T* __restrict__ by, long long n_rows,                              // IN  (n_rows,)
                       T* __restrict__ divided)                                                 // OUT, where the rows are
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) divided[j] = data[j] / by[row];
}

// The numbers of rows in a dense array of any strides, which is zero.
template <typename T, typename I>
__global__ void scatter(const T* __restrict__ data, const I* __restrict__ indices,               // IN
                        const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                        long long n_rows, long long row_stride, long long column_stride,
                        double* __restrict__ dense)                                              // OUT
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32)
        dense[(size_t)row * row_stride + (size_t)indices[j] * column_stride] = (double)data[j];
}

// The numbers of rows one after the other, their columns and rows; those of a row from places[row] on.
template <typename T, typename I>
__global__ void gather(const T* __restrict__ data, const I* __restrict__ indices,               // IN
                       const long long* __restrict__ begin, const long long* __restrict__ end,  // IN  (n_rows,)
                       const long long* __restrict__ places, long long n_rows,                  // IN  (n_rows,)
                       T* __restrict__ values, I* __restrict__ columns, int* __restrict__ rows)  // OUT
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= n_rows) return;
    const long long shift = places[row] - begin[row];
    for (long long j = begin[row] + threadIdx.x; j < end[row]; j += 32) {
        values[j + shift] = data[j];
        columns[j + shift] = indices[j];
        rows[j + shift] = (int)row;
    }
}

// Sums of numbers that follow each other and have one place: at the first of them, 0 at the others. A thread a number.
template <typename T, typename I>
__global__ void merge(const T* __restrict__ values, const I* __restrict__ columns, const int* __restrict__ rows,  // IN
                      long long n_numbers,
                      T* __restrict__ merged)                                                  // OUT (n_numbers,)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_numbers) return;
    T sum = (T)0;
    if (i == 0 || rows[i] != rows[i - 1] || columns[i] != columns[i - 1])
        for (long long j = i; j < n_numbers && rows[j] == rows[i] && columns[j] == columns[i]; ++j) sum += values[j];
    merged[i] = sum;
}
