// Where the last of the best intervals of sorted numbers begins. For passes.cpp.
#pragma once
#include "blocks.hpp"
#include "pairs.hpp"

namespace kmeans {
namespace {

Split best_split(const Sums& to, const double* before, Index first, Index last, Index end) {
    constexpr Index lanes = WIDTH<double>;
    double least[lanes], places[lanes];
    for (Index lane = 0; lane < lanes; lane++) least[lane] = __builtin_inf(), places[lane] = 0;
    for (Index begin = first; begin <= last; begin += lanes) {  // reads beyond, where there are numbers that don't count
        const double from = double(begin), n = double(last - begin);
#pragma omp simd
        for (Index lane = 0; lane < lanes; lane++) {
            const double cost = cost_of(to, begin + lane, end), whole = before[begin + lane] + (cost > 0 ? cost : 0);
            const bool is_less = whole < least[lane] && double(lane) <= n;
            places[lane] = is_less ? from + double(lane) : places[lane];
            least[lane] = is_less ? whole : least[lane];
        }
    }
    for (Index half = lanes / 2; half > 0; half /= 2)
        for (Index lane = 0; lane < half; lane++) {
            const double other = least[half + lane], place = places[half + lane];
            const bool is_less = other < least[lane] || (other == least[lane] && place < places[lane]);
            places[lane] = is_less ? place : places[lane];
            least[lane] = is_less ? other : least[lane];
        }
    return {Index(places[0]), least[0]};
}

}  // namespace
}  // namespace kmeans
