#include "seeding.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

namespace kmeans {
namespace {

// Draws of rows with probability proportional to a mass.
class Draws {
  public:
    Draws(Index n_samples, const Index* order) : order_(order), cumulative_(n_samples) {}

    void prepare(const double* sample_weight, const double* squares) {
        double total = add_up(sample_weight, squares);
        if (!(total > 0)) add_up(sample_weight, nullptr);  // every row is a center
    }

    Index draw(double uniform) const {
        const double target = uniform * cumulative_.back();
        // Passes over rows without mass; rounding may carry a target up to the total itself
        Index place = std::upper_bound(cumulative_.begin(), cumulative_.end(), target) - cumulative_.begin();
        place = std::min<Index>(place, Index(cumulative_.size()) - 1);
        return order_ == nullptr ? place : order_[place];
    }

  private:
    double add_up(const double* sample_weight, const double* squares) {
        double total = 0;
        for (size_t i = 0; i < cumulative_.size(); i++) {
            const Index row = order_ == nullptr ? Index(i) : order_[i];
            total += squares == nullptr ? sample_weight[row] : sample_weight[row] * squares[row];
            cumulative_[i] = total;
        }
        return total;
    }

    const Index* order_;
    std::vector<double> cumulative_;
};

// A row of numbers, relative to the origin.
void row_as_point(const Rows& rows, Index row, double* point) {
    for (Index f = 0; f < rows.n_features; f++) point[f] = number_of(rows, row, f) - rows.origin[f];
}

// Candidates for one center, compared with all rows.
class Trials {
  public:
    Trials(const Rows& rows, const double* sample_weight, const Greedy& how, Team& team)
        : rows_(rows), sample_weight_(sample_weight), how_(how), team_(team), d_(rows.n_features),
          squares_(rows.n_samples), nearest_(rows.n_samples), within_(how.n_clusters),
          points_(how.n_clusters * d_), candidates_(how.n_trials * d_),
          n_parts_(count_parts(rows.n_samples, double(rows.n_samples) * d_ * how.n_trials)),
          pays_(double(rows.n_samples) * d_ * how.n_trials > thresholds.parallel_work), parts_(n_parts_),
          workspaces_((pays_ ? team.n_threads() : 1) * bytes()), which_(rows.n_samples),
          found_(rows.n_samples * how.n_trials) {}

    const double* squares() const { return squares_; }

    // The first center.
    void begin(Index row) {
        row_as_point(rows_, row, points_);
        std::fill_n(static_cast<int32_t*>(nearest_), rows_.n_samples, 0);
        n_centers_ = 1;
        const Squares one{rows_, 1, points_};
        for_parts([&](Index, Index first, Index last, char* memory) {
            passes().squares(one, first, last, squares_ + first, rows_.n_samples, memory);
        });
    }

    // Squared distances that may come from rounding are 0, for rows that are centers not to be chosen again.
    void without_rounding(const double* least) {
        for (Index i = 0; i < rows_.n_samples; i++)
            if (!(squares_[i] > least[i])) squares_[i] = 0;
    }

    // The one of the trials that lowers the potential most becomes a center. -> its row
    Index choose(const Index* trials) {
        const Index n_trials = how_.n_trials;
        for (Index t = 0; t < n_trials; t++) row_as_point(rows_, trials[t], candidates_ + t * d_);
        for (Index c = 0; c < n_centers_; c++) {  // triangle inequality: nearer only if beyond half of this distance
            double least = std::numeric_limits<double>::infinity();
            for (Index t = 0; t < n_trials; t++) {
                double square = 0;
                for (Index f = 0; f < d_; f++) {
                    const double apart = points_[c * d_ + f] - candidates_[t * d_ + f];
                    square += apart * apart;
                }
                least = std::min(least, square);
            }
            within_[c] = least / 4 * (1 - 1e-9);
        }
        const Closest closest{squares_, nearest_, within_};
        const Squares job{rows_, n_trials, candidates_};
        for_parts([&](Index part, Index first, Index last, char* memory) {
            Part_& found = parts_[part];
            found.rest = 0;
            found.count = passes().may_be_nearer(closest, sample_weight_, first, last, which_ + first, found.rest);
            double* squares = found_ + first * n_trials;
            passes().squares_of(job, which_ + first, found.count, squares, last - first, memory);
            found.potentials.assign(n_trials, found.rest);
            for (Index t = 0; t < n_trials; t++) {
                const double* of_trial = squares + t * (last - first);
                double total = 0;
                for (Index i = 0; i < found.count; i++) {
                    const Index row = which_[first + i];
                    total += sample_weight_[row] * std::min(of_trial[i], squares_[row]);
                }
                found.potentials[t] += total;
            }
        });
        std::vector<double> potentials(n_trials, 0.0);
        for (const Part_& part : parts_)
            for (Index t = 0; t < n_trials; t++) potentials[t] += part.potentials[t];
        const double lowest = *std::min_element(potentials.begin(), potentials.end()) * (1 + how_.tie);
        Index best = 0;
        while (best < n_trials - 1 && !(potentials[best] <= lowest)) best++;
        std::memcpy(points_ + n_centers_ * d_, candidates_ + best * d_, 8 * d_);
        for (Index part = 0; part < n_parts_; part++) {
            const Index first = begin_of(part), last = begin_of(part + 1);
            const double* of_best = found_ + first * n_trials + best * (last - first);
            for (Index i = 0; i < parts_[part].count; i++) {
                const Index row = which_[first + i];
                if (of_best[i] < squares_[row]) {
                    squares_[row] = of_best[i];
                    nearest_[row] = int32_t(n_centers_);
                }
            }
        }
        n_centers_++;
        return trials[best];
    }

  private:
    struct Part_ {
        Index count;
        double rest;
        std::vector<double> potentials;
    };

    Index bytes() const { return workspace_bytes(rows_.n_samples, d_, how_.n_trials); }
    Index begin_of(Index part) const { return rows_.n_samples * part / n_parts_; }

    template <class Function>
    void for_parts(Function function) {
        team_.run(n_parts_, pays_, [&](Index part, int worker) {
            function(part, begin_of(part), begin_of(part + 1), workspaces_ + worker * bytes());
        });
    }

    const Rows& rows_;
    const double* sample_weight_;
    const Greedy& how_;
    Team& team_;
    const Index d_;
    Memory<double> squares_;
    Memory<int32_t> nearest_;
    Memory<double> within_, points_, candidates_;
    const Index n_parts_;
    const bool pays_;
    std::vector<Part_> parts_;
    Memory<char> workspaces_;
    Memory<Index> which_;   // rows of each part that a trial may be nearer to
    Memory<double> found_;  // their squared distances from the trials
    Index n_centers_ = 0;
};

}  // namespace

std::vector<Index> greedy(const Rows& rows, const double* sample_weight, const Greedy& how, const Index* order,
                          const Uniforms& uniforms, Team& team) {
    const Index n = rows.n_samples;
    Draws draws(n, order);
    Trials trials(rows, sample_weight, how, team);
    std::vector<double> least(n);
    {
        const std::vector<double> zero(rows.n_features);
        const std::vector<int32_t> all(n);
        passes().own(rows, all.data(), zero.data(), {0, 1}, least.data());
        for (double& value : least) value *= how.rounding;
    }
    std::vector<Index> chosen;
    const auto count_draws = [&](Index n_chosen) {
        const Index repay = 1 + Index(double(n_chosen) / how.staleness);
        return how.n_trials * std::min({how.n_clusters - n_chosen, repay, how.most_together});
    };
    std::vector<double> random = uniforms(1 + 2 * count_draws(1));
    draws.prepare(sample_weight, nullptr);
    chosen.push_back(draws.draw(random[0]));
    random.erase(random.begin());
    trials.begin(chosen[0]);
    std::vector<Index> candidates, accepted;
    std::vector<double> thresholds;
    while (Index(chosen.size()) < how.n_clusters && !team.stopped()) {
        const Index n_draws = count_draws(Index(chosen.size()));
        if (random.empty()) random = uniforms(2 * n_draws);
        trials.without_rounding(least.data());
        draws.prepare(sample_weight, trials.squares());
        candidates.resize(n_draws);
        thresholds.resize(n_draws);
        for (Index i = 0; i < n_draws; i++) {
            candidates[i] = draws.draw(random[i]);
            thresholds[i] = random[n_draws + i] * trials.squares()[candidates[i]];
        }
        random.clear();
        // A candidate is accepted with the probability `distance now / distance when drawn`
        while (Index(chosen.size()) < how.n_clusters && !team.poll()) {
            accepted.clear();
            for (Index i = 0; i < n_draws && Index(accepted.size()) < how.n_trials; i++)
                if (thresholds[i] <= trials.squares()[candidates[i]]) accepted.push_back(i);
            if (Index(accepted.size()) < how.n_trials) break;
            for (Index i = 0; i <= accepted.back(); i++) thresholds[i] = INFINITY;  // had their turn
            for (Index& place : accepted) place = candidates[place];
            chosen.push_back(trials.choose(accepted.data()));
        }
    }
    return chosen;
}

std::vector<Index> sorted_by(const double* keys, Index n) {
    if (n < 2000) {
        std::vector<Index> order(n);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return keys[a] < keys[b]; });
        return order;
    }
    // Least significant digits first; bits of floating-point numbers, made to sort as integers
    constexpr int DIGIT = 11, N_DIGITS = 6;
    struct Entry {
        uint64_t key;
        Index row;
    };
    std::vector<Entry> entries(n), sorted(n);
    std::vector<std::vector<Index>> counts(N_DIGITS, std::vector<Index>(1 << DIGIT));
    for (Index i = 0; i < n; i++) {
        const double key = keys[i] + 0.0;  // -0 is 0
        uint64_t bits;
        std::memcpy(&bits, &key, 8);
        bits ^= bits >> 63 ? ~uint64_t(0) : uint64_t(1) << 63;
        entries[i] = {bits, i};
        for (int digit = 0; digit < N_DIGITS; digit++) counts[digit][bits >> (DIGIT * digit) & ((1 << DIGIT) - 1)]++;
    }
    for (int digit = 0; digit < N_DIGITS; digit++) {
        std::vector<Index>& ends = counts[digit];
        if (*std::max_element(ends.begin(), ends.end()) == n) continue;
        Index before = 0;
        for (Index& end : ends) end = std::exchange(before, before + end);
        for (const Entry& entry : entries)
            sorted[ends[entry.key >> (DIGIT * digit) & ((1 << DIGIT) - 1)]++] = entry;
        entries.swap(sorted);
    }
    std::vector<Index> order(n);
    for (Index i = 0; i < n; i++) order[i] = entries[i].row;
    return order;
}

}  // namespace kmeans
