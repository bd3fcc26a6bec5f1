// Types of rows, and what is computed with. In all files for dense rows these are taken relative to the origin,
// x = X[row] - origin; n_samples is that of a tile, below 2^31, while offsets into X are size_t. Nothing depends on the
// order in which blocks run, so results are the same from run to run.

struct Half { unsigned short bits; };      // float16
struct Bfloat16 { unsigned short bits; };

// An entry of X as a number to compute with: float, double for double.
__device__ __forceinline__ float number(float x) { return x; }
__device__ __forceinline__ double number(double x) { return x; }
__device__ __forceinline__ float number(Half x)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
#else
    return __half2float(x.bits);  // of the stand-in
#endif
}
__device__ __forceinline__ float number(Bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
