#include "fit.hpp"

#include <cmath>

namespace kmeans {
namespace {

constexpr double BETTER = 1e-9;      // relative difference of inertias that is more than rounding, lloyd.ROUNDING
constexpr double RUN_WORK = 4e4;     // multiplications of an iteration from which threads pay for the runs of a fit
constexpr Index RUNS_TOGETHER = 16;  // whose labels are held at a time

bool is_ordinary(double spread) { return spread == 0 || (1e-18 < spread && spread < 1e18); }  // as frame.is_ordinary

// Write the frame. -> whether its numbers are ordinary
bool find_frame(const Rows& given, const double* sample_weight, const Places& to, Team& team) {
    Rows rows = given;
    const Index d = rows.n_features;
    const std::vector<double> zero(d);
    double weight, total = 0;
    rows.origin = zero.data();
    sum_rows(rows, sample_weight, to.origin, &weight, team);
    if (!(weight > 0)) return false;
    for (Index f = 0; f < d; f++) {
        to.origin[f] /= weight;
        total += to.origin[f];
        if (rows.dtype == Dtype::float32) to.origin[f] = double(float(to.origin[f]));
    }
    if (!std::isfinite(total)) return false;
    rows.origin = to.origin;
    *to.spread = inertia(rows, sample_weight, nullptr, zero.data(), team) / weight;
    return is_ordinary(*to.spread);
}

std::vector<Index> canonical_order(const Rows& rows, const double* direction) {
    std::vector<double> keys(rows.n_samples);
    std::vector<Index> order(rows.n_samples);
    keys_of_rows(rows, direction, keys.data());
    sorted_by(keys.data(), rows.n_samples, order.data());
    return order;
}

// Results of one of several runs.
struct Run {
    std::vector<double> centers, weights;
    std::vector<int32_t> labels;
    Completed completed;
};

}  // namespace

Completed fit(Rows rows, const double* sample_weight, const Fitting& how, const Uniforms& uniforms, const Places& to,
              Team& team) {
    if (!find_frame(rows, sample_weight, to, team) || team.poll()) return {};
    rows.origin = to.origin;
    const Index n = rows.n_samples, d = rows.n_features, k = how.greedy.n_clusters;
    const auto order = canonical_order(rows, how.direction);
    const Frame frame{to.origin, *to.spread, rows.dtype == Dtype::float32, false};
    const double work = double(n) * double(d) * double(k), tol = how.tol * *to.spread / double(d);

    const auto seed = [&](double* centers) {
        const auto chosen = greedy(rows, sample_weight, how.greedy, order.data(), uniforms, team);
        for (size_t c = 0; c < chosen.size(); c++) row_as_point(rows, chosen[c], centers + c * d);
    };
    const auto run_from = [&](double* centers, int32_t* labels, double* weights, Team& own) {
        Completed run = complete_run(rows, sample_weight, centers, labels, weights, k, frame, true,
                                     work >= how.bounded_from, how.most, tol, own);
        return std::isfinite(run.inertia) ? run : Completed{};
    };
    if (how.n_runs == 1) {
        seed(to.centers);
        return team.stopped() ? Completed{} : run_from(to.centers, to.labels, to.weights, team);
    }

    Completed best;
    const bool side_by_side = RUN_WORK < work && work < thresholds.parallel_work;  // else passes are shared
    for (Index first = 0; first < how.n_runs; first += RUNS_TOGETHER) {
        std::vector<Run> runs(std::min(RUNS_TOGETHER, how.n_runs - first));
        for (Run& run : runs) {
            run = {std::vector<double>(k * d), std::vector<double>(k), std::vector<int32_t>(n), {}};
            seed(run.centers.data());
            if (team.stopped()) return {};
        }
        team.run(Index(runs.size()), side_by_side, [&](Index number, int) {
            Run& run = runs[number];
            const auto go_on = [&](Team& own) {
                run.completed = run_from(run.centers.data(), run.labels.data(), run.weights.data(), own);
            };
            if (!side_by_side) return go_on(team);
            Team alone(1, [&] { return team.poll(); });
            go_on(alone);
        });
        for (Run& run : runs) {
            if (run.completed.numbers.empty()) return {};
            if (!best.numbers.empty() && !(run.completed.inertia < best.inertia * (1 - BETTER))) continue;
            best = std::move(run.completed);
            std::copy(run.centers.begin(), run.centers.end(), to.centers);
            std::copy(run.labels.begin(), run.labels.end(), to.labels);
            std::copy(run.weights.begin(), run.weights.end(), to.weights);
        }
    }
    return best;
}

}  // namespace kmeans
