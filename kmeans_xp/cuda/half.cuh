// Products of float16 on tensor cores, with sums in float32, and how their operands get there.
//
// Which feature is multiplied at which place does not matter, as long as rows and centers agree: of 16 features, lane t of
// four has the numbers 4 t to 4 t + 3, which a thread reads at once.
#include "four.cuh"

// Two numbers rounded to float16 in a register, the first in its low half.
__device__ __forceinline__ unsigned halves(float low, float high)
{
#if __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#elif defined(__CUDA_ARCH__)
    return 0;  // compiled, but never run
#else
    return (unsigned)__float2half_rn(low) | (unsigned)__float2half_rn(high) << 16;  // of the stand-in
#endif
}

__device__ __forceinline__ float low_half(unsigned both) { return number(Half{(unsigned short)both}); }
__device__ __forceinline__ float high_half(unsigned both) { return number(Half{(unsigned short)(both >> 16)}); }

// Four numbers of a row relative to the origin and scaled, in float32. Where numbers are double, so are both steps.
template <typename Row, typename T>
__device__ __forceinline__ Four<float> scaled(const Four<Row>& x, const Four<T>& o, T scale)
{
    Four<float> result;
#pragma unroll
    for (int i = 0; i < 4; ++i) result.of[i] = (float)((number(x.of[i]) - o.of[i]) * scale);
    return result;
}

// The same rounded to float16, two in a register; what they add to the squares of a row, and to those of the residuals.
__device__ __forceinline__ uint2 rounded(const Four<float>& x, float& square, float& sq_residual)
{
    unsigned both[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float low = x.of[2 * i], high = x.of[2 * i + 1];
        both[i] = halves(low, high);
        const float of_low = low - low_half(both[i]), of_high = high - high_half(both[i]);
        square += low * low + high * high;
        sq_residual += of_low * of_low + of_high * of_high;
    }
    return {both[0], both[1]};
}

#ifndef __CUDA_ARCH__
// `sum` plus the products of two columns of 16 halves. Of the stand-in; with CUT_BITS as the worst tensor cores may do it:
// of the largest of CUT_PRODUCTS products and the sum so many bits are looked at, and the rest of all is cut off.
inline float add_products(float sum, const float (&x)[16], const float (&c)[16])
{
#ifdef CUT_BITS
    for (int first = 0; first < 16; first += CUT_PRODUCTS) {
        double largest = std::fabs((double)sum), total = 0.0;
        for (int k = first; k < first + CUT_PRODUCTS; ++k) largest = std::fmax(largest, std::fabs((double)x[k] * c[k]));
        if (largest == 0.0 || !std::isfinite(largest)) {
            for (int k = first; k < first + CUT_PRODUCTS; ++k) sum += x[k] * c[k];
            continue;
        }
        const double last = std::ldexp(1.0, std::ilogb(largest) - CUT_BITS);
        for (int k = first; k < first + CUT_PRODUCTS; ++k) total += std::trunc((double)x[k] * c[k] / last) * last;
        total += std::trunc(sum / last) * last;
        sum = (float)total;
        if (std::fabs((double)sum) > std::fabs(total)) sum = std::nextafterf(sum, 0.0f);
    }
#else
    for (int k = 0; k < 16; ++k) sum += x[k] * c[k];
#endif
    return sum;
}
#endif

// sums += x @ c on the tensor cores, x (16, 16) and c (16, 8). A warp shares them: with g = lane / 4 and t = lane % 4, a
// register has the numbers 2 t and 2 t + 1, or these plus 8, of a row of x (g, g + 8, g, g + 8) or a column of c (g); and
// a thread has (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1) of sums.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const unsigned (&x)[4], unsigned c0, unsigned c1)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(c0), "r"(c1));
#elif !defined(__CUDA_ARCH__)  // of the stand-in
    __shared__ unsigned all[8][6][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const unsigned mine[6] = {x[0], x[1], x[2], x[3], c0, c1};
    for (int i = 0; i < 6; ++i) all[warp][i][lane] = mine[i];
    __syncwarp();
    for (int i = 0; i < 4; ++i) {
        float of_row[16], of_column[16];
        for (int k = 0; k < 16; k += 2) {
            const unsigned a = all[warp][i / 2 + k / 8 * 2][g * 4 + k % 8 / 2];
            const unsigned b = all[warp][4 + k / 8][(2 * t + i % 2) * 4 + k % 8 / 2];
            of_row[k] = low_half(a), of_row[k + 1] = high_half(a);
            of_column[k] = low_half(b), of_column[k + 1] = high_half(b);
        }
        sums[i] = add_products(sums[i], of_row, of_column);
    }
    __syncwarp();
#endif
}

// Copies from global to shared memory that go on while threads compute. Those since the last `copies_end` are a group;
// `wait_copies` waits until of the thread's own groups only the LEFT last are on their way.
__device__ __forceinline__ void copy_async(uint4* to, const uint4* from)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
#else
    *to = *from;
#endif
}

__device__ __forceinline__ void copies_end()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LEFT>
__device__ __forceinline__ void wait_copies()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

// Pieces of the centers on their way through RING slots of shared memory, for all threads of a block, one after the other
// and then from the first again: the rows that come next need the same. After `in_tile` pieces of PIECE, `apart` uint4
// are left out. To be used as `start`, then `turn` for each piece, at last `stop`.
constexpr int RING = 3;

template <int PIECE, int THREADS>
struct Ring {
    uint4* slots;
    const uint4 *first, *end, *next;
    int in_tile, apart, slot, part;

    __device__ __forceinline__ void fetch(int to)
    {
#pragma unroll
        for (int i = threadIdx.x; i < PIECE; i += THREADS) copy_async(slots + to * PIECE + i, next + i);
        copies_end();
        next += PIECE;
        if (++part == in_tile) {
            part = 0;
            next += apart;
        }
        if (next == end) next = first;
    }

    __device__ __forceinline__ void start()
    {
        for (int to = 0; to < RING - 1; ++to) fetch(to);
    }

    __device__ __forceinline__ const uint4* turn()
    {
        wait_copies<RING - 2>();
        __syncthreads();  // the piece is here, and the one before has been used
        fetch(slot == 0 ? RING - 1 : slot - 1);
        const uint4* piece = slots + slot * PIECE;
        slot = slot + 1 == RING ? 0 : slot + 1;
        return piece;
    }

    __device__ __forceinline__ void stop() { wait_copies<0>(); }
};
