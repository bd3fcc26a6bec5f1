// The nearest center of a row, and how far the next one is: what the kernels that label rows share.

template <typename T>
struct Nearest {  // of the centers seen so far
    T score, second;
    int label;
};

// Ties go to the lowest label.
template <typename T>
__device__ __forceinline__ void merge(Nearest<T>& a, T score, T second, int label)
{
    const bool wins = score < a.score || (score == a.score && label < a.label);
    const T loser = wins ? a.score : score;
    const T rest = second < a.second ? second : a.second;
    a.second = loser < rest ? loser : rest;
    a.score = wins ? score : a.score;
    a.label = wins ? label : a.label;
}

// The same for a center with a label higher than those before.
template <typename T>
__device__ __forceinline__ void consider(Nearest<T>& a, T score, int label)
{
    a.label = score < a.score ? label : a.label;
    a.second = fmin(a.second, fmax(a.score, score));
    a.score = fmin(a.score, score);
}

// Four threads share four rows. Each passes on two, then one, and is left with what all know of its own, in best[0].
__device__ __forceinline__ void keep_own(Nearest<float> (&best)[4], int lane)
{
#pragma unroll
    for (int apart = 2; apart > 0; apart /= 2) {
        const bool high = lane & apart;
#pragma unroll
        for (int r = 0; r < apart; ++r) {
            const Nearest<float> low_row = best[r], high_row = best[r + apart];
            const float score = __shfl_xor_sync(0xffffffffu, high ? low_row.score : high_row.score, apart);
            const float second = __shfl_xor_sync(0xffffffffu, high ? low_row.second : high_row.second, apart);
            const int label = __shfl_xor_sync(0xffffffffu, high ? low_row.label : high_row.label, apart);
            best[r].score = high ? high_row.score : low_row.score;
            best[r].second = high ? high_row.second : low_row.second;
            best[r].label = high ? high_row.label : low_row.label;
            merge(best[r], score, second, label);
        }
    }
}

// How much farther the second nearest center is at least, for an error of a squared distance; as bounds.sure_gap.
template <typename T>
__device__ __forceinline__ double sure_gap(const Nearest<T>& nearest, T squares, T error)
{
    const T near = nearest.score + squares, far = nearest.second + squares - error;
    return (double)sqrt(far > (T)0 ? far : (T)0) - (double)sqrt((near > (T)0 ? near : (T)0) + error);
}
