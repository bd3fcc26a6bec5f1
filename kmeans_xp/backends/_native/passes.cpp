// Passes over rows, compiled once for each instruction set. Scores of a block of rows from a few centers are kept in
// vector registers, one row a lane, and reduced there to the two lowest of each row.
//
// No std:: containers or templates here: the linker keeps one copy of those, perhaps that for another processor.
#include "passes.hpp"

#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

template <class T>
inline T number_at(const char* place) {
    T value;
    std::memcpy(&value, place, sizeof(T));  // which need not be aligned
    return value;
}

// Call function(T()) for the type T of the rows.
template <class Function>
inline void with_type_of(const Rows& rows, Function function) {
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

// A square of 8 rows and features, less the origin, turned over in registers.
template <class T>
inline void turn(const char* const* rows, Index f, const double* origins, float* block, Index lanes) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = eight(reinterpret_cast<const T*>(rows[i]) + f, origins + f);
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
        _mm256_storeu_ps(block + (f + i) * lanes, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(block + (f + i + 4) * lanes, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

// The same of 4 rows and features.
template <class T>
inline void turn(const char* const* rows, Index f, const double* origins, double* block, Index lanes) {
    const __m256d origin = _mm256_loadu_pd(origins + f);
    __m256d r[4];
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_sub_pd(_mm256_loadu_pd(reinterpret_cast<const double*>(rows[i]) + f), origin);
    const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    _mm256_storeu_pd(block + f * lanes, _mm256_permute2f128_pd(a, c, 0x20));
    _mm256_storeu_pd(block + (f + 1) * lanes, _mm256_permute2f128_pd(b, d, 0x20));
    _mm256_storeu_pd(block + (f + 2) * lanes, _mm256_permute2f128_pd(a, c, 0x31));
    _mm256_storeu_pd(block + (f + 3) * lanes, _mm256_permute2f128_pd(b, d, 0x31));
}
#endif

// In what the origin is subtracted from numbers T that are seen as C: rounding comes after that.
template <class T, class C>
using Exact = std::conditional_t<std::is_same_v<T, C>, C, double>;

// A block of rows of D features that stand together.
template <int D, class T, class C>
inline void turn_narrow(const char* first, const double* origins, C* block) {
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
    if (rows.n_features <= 4 && step == Index(sizeof(T)) && rows.row_stride == rows.n_features * step &&
        count == lanes && are_neighbours(which, lanes)) {
        const char* first = rows.data + which[0] * rows.row_stride;
        switch (rows.n_features) {
            case 1: return turn_narrow<1, T>(first, rows.origin, block);
            case 2: return turn_narrow<2, T>(first, rows.origin, block);
            case 3: return turn_narrow<3, T>(first, rows.origin, block);
            case 4: return turn_narrow<4, T>(first, rows.origin, block);
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

template <class C>
void gather_any(const Rows& rows, const Index* which, Index count, C* block) {
    with_type_of(rows, [&](auto type) { gather<decltype(type), C>(rows, which, count, block); });
}

// Call function(f) for a few features, without what vectors need around them.
template <class Function>
inline void for_few(Index n_features, Function function) {
    function(0);
    if (n_features > 1) function(1);
    if (n_features > 2) function(2);
    if (n_features > 3) function(3);
}
constexpr Index FEW = 4;

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
    with_type_of(rows, [&](auto type) { add_row<decltype(type)>(rows, row, weight, sums); });
}

// The nearest two centers of each row of a block.
template <class C>
struct Nearest {
    alignas(VECTOR) C reach[LANES<C>];   // at most how far the nearest is
    alignas(VECTOR) C second[LANES<C>];  // at least how far the second is
    alignas(VECTOR) C lead[LANES<C>];    // how much higher its score is, less what is in doubt on account of ||x||²
    alignas(VECTOR) int32_t index[LANES<C>];
};

template <class C>
struct LowestTwo {
    Reals<C> lowest[2], second[2];
    Integers<C> index[2];
};

// Compare a block of rows with N centers.
template <int N, class C>
inline void compare_with(const C* block, Index n_features, const C* minus_2_centers, const C* sq_norms,
                         const int32_t* which, LowestTwo<C>& found) {
    using V = Reals<C>;
    V scores[N][2];
    const C* center[N];
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        scores[c][0] = scores[c][1] = splat<V>(sq_norms[which[c]]);
        center[c] = minus_2_centers + which[c] * n_features;
    }
    for (Index f = 0; f < n_features; f++) {
        const V x0 = load<V>(block + f * LANES<C>), x1 = load<V>(block + f * LANES<C> + WIDTH<C>);
#pragma GCC unroll 6
        for (int c = 0; c < N; c++) {
            const V factor = splat<V>(center[c][f]);
            scores[c][0] += factor * x0;
            scores[c][1] += factor * x1;
        }
    }
#pragma GCC unroll 6
    for (int c = 0; c < N; c++) {
        const Integers<C> name = splat<Integers<C>>(which[c]);
        for (int half = 0; half < 2; half++) {
            const V score = scores[c][half];
            found.index[half] = score < found.lowest[half] ? name : found.index[half];
            found.second[half] = lower(higher(score, found.lowest[half]), found.second[half]);
            found.lowest[half] = lower(score, found.lowest[half]);
        }
    }
}

template <class C>
void nearest_two(const Job<C>& job, const C* block, const int32_t* candidates, Index n_candidates, Nearest<C>& found) {
    using V = Reals<C>;
    const Index n_features = job.rows.n_features;
    LowestTwo<C> two;
    for (int half = 0; half < 2; half++) {
        two.lowest[half] = two.second[half] = splat<V>(C(__builtin_inf()));
        two.index[half] = Integers<C>{};
    }
    const C *centers = job.minus_2_centers, *sq_norms = job.sq_norms;
    Index done = 0;
    for (; done + 6 <= n_candidates; done += 6)
        compare_with<6>(block, n_features, centers, sq_norms, candidates + done, two);
    switch (n_candidates - done) {
        case 5: compare_with<5>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 4: compare_with<4>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 3: compare_with<3>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 2: compare_with<2>(block, n_features, centers, sq_norms, candidates + done, two); break;
        case 1: compare_with<1>(block, n_features, centers, sq_norms, candidates + done, two); break;
        default: break;
    }
    for (int half = 0; half < 2; half++) {
        V norm{};
        for (Index f = 0; f < n_features; f++) {
            const V x = load<V>(block + f * LANES<C> + half * WIDTH<C>);
            norm += x * x;
        }
        const V error = splat<V>(job.rounding.offset) + splat<V>(job.rounding.coefficient) * norm, zero{};
        const Index at = half * WIDTH<C>;
        store(found.reach + at, higher(two.lowest[half] + norm, zero) + error);
        store(found.second + at, higher(two.second[half] + norm - error, zero));
        store(found.lead + at, two.second[half] - two.lowest[half] - splat<V>(job.rounding.doubt) * norm);
        for (Index i = 0; i < WIDTH<C>; i++) found.index[at + i] = int32_t(two.index[half][i]);
    }
    for (Index i = 0; i < LANES<C>; i++) {
        found.reach[i] = root(found.reach[i]);
        found.second[i] = root(found.second[i]);
    }
}

// Memory of a part, cut up.
template <class C>
struct Workspace {
    C* block;           // (n_features, lanes)
    Index *rows, *ordered, *ends;
    int32_t *everyone, *candidates;
    double* exact;      // for settling

    Workspace(char* memory, const Job<C>& job) {
        const Index n_rows = room_for_rows(job.rows.n_samples, job.n_clusters), d = job.rows.n_features, k = job.n_clusters;
        block = reinterpret_cast<C*>(memory);
        exact = reinterpret_cast<double*>(memory + 8 * MOST_LANES * d);
        rows = reinterpret_cast<Index*>(exact + 4 * d + k);
        ordered = rows + n_rows;
        ends = ordered + n_rows;
        everyone = reinterpret_cast<int32_t*>(ends + k + 1);
        candidates = everyone + k;
        for (Index c = 0; c < k; c++) everyone[c] = int32_t(c);
    }
};

// Labels of rows, as their block was compared, and what follows.
template <class C>
void write_down(const Job<C>& job, const Index* which, Index count, const Nearest<C>& found, Totals* totals,
                Workspace<C>& memory) {
    for (Index i = 0; i < count; i++) {
        const Index row = which[i];
        int32_t label = found.index[i];
        const bool sure = found.lead[i] > job.rounding.doubt * job.sq_norms[label] + job.rounding.least;
        if (!sure) {
            const Flushing in_float64(false);
            label = job.settle(job, row, memory.exact);
        }
        const int32_t before = job.labels[row];
        job.labels[row] = label;
        if (totals == nullptr) continue;
        totals->n_changed += label != before;
        totals->n_settled += !sure;
        if (job.slack == nullptr) {
            add_row_of_any(job.rows, row, job.sample_weight[row], label, *totals);
            continue;
        }
        const double gap = sure ? double(found.second[i]) - double(found.reach[i]) : -__builtin_inf();
        job.slack[row] = gap == gap ? job.path[label] + gap : -__builtin_inf();
        if (label != before) {
            add_row_of_any(job.rows, row, job.sample_weight[row], label, *totals);
            if (before >= 0) add_row_of_any(job.rows, row, -job.sample_weight[row], before, *totals);
        }
    }
}

// Find the nearest two centers of each of the rows, and write down what follows.
template <class C>
void compare(const Job<C>& job, const Index* which, Index n_rows, Totals* totals, Workspace<C>& memory) {
    Nearest<C> found;
    for (Index first = 0; first < n_rows; first += LANES<C>) {
        const Index count = least(LANES<C>, n_rows - first);
        gather_any(job.rows, which + first, count, memory.block);
        nearest_two(job, memory.block, memory.everyone, job.n_clusters, found);
        write_down(job, which + first, count, found, totals, memory);
    }
}

// `compare` for rows of one cluster; the number of rows put into `rest`, beside those that are there.
//
// Let u be the distance of a row from its center, and s that of this center from the nearest other. If 2 u < s, the row
// stays. Else its nearest two centers are within 2 u + s of its own, and it is compared with those (J. Newling and
// F. Fleuret, "Fast k-means with accurate bounds", 2016). If that costs more than to compare the rows of a block that
// may not stay with all centers, those are added to `rest` instead.
template <class C>
Index compare_cluster(const Job<C>& job, int32_t own, const Index* which, Index n_rows, Index* rest, Index n_rest,
                      Totals* totals, Workspace<C>& memory) {
    Nearest<C> found;
    const Index k = job.n_clusters;
    const double *between = job.between + own * k, nearest_other = job.nearest_other[own];
    double limit = -1;  // of the candidates
    Index n_candidates = 0;
    for (Index first = 0; first < n_rows; first += LANES<C>) {
        const Index count = least(LANES<C>, n_rows - first), *some = which + first;
        gather_any(job.rows, some, count, memory.block);
        nearest_two(job, memory.block, &own, 1, found);
        double widest = 0;
        Index n_left = 0;
        for (Index i = 0; i < count; i++) {
            const double gap = nearest_other - 2.0 * double(found.reach[i]);
            const bool stays = gap > 0;  // not, if it is no number
            job.slack[some[i]] = stays ? job.path[own] + gap : -__builtin_inf();
            n_left += !stays;
            widest = largest(widest, 2.0 * double(found.reach[i]) + nearest_other);
        }
        if (n_left == 0) continue;
        if (!(widest <= limit)) {
            limit = 1.1 * widest;
            n_candidates = 0;
            for (Index center = 0; center < k; center++) {
                memory.candidates[n_candidates] = int32_t(center);
                n_candidates += !(between[center] > limit);
            }
        }
        if (LANES<C> * n_candidates > n_left * k) {
            for (Index i = 0; i < count; i++) {
                rest[n_rest] = some[i];
                n_rest += !(job.slack[some[i]] > job.path[own]);
            }
            continue;
        }
        nearest_two(job, memory.block, memory.candidates, n_candidates, found);
        write_down(job, some, count, found, totals, memory);
    }
    return n_rest;
}

// Order rows by their labels (counting sort); `ends` become where each cluster ends.
void by_cluster(const Index* rows, Index n_rows, const int32_t* labels, Index n_clusters, Index* ends, Index* ordered) {
    for (Index c = 0; c <= n_clusters; c++) ends[c] = 0;
    for (Index i = 0; i < n_rows; i++) ends[labels[rows[i]] + 1]++;
    for (Index c = 0; c < n_clusters; c++) ends[c + 1] += ends[c];
    for (Index i = 0; i < n_rows; i++) ordered[ends[labels[rows[i]]]++] = rows[i];
}

template <class C>
void look_at(const Job<C>& job, Index n_rows, Totals* totals, Workspace<C>& memory) {
    if (job.between != nullptr) {
        by_cluster(memory.rows, n_rows, job.labels, job.n_clusters, memory.ends, memory.ordered);
        Index begin = 0, n_rest = 0;
        for (Index own = 0; own < job.n_clusters; own++) {
            const Index end = memory.ends[own];
            n_rest = compare_cluster(job, int32_t(own), memory.ordered + begin, end - begin, memory.rows, n_rest,
                                     totals, memory);
            begin = end;
        }
        n_rows = n_rest;
    }
    compare(job, memory.rows, n_rows, totals, memory);
}

// For every n_parts-th tile of rows.
template <class C>
void relabel(const Job<C>& job, Part part, Totals* totals, char* workspace) {
    const Flushing flushing(sizeof(C) == 4);
    Workspace<C> memory(workspace, job);
    const Index n_samples = job.rows.n_samples, tile = rows_of_tile(n_samples, part.n_parts);
    const Index stride = part.n_parts * tile;
    const Index enough = job.between == nullptr ? 1 : enough_rows(job.n_clusters);
    Index count = 0;
    for (Index start = part.number * tile; start < n_samples; start += stride) {
        const Index stop = least(start + tile, n_samples);
        if (job.slack == nullptr) {
            for (Index row = start; row < stop; row++) memory.rows[count++] = row;
        } else {
            for (Index row = start; row < stop; row++) {
                const int32_t label = job.labels[row];
                memory.rows[count] = row;
                count += label < 0 || !(job.slack[row] > job.path[label]);
            }
        }
        if (count < enough && start + stride < n_samples) continue;
        if (totals != nullptr) totals->n_active += count;
        look_at(job, count, totals, memory);
        count = 0;
        if (job.stops(job.stopping)) return;
    }
}

// Call function(begin, end) for every n_parts-th tile of rows.
template <class Function>
inline void for_tiles(Index n_samples, Part part, Function function) {
    const Index tile = rows_of_tile(n_samples, part.n_parts);
    for (Index begin = part.number * tile; begin < n_samples; begin += part.n_parts * tile)
        function(begin, least(begin + tile, n_samples));
}

void sum(const Rows& rows, const double* sample_weight, const int32_t* labels, Part part, Totals& totals) {
    with_type_of(rows, [&](auto type) {
        for_tiles(rows.n_samples, part, [&](Index begin, Index end) {
            for (Index row = begin; row < end; row++) {
                double* sums = sums_of(totals, labels[row], rows.n_features);
                totals.weights[labels[row]] += sample_weight[row];
                add_row<decltype(type)>(rows, row, sample_weight[row], sums);
            }
        });
    });
}

template <class T>
inline double sq_distance(const char* place, Index step, const double* origin, const double* center, Index n_features) {
    double total = 0;
    if (n_features <= FEW) {
        for_few(n_features, [&](Index f) {
            const double apart = double(number_at<T>(place + f * step)) - origin[f] - center[f];
            total += apart * apart;
        });
        return total;
    }
#pragma omp simd reduction(+ : total)
    for (Index f = 0; f < n_features; f++) {
        const double apart = double(number_at<T>(place + f * step)) - origin[f] - center[f];
        total += apart * apart;
    }
    return total;
}

void own(const Rows& rows, const int32_t* labels, const double* centers, Part part, double* squares) {
    with_type_of(rows, [&](auto type) {
        using T = decltype(type);
        const Index d = rows.n_features;
        for_tiles(rows.n_samples, part, [&](Index begin, Index end) {
            for (Index row = begin; row < end; row++) {
                const char* place = rows.data + row * rows.row_stride;
                const double* center = centers + labels[row] * d;
                squares[row] = rows.column_stride == Index(sizeof(T))
                                   ? sq_distance<T>(place, sizeof(T), rows.origin, center, d)
                                   : sq_distance<T>(place, rows.column_stride, rows.origin, center, d);
            }
        });
    });
}

// Squared distances of a block of rows from N points, summed directly: (N, lanes).
template <int N>
inline void squares_from(const double* block, Index n_features, const double* points, double* result) {
    using V = Reals<double>;
    V total[N][2] = {};
    for (Index f = 0; f < n_features; f++) {
        const V x0 = load<V>(block + f * LANES<double>), x1 = load<V>(block + f * LANES<double> + WIDTH<double>);
#pragma GCC unroll 4
        for (int c = 0; c < N; c++) {
            const V point = splat<V>(points[c * n_features + f]), apart0 = x0 - point, apart1 = x1 - point;
            total[c][0] += apart0 * apart0;
            total[c][1] += apart1 * apart1;
        }
    }
    for (int c = 0; c < N; c++) {
        store(result + c * LANES<double>, total[c][0]);
        store(result + c * LANES<double> + WIDTH<double>, total[c][1]);
    }
}

void squares_of_block(const double* block, Index n_features, const double* points, Index n_points, double* result) {
    Index c = 0;
    for (; c + 4 <= n_points; c += 4)
        squares_from<4>(block, n_features, points + c * n_features, result + c * LANES<double>);
    points += c * n_features;
    result += c * LANES<double>;
    switch (n_points - c) {
        case 3: squares_from<3>(block, n_features, points, result); break;
        case 2: squares_from<2>(block, n_features, points, result); break;
        case 1: squares_from<1>(block, n_features, points, result); break;
        default: break;
    }
}

// Call function(begin, count, squares) for blocks of rows; squares (n_points, lanes).
template <class Function>
inline void for_blocks(const Squares& job, const Index* which, Index n_which, char* workspace, Function function) {
    double* block = reinterpret_cast<double*>(workspace);
    double* squares = block + job.rows.n_features * LANES<double>;
    for (Index first = 0; first < n_which; first += LANES<double>) {
        const Index count = least(LANES<double>, n_which - first);
        gather_any(job.rows, which + first, count, block);
        squares_of_block(block, job.rows.n_features, job.points, job.n_points, squares);
        function(first, count, squares);
    }
}

void squares_of(const Squares& job, const Index* which, Index n_which, double* result, Index stride, char* workspace) {
    for_blocks(job, which, n_which, workspace, [&](Index first, Index count, const double* squares) {
        for (Index c = 0; c < job.n_points; c++)
            for (Index i = 0; i < count; i++) result[c * stride + first + i] = squares[c * LANES<double> + i];
    });
}

void squares(const Squares& job, Index begin, Index end, double* result, Index stride, char* workspace) {
    Index which[LANES<double>];
    for (Index first = begin; first < end; first += LANES<double>) {
        const Index count = least(LANES<double>, end - first);
        for (Index i = 0; i < count; i++) which[i] = first + i;
        squares_of(job, which, count, result + (first - begin), stride, workspace);
    }
}

void pack(const Rows& rows, Index begin, Index end, float* packed) {
    constexpr Index lanes = LANES<float>;
    const Index d = rows.n_features;
    Index which[lanes];
    for (Index block = begin; block < end; block++) {
        float* to = packed + block * (d + 1) * lanes;
        const Index count = least(lanes, rows.n_samples - block * lanes);
        for (Index i = 0; i < count; i++) which[i] = block * lanes + i;
        gather_any(rows, which, count, to);
        float* norms = to + d * lanes;
        for (Index i = 0; i < lanes; i++) norms[i] = 0;
        for (Index f = 0; f < d; f++)
            for (Index i = 0; i < lanes; i++) norms[i] += to[f * lanes + i] * to[f * lanes + i];
    }
}

// At least the squared distance of each row of a packed block from N candidates, (N, lanes).
template <int N>
inline void lower_bounds(const Candidates& job, const float* block, Index first, float* bounds) {
    using V = Reals<float>;
    constexpr Index lanes = LANES<float>;
    const Index d = job.rows.n_features;
    V total[N][2] = {};
    for (Index f = 0; f < d; f++) {
        const V x0 = load<V>(block + f * lanes), x1 = load<V>(block + f * lanes + WIDTH<float>);
#pragma GCC unroll 4
        for (int c = 0; c < N; c++) {
            const V factor = splat<V>(job.minus_2_points[(first + c) * d + f]);
            total[c][0] += factor * x0;
            total[c][1] += factor * x1;
        }
    }
    for (int c = 0; c < N; c++)
        for (int half = 0; half < 2; half++) {
            const V norms = load<V>(block + d * lanes + half * WIDTH<float>) + splat<V>(job.sq_norms[first + c]);
            const V bound = total[c][half] + norms - (norms * splat<V>(job.doubt) + splat<V>(job.least));
            store(bounds + (first + c) * lanes + half * WIDTH<float>, bound);
        }
}

// Squared distances of a few rows that stand together from all candidates, (n, lanes).
inline void squares_of_neighbors(const Candidates& job, Index begin, Index count, double* squares, double* block) {
    constexpr Index lanes = LANES<double>, all = LANES<float>;
    Index which[lanes];
    for (Index first = 0; first < count; first += lanes) {
        const Index some = least(lanes, count - first);
        for (Index i = 0; i < some; i++) which[i] = begin + first + i;
        double* found = block + job.rows.n_features * lanes;
        gather_any(job.rows, which, some, block);
        squares_of_block(block, job.rows.n_features, job.points, job.n, found);
        for (Index c = 0; c < job.n; c++)
            for (Index i = 0; i < some; i++) squares[c * all + first + i] = found[c * lanes + i];
    }
}

// A bit for each row of a block: whether the bound is not beyond the limit.
inline uint32_t within(const float* bounds, const float* limits) {
#if defined(__AVX512F__)
    return uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds), _mm512_loadu_ps(limits), _CMP_NGT_UQ)) |
           uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(bounds + 16), _mm512_loadu_ps(limits + 16), _CMP_NGT_UQ)) << 16;
#else
    uint32_t bits = 0;
    for (Index i = 0; i < LANES<float>; i++) bits |= uint32_t(!(bounds[i] > limits[i])) << i;
    return bits;
#endif
}

double sq_distance_of(const Rows& rows, Index row, const double* point) {
    double square = 0;
    with_type_of(rows, [&](auto type) {
        using T = decltype(type);
        const char* place = rows.data + row * rows.row_stride;
        square = rows.column_stride == Index(sizeof(T))
                     ? sq_distance<T>(place, sizeof(T), rows.origin, point, rows.n_features)
                     : sq_distance<T>(place, rows.column_stride, rows.origin, point, rows.n_features);
    });
    return square;
}

Index try_candidates(const Candidates& job, Index begin, Index end, double* potentials, Hit* hits, char* workspace) {
    const Flushing flushing(job.packed != nullptr);
    constexpr Index lanes = LANES<float>;
    const Index d = job.rows.n_features, n_samples = job.rows.n_samples;
    float* bounds = reinterpret_cast<float*>(workspace);                  // (n, lanes)
    double* squares = reinterpret_cast<double*>(bounds + job.n * lanes);  // the same
    double* memory = squares + job.n * lanes;
    Index n_hits = 0;
    double rest = 0;  // what is left whichever candidate is chosen
    for (Index block = begin; block < end; block++) {
        const Index first = block * lanes, count = least(lanes, n_samples - first);
        const double *known = job.closest.squares + first, *weight = job.sample_weight + first;
        double mass[lanes] = {};
        float limits[lanes];
        double total = 0;
        int n_reached = 0;
        for (Index i = 0; i < lanes; i++) limits[i] = -1;
        for (Index i = 0; i < count; i++) {
            const bool reached = known[i] > job.closest.within[job.closest.nearest[first + i]];
            mass[i] = weight[i] * known[i];
            limits[i] = reached ? float(known[i] * (1 + 1e-6)) : -1.0f;
            n_reached += reached;
        }
#pragma omp simd reduction(+ : total)
        for (Index i = 0; i < lanes; i++) total += mass[i];
        if (n_reached == 0) {
            rest += total;
            continue;
        }
        bool all = job.packed == nullptr;
        if (!all) {
            const float* rows = job.packed + block * (d + 1) * lanes;
            Index c = 0;
            for (; c + 4 <= job.n; c += 4) lower_bounds<4>(job, rows, c, bounds);
            if (c + 2 <= job.n) lower_bounds<2>(job, rows, c, bounds), c += 2;
            if (c < job.n) lower_bounds<1>(job, rows, c, bounds);
            Index n_near = 0;
            for (c = 0; c < job.n; c++) n_near += __builtin_popcount(within(bounds + c * lanes, limits));
            all = 2 * n_near > job.n * count;  // few distances are measured one by one
        }
        if (all) squares_of_neighbors(job, first, count, squares, memory);
        for (Index c = 0; c < job.n; c++) {
            uint32_t near = 0;
            if (all) {
#pragma omp simd reduction(| : near)
                for (Index i = 0; i < count; i++) near |= uint32_t(squares[c * lanes + i] < known[i]) << i;
            } else {
                near = within(bounds + c * lanes, limits);
            }
            if (near == 0) {
                potentials[c] += total;
                continue;
            }
            double left[lanes], sum = 0;
            std::memcpy(left, mass, sizeof(mass));
            for (; near; near &= near - 1) {
                const Index i = __builtin_ctz(near);
                const double square =
                    all ? squares[c * lanes + i] : sq_distance_of(job.rows, first + i, job.points + c * d);
                if (!(square < known[i])) continue;
                hits[n_hits++] = {first + i, c, square};
                left[i] = weight[i] * square;
            }
#pragma omp simd reduction(+ : sum)
            for (Index i = 0; i < lanes; i++) sum += left[i];
            potentials[c] += sum;
        }
    }
    for (Index c = 0; c < job.n; c++) potentials[c] += rest;
    return n_hits;
}

void distances(const Squares& job, Part part, void* result, bool is_float, char* workspace) {
    const Index k = job.n_points;
    for_tiles(job.rows.n_samples, part, [&](Index begin, Index end) {
        Index which[LANES<double>];
        for (Index start = begin; start < end; start += LANES<double>) {
            const Index some = least(LANES<double>, end - start);
            for (Index i = 0; i < some; i++) which[i] = start + i;
            for_blocks(job, which, some, workspace, [&](Index, Index count, double* squares) {
                for (Index i = 0; i < k * LANES<double>; i++) squares[i] = root(squares[i]);
                for (Index i = 0; i < count; i++)
                    for (Index c = 0; c < k; c++) {
                        const double distance = squares[c * LANES<double> + i];
                        if (is_float)
                            static_cast<float*>(result)[(start + i) * k + c] = float(distance);
                        else
                            static_cast<double*>(result)[(start + i) * k + c] = distance;
                    }
            });
        }
    });
}

}  // namespace

#if defined(__AVX512F__)
extern const Passes avx512 = {"AVX-512",
#elif defined(__AVX2__)
extern const Passes avx2 = {"AVX2",
#else
extern const Passes baseline = {"baseline",
#endif
                              {LANES<float>, relabel<float>}, {LANES<double>, relabel<double>},
                              sum, own, squares, distances, squares_of, pack, try_candidates};

}  // namespace kmeans
