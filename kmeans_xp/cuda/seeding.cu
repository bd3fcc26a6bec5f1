// The choices of greedy k-means++.
#include "warp.cuh"

// Where greedy k-means++ has got to in a round of draws; see seeding.choose.
struct Choice {
    int best;      // draw that was chosen last, or -1
    int n_chosen;
    int next;      // draw from which on they have not had their turn
    int n_trials;  // draws that are to be compared: fewer than wanted, and nothing more is chosen
    int trials[16];
};

// Lower `closest` to the draw chosen last, and sum weight * min(closest, squares) for each of the trials.
extern "C" __global__ void weigh_trials(const double* __restrict__ squares,        // IN  (n_draws, n_samples)
                                        const double* __restrict__ sample_weight,  // IN  (n_samples,)
                                        int n_samples, int n_trials,
                                        const Choice* __restrict__ choice,         // IN
                                        double* __restrict__ closest,              // IN, OUT (n_samples,)
                                        double* __restrict__ parts)                // OUT (gridDim.x, n_trials)
{
    __shared__ double of_warps[16][8];
    const bool weighs = choice->n_trials == n_trials;
    double sums[16];
#pragma unroll
    for (int t = 0; t < 16; ++t) sums[t] = 0.0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n_samples; i += gridDim.x * blockDim.x) {
        double near = closest[i];
        if (choice->best >= 0) {
            const double square = squares[(size_t)choice->best * n_samples + i];
            closest[i] = near = square < near ? square : near;
        }
        if (!weighs) continue;
        const double weight = sample_weight[i];
#pragma unroll
        for (int t = 0; t < 16; ++t)
            if (t < n_trials) {
                const double square = squares[(size_t)choice->trials[t] * n_samples + i];
                sums[t] += weight * (square < near ? square : near);
            }
    }
    if (!weighs) return;
#pragma unroll
    for (int t = 0; t < 16; ++t) {
        const double sum = sum_of_warp(sums[t]);
        if (threadIdx.x % 32 == 0) of_warps[t][threadIdx.x / 32] = sum;
    }
    __syncthreads();  // of_warps is filled
    if (threadIdx.x < n_trials) {
        double sum = 0.0;
        for (int warp = 0; warp < 8; ++warp) sum += of_warps[threadIdx.x][warp];
        parts[blockIdx.x * n_trials + threadIdx.x] = sum;
    }
}

// Choose the trial with the lowest sum, unless this is the first call; then list the next trials: draws whose distance
// from the nearest center still reaches their threshold. One warp.
extern "C" __global__ void choose_trial(const double* __restrict__ squares,     // IN  (n_draws, n_samples)
                                        const double* __restrict__ closest,     // IN  (n_samples,), without the choice
                                        const double* __restrict__ parts,       // IN  (n_parts, n_trials); NULL at first
                                        const long long* __restrict__ draws,    // IN  (n_draws,) rows
                                        const double* __restrict__ thresholds,  // IN  (n_draws,)
                                        int n_samples, int n_draws, int n_trials, int n_parts,
                                        Choice* __restrict__ choice,            // IN, OUT; at first n_chosen only
                                        long long* __restrict__ chosen)         // OUT rows, choice->n_chosen of them
{
    const int lane = threadIdx.x;
    int best = parts ? choice->best : -1, next = parts ? choice->next : 0;
    if (parts) {
        if (choice->n_trials < n_trials) return;
        double lowest = 0.0, mine = 0.0;  // of all trials, of that with the number of the lane
        for (int t = 0; t < n_trials; ++t) {
            double sum = 0.0;
            for (int part = lane; part < n_parts; part += 32) sum += parts[part * n_trials + t];
            sum = sum_of_warp(sum);
            if (t == 0 || sum < lowest) lowest = sum;
            if (t == lane) mine = sum;
        }
        // The first that is the lowest but for rounding: `first_lowest` of seeding.py
        const unsigned low = __ballot_sync(0xffffffffu, lane < n_trials && mine <= lowest * (1.0 + 1e-9));
        const int trial = low ? __ffs(low) - 1 : 0;
        best = choice->trials[trial];
        if (lane == 0) chosen[choice->n_chosen++] = draws[best];
    }
    int found = 0;
    __syncwarp();  // trials have been read
    while (next < n_draws && found < n_trials) {
        const int draw = next + lane;
        bool accepted = false;
        if (draw < n_draws) {
            const long long row = draws[draw];
            double near = closest[row];
            if (best >= 0) {
                const double square = squares[(size_t)best * n_samples + row];
                near = square < near ? square : near;
            }
            accepted = thresholds[draw] <= near;
        }
        const unsigned all = __ballot_sync(0xffffffffu, accepted);
        const int place = found + __popc(all & ((1u << lane) - 1));
        if (accepted && place < n_trials) choice->trials[place] = draw;
        const unsigned last = __ballot_sync(0xffffffffu, accepted && place == n_trials - 1);
        found += __popc(all);
        next += last ? __ffs(last) : 32;
    }
    if (lane == 0) {
        choice->best = best;
        choice->next = next;
        choice->n_trials = found < n_trials ? found : n_trials;
    }
}
