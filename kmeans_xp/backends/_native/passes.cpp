// Passes over rows, compiled once for each instruction set.
//
// No std:: containers or templates here and in what is included: the linker keeps one copy of those, perhaps that for
// another processor.
#include "candidates.hpp"
#include "csr.hpp"
#include "distances.hpp"
#include "intervals.hpp"
#include "relabel.hpp"

namespace kmeans {

#if defined(__AVX512F__)
extern const Passes avx512 = {"AVX-512",
#elif defined(__AVX2__)
extern const Passes avx2 = {"AVX2",
#else
extern const Passes baseline = {"baseline",
#endif
                              {LANES<float>, relabel<float>, compact<float>, lead<float>, count_candidates<float>},
                              {LANES<double>, relabel<double>, compact<double>, lead<double>,
                               count_candidates<double>},
                              sum, sum_changes, own, squares, distances, squares_of, pack, estimate_gains, try_candidates,
                              take_candidate, relabel_sparse, tabulate, best_split};

}  // namespace kmeans
