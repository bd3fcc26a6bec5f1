// Numbers in two parts, and costs of intervals of sorted numbers, as clusters.
#pragma once
#include "passes.hpp"

namespace kmeans {
namespace {

// A number in two parts, of which the second is what rounding left of the first.
struct Pair {
    double high, low;
};

inline Pair sum_of(double a, double b) {  // D. Knuth, exact
    const double high = a + b, rest = high - a;
    return {high, (a - (high - rest)) + (b - rest)};
}

inline Pair product_of(double a, double b) {  // exact; `high` has several uses, so that no compiler fuses it with a sum
    const double high = a * b;
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return {high, __builtin_fma(a, b, -high)};
#else
    const double a_far = a * 134217729.0, b_far = b * 134217729.0;  // T. Dekker: halves of 26 bits
    const double a1 = a_far - (a_far - a), a2 = a - a1, b1 = b_far - (b_far - b), b2 = b - b1;
    return {high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2};
#endif
}

inline Pair minus(Pair a, Pair b) {
    const Pair high = sum_of(a.high, -b.high);
    return {high.high, high.low + (a.low - b.low)};
}

// Σw (x - m)² of numbers from one place to another, m their mean, by sums up to these places: Q - m (2 S - m W).
inline double cost_of(const Sums& to, Index begin, Index end) {
    const auto between = [&](const double* high, const double* low) {
        return minus({high[end], low[end]}, {high[begin], low[begin]});
    };
    const Pair weight = between(to.weights, to.weights_low), sum = between(to.numbers, to.numbers_low);
    const Pair squares = between(to.squares, to.squares_low);
    const double mean = (sum.high + sum.low) / (weight.high + weight.low);  // the higher parts may be equal
    Pair of_weight = product_of(mean, weight.high);
    of_weight.low += mean * weight.low;
    const Pair inner = minus({2 * sum.high, 2 * sum.low}, of_weight);
    Pair of_mean = product_of(mean, inner.high);
    of_mean.low += mean * inner.low;
    const Pair cost = minus(squares, of_mean);
    return cost.high + cost.low;
}

}  // namespace
}  // namespace kmeans
