// Which of two scores is lower in spite of float16: the bound is derived in docs/certificates.md, whose names these are.
//
// All numbers here are multiplied by `scale`, a power of two that brings rows into the range of float16: a row is
// x = scale (X - origin), a center c is scaled likewise, m = -2 c, and a score is x m + ||c||^2. x^ and m^ are x and m
// rounded to float16.
#include "nearest.cuh"

constexpr float EPSILON = 1.1920929e-7f;  // 2^-23

// Of a number that rounding may have made smaller.
__device__ __forceinline__ float above(float x) { return x * 1.001f; }

// The most that there is of any center.
struct Centers {
    float half, residual, sq_norm;  // ||m^||, ||m - m^||, ||c||^2

    // From their squares, as `tile_halves` finds them
    __device__ __forceinline__ explicit Centers(const float* largest)
        : half(above(sqrt(largest[0]))), residual(above(sqrt(largest[1]))), sq_norm(above(largest[2])) {}
};

// What is known of a row before any center is.
struct RowNorms {
    float length, residual;  // ||x||, ||x - x^||

    // `vanishing` bounds what the squares have lost of numbers that were so small that they became zero
    __device__ __forceinline__ RowNorms(float square, float sq_residual, float vanishing)
        : length(above(sqrt(square)) + vanishing), residual(above(sqrt(sq_residual)) + vanishing) {}

    // No sum of |x m| is larger.
    __device__ __forceinline__ float products(const Centers& all) const { return length * (all.half + all.residual); }

    // How much a score may be wrong that was made with a unit, see `Keys`. `accumulation` bounds what sums lose, relative
    // to the products, of tensor cores and of `relabel`.
    __device__ __forceinline__ float error(const Centers& all, float unit, float accumulation) const
    {
        const float most = products(all);
        return residual * all.half + length * all.residual + accumulation * most
            + EPSILON * (2.2f / unit + 3.0f * (most + all.sq_norm));
    }
};

// The best two of 256 centers at most, a score and a number in each key. 3 plus a score times the unit of the row lies in
// [2, 4): of its bits, sign and exponent are those of all, and the rest is put before the number of the center. No
// score, as inf + 3, is higher than any: its last bit of the exponent is 1.
struct Keys { unsigned best, second; };

constexpr unsigned NO_KEY = 0xffffffffu;

// A power of two that leaves so much room.
__device__ __forceinline__ float unit_of(const RowNorms& row, const Centers& all)
{
    const float fits = 0.84f / (row.products(all) * 1.01f + all.sq_norm);
    return __uint_as_float(__float_as_uint(fits) & 0x7f800000u);
}

// `times` is 256: of a constant, ptxas would make an instruction that competes with min and max.
__device__ __forceinline__ unsigned key_of(float score, float unit, unsigned times, unsigned center)
{
    return __float_as_uint(fmaf(score, unit, 3.0f)) * times + center;
}

__device__ __forceinline__ float score_of(unsigned key, float unit)
{
    return key >> 31 ? __int_as_float(0x7f800000) : (__uint_as_float(0x40000000u | key >> 8) - 3.0f) / unit;
}

// Two keys more.
__device__ __forceinline__ void consider(Keys& a, unsigned x, unsigned y)
{
    const unsigned low = min(x, y), high = max(x, y), loser = max(a.best, low);
    a.best = min(a.best, low);
    a.second = min(min(a.second, high), loser);
}

// Where the labels go, and what becomes of them.
struct Outcome {
    const double* path;          // IN  (n_clusters,)
    int* labels;                 // IN, OUT (n_samples,)
    double* slack;               // OUT (n_samples,), or NULL
    float coefficient;           // IN  Frame.rounding
    double scale;

    // Label a row if that is certain, and count it if its label was another one. Nothing is above an error of infinity or
    // NaN; where the error is so small that norms of centers may have become zero, nothing is certain.
    __device__ __forceinline__ bool settle(int row, const Nearest<float>& found, float square, float error,
                                           const Centers& all, int& changed) const
    {
        const float rounding = coefficient * (square + all.sq_norm);
        const bool is_certain = error > 1e-25f && found.second - found.score > above(2.0f * error);
        if (is_certain) {
            changed += labels[row] != found.label;
            labels[row] = found.label;
            if (slack) slack[row] = path[found.label] + sure_gap(found, square, error + rounding) / scale;
        }
        return is_certain;
    }
};
