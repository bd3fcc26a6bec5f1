#include "sparse.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace kmeans {
namespace {

constexpr double EPS = std::numeric_limits<double>::epsilon();
constexpr double LEFT = 100 * EPS;     // as csr.ROUNDING
constexpr Index CHUNK = 4096;          // features of a table that are one part of the work
constexpr Index CLUSTERS_APART = 16;   // in so many parts clusters are summed: a power of two

Index width_of(Index n_clusters) { return (n_clusters + TOGETHER) / TOGETHER * TOGETHER; }

// Call function(number, column) for the stored numbers of a row.
template <class T, class I, class Function>
void for_numbers(const SparseRows& rows, Index row, Function function) {
    for (Index i = rows.begins[row]; i < rows.begins[row + 1]; i++) {
        T number;
        I column;
        std::memcpy(&number, rows.data + i * Index(sizeof(T)), sizeof(T));
        std::memcpy(&column, rows.columns + i * Index(sizeof(I)), sizeof(I));
        function(double(number), Index(column));
    }
}

template <class Function>
void for_numbers_of_any(const SparseRows& rows, Index row, Function function) {
    if (rows.dtype == Dtype::float32)
        rows.wide ? for_numbers<float, int64_t>(rows, row, function) : for_numbers<float, int32_t>(rows, row, function);
    else
        rows.wide ? for_numbers<double, int64_t>(rows, row, function) : for_numbers<double, int32_t>(rows, row, function);
}

double count_numbers(const SparseRows& rows) { return double(rows.begins[rows.n_samples] - rows.begins[0]); }

// Bring sums and weights up to date. Each cluster gets its rows in their order, whoever takes it: so results do not
// depend on how many threads there are.
void apply(const SparseRows& rows, const double* sample_weight, const Change* changes, Index n_changes, Index n_clusters,
           double* sums, double* weights, Team& team) {
    const Index d = rows.n_features;
    const double work = 8.0 * count_numbers(rows) / double(rows.n_samples) * double(n_changes);
    team.run(CLUSTERS_APART, work > thresholds.parallel_work, [&](Index part, int) {
        std::vector<double> moved(n_clusters);
        const auto add = [&](Index row, int32_t cluster, double weight) {
            double* own = sums + cluster * d;
            for_numbers_of_any(rows, row, [&](double number, Index f) { own[f] += weight * number; });
            moved[cluster] += weight;
        };
        for (Index i = 0; i < n_changes; i++) {
            const auto [row, before, now] = changes[i];
            if (now % CLUSTERS_APART == part) add(row, now, sample_weight[row]);
            if (before >= 0 && before % CLUSTERS_APART == part) add(row, before, -sample_weight[row]);
        }
        for (Index c = part; c < n_clusters; c += CLUSTERS_APART) {
            if (moved[c] == 0) continue;
            weights[c] += moved[c];
            for (Index f = 0; f < d; f++) sums[c * d + f] -= moved[c] * rows.origin[f];
        }
    });
}

}  // namespace

SparseLloyd::SparseLloyd(const SparseRows& rows, const double* sample_weight, Index n_clusters, const Frame& frame,
                         Team& team)
    : Iterations(n_clusters, rows.n_features, frame, team), rows_(rows), sample_weight_(sample_weight),
      sq_origin_(dot(rows.origin, rows.origin, rows.n_features)),
      n_chunks_((rows.n_features + CHUNK - 1) / CHUNK), numbers_(rows.n_features * width_of(n_clusters)),
      constants_(width_of(n_clusters)), totals_(n_chunks_ * N_TOTALS * width_of(n_clusters)),
      table_{n_clusters, width_of(n_clusters), numbers_, constants_}, moved_(n_clusters), sq_norms_(n_clusters),
      crossed_(n_clusters), changes_(rows.n_samples) {}

// Put centers into the table: as they are or, if there are sums, as the means of these.
void SparseLloyd::tabulate(Tabulation job) {
    job.table = table_;
    job.n_features = rows_.n_features;
    job.n_chunks = n_chunks_;
    job.origin = rows_.origin;
    job.totals = totals_;
    team_.run(table_.width / TOGETHER * n_chunks_, double(size_) > thresholds.parallel_work / 8,
              [&](Index part, int) { passes().tabulate(job, part); });
    const double doubt = (double(rows_.n_features) + 10) * EPS;
    for (Index c = 0; c < n_clusters_; c++) {
        double total[N_TOTALS] = {};
        for (Index chunk = 0; chunk < n_chunks_; chunk++)
            for (Index i = 0; i < N_TOTALS; i++) total[i] += totals_[(chunk * N_TOTALS + i) * table_.width + c];
        moved_[c] = total[MOVED];
        sq_norms_[c] = total[SQUARED];
        crossed_[c] = total[CROSSED];
        constants_[c] = total[SQUARED] * (1 - doubt / 2) + 2 * total[WITH_ORIGIN];
    }
    for (Index c = n_clusters_; c < table_.width; c++) constants_[c] = INFINITY;
    tabulated_ = job.centers;
}

void SparseLloyd::compare_with(const double* centers, const double* centers_old) {
    if (tabulated_ == centers) return;
    Tabulation job{};
    job.centers = const_cast<double*>(centers);  // which without sums are read
    job.centers_old = centers_old;
    tabulate(job);
}

Counts SparseLloyd::relabel(SparseJob job) {
    const Index n = rows_.n_samples;
    const double work = count_numbers(rows_) * double(table_.width);
    job.rows = rows_;
    job.table = table_;
    job.sq_origin = sq_origin_;
    job.rounding = 20 * (double(rows_.n_features) + 8) * EPS;
    job.offset = job.rounding * (*std::max_element(sq_norms_.begin(), sq_norms_.end()) + 4 * sq_origin_);
    job.stops = Team::stops;
    job.stopping = &team_;
    const Index n_parts = count_parts(n, work);
    const bool pays = work > thresholds.parallel_work;
    const Memory<double> workspaces((pays ? team_.n_threads() : 1) * table_.width);
    std::vector<Changes> counts(n_parts);
    team_.run(n_parts, pays, [&](Index part, int worker) {
        const Index begin = n * part / n_parts, end = n * (part + 1) / n_parts;
        double* workspace = workspaces + worker * table_.width;
        counts[part] = passes().relabel_sparse(job, begin, end, changes_ + begin, workspace);
    });
    Counts found;
    n_changes_ = 0;
    for (Index part = 0; part < n_parts; part++) {
        const Change* from = changes_ + n * part / n_parts;
        std::copy_n(from, counts[part].n, changes_ + n_changes_);
        n_changes_ += counts[part].n;
        found.n_changed += counts[part].n_changed;
        found.n_active += counts[part].n_active;
    }
    return found;
}

void SparseLloyd::assign(const double* centers, int32_t* labels) {
    compare_with(centers, centers);
    SparseJob job{};
    job.labels = labels;
    relabel(job);
}

Counts SparseLloyd::step(const double* centers, State& state) {
    compare_with(centers, state.begun ? state.centers_old : centers);
    compared_sq_norms_ = sq_norms_;
    if (state.slack != nullptr && state.begun) {
        std::vector<double> moved(n_clusters_);
        for (Index c = 0; c < n_clusters_; c++) moved[c] = std::sqrt(moved_[c]);
        advance(moved.data(), n_clusters_, state.path);
    }
    SparseJob job{};
    job.labels = state.labels;
    job.slack = state.slack;
    job.path = state.path;
    const Counts counts = relabel(job);
    if (team_.stopped()) return counts;
    if (state.slack == nullptr) {
        std::fill_n(state.sums, size_, 0.0);
        std::fill_n(state.weights, n_clusters_, 0.0);
    }
    apply(rows_, sample_weight_, changes_, n_changes_, n_clusters_, state.sums, state.weights, team_);
    return counts;
}

Numbers SparseLloyd::move(double* centers, const State& state) {
    const Index d = rows_.n_features;
    Tabulation job{};
    job.centers_old = state.centers_old;
    job.centers = centers;
    job.sums = state.sums;
    job.weights = state.weights;
    job.frame_origin = frame_.origin;
    job.to_floats = frame_.to_floats;
    std::vector<double> norms(frame_.spherical ? n_clusters_ : 0);
    if (frame_.spherical) {
        team_.run(n_clusters_, double(size_) > thresholds.parallel_work, [&](Index c, int) {
            const double weight = state.weights[c], *from = (weight == 0 ? state.centers_old : state.sums) + c * d;
            double square = 0;
            for (Index f = 0; f < d; f++) {
                const double place = from[f] / (weight == 0 ? 1 : weight) + frame_.origin[f];
                square += place * place;
            }
            norms[c] = std::sqrt(square);
        });
        job.norms = norms.data();
    }
    tabulate(job);
    double total = 0, crossed = 0, squared = 0, shift = 0;
    Index n_empty = 0;
    for (Index c = 0; c < n_clusters_; c++) {
        total += state.weights[c];
        crossed += crossed_[c];
        squared += state.weights[c] * compared_sq_norms_[c];
        shift += moved_[c];
    }
    for (Index c = 0; c < n_clusters_; c++) n_empty += state.weights[c] <= FAINT * total;
    return {0, 0, shift, inertia_of(frame_, total, crossed, squared), double(n_empty)};
}

void SparseLloyd::sum(State& state) {
    sum_clusters(rows_, sample_weight_, state.labels, n_clusters_, state.sums, state.weights, team_);
}

void sum_clusters(const SparseRows& rows, const double* sample_weight, const int32_t* labels, Index n_clusters,
                  double* sums, double* weights, Team& team) {
    const Memory<Change> changes(rows.n_samples);
    for (Index row = 0; row < rows.n_samples; row++) changes[row] = {row, -1, labels[row]};
    std::fill_n(sums, n_clusters * rows.n_features, 0.0);
    std::fill_n(weights, n_clusters, 0.0);
    apply(rows, sample_weight, changes, rows.n_samples, n_clusters, sums, weights, team);
}

void squares_from_own(const SparseRows& rows, const int32_t* labels, const double* centers, Index n_clusters,
                      double* squares, Team& team) {
    const Index n = rows.n_samples, d = rows.n_features;
    std::vector<double> of_center(n_clusters);  // relative to zero
    team.run(n_clusters, double(n_clusters) * double(d) > thresholds.parallel_work, [&](Index c, int) {
        for (Index f = 0; f < d; f++) {
            const double place = centers[c * d + f] + rows.origin[f];
            of_center[c] += place * place;
        }
    });
    const double work = 8.0 * count_numbers(rows);
    const Index n_parts = count_parts(n, work);
    team.run(n_parts, work > thresholds.parallel_work, [&](Index part, int) {
        for (Index row = n * part / n_parts; row < n * (part + 1) / n_parts; row++) {
            const double *center = centers + labels[row] * d, all = of_center[labels[row]];
            double square = 0, stored = 0;
            for_numbers_of_any(rows, row, [&](double number, Index f) {
                const double apart = number - rows.origin[f] - center[f], place = center[f] + rows.origin[f];
                square += apart * apart;
                stored += place * place;
            });
            const bool is_full = rows.begins[row + 1] - rows.begins[row] == d;
            squares[row] = square + (!is_full && all - stored > LEFT * all ? all - stored : 0);
        }
    });
}

}  // namespace kmeans
