#include "sizes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kmeans {
namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr Index SOME = 256;  // rows that are looked at in one go

// Centers of lowest sum for each of the rows, if there is more than one: `squares` (n_clusters, n_rows).
void add_contenders(const Index* rows, Index n_rows, const double* squares, Index n_clusters, const Prices& given,
                    double rounding, double most_price, int32_t* labels, Contenders& found) {
    for (Index i = 0; i < n_rows; i++) {
        Index first = 0;
        double least = INF;
        for (Index c = 0; c < n_clusters; c++) {
            const double sum = squares[c * n_rows + i] + given.prices[c];
            if (sum < least) least = sum, first = c;
        }
        const double bound = least + given.reach + rounding * (squares[first * n_rows + i] + most_price);
        const size_t begin = found.rows.size();
        for (Index c = 0; c < n_clusters; c++) {
            if (squares[c * n_rows + i] + given.prices[c] > bound) continue;
            found.rows.push_back(rows[i]);
            found.clusters.push_back(int32_t(c));
        }
        labels[rows[i]] = int32_t(first);
        if (found.rows.size() != begin + 1) continue;
        found.rows.pop_back();
        found.clusters.pop_back();
    }
}

}  // namespace

template <class C>
std::vector<Contenders> contenders(const Rows& rows, Index k, const double* centers, const Prices& given,
                                   const Looks& looks, Team& team) {
    const Index n = rows.n_samples, d = rows.n_features;
    const double eps = double(std::numeric_limits<C>::epsilon()), doubt = 2 * (double(roundings_of_sum(d)) + 10) * eps;
    Memory<C> minus_2_centers(k * d), terms(k);
    double most = 0, most_price = 0;
    for (Index c = 0; c < k; c++) {
        double square = 0;
        for (Index f = 0; f < d; f++) {
            minus_2_centers[c * d + f] = C(-2 * centers[c * d + f]);
            square += centers[c * d + f] * centers[c * d + f];
        }
        terms[c] = C(square + given.prices[c]);
        most = std::max(most, square);
        most_price = std::max(most_price, std::abs(given.prices[c]));
    }
    const double flushed = sizeof(C) == 4 ? 8 * (d + 4) * double(std::numeric_limits<float>::min()) : 0;
    Job<C> job{};
    job.rows = rows;
    job.n_clusters = k;
    job.minus_2_centers = minus_2_centers;
    job.sq_norms = terms;
    job.rounding = {0, 0, C(doubt), 0};
    job.labels = looks.labels;
    const double in_doubt = doubt * (most + most_price) + flushed;  // of a lead
    const double exact = 4 * (double(d) + 10) * std::numeric_limits<double>::epsilon();

    const double work = double(n) * double(d) * double(k);
    const Index n_parts = count_parts(n, work), bytes = workspace_bytes(n, d, k);
    const bool pays = work > thresholds.parallel_work;
    const Memory<char> workspaces((pays ? team.n_threads() : 1) * bytes);
    const Squares job_exact{rows, k, centers};
    std::vector<Contenders> found(n_parts);
    std::atomic<Index> n_found{0};
    const bool is_limited = given.reach > 0 && given.reach < INF;
    team.run(n_parts, pays, [&](Index part, int worker) {
        const Index end = n * (part + 1) / n_parts;
        std::vector<Index> stale(SOME), near(SOME);
        std::vector<double> leads(SOME), squares(SOME * k);
        char* workspace = workspaces + worker * bytes;
        for (Index row = n * part / n_parts; row < end && !team.poll();) {
            Index n_stale = 0, n_near = 0;
            for (; row < end && n_stale < SOME; row++) {
                const Index own = looks.labels[row];
                stale[n_stale] = row;
                n_stale += own < 0 || !(looks.slack[row] - 2 * looks.norms[row] * looks.moved[own] - looks.raised[own] >
                                        given.reach);
            }
            passes_in<C>().lead(job, stale.data(), n_stale, leads.data(), workspace);
            for (Index i = 0; i < n_stale; i++) {
                const Index one = stale[i], own = looks.labels[one];
                const double lead = leads[i] - in_doubt;
                const bool is_sure = lead > given.reach;
                looks.slack[one] = is_sure ? lead + 2 * looks.norms[one] * looks.moved[own] + looks.raised[own] : -INF;
                near[n_near] = one;
                n_near += !is_sure;
            }
            const Index before = Index(found[part].rows.size());
            passes().squares_of(job_exact, near.data(), n_near, squares.data(), n_near, workspace);
            add_contenders(near.data(), n_near, squares.data(), k, given, exact, most_price, looks.labels, found[part]);
            n_found += Index(found[part].rows.size()) - before;
            if (is_limited && n_found > given.most) return;
        }
    });
    if (is_limited && n_found > given.most) found.clear();
    return found;
}

template std::vector<Contenders> contenders<float>(const Rows&, Index, const double*, const Prices&, const Looks&,
                                                   Team&);
template std::vector<Contenders> contenders<double>(const Rows&, Index, const double*, const Prices&, const Looks&,
                                                    Team&);

namespace {

struct Move {
    double length;
    Index choice;
};

// The order of a heap that has the shortest move on top; of equally long ones the first.
struct Longer {
    bool operator()(const Move& a, const Move& b) const {
        return a.length > b.length || (a.length == b.length && a.choice > b.choice);
    }
};

// Rows on their way: see `transport._Mending`.
class Mending {
  public:
    Mending(const Choices& choices, Index* chosen, double* prices)
        : given_(choices), k_(choices.n_clusters), ground_(choices.n_clusters), chosen_(chosen),
          row_of_(choices.begin[choices.n_rows]), surplus_(k_ + 1), wanted_(k_), start_(prices, prices + k_),
          prices_(start_), moves_(k_ * k_), shortest_((k_ + 1) * (k_ + 1), INF), distances_(k_ + 1), before_(k_ + 1),
          open_(k_ + 1) {
        prices_.push_back(0);
        std::vector<Index> sizes(given_.n_staying, given_.n_staying + k_);
        for (Index row = 0; row < given_.n_rows; row++) {
            Index best = given_.begin[row];
            double least = INF;
            for (Index i = given_.begin[row]; i < given_.begin[row + 1]; i++) {
                row_of_[i] = row;
                const double sum = given_.costs[i] + prices[given_.clusters[i]];
                if (sum < least) least = sum, best = i;
            }
            chosen_[row] = best;
            sizes[given_.clusters[best]]++;
            add_moves(row);
        }
        Index n_wanted = 0, n_rows = 0;
        for (Index c = 0; c < k_; c++) {
            wanted_[c] = prices[c] > 0   ? given_.high[c]
                         : prices[c] < 0 ? given_.low[c]
                                         : std::min(std::max(sizes[c], given_.low[c]), given_.high[c]);
            surplus_[c] = sizes[c] - wanted_[c];
            n_wanted += wanted_[c];
            n_rows += sizes[c];
        }
        surplus_[ground_] = n_wanted - n_rows;
        for (std::vector<Move>& heap : moves_) std::make_heap(heap.begin(), heap.end(), Longer());
        for (Index c = 0; c < k_; c++) look_from(c);
    }

    bool run(double reach, double* prices, Team& team) {
        bool is_done = true;
        std::vector<Index> path;
        while (is_done && std::any_of(surplus_.begin(), surplus_.end(), [](Index n) { return n > 0; })) {
            is_done = !team.poll() && find_path(path, reach) && changes() <= reach;
            if (is_done) send_along(path);
        }
        bool is_fixed = true;
        for (Index c = 0; c < k_; c++) is_fixed = is_fixed && given_.low[c] == given_.high[c];
        for (Index c = 0; c < k_; c++) prices[c] = prices_[c] - prices_[is_fixed ? 0 : ground_];
        return is_done;
    }

  private:
    // Moves of a row from the cluster that it is in.
    template <class Then>
    void for_moves(Index row, Then then) {
        const Index own = chosen_[row];
        for (Index i = given_.begin[row]; i < given_.begin[row + 1]; i++)
            if (i != own)
                then(moves_[given_.clusters[own] * k_ + given_.clusters[i]],
                     Move{given_.costs[i] - given_.costs[own], i});
    }

    void add_moves(Index row) {
        for_moves(row, [](std::vector<Move>& heap, Move move) { heap.push_back(move); });
    }

    // The shortest move between two clusters, or null.
    const Move* best(Index from, Index to) {
        std::vector<Move>& heap = moves_[from * k_ + to];
        while (!heap.empty() && given_.clusters[chosen_[row_of_[heap.front().choice]]] != from) {
            std::pop_heap(heap.begin(), heap.end(), Longer());
            heap.pop_back();
        }
        return heap.empty() ? nullptr : &heap.front();
    }

    void look_from(Index cluster) {
        double* lengths = &shortest_[cluster * (k_ + 1)];
        for (Index other = 0; other < k_; other++) {
            const Move* move = other == cluster ? nullptr : best(cluster, other);
            lengths[other] = move == nullptr ? INF : move->length;
        }
        lengths[ground_] = wanted_[cluster] < given_.high[cluster] ? 0 : INF;
        shortest_[ground_ * (k_ + 1) + cluster] = wanted_[cluster] > given_.low[cluster] ? 0 : INF;
    }

    // Dijkstra's algorithm; prices follow. -> whether there is a path
    bool find_path(std::vector<Index>& path, double reach) {
        const Index n = k_ + 1;
        double farthest = 0;
        for (Index i = 0; i < n; i++) {
            distances_[i] = surplus_[i] > 0 ? 0 : INF;
            before_[i] = -1;
            open_[i] = 1;
        }
        Index node;
        double nearest;
        while (true) {
            node = -1;
            nearest = INF;
            for (Index i = 0; i < n; i++)
                if (open_[i] && distances_[i] < nearest) nearest = distances_[i], node = i;
            if (node < 0) {
                const double beyond = reach < INF ? farthest + reach : 0;
                for (Index i = 0; i < n; i++) prices_[i] -= std::min(distances_[i], beyond);
                return false;
            }
            open_[node] = 0;
            farthest = nearest;
            if (surplus_[node] < 0) break;
            const double *lengths = &shortest_[node * n], own = prices_[node];
            for (Index i = 0; i < n; i++) {
                const double length = nearest + std::max(lengths[i] + prices_[i] - own, 0.0);
                if (open_[i] && length < distances_[i]) distances_[i] = length, before_[i] = node;
            }
        }
        for (Index i = 0; i < n; i++) prices_[i] -= std::min(distances_[i], nearest);
        path.assign(1, node);
        while (before_[path.back()] >= 0) path.push_back(before_[path.back()]);
        std::reverse(path.begin(), path.end());
        return true;
    }

    // How far the changes of two prices are apart.
    double changes() const {
        double least = INF, most = -INF;
        for (Index c = 0; c < k_; c++) {
            least = std::min(least, prices_[c] - start_[c]);
            most = std::max(most, prices_[c] - start_[c]);
        }
        return most - least;
    }

    void send_along(const std::vector<Index>& path) {
        surplus_[path.front()]--;
        surplus_[path.back()]++;
        std::vector<Index> moved;
        for (size_t i = 0; i + 1 < path.size(); i++) {
            if (path[i + 1] == ground_) wanted_[path[i]]++;
            else if (path[i] == ground_) wanted_[path[i + 1]]--;
            else moved.push_back(best(path[i], path[i + 1])->choice);
        }
        for (const Index choice : moved) {
            const Index row = row_of_[choice];
            chosen_[row] = choice;
            for_moves(row, [](std::vector<Move>& heap, Move move) {
                heap.push_back(move);
                std::push_heap(heap.begin(), heap.end(), Longer());
            });
        }
        for (const Index node : path)
            if (node != ground_) look_from(node);
    }

    const Choices& given_;
    const Index k_, ground_;  // nodes: the clusters, and the ground as the last
    Index* chosen_;
    std::vector<Index> row_of_, surplus_, wanted_;
    const std::vector<double> start_;
    std::vector<double> prices_;
    std::vector<std::vector<Move>> moves_;  // heaps for each two clusters
    std::vector<double> shortest_, distances_;
    std::vector<Index> before_;
    std::vector<char> open_;
};

}  // namespace

bool mend(const Choices& choices, double reach, Index* chosen, double* prices, Team& team) {
    return Mending(choices, chosen, prices).run(reach, prices, team);
}

}  // namespace kmeans
