// Whole fits of rows in memory: the frame, the first centers, runs.
#pragma once
#include "seeding.hpp"

namespace kmeans {

// What `fitting.Fitting` says of the method.
struct Fitting {
    Greedy greedy;
    Index n_runs, most;       // iterations of each
    double tol;               // relative to the mean variance of the columns
    double bounded_from;      // n_samples * n_features * n_clusters from which runs have bounds
    const double* direction;  // (n_features,) on which keys of the rows are projections
};

// Where results are written.
struct Places {
    double *origin, *spread;  // (n_features,) and one number: the frame
    double* centers;          // (n_clusters, n_features), relative to the origin
    int32_t* labels;          // (n_samples,)
    double* weights;          // (n_clusters,)
};

// The best of the runs of a fit: the bits that passes.moments, seeding.greedy and lloyd.lloyd come to. Nothing of it where
// one of them would say that numbers are out of range, or a run does not come to its end (`complete_run`).
Completed fit(Rows, const double* sample_weight, const Fitting&, const Uniforms&, const Places&, Team&);

}  // namespace kmeans
