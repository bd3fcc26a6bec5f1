#include "lloyd.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace kmeans {
namespace {

constexpr Index MOST_BETWEEN = 2048;  // centers whose distances from each other are kept, 32 MiB
constexpr Index MOST_COMPACT = 1 << 22;  // bytes of compact rows, that caches may hold
constexpr Index FEWEST_TO_LEAD = 32;  // features, for leading coordinates
constexpr double ROUNDED_UP = 1 + 1e-12;

std::vector<const Passes*> runnable() {  // from the best one
    std::vector<const Passes*> found;
#if defined(KMEANS_DISPATCH)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd"))
        found.push_back(&avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        found.push_back(&avx2);
#endif
    found.push_back(&baseline);
    return found;
}

std::atomic<const Passes*> in_use{runnable().front()};

// Whether parts of a pass would take much memory if they had sums of clusters of their own.
bool are_many(Index n_parts, Index n_clusters, Index n_features) {
    return double(n_parts) * double(n_clusters * n_features) > thresholds.most_summed;
}

// Bring sums up to date by ranges of clusters, after a pass whose parts are not to sum; anew if `before` is null.
void sum_changes(const Rows& rows, const double* sample_weight, const int32_t* before, const int32_t* labels,
                 Index n_clusters, double* sums, double* weights, Team& team) {
    if (before == nullptr) {
        std::fill_n(sums, n_clusters * rows.n_features, 0.0);
        std::fill_n(weights, n_clusters, 0.0);
    }
    const Index n_ranges = std::min(FEW_PARTS, n_clusters);
    team.run(n_ranges, true, [&](Index range, int) {
        const Index begin = n_clusters * range / n_ranges, end = n_clusters * (range + 1) / n_ranges;
        passes().sum_changes(rows, sample_weight, before, labels, begin, end, sums, weights);
    });
}

}  // namespace

Thresholds thresholds;

double dot(const double* a, const double* b, Index n) {
    double total = 0;
    for (Index i = 0; i < n; i++) total += a[i] * b[i];
    return total;
}

double sq_distance(const double* a, const double* b, Index n) {
    double total = 0;
    for (Index i = 0; i < n; i++) total += (a[i] - b[i]) * (a[i] - b[i]);
    return total;
}

const Passes& passes() { return *in_use.load(std::memory_order_relaxed); }

bool use_passes(const std::string& name) {
    for (const Passes* one : runnable()) {
        if (name != one->name) continue;
        in_use.store(one, std::memory_order_relaxed);
        return true;
    }
    return false;
}

template <class C>
Lloyd<C>::Lloyd(const Rows& rows, const double* sample_weight, Index n_clusters, const Frame& frame, Team& team)
    : Iterations(n_clusters, rows.n_features, frame, team),
      rounding_(20 * (double(roundings_of_sum(rows.n_features)) + 8) * double(std::numeric_limits<C>::epsilon())),
      doubt_((double(roundings_of_sum(rows.n_features)) + 10) * double(std::numeric_limits<C>::epsilon())),
      n_parts_(count_parts(rows.n_samples, double(rows.n_samples) * size_, n_clusters)),
      pays_(double(rows.n_samples) * size_ > thresholds.parallel_work),
      may_lead_(thresholds.leading_work < 0 ||
                (double(rows.n_samples) * size_ > thresholds.leading_work && rows.n_features >= FEWEST_TO_LEAD)),
      bytes_(workspace_bytes(rows.n_samples, rows.n_features, n_clusters) +
             (may_lead_ ? leading_bytes(rows.n_features) : 0)), minus_2_centers_(size_),
      sq_norms_(n_clusters), workspaces_((pays_ ? team.n_threads() : 1) * bytes_) {
    job_.rows = rows;
    job_.sample_weight = sample_weight;
    job_.n_clusters = n_clusters;
    job_.minus_2_centers = minus_2_centers_;
    job_.sq_norms = sq_norms_;
    job_.settle = nearest_by_differences<C>;
    job_.stops = Team::stops;
    job_.stopping = &team;
    job_.too_large = &too_large_;
    job_.not_finite = &not_finite_;
}

// Coefficients of scores, as `nearest.coefficients`, and leading coordinates where they pay.
template <class C>
void Lloyd<C>::compare_with(const double* centers) {
    const Index d = job_.rows.n_features;
    job_.centers = centers;
    double most = 0;
    bool in_range = true;
    for (Index c = 0; c < n_clusters_; c++) {
        for (Index f = 0; f < d; f++) minus_2_centers_[c * d + f] = C(-2 * centers[c * d + f]);
        sq_norms_[c] = C(dot(centers + c * d, centers + c * d, d) * (1 - doubt_ / 2));
        in_range = in_range && std::isfinite(sq_norms_[c]);
        most = std::max(most, double(sq_norms_[c]));
    }
    // float32 numbers too small to be normal are taken for 0
    const double flushed = sizeof(C) == 4 ? 8 * (d + 4) * double(std::numeric_limits<float>::min()) : 0;
    job_.rounding = {C(rounding_), C(rounding_ * most + flushed),
                     in_range ? C(doubt_) : std::numeric_limits<C>::infinity(), C(flushed)};
    if (may_lead_) find_axes();
    if (job_.leading.n_axes > 0) lead_by(job_.leading.n_axes);
}

// Have rows compared by their coordinates along the first axes.
template <class C>
void Lloyd<C>::lead_by(Index n_axes) {
    const Index d = job_.rows.n_features, m = n_axes;
    const double epsilon = double(std::numeric_limits<C>::epsilon());
    leading_centers_.resize(n_clusters_ * (m + 1));
    team_.run(16, pays_, [&](Index part, int) {
        for (Index c = n_clusters_ * part / 16; c < n_clusters_ * (part + 1) / 16; c++) {
            const double* center = job_.centers + c * d;
            const double whole = dot(center, center, d);
            double left = whole;
            for (Index a = 0; a < m; a++) {
                double along = 0;
                for (Index f = 0; f < d; f++) along += center[f] * double(axes_[a * d + f]);
                leading_centers_[c * (m + 1) + a] = C(-2 * along);
                left -= along * along;
            }
            left = std::sqrt(std::max(left, 0.0) + 4 * std::sqrt(double(m)) * epsilon * whole);
            leading_centers_[c * (m + 1) + m] = C(-2 * left * (1 + epsilon));
        }
    });
    const double of_coordinates = std::sqrt(double(m)) * (double(roundings_of_sum(d)) + 4) * epsilon;
    const double error = 2 * (of_coordinates + (double(m) + 6) * epsilon), least = double(job_.rounding.least);
    const double most = (double(job_.rounding.offset) - least) / rounding_, margin = 1.01 * (error + doubt_);
    job_.leading = {m, axes_.data(), leading_centers_.data(), C(4 * of_coordinates + (double(m) + 8) * epsilon),
                    C(error), C(error * most + least), C(margin), C(margin * most + 3 * least)};
}

// Axes, and how many of them to make use of, if any; judged by some rows.
template <class C>
void Lloyd<C>::find_axes() {
    may_lead_ = false;
    const Index n = job_.rows.n_samples, d = job_.rows.n_features, k = n_clusters_, most = std::min(MOST_AXES, d / 2);
    const std::vector<double> axes = leading_axes(job_.rows, most, team_);
    axes_.assign(axes.begin(), axes.end());
    constexpr Index JUDGED = 4 * MOST_LANES;
    Index which[JUDGED], best = 0;
    for (Index i = 0; i < JUDGED; i++) which[i] = n * i / JUDGED;
    double least = thresholds.leading_work < 0 ? INFINITY : 0.8 * double(k * d);  // multiplications a row
    for (Index m = std::min<Index>(16, most); m > 0 && m <= most; m *= 2) {
        lead_by(m);
        const Index n_compared = passes_in<C>().count_candidates(job_, which, JUDGED, workspaces_);
        const double work = 1.25 * double(k * (m + 1)) + double(m * d) + double(n_compared) / JUDGED * (6.0 * double(d) + 300);
        if (work >= least) continue;
        least = work;
        best = m;
    }
    axes_.resize(best * d);
    job_.leading.n_axes = best;
}

// Rows that passes go on to look at are made compact, if they are few; wide enough to be turned over in squares.
template <class C>
void Lloyd<C>::make_compact() {
    const Index n = job_.rows.n_samples, d = job_.rows.n_features, stride = (d + SQUARE) / SQUARE * SQUARE;
    if (d <= FEW || n * stride * Index(sizeof(C)) > MOST_COMPACT) return;
    compact_ = std::make_unique<Memory<C>>(n * stride);
    C* numbers = *compact_;
    const Index n_parts = count_parts(n, 8.0 * double(n) * double(d));
    team_.run(n_parts, pays_, [&](Index part, int) {
        passes_in<C>().compact(job_.rows, n * part / n_parts, n * (part + 1) / n_parts, numbers, stride);
    });
    job_.compact = {numbers, stride};
}

template <class C>
Counts Lloyd<C>::relabel(State* state) {
    const bool anew = state->slack == nullptr, adds_later = are_many(n_parts_, n_clusters_, job_.rows.n_features);
    if (!totals_) totals_ = std::make_unique<PartTotals>(n_parts_, adds_later ? 0 : n_clusters_, job_.rows.n_features);
    if (adds_later && !anew) labels_before_.assign(state->labels, state->labels + job_.rows.n_samples);
    for (Index part = 0; part < n_parts_; part++) totals_->begin(part);
    team_.run(n_parts_, pays_, [&](Index part, int worker) {
        passes_in<C>().relabel(job_, {part, n_parts_}, &totals_->begin(part), workspaces_ + worker * bytes_);
    });
    if (adds_later) {
        sum_changes(job_.rows, job_.sample_weight, anew ? nullptr : labels_before_.data(), state->labels, n_clusters_,
                    state->sums, state->weights, team_);
    } else if (anew) {
        std::fill_n(state->sums, size_, 0.0);
        std::fill_n(state->weights, n_clusters_, 0.0);
    }
    return totals_->add_to(state->sums, state->weights);
}

template <class C>
void Lloyd<C>::assign(const double* centers, int32_t* labels) {
    compare_with(centers);
    job_.labels = labels;
    const Index n_parts = count_parts(job_.rows.n_samples, double(job_.rows.n_samples) * size_);
    team_.run(n_parts, pays_, [&](Index part, int worker) {
        passes_in<C>().relabel(job_, {part, n_parts}, nullptr, workspaces_ + worker * bytes_);
    });
}

void advance(const double* moved, Index n_clusters, double* path) {
    Index fastest = 0;
    double second = 0;
    for (Index c = 1; c < n_clusters; c++) {
        if (moved[c] > moved[fastest]) {
            second = moved[fastest];
            fastest = c;
        } else {
            second = std::max(second, moved[c]);
        }
    }
    for (Index c = 0; c < n_clusters; c++) {
        const double others = n_clusters == 1 ? 0 : c == fastest ? second : moved[fastest];
        path[c] = (path[c] + moved[c] + others) * ROUNDED_UP;
    }
}

// Distances between centers, if they repay to be measured; judged by 64 rows.
template <class C>
bool Lloyd<C>::measure_between(const State& state) {
    const Index n = job_.rows.n_samples, d = job_.rows.n_features, k = n_clusters_;
    if (k * (d + 8) <= thresholds.saved_products || k > MOST_BETWEEN || 16 * k > n || state.labels[0] < 0) return false;
    if (last_active_ >= 0 && last_active_ < 4 * k) return false;
    if (!between_) {
        between_ = std::make_unique<Memory<double>>(k * k);
        nearest_other_ = std::make_unique<Memory<double>>(k);
    }
    double *between = *between_, *nearest_other = *nearest_other_;
    const std::vector<double> zero(d);
    const Rows rows{reinterpret_cast<const char*>(job_.centers), k, d, 8 * d, 8, Dtype::float64, zero.data()};
    const Squares squares{rows, k, job_.centers};
    const double too_much = 2 * double(job_.rounding.offset);
    const Index n_parts = std::max<Index>(1, std::min<Index>(16, k / 32));
    team_.run(n_parts, double(k) * k * d > thresholds.parallel_work, [&](Index part, int worker) {
        // Column begin to end of all rows, which is rows begin to end as they are symmetric
        const Index begin = k * part / n_parts, end = k * (part + 1) / n_parts;
        passes().squares(squares, begin, end, between + begin, k, workspaces_ + worker * bytes_);
        for (Index c = 0; c < k; c++)
            for (Index i = c * k + begin; i < c * k + end; i++)
                between[i] = std::sqrt(std::max(between[i] - too_much, 0.0));
    });
    for (Index c = 0; c < k; c++) {
        double least = INFINITY;
        for (Index i = 0; i < k; i++)
            if (i != c) least = std::min(least, between[c * k + i]);
        nearest_other[c] = least;
    }
    const Index step = (n + 63) / 64;
    Rows some = job_.rows;
    some.n_samples = (n + step - 1) / step;
    some.row_stride *= step;
    int32_t owns[64];
    double found[64];
    for (Index i = 0; i < some.n_samples; i++) owns[i] = state.labels[i * step];
    passes().own(some, owns, job_.centers, {0, 1}, found);
    double share = 0;
    for (Index i = 0; i < some.n_samples; i++) {
        const int32_t own = owns[i];
        const double reach = 2 * std::sqrt(found[i]);
        if (reach > nearest_other[own]) {
            Index within = 0;
            for (Index c = own * k; c < (own + 1) * k; c++) within += between[c] <= reach + nearest_other[own];
            share += double(within) / double(k);
        }
    }
    return (1 - share / double(some.n_samples)) * double(k * (d + 8)) > thresholds.saved_products;
}

template <class C>
Counts Lloyd<C>::step(const double* centers, State& state) {
    if (state.slack != nullptr && state.begun) {
        const Index d = job_.rows.n_features;
        std::vector<double> moved(n_clusters_);
        for (Index c = 0; c < n_clusters_; c++)
            moved[c] = std::sqrt(sq_distance(centers + c * d, state.centers_old + c * d, d));
        advance(moved.data(), n_clusters_, state.path);
    }
    job_.labels = state.labels;
    job_.slack = state.slack;
    job_.path = state.path;
    compare_with(centers);
    job_.between = nullptr;
    if (job_.leading.n_axes == 0 && state.slack != nullptr && measure_between(state)) {
        job_.between = *between_;
        job_.nearest_other = *nearest_other_;
    }
    if (looked_at_ > job_.rows.n_samples && !compact_) make_compact();
    const Counts counts = relabel(&state);
    last_active_ = counts.n_active;
    looked_at_ += counts.n_active;
    many_doubts_ = 64 * counts.n_settled > counts.n_active + 1000;
    return counts;
}

template <class C>
Numbers Lloyd<C>::move(double* centers, const State& state) {
    const Index d = job_.rows.n_features;
    const double *origin = frame_.origin, *centers_old = state.centers_old;
    double total = 0, crossed = 0, squared = 0, shift = 0;
    for (Index c = 0; c < n_clusters_; c++) {
        total += state.weights[c];
        crossed += dot(centers_old + c * d, state.sums + c * d, d);
        squared += state.weights[c] * dot(centers_old + c * d, centers_old + c * d, d);
    }
    std::vector<double> mean(d);
    Index n_empty = 0;
    for (Index c = 0; c < n_clusters_; c++) {
        const double* old = centers_old + c * d;
        const double weight = state.weights[c];
        n_empty += weight <= FAINT * total;
        for (Index f = 0; f < d; f++) mean[f] = weight == 0 ? old[f] : state.sums[c * d + f] / weight;
        if (frame_.spherical) {
            double norm = 0;
            for (Index f = 0; f < d; f++) norm += (mean[f] + origin[f]) * (mean[f] + origin[f]);
            norm = std::sqrt(norm);
            for (Index f = 0; f < d; f++) mean[f] = norm > 0 ? (mean[f] + origin[f]) / norm - origin[f] : old[f];
        }
        for (Index f = 0; f < d; f++) {
            const double place = mean[f] + origin[f];
            const double center = (frame_.to_floats ? double(float(place)) : place) - origin[f];
            shift += (center - old[f]) * (center - old[f]);
            centers[c * d + f] = center;
        }
    }
    return {0, 0, shift, inertia_of(frame_, total, crossed, squared), double(n_empty)};
}

// Sums kept up to date carry the rounding of their history.
template <class C>
void Lloyd<C>::sum(State& state) {
    sum_clusters(job_.rows, job_.sample_weight, state.labels, n_clusters_, state.sums, state.weights, team_);
}

double inertia_of(const Frame& frame, double weight, double crossed, double squared) {
    const double inertia = std::max(weight * frame.spread - (2 * crossed - squared), 0.0);
    return frame.spherical ? inertia / 2 : inertia;
}

std::vector<Numbers> Iterations::iterate(double* centers, State& state, Index most, double tol) {
    double *const given[] = {centers, state.centers_old};
    std::vector<Numbers> found;
    const auto began = std::chrono::steady_clock::now();
    state.fresh = false;
    bool ends = false;
    while (!ends) {
        const bool added_anew = !state.begun;  // all rows, to sums of zeros
        const auto counts = step(centers, state);
        std::swap(centers, state.centers_old);
        state.begun = true;
        if (team_.stopped()) return found;
        const bool unchanged = counts.n_changed == 0, was_fresh = state.fresh && unchanged;
        Numbers numbers = move(centers, state);
        state.fresh = state.slack == nullptr || was_fresh || added_anew;
        const bool in_order = std::isfinite(numbers.shift) && std::isfinite(numbers.inertia) &&
                              numbers.n_empty == 0 && !too_large();
        if (in_order && !state.fresh && (unchanged || numbers.shift <= tol)) {
            sum(state);
            move(centers, state);  // the shift is that which decided
            state.fresh = true;
            if (unchanged) continue;  // another look, with fresh means
        }
        numbers.n_changed = double(counts.n_changed);
        numbers.n_active = state.slack == nullptr ? 0 : double(counts.n_active);
        found.push_back(numbers);
        ends = !in_order || unchanged || numbers.shift <= tol || Index(found.size()) >= most || many_doubts() ||
               (Index(found.size()) >= fewest() &&
                std::chrono::steady_clock::now() - began > std::chrono::milliseconds(50));
    }
    if (centers != given[0]) std::swap_ranges(centers, centers + size_, state.centers_old);
    state.centers_old = given[1];
    return found;
}

template <class C>
bool Lloyd<C>::finish(double* centers, State& state, const Numbers& last, double tol) {
    const bool unchanged = last.n_changed == 0;
    if (unchanged) {
        std::copy_n(state.centers_old, size_, centers);
        return true;
    }
    if (!state.fresh) {
        sum(state);
        move(centers, state);
    }
    step(centers, state);
    return last.shift <= tol;
}

Completed complete_run(const Rows& rows, const double* sample_weight, double* centers, int32_t* labels, double* weights,
                       Index n_clusters, const Frame& frame, bool floats, bool bounded, Index most, double tol,
                       Team& team) {
    const Index n = rows.n_samples, size = n_clusters * rows.n_features;
    std::vector<double> slack(bounded ? n : 0, -INFINITY), path(n_clusters), sums(size), centers_old(size);
    std::fill_n(labels, n, -1);
    std::fill_n(weights, n_clusters, 0.0);
    State state{labels, bounded ? slack.data() : nullptr, path.data(), sums.data(), weights, centers_old.data(), false};
    Completed run;
    bool ended = false, in_order = true;
    const auto go_on = [&](auto type) {
        Lloyd<decltype(type)> lloyd(rows, sample_weight, n_clusters, frame, team);
        while (in_order && !ended && floats == (sizeof(type) == 4)) {
            const auto found = lloyd.iterate(centers, state, most - Index(run.numbers.size()), tol);
            run.numbers.insert(run.numbers.end(), found.begin(), found.end());
            in_order = !team.stopped() && !lloyd.too_large() && std::isfinite(found.back().shift) &&
                       std::isfinite(found.back().inertia) && found.back().n_empty == 0;
            if (!in_order) return;
            const Numbers& last = found.back();
            ended = last.n_changed == 0 || last.shift <= tol || Index(run.numbers.size()) == most;
            if (ended) run.converged = lloyd.finish(centers, state, last, tol);
            in_order = !team.stopped() && !lloyd.too_large();
            floats = floats && !lloyd.many_doubts();
        }
    };
    while (in_order && !ended) floats ? go_on(float()) : go_on(double());
    if (!in_order) return {};
    run.inertia = inertia(rows, sample_weight, labels, centers, team);
    std::vector<char> seen(n_clusters);
    for (Index row = 0; row < n; row++) seen[labels[row]] = 1;
    run.n_distinct = std::count(seen.begin(), seen.end(), 1);
    return run;
}

double inertia(const Rows& rows, const double* sample_weight, const int32_t* labels, const double* centers, Team& team) {
    constexpr Index TOGETHER = 256;  // rows, so that rounding does not grow with their number
    constexpr Index MEASURED = TOGETHER << 10;  // whose squares are in memory
    const Memory<double> squares(std::min(MEASURED, rows.n_samples));
    const std::vector<int32_t> zeros(labels == nullptr ? std::min(MEASURED, rows.n_samples) : 0);
    double total = 0;
    for (Index first = 0; first < rows.n_samples; first += MEASURED) {
        Rows part = rows;
        part.data += first * rows.row_stride;
        part.n_samples = std::min(MEASURED, rows.n_samples - first);
        squares_from_own(part, labels == nullptr ? zeros.data() : labels + first, centers, squares, team);
        for (Index begin = 0; begin < part.n_samples; begin += TOGETHER) {
            double some = 0;
            for (Index row = begin; row < std::min(begin + TOGETHER, part.n_samples); row++)
                some += sample_weight[first + row] * squares[row];
            total += some;
        }
    }
    return total;
}

template <class C>
std::vector<double> Lloyd<C>::batch_step(double* centers, double* counts) {
    const Index n = job_.rows.n_samples, d = job_.rows.n_features;
    std::vector<int32_t> labels(n, -1);
    std::vector<double> sums(size_), weights(n_clusters_), path(n_clusters_), before(centers, centers + size_);
    State state{labels.data(), nullptr, path.data(), sums.data(), weights.data(), before.data(), false};
    step(before.data(), state);
    const double inertia = kmeans::inertia(job_.rows, job_.sample_weight, labels.data(), before.data(), team_);
    const double least_before = *std::min_element(counts, counts + n_clusters_);
    for (Index c = 0; c < n_clusters_; c++) {
        for (Index f = 0; f < d; f++) sums[c * d + f] += counts[c] * before[c * d + f];
        counts[c] = weights[c] += counts[c];
    }
    const double shift = move(centers, state).shift;
    const auto [least, most] = std::minmax_element(counts, counts + n_clusters_);
    return {inertia, shift, least_before, *least, *most};
}

void sum_clusters(const Rows& rows, const double* sample_weight, const int32_t* labels, Index n_clusters, double* sums,
                  double* weights, Team& team) {
    const double work = 8.0 * double(rows.n_samples) * double(rows.n_features);
    const Index n_parts = count_parts(rows.n_samples, work, n_clusters);
    if (are_many(n_parts, n_clusters, rows.n_features))
        return sum_changes(rows, sample_weight, nullptr, labels, n_clusters, sums, weights, team);
    PartTotals totals(n_parts, n_clusters, rows.n_features);
    for (Index part = 0; part < n_parts; part++) totals.begin(part);
    team.run(n_parts, work > thresholds.parallel_work, [&](Index part, int) {
        passes().sum(rows, sample_weight, labels, {part, n_parts}, totals.begin(part));
    });
    std::fill_n(sums, n_clusters * rows.n_features, 0.0);
    std::fill_n(weights, n_clusters, 0.0);
    totals.add_to(sums, weights);
}

void sum_rows(const Rows& rows, const double* sample_weight, double* sums, double* weight, Team& team) {
    const std::vector<int32_t> together(rows.n_samples);
    sum_clusters(rows, sample_weight, together.data(), 1, sums, weight, team);
}

void squares_from_own(const Rows& rows, const int32_t* labels, const double* centers, double* squares, Team& team) {
    const double work = 8.0 * double(rows.n_samples) * double(rows.n_features);
    const Index n_parts = count_parts(rows.n_samples, work);
    team.run(n_parts, work > thresholds.parallel_work,
             [&](Index part, int) { passes().own(rows, labels, centers, {part, n_parts}, squares); });
}

template class Lloyd<float>;
template class Lloyd<double>;

}  // namespace kmeans
