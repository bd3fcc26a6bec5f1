// Lloyd's iterations over rows in memory.
#pragma once
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "passes.hpp"
#include "team.hpp"

namespace kmeans {

const Passes& passes();  // of the best instruction set that the processor has, or of that which `use_passes` chose

// Those that compare in C.
template <class C>
const PassesIn<C>& passes_in();
template <>
inline const PassesIn<float>& passes_in() { return passes().in_float; }
template <>
inline const PassesIn<double>& passes_in() { return passes().in_double; }

// Have the passes of an instruction set used. -> whether they are there and the processor has it
bool use_passes(const std::string& name);

// What decides between ways that give the same result; tests set it.
struct Thresholds {
    double parallel_work = 2e6;   // multiplications of a pass from which several threads pay
    double saved_products = 500;  // multiplications a row that repay the search for its candidates
    double leading_work = 4e9;  // multiplications of a pass from which leading coordinates are looked for; always, if < 0
    double most_summed = 1 << 23;  // numbers of the sums that parts of a pass have of their own, 64 MiB
};
extern Thresholds thresholds;

constexpr double FAINT = 1e-9;  // as steps.FAINT

constexpr double PART_WORK = 5e5;  // multiplications of a part, at least
constexpr Index MOST_PARTS = 64, FEW_PARTS = 16;

// Memory whose numbers are not set.
template <class T>
class Memory {
  public:
    explicit Memory(size_t size) : begin_(static_cast<T*>(::operator new((size ? size : 1) * sizeof(T), ALIGNED))) {
#if defined(__linux__)
        // Large pages: a table of sparse rows is read here and there, a fifth faster so
        const size_t page = 4096, first = (reinterpret_cast<size_t>(begin_) + page - 1) / page * page;
        const size_t bytes = size * sizeof(T);
        if (bytes >= (size_t(1) << 22)) madvise(reinterpret_cast<void*>(first), bytes - page, MADV_HUGEPAGE);
#endif
    }
    ~Memory() { ::operator delete(begin_, ALIGNED); }
    Memory(const Memory&) = delete;
    operator T*() const { return begin_; }

  private:
    static constexpr std::align_val_t ALIGNED{128};
    T* begin_;
};

// In how many parts a pass is cut, by its shape alone. Each part that sums clusters has sums of its own: few rows of
// many clusters are cut into few.
inline Index count_parts(Index n_samples, double work, Index n_clusters = 0) {
    double parts = std::min({work / PART_WORK, double(n_samples) / 256, double(MOST_PARTS)});
    if (n_clusters > 0) parts = std::min(parts, std::max(double(FEW_PARTS), double(n_samples) / (16.0 * n_clusters)));
    return std::max<Index>(1, Index(parts));
}

// How many rows changed their label, were looked at, and left a doubt that was settled.
struct Counts {
    Index n_changed = 0, n_active = 0, n_settled = 0;
};

// Sums of clusters by the parts of a pass; of none, if rows are only counted. No two parts share a line of a cache:
// threads would wait for it at each row.
class PartTotals {
  public:
    PartTotals(Index n_parts, Index n_clusters, Index n_features)
        : n_clusters_(n_clusters), n_features_(n_features), bytes_(in_lines(n_clusters * (8 * n_features + 9))),
          memory_(n_parts * bytes_), totals_(n_parts) {}

    // Those of a part, before it begins.
    Totals& begin(Index part) {
        double* sums = reinterpret_cast<double*>(memory_ + part * bytes_);
        double* weights = sums + n_clusters_ * n_features_;
        uint8_t* touched = reinterpret_cast<uint8_t*>(weights + n_clusters_);
        std::fill_n(touched, n_clusters_, 0);
        totals_[part] = {{n_clusters_ > 0 ? sums : nullptr, weights, touched, 0, 0, 0}};
        return totals_[part];
    }

    // Add them up, in the order of the parts.
    Counts add_to(double* sums, double* weights) const {
        Counts counts;
        for (const OfPart& part : totals_) {
            counts.n_changed += part.n_changed;
            counts.n_active += part.n_active;
            counts.n_settled += part.n_settled;
            for (Index c = 0; c < n_clusters_; c++) {
                if (!part.touched[c]) continue;
                weights[c] += part.weights[c];
                for (Index i = c * n_features_; i < (c + 1) * n_features_; i++) sums[i] += part.sums[i];
            }
        }
        return counts;
    }

  private:
    static constexpr Index LINES = 128;  // bytes that are fetched together
    struct alignas(LINES) OfPart : Totals {};

    static Index in_lines(Index bytes) { return (bytes + LINES - 1) / LINES * LINES; }

    Index n_clusters_, n_features_;
    const Index bytes_;  // of a part
    Memory<char> memory_;
    std::vector<OfPart> totals_;
};

// How rows and centers are seen: the numbers of a `frame.Frame`.
struct Frame {
    const double* origin;  // that centers are relative to
    double spread;
    bool to_floats;  // whether centers are rounded to float32
    bool spherical;  // whether rows and centers have norm 1
};

// What an iteration found, as `steps.move` says it.
struct Numbers {
    double n_changed, n_active, shift, inertia, n_empty;
};

// What a whole run found, beside labels, weights and centers; numbers of its iterations: none if it did not come to an
// end, as a cluster was empty, a number not finite, or it was stopped.
struct Completed {
    std::vector<Numbers> numbers;
    double inertia = 0;
    Index n_distinct = 0;  // clusters that have rows
    bool converged = false;
};

// The inertia as `steps.inertia_of` has it: of weights, Σ c·sum, and Σ weight ||c||².
double inertia_of(const Frame&, double weight, double crossed, double squared);

// Where a run stands. All of it is the caller's memory.
struct State {
    int32_t* labels;   // (n_samples,)
    double* slack;     // (n_samples,); null to compare all rows in each iteration
    double* path;      // (n_clusters,)
    double* sums;      // (n_clusters, n_features)
    double* weights;   // (n_clusters,)
    double* centers_old;  // (n_clusters, n_features) of the last iteration, if there was one
    bool begun;           // whether there was one
    bool fresh = false;   // whether the sums are added up anew, instead of being kept up to date; written
};

// Iterations over rows, however these are stored.
class Iterations {
  public:
    Iterations(Index n_clusters, Index n_features, const Frame& frame, Team& team)
        : n_clusters_(n_clusters), size_(n_clusters * n_features), frame_(frame), team_(team) {}
    virtual ~Iterations() = default;

    // Label the rows that may change: sums and weights are brought up to date.
    virtual Counts step(const double* centers, State& state) = 0;

    // Iterations from `centers`, which become those after the last of them, until a label stays as it is, a cluster is
    // empty, a number is not finite, the centers move by no more than `tol` (squared), or `most`; or `many_doubts`; or
    // after 50 ms and the `fewest`.
    std::vector<Numbers> iterate(double* centers, State& state, Index most, double tol);

    // Whether the last step left so many doubts that it repays to compare in float64.
    virtual bool many_doubts() const { return false; }

    virtual bool too_large() const { return false; }

  protected:
    // Iterations of one call, however long they take.
    virtual Index fewest() const { return 1; }

    // `steps.move`: new centers, from those of the state.
    virtual Numbers move(double* centers, const State& state) = 0;

    // Sums and weights of the clusters, anew.
    virtual void sum(State& state) = 0;

    const Index n_clusters_, size_;  // numbers of the centers
    const Frame frame_;
    Team& team_;
};

// `bounds.advance`: the path after centers moved by so much.
void advance(const double* moved, Index n_clusters, double* path);

// Steps and iterations over arrays. `C` is what distances are compared in.
template <class C>
class Lloyd : public Iterations {
  public:
    Lloyd(const Rows& rows, const double* sample_weight, Index n_clusters, const Frame& frame, Team& team);

    // Label all rows; sums are not asked for.
    void assign(const double* centers, int32_t* labels);

    Counts step(const double* centers, State& state) override;

    // The end of a run whose last iteration found these: centers become those that labels and weights belong to, as
    // lloyd.lloyd says. -> whether they had converged
    bool finish(double* centers, State& state, const Numbers& last, double tol);

    // Centers become the means of all rows that they were ever given, of the weight of `counts`, as batches.batch_step.
    std::vector<double> batch_step(double* centers, double* counts);

    bool many_doubts() const override { return sizeof(C) == 4 && many_doubts_; }
    bool too_large() const override { return too_large_ != 0; }
    bool not_finite() const { return not_finite_ != 0; }

  private:
    void compare_with(const double* centers);
    bool measure_between(const State& state);
    void find_axes();
    void lead_by(Index n_axes);
    Numbers move(double* centers, const State& state) override;
    void sum(State& state) override;
    Counts relabel(State* state);
    void make_compact();

    const double rounding_, doubt_;  // as frame.Frame has them, for sums by stretches
    Index n_parts_;
    bool pays_;  // whether threads do
    bool may_lead_;  // whether leading coordinates may repay to be looked for
    const Index bytes_;  // of a workspace
    Memory<C> minus_2_centers_, sq_norms_;
    Memory<char> workspaces_;
    std::unique_ptr<PartTotals> totals_;
    std::unique_ptr<Memory<C>> compact_;
    std::unique_ptr<Memory<double>> between_, nearest_other_;
    std::vector<C> axes_, leading_centers_;
    std::vector<int32_t> labels_before_;
    Index last_active_ = -1, looked_at_ = 0;  // rows that the last step looked at, and all of them
    int too_large_ = 0, not_finite_ = 0;
    bool many_doubts_ = false;
    Job<C> job_{};
};

// A whole run from `centers`, which become those of labels (n_samples,) and weights (n_clusters,), as lloyd.lloyd says.
Completed complete_run(const Rows&, const double* sample_weight, double* centers, int32_t* labels, double* weights,
                       Index n_clusters, const Frame&, bool floats, bool bounded, Index most, double tol, Team&);

// Weighted sum of the squared distances of the rows from the centers of their clusters; labels are null for one of all.
double inertia(const Rows&, const double* sample_weight, const int32_t* labels, const double* centers, Team&);

// Sums and weights of given clusters, as the parts of the shape are summed.
void sum_clusters(const Rows&, const double* sample_weight, const int32_t* labels, Index n_clusters, double* sums,
                  double* weights, Team&);

// Sum of all rows, (n_features,), and their weight.
void sum_rows(const Rows&, const double* sample_weight, double* sums, double* weight, Team&);

// Product of two vectors.
double dot(const double* a, const double* b, Index n);

// Orthogonal directions of norm 1, (n_axes, n_features), or of zeros if there are not so many: nearly the first
// principal ones of some of the rows about the origin, by orthogonal iteration.
std::vector<double> leading_axes(const Rows&, Index n_axes, Team&);

// Squared distance between two points.
double sq_distance(const double* a, const double* b, Index n);

// Squared distance of each row from the center of its cluster.
void squares_from_own(const Rows&, const int32_t* labels, const double* centers, double* squares, Team&);

}  // namespace kmeans
