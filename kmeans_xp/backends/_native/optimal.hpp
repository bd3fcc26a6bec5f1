// The best clusters of numbers: k-means in one dimension, exactly.
#pragma once
#include <vector>

#include "team.hpp"

namespace kmeans {

// Where the best clusters of ascending numbers begin, and the last ends (n_clusters + 1,): of lowest Σ weight (x - mean)².
// As `optimal.best_intervals`: for each number of clusters, ascending, of which none is above n.
std::vector<std::vector<Index>> best_intervals(const double* numbers, const double* weights, Index n,
                                               const std::vector<Index>& counts, Team&);

}  // namespace kmeans
