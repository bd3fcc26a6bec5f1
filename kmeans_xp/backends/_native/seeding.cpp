#include "seeding.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

namespace kmeans {
namespace {

// Draws of places with probability proportional to a mass.
class Draws {
  public:
    explicit Draws(Index n_samples) : cumulative_(n_samples) {}

    void prepare(const double* sample_weight, const double* squares) {
        double total = add_up(sample_weight, squares);
        if (!(total > 0)) add_up(sample_weight, nullptr);  // every row is a center
    }

    Index draw(double uniform) const {
        const double target = uniform * cumulative_.back();
        // Passes over rows without mass; rounding may carry a target up to the total itself
        const Index place = std::upper_bound(cumulative_.begin(), cumulative_.end(), target) - cumulative_.begin();
        return std::min<Index>(place, Index(cumulative_.size()) - 1);
    }

  private:
    double add_up(const double* sample_weight, const double* squares) {
        double total = 0;
        for (size_t i = 0; i < cumulative_.size(); i++) {
            total += squares == nullptr ? sample_weight[i] : sample_weight[i] * squares[i];
            cumulative_[i] = total;
        }
        return total;
    }

    std::vector<double> cumulative_;
};

// Candidates for one center after the other, compared with all rows; these are told by their places in an order.
class Trials {
  public:
    Trials(const Rows& rows, const double* sample_weight, const Index* order, const Greedy& how, Team& team)
        : rows_(rows), order_(order), how_(how), team_(team), n_(rows.n_samples), d_(rows.n_features),
          n_blocks_((n_ + passes().in_float.lanes - 1) / passes().in_float.lanes), squares_(n_), least_(n_),
          nearest_(n_), within_(how.n_clusters), points_(how.n_clusters * d_), candidates_(how.n_trials * d_),
          minus_2_(how.n_trials * d_), sq_norms_(how.n_trials),
          n_parts_(std::min(n_blocks_, count_parts(n_, double(n_) * d_ * how.n_trials))),
          pays_(2 * double(n_) * d_ * how.n_trials > thresholds.parallel_work), parts_(n_parts_),
          workspaces_((pays_ ? team.n_threads() : 1) * bytes()), near_(n_blocks_ * how.n_trials) {
        job_.rows = rows;
        job_.order = order;
        job_.sample_weight = sample_weight;
        job_.closest = {squares_, nearest_, within_};
        job_.n = how.n_trials;
        job_.points = candidates_;
        job_.minus_2_points = minus_2_;
        job_.sq_norms = sq_norms_;
        job_.doubt = float(2 * (double(d_) + 10) * double(std::numeric_limits<float>::epsilon()));
        job_.least = float(8 * (double(d_) + 4) * double(std::numeric_limits<float>::min()));
    }

    const double* squares() const { return squares_; }

    // The first center.
    void begin(Index place) {
        std::vector<double> points(2 * d_);  // and the origin
        row_as_point(rows_, row_at(order_, place), points_);
        std::copy_n(static_cast<double*>(points_), d_, points.begin());
        std::fill_n(static_cast<int32_t*>(nearest_), n_, 0);
        n_centers_ = 1;
        const Squares both{rows_, 2, points.data()};
        const Memory<double> found(2 * n_);
        for_parts([&](Index, Index first, Index last, char* memory) {
            passes().squares(both, first, last, found + first, n_, memory);
        });
        double widest = 0;
        for (Index i = 0; i < n_; i++) {
            squares_[i] = found[row_at(order_, i)];
            widest = std::max(widest, found[n_ + row_at(order_, i)]);
            least_[i] = how_.rounding * found[n_ + row_at(order_, i)];
        }
        // Squares within the range of float32
        if (d_ >= FILTERED && how_.n_clusters > 2 && widest > 1e-25 && widest < 1e30) {
            const Index lanes = passes().in_float.lanes;
            packed_ = std::make_unique<Memory<float>>(n_blocks_ * lanes * (d_ + 1));
            job_.packed = *packed_;
            for_blocks([&](Index, Index first, Index last, char*) { passes().pack(rows_, order_, first, last, *packed_); });
        }
    }

    // Squared distances that may come from rounding are 0, for rows that are centers not to be chosen again.
    void without_rounding() {
        for (Index i = 0; i < n_; i++) squares_[i] = squares_[i] > least_[i] ? squares_[i] : 0;
    }

    // The one of the trials that lowers the potential most becomes a center. -> its place
    Index choose(const Index* trials) {
        for (Index t = 0; t < how_.n_trials; t++) row_as_candidate(row_at(order_, trials[t]), t);
        for (Index c = 0; c < n_centers_; c++) {  // triangle inequality: nearer only if beyond half of this distance
            double least = std::numeric_limits<double>::infinity();
            for (Index t = 0; t < how_.n_trials; t++)
                least = std::min(least, sq_distance(points_ + c * d_, candidates_ + t * d_, d_));
            within_[c] = least / 4 * (1 - 1e-9);
        }
        Index best = packed_ ? surely_best() : UNDECIDED;
        if (best == UNDECIDED) best = first_lowest();
        std::copy_n(candidates_ + best * d_, d_, points_ + n_centers_ * d_);
        for_blocks([&](Index, Index first, Index last, char* memory) {
            passes().take_candidate(job_, best, first, last, near_, int32_t(n_centers_), memory);
        });
        n_centers_++;
        return trials[best];
    }

  private:
    static constexpr Index FILTERED = 8;  // features from which float32 tells first which rows may be nearer

    static constexpr Index UNDECIDED = -1;

    struct OfPart {
        double total;
        std::vector<Gain> gains;
        std::vector<double> potentials;
    };

    // The candidate that is the best whatever float32 rounds.
    Index surely_best() {
        for_blocks([&](Index part, Index first, Index last, char* memory) {
            std::vector<Gain> gains(how_.n_trials, Gain{0, 0});  // of the thread: no line of a cache is shared
            parts_[part].total = passes().estimate_gains(job_, first, last, gains.data(), near_, memory);
            parts_[part].gains = std::move(gains);
        });
        std::vector<Gain> gains(how_.n_trials, Gain{0, 0});
        double total = 0;
        for (const OfPart& part : parts_) {
            total += part.total;
            for (Index t = 0; t < how_.n_trials; t++) {
                gains[t].most += part.gains[t].most;
                gains[t].least += part.gains[t].least;
            }
        }
        Index best = 0;
        for (Index t = 1; t < how_.n_trials; t++)
            if (gains[t].least > gains[best].least) best = t;
        for (Index t = 0; t < how_.n_trials; t++)
            if (t != best && !(gains[best].least - gains[t].most > 2 * how_.tie * total)) return UNDECIDED;
        return best;
    }

    // The first that leaves the lowest sum but for rounding, as greedy.first_lowest.
    Index first_lowest() {
        for_blocks([&](Index part, Index first, Index last, char* memory) {
            std::vector<double> potentials(how_.n_trials);
            passes().try_candidates(job_, first, last, potentials.data(), near_, memory);
            parts_[part].potentials = std::move(potentials);
        });
        std::vector<double> potentials(how_.n_trials, 0.0);
        for (const OfPart& part : parts_)
            for (Index t = 0; t < how_.n_trials; t++) potentials[t] += part.potentials[t];
        const double lowest = *std::min_element(potentials.begin(), potentials.end()) * (1 + how_.tie);
        Index best = 0;
        while (best < how_.n_trials - 1 && !(potentials[best] <= lowest)) best++;
        return best;
    }

    void row_as_candidate(Index row, Index number) {
        double* point = candidates_ + number * d_;
        row_as_point(rows_, row, point);
        double norm = 0;
        for (Index f = 0; f < d_; f++) {
            minus_2_[number * d_ + f] = float(-2 * point[f]);
            norm += point[f] * point[f];
        }
        sq_norms_[number] = float(norm);
    }

    Index bytes() const { return workspace_bytes(n_, d_, 2 * how_.n_trials + 2); }
    Index begin_of(Index part) const { return n_blocks_ * part / n_parts_; }

    // Call function(part, first, last, workspace) for blocks of rows, or for rows.
    template <class Function>
    void for_blocks(Function function) {
        team_.run(n_parts_, pays_, [&](Index part, int worker) {
            function(part, begin_of(part), begin_of(part + 1), workspaces_ + worker * bytes());
        });
    }
    template <class Function>
    void for_parts(Function function) {
        const Index lanes = passes().in_float.lanes;
        for_blocks([&](Index part, Index first, Index last, char* memory) {
            function(part, first * lanes, std::min(n_, last * lanes), memory);
        });
    }

    const Rows& rows_;
    const Index* const order_;
    const Greedy& how_;
    Team& team_;
    const Index n_, d_, n_blocks_;
    Memory<double> squares_, least_;
    Memory<int32_t> nearest_;
    Memory<double> within_, points_, candidates_;
    Memory<float> minus_2_, sq_norms_;
    std::unique_ptr<Memory<float>> packed_;
    const Index n_parts_;
    const bool pays_;
    std::vector<OfPart> parts_;
    Memory<char> workspaces_;
    Memory<uint32_t> near_;  // (n_blocks, n_trials) bits of rows
    Candidates job_{};
    Index n_centers_ = 0;
};

}  // namespace

void row_as_point(const Rows& rows, Index row, double* point) {
    for (Index f = 0; f < rows.n_features; f++) point[f] = number_of(rows, row, f) - rows.origin[f];
}

std::vector<Index> greedy(const Rows& rows, const double* sample_weight, const Greedy& how, const Index* order,
                          const Uniforms& uniforms, Team& team) {
    const Index n = rows.n_samples;
    std::vector<double> weights(sample_weight, sample_weight + n);
    if (order != nullptr)
        for (Index i = 0; i < n; i++) weights[i] = sample_weight[order[i]];
    Draws draws(n);
    Trials trials(rows, weights.data(), order, how, team);
    std::vector<Index> chosen;
    const Index most_together = std::max<Index>(1, how.most_distances / (n * how.n_trials));
    const auto count_draws = [&](Index n_chosen) {
        const Index repay = 1 + Index(double(n_chosen) / how.staleness);
        return how.n_trials * std::min({how.n_clusters - n_chosen, repay, most_together});
    };
    std::vector<double> random = uniforms(1 + 2 * count_draws(1));
    draws.prepare(weights.data(), nullptr);
    chosen.push_back(draws.draw(random[0]));
    random.erase(random.begin());
    trials.begin(chosen[0]);
    std::vector<Index> candidates, accepted;
    std::vector<double> thresholds;
    while (Index(chosen.size()) < how.n_clusters && !team.stopped()) {
        const Index n_draws = count_draws(Index(chosen.size()));
        if (random.empty()) random = uniforms(2 * n_draws);
        trials.without_rounding();
        draws.prepare(weights.data(), trials.squares());
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
    for (Index& place : chosen) place = row_at(order, place);
    return chosen;
}

void sorted_by(const double* keys, Index n, Index* order) {
    const auto before = [&](Index a, Index b) { return keys[a] < keys[b]; };
    if (n < 1000) {
        std::iota(order, order + n, 0);
        std::stable_sort(order, order + n, before);
        return;
    }
    // By where they lie between the extremes, in digits of which the least significant comes first; then what is left
    constexpr int DIGIT = 11, N_DIGITS = 2, MASK = (1 << DIGIT) - 1;
    struct Entry {
        uint32_t place;
        int32_t row;
    };
    const auto [least, most] = std::minmax_element(keys, keys + n);
    const double low = *least, scale = ((1 << DIGIT * N_DIGITS) - 1) / (*most - low);
    std::vector<Entry> entries(n), sorted(n);
    std::vector<int32_t> counts(N_DIGITS << DIGIT);
    for (Index i = 0; i < n; i++) {
        const double place = (keys[i] - low) * scale;  // rounded, still in order; no number if all are equal
        entries[i] = {place > 0 ? uint32_t(place) : 0, int32_t(i)};
        for (int digit = 0; digit < N_DIGITS; digit++)
            counts[(digit << DIGIT) + (entries[i].place >> (DIGIT * digit) & MASK)]++;
    }
    for (int digit = 0; digit < N_DIGITS; digit++) {
        int32_t* ends = counts.data() + (digit << DIGIT);
        int32_t sum = 0;
        for (int i = 0; i < 1 << DIGIT; i++) ends[i] = std::exchange(sum, sum + ends[i]);
        for (const Entry& entry : entries) sorted[ends[entry.place >> (DIGIT * digit) & MASK]++] = entry;
        entries.swap(sorted);
    }
    for (Index i = 0; i < n; i++) order[i] = entries[i].row;
    for (Index begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && entries[end].place == entries[begin].place; end++) {}
        if (end - begin > 1) std::stable_sort(order + begin, order + end, before);
    }
}

}  // namespace kmeans
