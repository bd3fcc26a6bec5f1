#include "optimal.hpp"

#include "lloyd.hpp"
#include "pairs.hpp"

namespace kmeans {
namespace {

// Sums of numbers, squares and weights up to each place, in pairs.
class Prefixes {
  public:
    Prefixes(const double* numbers, const double* weights, Index n)
        : high_(3, std::vector<double>(n + 1 + MOST_LANES)), low_(high_) {
        Pair totals[3] = {};
        for (Index i = 0; i < n; i++) {
            const Pair weighted = product_of(weights[i], numbers[i]);
            Pair squared = product_of(weighted.high, numbers[i]);
            squared.low += weighted.low * numbers[i];
            const Pair terms[3] = {{weights[i], 0}, weighted, squared};
            for (int which = 0; which < 3; which++) {
                const Pair sum = sum_of(totals[which].high, terms[which].high);
                totals[which] = sum_of(sum.high, sum.low + (totals[which].low + terms[which].low));
                high_[which][i + 1] = totals[which].high;
                low_[which][i + 1] = totals[which].low;
            }
        }
    }

    Sums sums() const {
        return {high_[0].data(), low_[0].data(), high_[1].data(), low_[1].data(), high_[2].data(), low_[2].data()};
    }

  private:
    std::vector<std::vector<double>> high_, low_;
};

class Intervals {
  public:
    Intervals(const Sums& sums, Index n, Team& team)
        : sums_(sums), team_(team), before_(n + 1 + MOST_LANES), costs_(before_), last_(n + 1), middle_(n + 1),
          middle_before_(n + 1) {}

    // For each of ascending numbers of intervals of all n numbers: from one table if that is small, else each anew.
    std::vector<std::vector<Index>> find_each(Index n, const std::vector<Index>& counts) {
        std::vector<std::vector<Index>> found;
        const bool has_table = counts.size() > 1 && counts.back() <= MOST_IN_TABLE / n;
        if (has_table) fill(0, n, counts.back());
        for (const Index count : counts) {
            Index* begins = found.emplace_back(count + 1, n).data();
            if (has_table) trace_back(0, n, count, begins);
            else find(0, n, count, begins);
        }
        return found;
    }

  private:
    // Write where the best `n_clusters` intervals of numbers begin to end begin, the first of them too.
    void find(Index begin, Index end, Index n_clusters, Index* begins) {
        begins[0] = begin;
        if (n_clusters == 1 || team_.stopped()) return;
        if (n_clusters <= MOST_KEPT / (end - begin)) {
            fill(begin, end, n_clusters);
            return trace_back(begin, end, n_clusters, begins);
        }
        const Index half = n_clusters / 2, middle = middle_of_path(begin, end, n_clusters, half);
        find(begin, middle, half, begins);
        find(middle, end, n_clusters - half, begins + half);
    }

    static constexpr Index MOST_KEPT = Index(1) << 19;      // numbers, 4 MiB
    static constexpr Index MOST_IN_TABLE = Index(1) << 23;  // numbers, 64 MiB
    static constexpr Index TOGETHER = 64;                   // ends of which a thread finds the last intervals

    // Keep where the last intervals begin, for each number of intervals up to that and each end.
    void fill(Index begin, Index end, Index n_clusters) {
        const Index n = end - begin;
        kept_.resize((n_clusters + 1) * n);
        for_layers(begin, end, n_clusters, [&](Index m, Index first) {
            std::copy(last_.begin() + first, last_.begin() + end + 1, kept_.begin() + m * n + first - begin - 1);
        });
    }

    // Where intervals begin, by what was kept of these numbers.
    void trace_back(Index begin, Index end, Index n_clusters, Index* begins) {
        if (team_.stopped()) return;
        const Index n = end - begin;
        begins[0] = begin;
        for (Index m = n_clusters; m > 1; m--) begins[m - 1] = end = kept_[m * n + end - begin - 1];
    }

    // In memory of the size of the numbers: after how many of them the best `half` of the intervals end. What lies on
    // either side is found anew (D. Hirschberg, "A linear space algorithm for computing maximal common subsequences",
    // 1975).
    Index middle_of_path(Index begin, Index end, Index n_clusters, Index half) {
        for_layers(begin, end, n_clusters, [&](Index m, Index first) {
            if (m <= half) return;
            for (Index i = first; i <= end; i++) middle_before_[i] = m == half + 1 ? last_[i] : middle_[last_[i]];
            middle_.swap(middle_before_);
        });
        return middle_[end];
    }

    // Call function(m, first) once it is known where the last of m intervals begins, for m from 2 on and all ends from
    // the first; for `n_clusters` that of all numbers alone.
    template <class Function>
    void for_layers(Index begin, Index end, Index n_clusters, Function function) {
        for (Index i = begin + 1; i <= end; i++) {
            const double cost = cost_of(sums_, begin, i);
            before_[i] = cost > 0 ? cost : 0;
        }
        for (Index m = 2; m < n_clusters && !team_.poll(); m++) {
            find_lasts(begin + m - 1, end);
            function(m, begin + m);
            before_.swap(costs_);
        }
        if (team_.stopped()) return;
        find_last(begin + n_clusters - 1, end - 1, end);
        function(n_clusters, end);
    }

    // For each number of numbers from `least` + 1 to `end` where the last of their best intervals begins. These places
    // ascend, so that those found already are bounds for those between (X. Wu, "Optimal quantization by matrix
    // searching", 1991, by halving).
    void find_lasts(Index least, Index end) {
        Index step = 1;
        while (2 * step <= end - least) step *= 2;
        for (; step > 0; step /= 2) {
            const Index n = (end - least - step) / (2 * step) + 1;
            const double work = 40.0 * double(end - least + n);
            const Index n_parts = std::min((n + TOGETHER - 1) / TOGETHER, count_parts(end - least, work));
            team_.run(n_parts, work > thresholds.parallel_work, [&](Index part, int) {
                for (Index i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
                    const Index at = least + step * (2 * i + 1);
                    const Index first = i == 0 ? least : last_[at - step];
                    find_last(first, std::min(at - 1, at + step <= end ? last_[at + step] : at - 1), at);
                }
            });
        }
    }

    void find_last(Index first, Index last, Index at) {
        const Split best = passes().best_split(sums_, before_.data(), first, last, at);
        last_[at] = best.place;
        costs_[at] = best.cost;
    }

    const Sums sums_;
    Team& team_;
    std::vector<double> before_, costs_;  // of the best intervals of the numbers up to each place, one less; and as many
    std::vector<Index> last_;             // where the last of those begins
    std::vector<Index> middle_, middle_before_, kept_;
};

}  // namespace

std::vector<std::vector<Index>> best_intervals(const double* numbers, const double* weights, Index n,
                                               const std::vector<Index>& counts, Team& team) {
    const Prefixes prefixes(numbers, weights, n);
    return Intervals(prefixes.sums(), n, team).find_each(n, counts);
}

}  // namespace kmeans
