// Vectors of an instruction set, and blocks of rows that are turned over into them: one row a lane. For passes.cpp.
#pragma once
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "numbers.hpp"

namespace kmeans {
namespace {

#if defined(__AVX512F__)
constexpr int VECTOR = 64;  // bytes
#elif defined(__AVX2__)
constexpr int VECTOR = 32;
#else
constexpr int VECTOR = 16;
#endif

// Lanes of floating-point numbers C, and integers of the same size.
template <class C>
struct Vectors;
template <>
struct Vectors<float> {
    typedef float Reals __attribute__((vector_size(VECTOR)));
    typedef int32_t Integers __attribute__((vector_size(VECTOR)));
};
template <>
struct Vectors<double> {
    typedef double Reals __attribute__((vector_size(VECTOR)));
    typedef int64_t Integers __attribute__((vector_size(VECTOR)));
};
template <class C>
using Reals = typename Vectors<C>::Reals;
template <class C>
using Integers = typename Vectors<C>::Integers;

template <class C>
constexpr Index WIDTH = VECTOR / sizeof(C);  // of a vector
template <class C>
constexpr Index LANES = 2 * WIDTH<C>;  // rows of a block: two vectors

template <class V, class C>
inline V splat(C value) {
    return value - V{};
}

template <class V, class C>
inline V load(const C* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V, class C>
inline void store(C* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

inline Index least(Index a, Index b) { return a < b ? a : b; }
inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }
inline double largest(double a, double b) { return a > b ? a : b; }

#if defined(__AVX512F__)
inline Reals<float> lower(Reals<float> a, Reals<float> b) { return _mm512_min_ps(a, b); }
inline Reals<double> lower(Reals<double> a, Reals<double> b) { return _mm512_min_pd(a, b); }
inline Reals<float> higher(Reals<float> a, Reals<float> b) { return _mm512_max_ps(a, b); }
inline Reals<double> higher(Reals<double> a, Reals<double> b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__)
inline Reals<float> lower(Reals<float> a, Reals<float> b) { return _mm256_min_ps(a, b); }
inline Reals<double> lower(Reals<double> a, Reals<double> b) { return _mm256_min_pd(a, b); }
inline Reals<float> higher(Reals<float> a, Reals<float> b) { return _mm256_max_ps(a, b); }
inline Reals<double> higher(Reals<double> a, Reals<double> b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
inline Reals<float> lower(Reals<float> a, Reals<float> b) { return _mm_min_ps(a, b); }
inline Reals<double> lower(Reals<double> a, Reals<double> b) { return _mm_min_pd(a, b); }
inline Reals<float> higher(Reals<float> a, Reals<float> b) { return _mm_max_ps(a, b); }
inline Reals<double> higher(Reals<double> a, Reals<double> b) { return _mm_max_pd(a, b); }
#else
template <class V>
inline V lower(V a, V b) { return a < b ? a : b; }
template <class V>
inline V higher(V a, V b) { return a > b ? a : b; }
#endif

// While it lives, float32 numbers too small to be normal are 0: computing with them takes a hundred times as long.
// `Rounding::least` allows for that. Squares of float64 numbers may need them, and so does who settles a doubt.
class Flushing {
  public:
#if defined(__SSE2__)
    explicit Flushing(bool floats) : before_(_mm_getcsr()) {
        _mm_setcsr(floats ? before_ | 0x8040 : before_ & ~0x8040);
    }
    ~Flushing() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#else
    explicit Flushing(bool) {}
#endif
};

// Call function(T()) for the type T of rows that are not narrow.
template <class Function>
inline auto with_type_of(const Rows& rows, Function function) {
    return rows.dtype == Dtype::float32 ? function(float()) : function(double());
}

#if defined(__AVX2__)
// 8 numbers of a row from the origin.
inline __m256 eight(const float* row, const double* origins) {
    const __m256 origin = _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(origins + 4)),
                                          _mm256_cvtpd_ps(_mm256_loadu_pd(origins)));
    return _mm256_sub_ps(_mm256_loadu_ps(row), origin);
}
inline __m256 eight(const double* row, const double* origins) {
    const __m256d low = _mm256_sub_pd(_mm256_loadu_pd(row), _mm256_loadu_pd(origins));
    const __m256d high = _mm256_sub_pd(_mm256_loadu_pd(row + 4), _mm256_loadu_pd(origins + 4));
    return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}

// A square of 8 rows and features, turned over in registers.
inline void turn_over(__m256 (&r)[8], float* block, Index lanes) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(block + i * lanes, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(block + (i + 4) * lanes, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

// The same of 4.
inline void turn_over(__m256d (&r)[4], double* block, Index lanes) {
    const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    _mm256_storeu_pd(block, _mm256_permute2f128_pd(a, c, 0x20));
    _mm256_storeu_pd(block + lanes, _mm256_permute2f128_pd(b, d, 0x20));
    _mm256_storeu_pd(block + 2 * lanes, _mm256_permute2f128_pd(a, c, 0x31));
    _mm256_storeu_pd(block + 3 * lanes, _mm256_permute2f128_pd(b, d, 0x31));
}

// Squares of numbers T, less the origin, and of compact rows.
template <class T>
inline void turn(const char* const* rows, Index f, const double* origins, float* block, Index lanes) {
    __m256 r[8];
    for (int i = 0; i < 8; i++) r[i] = eight(reinterpret_cast<const T*>(rows[i]) + f, origins + f);
    turn_over(r, block + f * lanes, lanes);
}
template <class T>
inline void turn(const char* const* rows, Index f, const double* origins, double* block, Index lanes) {
    const __m256d origin = _mm256_loadu_pd(origins + f);
    __m256d r[4];
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_sub_pd(_mm256_loadu_pd(reinterpret_cast<const double*>(rows[i]) + f), origin);
    turn_over(r, block + f * lanes, lanes);
}
inline void turn(const float* const* rows, Index f, float* block, Index lanes) {
    __m256 r[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(rows[i] + f);
    turn_over(r, block + f * lanes, lanes);
}
inline void turn(const double* const* rows, Index f, double* block, Index lanes) {
    __m256d r[4];
    for (int i = 0; i < 4; i++) r[i] = _mm256_loadu_pd(rows[i] + f);
    turn_over(r, block + f * lanes, lanes);
}
#endif

// In what the origin is subtracted from numbers T that are seen as C: rounding comes after that.
template <class T, class C>
using Exact = std::conditional_t<std::is_same_v<T, C>, C, double>;

// A block of rows of D features that stand together.
template <int D, class T, class C>
inline void turn_few(const char* first, const double* origins, C* block) {
    for (int f = 0; f < D; f++) {
        const Exact<T, C> origin = Exact<T, C>(origins[f]);
        for (Index i = 0; i < LANES<C>; i++)
            block[f * LANES<C> + i] = C(Exact<T, C>(number_at<T>(first + (i * D + f) * Index(sizeof(T)))) - origin);
    }
}

inline bool are_neighbours(const Index* which, Index count) {
    bool found = true;
    for (Index i = 1; i < count; i++) found &= which[i] == which[0] + i;
    return found;
}

// Put up to a block of rows, relative to the origin, into `block` (n_features, lanes); repeat the last to fill it.
template <class T, class C>
void gather(const Rows& rows, const Index* which, Index count, C* block) {
    constexpr Index lanes = LANES<C>;
    const Index step = rows.column_stride;
    if (rows.row_stride == Index(sizeof(T)) && count == lanes && are_neighbours(which, lanes)) {
        const char* first = rows.data + which[0] * rows.row_stride;  // neighbours, column by column
        for (Index f = 0; f < rows.n_features; f++) {
            const Exact<T, C> origin = Exact<T, C>(rows.origin[f]);
            for (Index i = 0; i < lanes; i++)
                block[f * lanes + i] = C(Exact<T, C>(number_at<T>(first + f * step + i * sizeof(T))) - origin);
        }
        return;
    }
    if (rows.n_features <= FEW && step == Index(sizeof(T)) && rows.row_stride == rows.n_features * step &&
        count == lanes && are_neighbours(which, lanes)) {
        const char* first = rows.data + which[0] * rows.row_stride;
        switch (rows.n_features) {
            case 1: return turn_few<1, T>(first, rows.origin, block);
            case 2: return turn_few<2, T>(first, rows.origin, block);
            case 3: return turn_few<3, T>(first, rows.origin, block);
            case 4: return turn_few<4, T>(first, rows.origin, block);
            default: break;
        }
    }
    constexpr Index together = 32 / sizeof(C);
    for (Index i = 0; i < lanes; i += together) {
        const char* at[together];
        for (Index j = 0; j < together; j++) at[j] = rows.data + which[least(i + j, count - 1)] * rows.row_stride;
        Index f = 0;
#if defined(__AVX2__)
        if constexpr (std::is_same_v<T, C> || (std::is_same_v<T, double> && std::is_same_v<C, float>))
            if (step == Index(sizeof(T)))
                for (; f + together <= rows.n_features; f += together) turn<T>(at, f, rows.origin, block + i, lanes);
#endif
        for (; f < rows.n_features; f++) {
            const Exact<T, C> origin = Exact<T, C>(rows.origin[f]);
            for (Index j = 0; j < together; j++)
                block[f * lanes + i + j] = C(Exact<T, C>(number_at<T>(at[j] + f * step)) - origin);
        }
    }
}

// Call function(f) for a few features, without what vectors need around them.
template <class Function>
inline void for_few(Index n_features, Function function) {
    function(0);
    if (n_features > 1) function(1);
    if (n_features > 2) function(2);
    if (n_features > 3) function(3);
}

inline bool is_narrow(const Rows& rows) { return rows.dtype > Dtype::float64; }

// Numbers that are `step` bytes apart.
template <class T>
__attribute__((noinline)) void widen(const char* from, Index step, Index n, double* to) {
    if (step == Index(sizeof(T)))
        for (Index i = 0; i < n; i++) to[i] = double(number_at<T>(from + i * Index(sizeof(T))));
    else
        for (Index i = 0; i < n; i++) to[i] = double(number_at<T>(from + i * step));
}
#if defined(__F16C__)
template <>
__attribute__((noinline)) void widen<Half>(const char* from, Index step, Index n, double* to) {
    Index i = 0;
    if (step == 2)
        for (; i + 8 <= n; i += 8) {
            __m128i halves;
            std::memcpy(&halves, from + 2 * i, 16);
            const __m256 wide = _mm256_cvtph_ps(halves);
            _mm256_storeu_pd(to + i, _mm256_cvtps_pd(_mm256_castps256_ps128(wide)));
            _mm256_storeu_pd(to + i + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(wide, 1)));
        }
    for (; i < n; i++) to[i] = double(number_at<Half>(from + i * step));
}
#endif

// Up to MOST_LANES narrow rows, some features of them, in float64: as they lie, by rows or by columns.
Rows widened(const Rows& rows, const Index* which, Index count, Index begin, Index n_features, double* numbers) {
    const char* first = rows.data + begin * rows.column_stride;
    const Index step = rows.column_stride;
    bool by_columns = false;
    with_type(rows.dtype, [&](auto type) {
        using T = decltype(type);
        const bool together = are_neighbours(which, count);
        by_columns = together && rows.row_stride == Index(sizeof(T));
        if (by_columns)
            for (Index f = 0; f < n_features; f++)
                widen<T>(first + which[0] * rows.row_stride + f * step, sizeof(T), count, numbers + f * count);
        else if (together && step == Index(sizeof(T)) && rows.row_stride == n_features * step)
            widen<T>(first + which[0] * rows.row_stride, sizeof(T), count * n_features, numbers);
        else if (n_features <= FEW)
            for (Index i = 0; i < count; i++)
                for_few(n_features, [&](Index f) {
                    const char* place = first + which[i] * rows.row_stride + f * step;
                    numbers[i * n_features + f] = double(number_at<T>(place));
                });
        else
            for (Index i = 0; i < count; i++)
                widen<T>(first + which[i] * rows.row_stride, step, n_features, numbers + i * n_features);
    });
    return {reinterpret_cast<const char*>(numbers), count, n_features, by_columns ? 8 : 8 * n_features,
            by_columns ? 8 * count : 8, Dtype::float64, rows.origin + begin};
}

constexpr Index PIECE = 32;  // features that are widened at a time

// Call function(begin, piece) for the features of some narrow rows: `piece` has them from feature `begin` on.
template <class Function>
inline void for_pieces(const Rows& rows, const Index* which, Index count, Function function) {
    double numbers[MOST_LANES * PIECE];
    for (Index begin = 0; begin < rows.n_features; begin += PIECE)
        function(begin, widened(rows, which, count, begin, least(PIECE, rows.n_features - begin), numbers));
}

template <class C>
void gather_any(const Rows& rows, const Index* which, Index count, C* block) {
    if (!is_narrow(rows)) {
        with_type_of(rows, [&](auto type) { gather<decltype(type), C>(rows, which, count, block); });
        return;
    }
    static const Index places[MOST_LANES] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                             16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    for_pieces(rows, which, count, [&](Index begin, const Rows& piece) {
        gather<double, C>(piece, places, count, block + begin * LANES<C>);
    });
}

// Numbers of a row, relative to the origin.
template <class T, class C>
inline void subtract_origin(const Rows& rows, Index row, C* __restrict__ to) {
    const char* from = rows.data + row * rows.row_stride;
    const Index d = rows.n_features, step = rows.column_stride;
    if (step == Index(sizeof(T)))
        for (Index f = 0; f < d; f++)
            to[f] = C(Exact<T, C>(number_at<T>(from + f * Index(sizeof(T)))) - Exact<T, C>(rows.origin[f]));
    else
        for (Index f = 0; f < d; f++)
            to[f] = C(Exact<T, C>(number_at<T>(from + f * step)) - Exact<T, C>(rows.origin[f]));
}

template <class C>
void compact(const Rows& rows, Index begin, Index end, C* numbers, Index stride) {
    const Index d = rows.n_features;
    for (Index row = begin; row < end; row++) {
        C* __restrict__ to = numbers + row * stride;
        if (is_narrow(rows))
            for_pieces(rows, &row, 1, [&](Index f, const Rows& piece) { subtract_origin<double>(piece, 0, to + f); });
        else
            with_type_of(rows, [&](auto type) { subtract_origin<decltype(type)>(rows, row, to); });
        C norm = 0;
#pragma omp simd reduction(+ : norm)
        for (Index f = 0; f < d; f++) norm += to[f] * to[f];
        to[d] = norm;
        for (Index f = d + 1; f < stride; f++) to[f] = 0;
    }
}

// Put up to a block of compact rows into `block` (stride, lanes); repeat the last to fill it.
template <class C>
void gather_compact(const Compact<C>& rows, const Index* which, Index count, C* block) {
    constexpr Index lanes = LANES<C>, together = 32 / sizeof(C);
    for (Index i = 0; i < lanes; i += together) {
        const C* at[together];
        for (Index j = 0; j < together; j++) at[j] = rows.numbers + which[least(i + j, count - 1)] * rows.stride;
#if defined(__AVX2__)
        for (Index f = 0; f < rows.stride; f += together) turn(at, f, block + i, lanes);
#else
        for (Index f = 0; f < rows.stride; f++)
            for (Index j = 0; j < together; j++) block[f * lanes + i + j] = at[j][f];
#endif
    }
}

// Add a row, relative to the origin, to the sums of a cluster.
template <class T>
inline void add_row(const Rows& rows, Index row, double weight, double* __restrict__ sums) {
    const char* place = rows.data + row * rows.row_stride;
    const double* __restrict__ origin = rows.origin;
    if (rows.n_features <= FEW) {
        for_few(rows.n_features, [&](Index f) {
            sums[f] += weight * (double(number_at<T>(place + f * rows.column_stride)) - origin[f]);
        });
    } else if (rows.column_stride == Index(sizeof(T))) {
        for (Index f = 0; f < rows.n_features; f++)
            sums[f] += weight * (double(number_at<T>(place + f * Index(sizeof(T)))) - origin[f]);
    } else {
        for (Index f = 0; f < rows.n_features; f++)
            sums[f] += weight * (double(number_at<T>(place + f * rows.column_stride)) - origin[f]);
    }
}

inline double* sums_of(Totals& totals, Index cluster, Index n_features) {
    double* sums = totals.sums + cluster * n_features;
    if (!totals.touched[cluster]) {
        totals.touched[cluster] = 1;
        totals.weights[cluster] = 0;
        for (Index f = 0; f < n_features; f++) sums[f] = 0;
    }
    return sums;
}

void add_row_of_any(const Rows& rows, Index row, double weight, Index cluster, Totals& totals) {
    double* sums = sums_of(totals, cluster, rows.n_features);
    totals.weights[cluster] += weight;
    with_type(rows.dtype, [&](auto type) { add_row<decltype(type)>(rows, row, weight, sums); });
}

}  // namespace
}  // namespace kmeans
