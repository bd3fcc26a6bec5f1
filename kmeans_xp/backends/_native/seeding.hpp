// Greedy k-means++ over rows in memory.
#pragma once
#include <functional>
#include <vector>

#include "lloyd.hpp"

namespace kmeans {

// What greedy.py says of the method.
struct Greedy {
    Index n_clusters, n_trials;
    Index most_distances;  // of candidates that are drawn at once
    double staleness;      // of draws, see greedy.STALENESS
    double tie;            // relative difference of potentials that are equal
    double rounding;       // squared distances up to this times that from the origin are 0
};

// Random numbers in [0, 1).
using Uniforms = std::function<std::vector<double>(Index)>;

// Rows chosen, as `seeding.greedy.greedy`. `order` (n_samples,) is that in which draws run through them; null for their
// own.
std::vector<Index> greedy(const Rows&, const double* sample_weight, const Greedy&, const Index* order,
                          const Uniforms& uniforms, Team&);

// A row of numbers, (n_features,), relative to the origin.
void row_as_point(const Rows&, Index row, double* point);

// Row numbers sorted by keys; of equal keys in their order.
void sorted_by(const double* keys, Index n, Index* order);

}  // namespace kmeans
