// Numbers of rows, four at a time, relative to the origin.
#include "numbers.cuh"

// Four numbers of a row from number f on, read at once where they lie so that they can be.
template <typename Row>
struct __align__(4 * sizeof(Row)) Four { Row of[4]; };

template <typename Row>
__device__ __forceinline__ Four<Row> four(const Row* row, int f, int n_features, bool whole)
{
    Four<Row> numbers = {};
    if (whole) {
        if (f < n_features) numbers = *(const Four<Row>*)(row + f);
    } else
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (f + i < n_features) numbers.of[i] = row[f + i];
    return numbers;
}

// The same relative to the origin, rounded to float32. Where numbers are double, so is the difference: they may lie far
// from zero.
template <typename Row, typename T>
__device__ __forceinline__ Four<float> relative(const Four<Row>& x, const Four<T>& o)
{
    return {{(float)(number(x.of[0]) - o.of[0]), (float)(number(x.of[1]) - o.of[1]),
             (float)(number(x.of[2]) - o.of[2]), (float)(number(x.of[3]) - o.of[3])}};
}
