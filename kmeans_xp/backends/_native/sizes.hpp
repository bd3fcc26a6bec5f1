// Clusters of bounded sizes, as `sizes.contenders` and `transport.mend`.
#pragma once
#include <vector>

#include "lloyd.hpp"

namespace kmeans {

// Rows for which more than one center contends, ascending, each as often as there are such centers.
struct Contenders {
    std::vector<Index> rows;
    std::vector<int32_t> clusters;
};

// What is asked of a look at the rows: prices of the clusters, by how much a contender may be above the lowest sum of
// squared distance and price, and how many there may be.
struct Prices {
    const double* prices;  // (n_clusters,)
    double reach;
    Index most;
};

// What was found when rows were last looked at: no other center contends for a row of cluster c with
// slack > reach + 2 norm moved[c] + raised[c], see steps.py.
struct Looks {
    int32_t* labels;      // (n_samples,)
    double* slack;        // (n_samples,), -inf to look at a row in any case
    const double* norms;  // (n_samples,)
    const double *moved, *raised;  // (n_clusters,)
};

// -> by parts, in their order; none if there are too many. Labels are right for all other rows.
template <class C>
std::vector<Contenders> contenders(const Rows&, Index n_clusters, const double* centers, const Prices&, const Looks&,
                                   Team&);

// Clusters that rows may be given to, and bounds of the sizes of clusters.
struct Choices {
    Index n_rows, n_clusters;
    const Index* begin;        // (n_rows + 1,)
    const int32_t* clusters;   // (n_choices,)
    const double* costs;       // (n_choices,)
    const Index* n_staying;    // (n_clusters,)
    const Index *low, *high;   // (n_clusters,)
};

// Choices of the rows, (n_rows,), and prices, which are those to start from. -> whether it is done
bool mend(const Choices&, double reach, Index* chosen, double* prices, Team&);

}  // namespace kmeans
