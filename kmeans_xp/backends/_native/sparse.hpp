// Steps and iterations over the rows of a CSR matrix.
#pragma once
#include "lloyd.hpp"

namespace kmeans {

class SparseLloyd : public Iterations {
  public:
    SparseLloyd(const SparseRows& rows, const double* sample_weight, Index n_clusters, const Frame& frame, Team& team);

    // Label all rows; sums are not asked for.
    void assign(const double* centers, int32_t* labels);

    Counts step(const double* centers, State& state) override;

  private:
    Index fewest() const override { return 4; }  // as it takes half of one to begin
    void compare_with(const double* centers, const double* centers_old);
    void tabulate(Tabulation job);
    Counts relabel(SparseJob job);
    Numbers move(double* centers, const State& state) override;
    void sum(State& state) override;

    const SparseRows rows_;
    const double* sample_weight_;
    const double sq_origin_;
    const Index n_chunks_;
    Memory<double> numbers_, constants_, totals_;
    const Table table_;
    std::vector<double> moved_, sq_norms_, crossed_;  // of the centers in the table
    std::vector<double> compared_sq_norms_;           // of those that rows were compared with
    const double* tabulated_ = nullptr;               // where those in the table lie
    Memory<Change> changes_;
    Index n_changes_ = 0;
};

// Sums and weights of given clusters.
void sum_clusters(const SparseRows&, const double* sample_weight, const int32_t* labels, Index n_clusters, double* sums,
                  double* weights, Team&);

// Squared distance of each row from the center of its cluster: directly of the numbers that are stored, and what the
// center has beside them.
void squares_from_own(const SparseRows&, const int32_t* labels, const double* centers, Index n_clusters, double* squares,
                      Team&);

}  // namespace kmeans
