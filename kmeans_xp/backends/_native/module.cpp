// What Python sees: arrays are checked here, and the interpreter's lock is released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "fit.hpp"
#include "optimal.hpp"
#include "sizes.hpp"
#include "sparse.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace kmeans;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw nb::value_error(what);
}

Dtype dtype_of(nb::dlpack::dtype dtype) {
    if (dtype == nb::dtype<float>()) return Dtype::float32;
    require(dtype == nb::dtype<double>(), "rows are of float32 or float64");
    return Dtype::float64;
}

// That of an array, which may be a narrow one.
Dtype dtype_of_array(nb::dlpack::dtype dtype) {
    if (dtype == nb::dtype<int8_t>()) return Dtype::int8;
    if (dtype == nb::dtype<uint8_t>() || dtype == nb::dtype<bool>()) return Dtype::uint8;
    if (dtype == nb::dtype<int16_t>()) return Dtype::int16;
    if (dtype == nb::dtype<uint16_t>()) return Dtype::uint16;
    if (dtype.code == uint8_t(nb::dlpack::dtype_code::Float) && dtype.bits == 16 && dtype.lanes == 1)
        return Dtype::float16;
    return dtype_of(dtype);
}

Rows rows_of(const AnyRows& X, const Vector<const double>& origin) {
    require(X.shape(1) == origin.shape(0), "the origin has another number of features");
    require(X.size() > 0, "no rows, or no features");
    const Index size = X.itemsize();
    return {static_cast<const char*>(X.data()), Index(X.shape(0)), Index(X.shape(1)), X.stride(0) * size,
            X.stride(1) * size, dtype_of_array(X.dtype()), origin.data()};
}

// Numbers, columns and, for each row, where it begins among them: of a CSR matrix. It may have been changed since it was
// checked, so that is done here, too.
using Stored = std::tuple<nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>,
                          nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>, Vector<const Index>>;

template <class I>
bool are_columns(const void* columns, Index begin, Index end, Index n_features) {
    bool inside = true;
    for (Index i = begin; i < end; i++) {
        I column;
        std::memcpy(&column, static_cast<const char*>(columns) + i * Index(sizeof(I)), sizeof(I));
        inside &= uint64_t(column) < uint64_t(n_features);
    }
    return inside;
}

SparseRows rows_of(const Stored& X, const Vector<const double>& origin) {
    const auto& [data, columns, begins] = X;
    const Index d = origin.shape(0), n = Index(begins.shape(0)) - 1;
    require(n > 0 && d > 0, "no rows, or no features");
    const bool wide = columns.dtype() == nb::dtype<int64_t>();
    require(wide || columns.dtype() == nb::dtype<int32_t>(), "columns are of int32 or int64");
    const Index *at = begins.data(), n_numbers = std::min(data.shape(0), columns.shape(0));
    bool ascend = at[0] >= 0 && at[n] <= n_numbers;
    for (Index row = 0; row < n; row++) ascend &= at[row] <= at[row + 1];
    require(ascend, "rows that begin or end beyond the numbers of the matrix");
    require(wide ? are_columns<int64_t>(columns.data(), at[0], at[n], d)
                 : are_columns<int32_t>(columns.data(), at[0], at[n], d),
            "numbers in columns that the matrix has not");
    return {static_cast<const char*>(data.data()), static_cast<const char*>(columns.data()), at, n, d,
            dtype_of(data.dtype()), wide, origin.data()};
}

template <class Array>
void require_rows(const Array& array, Index n) { require(Index(array.shape(0)) == n, "arrays of different lengths"); }

template <class Array>
void require_shape(const Array& array, Index n, Index d) {
    require(Index(array.shape(0)) == n && Index(array.shape(1)) == d, "arrays of different shapes");
}

template <class Array>
void require_centers(const Array& centers, Index d) {
    require(centers.shape(0) > 0, "no centers");
    require_shape(centers, centers.shape(0), d);
}

void require_labels(const Vector<const int32_t>& labels, Index n_clusters) {
    bool inside = true;
    for (size_t i = 0; i < labels.shape(0); i++)
        inside &= uint32_t(labels.data()[i]) < uint64_t(n_clusters);
    require(inside, "labels of no cluster");
}

// Those of a run: of all rows, or of none yet.
void require_labels_so_far(const Vector<int32_t>& labels, Index n_clusters) {
    const int32_t* first = labels.data();
    const bool none = *first < 0;
    bool inside = true;
    for (size_t i = 0; i < labels.shape(0); i++)
        inside &= none ? first[i] < 0 : uint32_t(first[i]) < uint64_t(n_clusters);
    require(inside, "labels of no cluster");
}

bool interrupted() {
    nb::gil_scoped_acquire lock;
    return PyErr_CheckSignals() != 0;
}

// Call function(team) without the interpreter's lock; raises what a signal's handler has raised.
template <class Function>
void without_lock(int n_threads, Function function) {
    bool stopped;
    {
        nb::gil_scoped_release unlocked;
        Team team(n_threads, interrupted);
        function(team);
        stopped = team.stopped();
    }
    if (stopped) throw nb::python_error();
}

template <class Function>
auto in_dtype(bool floats, Function function) {
    if (floats) return function(float());
    return function(double());
}

Frame frame_of(const nb::tuple& frame, Index n_features) {
    require(nb::len(frame) == 4, "a frame has four parts");
    const auto origin = nb::cast<Vector<const double>>(frame[0], false);
    require_rows(origin, n_features);
    return {origin.data(), nb::cast<double>(frame[1]), nb::cast<bool>(frame[2]), nb::cast<bool>(frame[3])};
}

// Call function(lloyd) for rows of a kind; arrays are compared in float32 or float64.
template <class Function>
void with_lloyd(const Rows& rows, const double* sample_weight, Index n_clusters, const Frame& frame, bool floats,
                Team& team, Function function) {
    in_dtype(floats, [&](auto type) {
        Lloyd<decltype(type)> lloyd(rows, sample_weight, n_clusters, frame, team);
        function(lloyd);
    });
}

template <class Function>
void with_lloyd(const SparseRows& rows, const double* sample_weight, Index n_clusters, const Frame& frame, bool,
                Team& team, Function function) {
    SparseLloyd lloyd(rows, sample_weight, n_clusters, frame, team);
    function(lloyd);
}

// -> whether all squared distances are in range
template <class Kind>
bool assign(Kind X, Vector<const double> origin, Matrix<const double> centers, bool floats, Vector<int32_t> labels,
            int n_threads) {
    const auto rows = rows_of(X, origin);
    require_centers(centers, rows.n_features);
    require_rows(labels, rows.n_samples);
    bool in_range = true;
    without_lock(n_threads, [&](Team& team) {
        with_lloyd(rows, nullptr, centers.shape(0), {nullptr, 0, false, false}, floats, team, [&](auto& lloyd) {
            lloyd.assign(centers.data(), labels.data());
            in_range = !lloyd.too_large();
        });
    });
    return in_range;
}

// An origin as rows of a dtype see it, and centers relative to that, as `frame.frame_at` and `Frame.enter`.
struct Seen {
    std::vector<double> origin, centers;

    Seen(const Vector<const double>& given, const AnyRows& absolute, bool floats)
        : origin(given.data(), given.data() + given.shape(0)), centers(absolute.shape(0) * absolute.shape(1)) {
        const Rows rows = rows_of(absolute, given);
        if (floats)
            for (double& place : origin) place = double(float(place));
        for (Index c = 0, i = 0; c < rows.n_samples; c++)
            for (Index f = 0; f < rows.n_features; f++, i++) centers[i] = number_of(rows, c, f) - origin[f];
    }
};

// Labels for centers as a user has them. -> whether all numbers are finite, and squared distances in range
bool labels_at_once(AnyRows X, Vector<const double> origin, AnyRows centers, bool floats, Vector<int32_t> labels,
                    int n_threads) {
    Rows rows = rows_of(X, origin);
    require_rows(labels, rows.n_samples);
    const Seen seen(origin, centers, rows.dtype == Dtype::float32);
    rows.origin = seen.origin.data();
    bool in_range = true;
    without_lock(n_threads, [&](Team& team) {
        in_dtype(floats, [&](auto type) {
            Lloyd<decltype(type)> pass(rows, nullptr, centers.shape(0), {nullptr, 0, false, false}, team);
            pass.assign(seen.centers.data(), labels.data());
            in_range = !pass.too_large() && !pass.not_finite();
        });
    });
    return in_range;
}

// Where a run stands, in arrays of the shapes that go with its rows and centers.
template <class RowsOfAKind>
State state_of(const RowsOfAKind& rows, const Vector<const double>& sample_weight, Index n_clusters,
               const Vector<int32_t>& labels, const std::optional<Vector<double>>& slack, const Vector<double>& path,
               const Matrix<double>& sums, const Vector<double>& weights) {
    require_rows(sample_weight, rows.n_samples);
    require_rows(labels, rows.n_samples);
    require_labels_so_far(labels, n_clusters);
    if (slack) require_rows(*slack, rows.n_samples);
    require_rows(path, n_clusters);
    require_shape(sums, n_clusters, rows.n_features);
    require_rows(weights, n_clusters);
    return {labels.data(), slack ? slack->data() : nullptr, path.data(), sums.data(), weights.data(), nullptr, false};
}

using IterationNumbers = std::tuple<double, double, double, double, double>;

std::vector<IterationNumbers> as_tuples(const std::vector<Numbers>& found) {
    std::vector<IterationNumbers> numbers;
    for (const Numbers& one : found)
        numbers.emplace_back(one.n_changed, one.n_active, one.shift, one.inertia, one.n_empty);
    return numbers;
}

// -> numbers of each iteration, none if squared distances are not in range; whether sums were added up anew; whether
// float32 left many doubts
template <class Kind>
std::tuple<std::vector<IterationNumbers>, bool, bool> iterate(
    Kind X, Vector<const double> origin, Vector<const double> sample_weight, Matrix<double> centers,
    Vector<int32_t> labels, std::optional<Vector<double>> slack, Vector<double> path, Matrix<double> sums,
    Vector<double> weights, Matrix<double> centers_old, bool begun, nb::tuple frame, bool floats, Index most,
    double tol, int n_threads) {
    const auto rows = rows_of(X, origin);
    const Index d = rows.n_features, k = centers.shape(0);
    require_centers(centers, d);
    State state = state_of(rows, sample_weight, k, labels, slack, path, sums, weights);
    require_shape(centers_old, k, d);
    state.centers_old = centers_old.data();
    state.begun = begun;
    const Frame seen = frame_of(frame, d);
    std::vector<Numbers> found;
    bool in_doubt = false;
    without_lock(n_threads, [&](Team& team) {
        with_lloyd(rows, sample_weight.data(), k, seen, floats, team, [&](auto& lloyd) {
            found = lloyd.iterate(centers.data(), state, most, tol);
            in_doubt = lloyd.many_doubts();
            if (lloyd.too_large()) found.clear();
        });
    });
    return {as_tuples(found), state.fresh, in_doubt};
}

// Numbers as an array of NumPy that owns them.
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> owned(std::vector<T>&& numbers) {
    auto* kept = new std::vector<T>(std::move(numbers));
    const nb::capsule owner(kept, [](void* place) noexcept { delete static_cast<std::vector<T>*>(place); });
    return nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner);
}

// Numbers of the iterations of a run one after the other, none if it did not come to an end; inertia, clusters that have
// rows, whether it converged.
using OfRun = std::tuple<nb::ndarray<nb::numpy, double, nb::ndim<1>>, double, Index, bool>;

OfRun of_run(const Completed& run) {
    std::vector<double> numbers;
    for (const Numbers& one : run.numbers)
        numbers.insert(numbers.end(), {one.n_changed, one.n_active, one.shift, one.inertia, one.n_empty});
    return {owned(std::move(numbers)), run.inertia, run.n_distinct, run.converged};
}

// A whole run.
OfRun run(
    AnyRows X, Vector<const double> origin, Vector<const double> sample_weight, Matrix<double> centers,
    Vector<int32_t> labels, Vector<double> weights, nb::tuple frame, bool floats, bool bounded, Index most, double tol,
    int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index k = centers.shape(0);
    require_rows(sample_weight, rows.n_samples);
    require_centers(centers, rows.n_features);
    require_rows(labels, rows.n_samples);
    require_rows(weights, k);
    require(most > 0, "no iterations");
    const Frame seen = frame_of(frame, rows.n_features);
    Completed found;
    without_lock(n_threads, [&](Team& team) {
        found = complete_run(rows, sample_weight.data(), centers.data(), labels.data(), weights.data(), k, seen, floats,
                             bounded, most, tol, team);
    });
    return of_run(found);
}

// One step without moving the centers. -> rows changed, looked at; -1 if squared distances are not in range
template <class Kind>
std::pair<Index, Index> step(Kind X, Vector<const double> origin, Vector<const double> sample_weight,
                             Matrix<const double> centers, Vector<int32_t> labels, std::optional<Vector<double>> slack,
                             Vector<double> path, Matrix<double> sums, Vector<double> weights, bool floats,
                             int n_threads) {
    const auto rows = rows_of(X, origin);
    const Index k = centers.shape(0);
    require_centers(centers, rows.n_features);
    State state = state_of(rows, sample_weight, k, labels, slack, path, sums, weights);
    Counts counts;
    without_lock(n_threads, [&](Team& team) {
        with_lloyd(rows, sample_weight.data(), k, {nullptr, 0, false, false}, floats, team, [&](auto& lloyd) {
            counts = lloyd.step(centers.data(), state);
            if (lloyd.too_large()) counts.n_changed = -1;
        });
    });
    return {counts.n_changed, counts.n_active};
}

// A step of mini-batch k-means. -> what batches.batch_step says; nothing if squared distances are not in range
std::vector<double> batch_step(AnyRows X, Vector<const double> origin, Vector<const double> sample_weight,
                               Matrix<double> centers, Vector<double> counts, nb::tuple frame, bool floats,
                               int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index n = rows.n_samples, d = rows.n_features, k = centers.shape(0);
    require_rows(sample_weight, n);
    require_centers(centers, d);
    require_rows(counts, k);
    const Frame seen = frame_of(frame, d);
    std::vector<double> found;
    without_lock(n_threads, [&](Team& team) {
        in_dtype(floats, [&](auto type) {
            Lloyd<decltype(type)> lloyd(rows, sample_weight.data(), k, seen, team);
            found = lloyd.batch_step(centers.data(), counts.data());
            if (lloyd.too_large()) found.clear();
        });
    });
    return found;
}

template <class Kind>
void sum(Kind X, Vector<const double> origin, Vector<const double> sample_weight, Vector<const int32_t> labels,
         Matrix<double> sums, Vector<double> weights, int n_threads) {
    const auto rows = rows_of(X, origin);
    const Index k = sums.shape(0);
    require_rows(sample_weight, rows.n_samples);
    require_rows(labels, rows.n_samples);
    require_shape(sums, k, rows.n_features);
    require_rows(weights, k);
    require_labels(labels, k);
    without_lock(n_threads, [&](Team& team) {
        sum_clusters(rows, sample_weight.data(), labels.data(), k, sums.data(), weights.data(), team);
    });
}

// Sum of the rows, and their weight.
void sum_of_rows(AnyRows X, Vector<const double> origin, Vector<const double> sample_weight, Matrix<double> sums,
                 Vector<double> weight, int n_threads) {
    const Rows rows = rows_of(X, origin);
    require_rows(sample_weight, rows.n_samples);
    require_shape(sums, 1, rows.n_features);
    require_rows(weight, 1);
    without_lock(n_threads, [&](Team& team) {
        sum_rows(rows, sample_weight.data(), sums.data(), weight.data(), team);
    });
}

// Weighted sum of the squared distances of the rows from the centers of their clusters.
double inertia_of_rows(AnyRows X, Vector<const double> origin, Vector<const double> sample_weight,
                       Vector<const int32_t> labels, Matrix<const double> centers, int n_threads) {
    const Rows rows = rows_of(X, origin);
    require_rows(sample_weight, rows.n_samples);
    require_rows(labels, rows.n_samples);
    require_centers(centers, rows.n_features);
    require_labels(labels, centers.shape(0));
    double found = 0;
    without_lock(n_threads, [&](Team& team) {
        found = inertia(rows, sample_weight.data(), labels.data(), centers.data(), team);
    });
    return found;
}

// Weighted sum of the squared distances of the rows from the origin, and their weight.
std::pair<double, double> spread_of_rows(AnyRows X, Vector<const double> origin, Vector<const double> sample_weight,
                                         int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index n = rows.n_samples;
    require_rows(sample_weight, n);
    double total = 0, weight = 0;
    without_lock(n_threads, [&](Team& team) {
        const std::vector<double> zero(rows.n_features);
        total = inertia(rows, sample_weight.data(), nullptr, zero.data(), team);
        for (Index row = 0; row < n; row++) weight += sample_weight.data()[row];
    });
    return {total, weight};
}

void squares_from_own(const Rows& rows, const int32_t* labels, Matrix<const double>& centers, double* squares,
                      Team& team) {
    squares_from_own(rows, labels, centers.data(), squares, team);
}

void squares_from_own(const SparseRows& rows, const int32_t* labels, Matrix<const double>& centers, double* squares,
                      Team& team) {
    squares_from_own(rows, labels, centers.data(), centers.shape(0), squares, team);
}

template <class Kind>
void sq_distances_to_own(Kind X, Vector<const double> origin, Vector<const int32_t> labels,
                         Matrix<const double> centers, Vector<double> squares, int n_threads) {
    const auto rows = rows_of(X, origin);
    require_rows(labels, rows.n_samples);
    require_rows(squares, rows.n_samples);
    require_centers(centers, rows.n_features);
    require_labels(labels, centers.shape(0));
    without_lock(n_threads, [&](Team& team) { squares_from_own(rows, labels.data(), centers, squares.data(), team); });
}

// Call function(part, number of parts, workspace) for the parts of a pass of distances from points.
template <class Function>
void measure(const Rows& rows, Index n_points, int n_threads, Function function) {
    const double work = double(rows.n_samples) * double(rows.n_features) * double(n_points);
    const Index n_parts = count_parts(rows.n_samples, work);
    const Index bytes = workspace_bytes(rows.n_samples, rows.n_features, n_points);
    const bool pays = work > thresholds.parallel_work;
    const Memory<char> workspaces((pays ? std::max(1, n_threads) : 1) * bytes);
    without_lock(n_threads, [&](Team& team) {
        team.run(n_parts, pays, [&](Index part, int worker) {
            if (!team.poll()) function(part, n_parts, workspaces + worker * bytes);
        });
    });
}

void sq_distances_to(AnyRows X, Vector<const double> origin, Matrix<const double> points, Matrix<double> squares,
                     int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index k = points.shape(0), n = rows.n_samples;
    require_shape(points, k, rows.n_features);
    require_shape(squares, k, n);
    const Squares job{rows, k, points.data()};
    measure(rows, k, n_threads, [&](Index part, Index n_parts, char* workspace) {
        const Index begin = n * part / n_parts, end = n * (part + 1) / n_parts;
        passes().squares(job, begin, end, squares.data() + begin, n, workspace);
    });
}

// `closest`, lowered to the squared distance from the nearest of the points where that is less.
void nearer(AnyRows X, Vector<const double> origin, Matrix<const double> points, Vector<double> closest, int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index k = points.shape(0), n = rows.n_samples;
    require_shape(points, k, rows.n_features);
    require_rows(closest, n);
    const Squares job{rows, k, points.data()};
    measure(rows, k, n_threads, [&](Index part, Index n_parts, char* workspace) {
        const Index some = std::max<Index>(MOST_LANES, (Index(1) << 15) / k);
        const Memory<double> squares(some * k);
        for (Index begin = n * part / n_parts, last = n * (part + 1) / n_parts; begin < last; begin += some) {
            const Index end = std::min(begin + some, last);
            passes().squares(job, begin, end, squares, some, workspace);
            for (Index c = 0; c < k; c++)
                for (Index row = begin; row < end; row++)
                    closest.data()[row] = std::min(closest.data()[row], squares[c * some + row - begin]);
        }
    });
}

void distances(AnyRows X, Vector<const double> origin, Matrix<const double> points,
               nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu> result, int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index k = points.shape(0);
    const bool is_float = result.dtype() == nb::dtype<float>();
    require(is_float || result.dtype() == nb::dtype<double>(), "results of this dtype are not known");
    require_shape(points, k, rows.n_features);
    require_shape(result, rows.n_samples, k);
    const Squares job{rows, k, points.data()};
    measure(rows, k, n_threads, [&](Index part, Index n_parts, char* workspace) {
        passes().distances(job, {part, n_parts}, result.data(), is_float, workspace);
    });
}

// Distances from centers as a user has them. -> whether all are finite
bool distances_at_once(AnyRows X, Vector<const double> origin, AnyRows centers,
                       nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu> result, int n_threads) {
    Rows rows = rows_of(X, origin);
    const Index k = centers.shape(0);
    const Seen seen(origin, centers, rows.dtype == Dtype::float32);
    rows.origin = seen.origin.data();
    const bool is_float = rows.dtype == Dtype::float32;
    require(result.dtype() == (is_float ? nb::dtype<float>() : nb::dtype<double>()), "results of another dtype");
    require_shape(result, rows.n_samples, k);
    const Squares job{rows, k, seen.centers.data()};
    measure(rows, k, n_threads, [&](Index part, Index n_parts, char* workspace) {
        passes().distances(job, {part, n_parts}, result.data(), is_float, workspace);
    });
    double total = 0;  // of what is not finite, the difference from itself is no number
    for (Index i = 0; i < rows.n_samples * k; i++) {
        const double value = is_float ? static_cast<const float*>(result.data())[i]
                                      : static_cast<const double*>(result.data())[i];
        total += value - value;
    }
    return total == 0;
}

void keys(AnyRows X, Vector<const double> origin, Vector<const double> direction, Vector<double> result) {
    const Rows rows = rows_of(X, origin);
    require_rows(direction, rows.n_features);
    require_rows(result, rows.n_samples);
    nb::gil_scoped_release unlocked;
    keys_of_rows(rows, direction.data(), result.data());
}

// Row numbers sorted by their keys.
void sorted_rows(Vector<const double> keys, Vector<Index> rows) {
    require_rows(rows, keys.shape(0));
    nb::gil_scoped_release unlocked;
    sorted_by(keys.data(), keys.shape(0), rows.data());
}

// What `greedy.Greedy` says.
Greedy greedy_of(const nb::tuple& how) {
    require(nb::len(how) == 6, "the method has six numbers");
    const Greedy given{nb::cast<Index>(how[0]), nb::cast<Index>(how[1]), nb::cast<Index>(how[2]),
                       nb::cast<double>(how[3]), nb::cast<double>(how[4]), nb::cast<double>(how[5])};
    require(given.n_clusters > 0 && given.n_trials > 0 && given.most_distances > 0 && given.staleness > 0,
            "numbers that are not positive");
    return given;
}

// Random numbers that a function of Python gave.
std::vector<double> drawn(const nb::object& given, Index n_draws) {
    const auto values = nb::cast<Vector<const double>>(given);
    require_rows(values, n_draws);
    return {values.data(), values.data() + n_draws};
}

// Rows that greedy k-means++ chooses.
std::vector<Index> greedy_rows(AnyRows X, Vector<const double> origin, Vector<const double> sample_weight,
                               std::optional<Vector<const Index>> order, nb::tuple how, nb::callable uniforms,
                               int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index n = rows.n_samples;
    require_rows(sample_weight, n);
    if (order) {
        require_rows(*order, n);
        bool inside = true;
        for (Index i = 0; i < n; i++) inside &= uint64_t(order->data()[i]) < uint64_t(n);
        require(inside, "numbers of no row");
    }
    const Greedy given = greedy_of(how);
    const Uniforms draw = [&](Index n_draws) {
        nb::gil_scoped_acquire lock;
        return drawn(uniforms(n_draws), n_draws);
    };
    std::vector<Index> chosen;
    without_lock(n_threads, [&](Team& team) {
        chosen = greedy(rows, sample_weight.data(), given, order ? order->data() : nullptr, draw, team);
    });
    return chosen;
}

// Fits of problems, each of some of the rows, from one begin to the next; of several, threads share the problems.
std::vector<OfRun> fits(
    AnyRows X, Vector<const double> sample_weight, Vector<const Index> begins, Matrix<double> origins,
    Vector<double> spreads, nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu> centers,
    Vector<int32_t> labels, Matrix<double> weights, nb::tuple greedy, Vector<const double> direction, Index n_runs,
    Index most, double tol, double bounded_from, nb::callable uniforms, int n_threads) {
    const Index n_problems = spreads.shape(0), k = weights.shape(1);
    const Rows rows = rows_of(X, direction);  // each fit finds the origin of its own
    const Fitting how{greedy_of(greedy), n_runs, most, tol, bounded_from, direction.data()};
    require(how.greedy.n_clusters == k && n_runs > 0 && most > 0, "no clusters, runs or iterations");
    require_rows(sample_weight, rows.n_samples);
    require_rows(labels, rows.n_samples);
    require_rows(begins, n_problems + 1);
    require_shape(origins, n_problems, rows.n_features);
    require_rows(centers, n_problems);
    require(Index(centers.shape(1)) == k && Index(centers.shape(2)) == rows.n_features, "arrays of different shapes");
    require_rows(weights, n_problems);
    const Index* begin = begins.data();
    bool ascend = begin[0] == 0 && begin[n_problems] == rows.n_samples;
    for (Index problem = 0; problem < n_problems; problem++) ascend &= begin[problem + 1] - begin[problem] >= k;
    require(ascend, "problems with fewer rows than clusters");
    std::vector<Completed> found(n_problems);
    without_lock(n_threads, [&](Team& team) {
        team.run(n_problems, n_problems > 1, [&](Index problem, int) {
            const Index first = begin[problem];
            Rows own = rows;
            own.data += first * rows.row_stride;
            own.n_samples = begin[problem + 1] - first;
            const Places to{origins.data() + problem * rows.n_features, spreads.data() + problem,
                            centers.data() + problem * k * rows.n_features, labels.data() + first,
                            weights.data() + problem * k};
            // Of several problems each asks for many numbers at once, as one thread at a time has the interpreter
            std::vector<double> ahead;
            const Uniforms draw = [&](Index n_draws) {
                const Index n_missing = n_draws - Index(ahead.size());
                if (n_missing > 0) {
                    const Index n_more = std::max(n_missing, n_problems > 1 ? 4 * how.greedy.n_trials * k : 0);
                    nb::gil_scoped_acquire lock;
                    const auto more = drawn(uniforms(problem, n_more), n_more);
                    ahead.insert(ahead.end(), more.begin(), more.end());
                }
                const std::vector<double> numbers(ahead.begin(), ahead.begin() + n_draws);
                ahead.erase(ahead.begin(), ahead.begin() + n_draws);
                return numbers;
            };
            const auto fit_by = [&](Team& threads) {
                found[problem] = fit(own, sample_weight.data() + first, how, draw, to, threads);
            };
            if (n_problems == 1) return fit_by(team);
            Team alone(1, [&] { return team.poll(); });
            fit_by(alone);
        });
    });
    std::vector<OfRun> results;
    for (const Completed& one : found) results.push_back(of_run(one));
    return results;
}

// -> rows and clusters, `sizes.contenders`; None if there are too many
nb::object look_for_contenders(AnyRows X, Vector<const double> origin, Matrix<const double> centers,
                               Vector<const double> prices, double reach, Index most, bool floats,
                               Vector<int32_t> labels, Vector<double> slack, Vector<const double> norms,
                               Vector<const double> moved, Vector<const double> raised, int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index k = centers.shape(0);
    require_centers(centers, rows.n_features);
    for (const auto* of_clusters : {&prices, &moved, &raised}) require_rows(*of_clusters, k);
    require_rows(labels, rows.n_samples);
    bool inside = true;  // of a look that has ended early, some rows have none
    for (Index row = 0; row < rows.n_samples; row++) inside &= labels.data()[row] >= -1 && labels.data()[row] < k;
    require(inside, "labels of no cluster");
    require_rows(slack, rows.n_samples);
    require_rows(norms, rows.n_samples);
    const Looks looks{labels.data(), slack.data(), norms.data(), moved.data(), raised.data()};
    std::vector<Contenders> parts;
    Contenders all;
    without_lock(n_threads, [&](Team& team) {
        in_dtype(floats, [&](auto type) {
            const Prices given{prices.data(), reach, most};
            parts = contenders<decltype(type)>(rows, k, centers.data(), given, looks, team);
        });
        size_t n = 0;
        for (const Contenders& part : parts) n += part.rows.size();
        all.rows.reserve(n);
        all.clusters.reserve(n);
        for (Contenders& part : parts) {
            all.rows.insert(all.rows.end(), part.rows.begin(), part.rows.end());
            all.clusters.insert(all.clusters.end(), part.clusters.begin(), part.clusters.end());
            part = Contenders();
        }
    });
    if (parts.empty()) return nb::none();
    return nb::make_tuple(owned(std::move(all.rows)), owned(std::move(all.clusters)));
}

void sq_distances_of_pairs(AnyRows X, Vector<const double> origin, Vector<const Index> which,
                           Vector<const int32_t> clusters, Matrix<const double> centers, Vector<double> squares,
                           int n_threads) {
    const Rows rows = rows_of(X, origin);
    const Index n = which.shape(0);
    require_rows(clusters, n);
    require_rows(squares, n);
    require_centers(centers, rows.n_features);
    require_labels(clusters, centers.shape(0));
    bool inside = true;
    for (Index i = 0; i < n; i++) inside &= uint64_t(which.data()[i]) < uint64_t(rows.n_samples);
    require(inside, "numbers of no row");
    const double work = 8.0 * double(n) * double(rows.n_features);
    const Index n_parts = count_parts(n, work);
    without_lock(n_threads, [&](Team& team) {
        team.run(n_parts, work > thresholds.parallel_work, [&](Index part, int) {
            const Index begin = n * part / n_parts, end = n * (part + 1) / n_parts;
            squares_of_pairs(rows, which.data() + begin, clusters.data() + begin, end - begin, centers.data(),
                             squares.data() + begin);
        });
    });
}

// -> whether it is done; choices and prices are written
bool mend_sizes(Vector<const Index> begin, Vector<const int32_t> clusters, Vector<const double> costs,
                Vector<const Index> n_staying, Vector<const Index> low, Vector<const Index> high, double reach,
                Vector<Index> chosen, Vector<double> prices) {
    const Index n_rows = chosen.shape(0), n = clusters.shape(0), k = prices.shape(0);
    require_rows(begin, n_rows + 1);
    require_rows(costs, n);
    for (const auto* sizes : {&n_staying, &low, &high}) require_rows(*sizes, k);
    require_labels(clusters, k);
    bool ascend = begin.data()[0] == 0 && begin.data()[n_rows] == n;
    for (Index row = 0; row < n_rows; row++) ascend &= begin.data()[row] < begin.data()[row + 1];
    require(ascend, "rows without choices");
    const Choices choices{n_rows, k, begin.data(), clusters.data(), costs.data(), n_staying.data(), low.data(),
                          high.data()};
    bool is_done = false;
    without_lock(1, [&](Team& team) { is_done = mend(choices, reach, chosen.data(), prices.data(), team); });
    return is_done;
}

// Where the best clusters of ascending numbers begin, and the last ends, for each number of clusters.
nb::list intervals(Vector<const double> numbers, Vector<const double> weights, Vector<const Index> counts,
                   int n_threads) {
    const Index n = numbers.shape(0);
    require_rows(weights, n);
    const std::vector<Index> each(counts.data(), counts.data() + counts.shape(0));
    require(!each.empty() && 0 < each.front() && each.back() <= n && std::is_sorted(each.begin(), each.end()),
            "numbers of clusters that ascend to that of numbers");
    std::vector<std::vector<Index>> found;
    without_lock(n_threads, [&](Team& team) { found = best_intervals(numbers.data(), weights.data(), n, each, team); });
    nb::list begins;
    for (auto& some : found) begins.append(owned(std::move(some)));
    return begins;
}

// Call function for an array of rows, and for those of a CSR matrix.
template <class Function>
void for_kinds(Function function) {
    function(AnyRows());
    function(Stored());
}

}  // namespace

NB_MODULE(_kmeans, module) {
    module.def("instructions", [] { return passes().name; });
    module.def("use_instructions", use_passes);
    // Set them. -> those of before
    module.def("set_thresholds", [](double parallel_work, double saved_products, double leading_work, double most_summed) {
        const Thresholds before = std::exchange(thresholds, {parallel_work, saved_products, leading_work, most_summed});
        return std::tuple(before.parallel_work, before.saved_products, before.leading_work, before.most_summed);
    }, "parallel_work"_a, "saved_products"_a, "leading_work"_a = thresholds.leading_work,
               "most_summed"_a = thresholds.most_summed);
    // Arrays that are written to are never converted: what is written to a copy would be lost
    for_kinds([&](auto kind) {
        using Kind = decltype(kind);
        module.def("assign", assign<Kind>, "X"_a, "origin"_a, "centers"_a, "floats"_a, "labels"_a.noconvert(),
                   "n_threads"_a);
        module.def("iterate", iterate<Kind>, "X"_a, "origin"_a, "sample_weight"_a, "centers"_a.noconvert(),
                   "labels"_a.noconvert(), "slack"_a.noconvert().none(), "path"_a.noconvert(), "sums"_a.noconvert(),
                   "weights"_a.noconvert(), "centers_old"_a.noconvert(), "begun"_a, "frame"_a, "floats"_a, "most"_a,
                   "tol"_a, "n_threads"_a);
        module.def("step", step<Kind>, "X"_a, "origin"_a, "sample_weight"_a, "centers"_a, "labels"_a.noconvert(),
                   "slack"_a.noconvert().none(), "path"_a, "sums"_a.noconvert(), "weights"_a.noconvert(), "floats"_a,
                   "n_threads"_a);
        module.def("sum", sum<Kind>, "X"_a, "origin"_a, "sample_weight"_a, "labels"_a, "sums"_a.noconvert(),
                   "weights"_a.noconvert(), "n_threads"_a);
        module.def("sq_distances_to_own", sq_distances_to_own<Kind>, "X"_a, "origin"_a, "labels"_a, "centers"_a,
                   "squares"_a.noconvert(), "n_threads"_a);
    });
    module.def("run", run, "X"_a, "origin"_a, "sample_weight"_a, "centers"_a.noconvert(), "labels"_a.noconvert(),
               "weights"_a.noconvert(), "frame"_a, "floats"_a, "bounded"_a, "most"_a, "tol"_a, "n_threads"_a);
    module.def("inertia", inertia_of_rows, "X"_a, "origin"_a, "sample_weight"_a, "labels"_a, "centers"_a,
               "n_threads"_a);
    module.def("batch_step", batch_step, "X"_a, "origin"_a, "sample_weight"_a, "centers"_a.noconvert(),
               "counts"_a.noconvert(), "frame"_a, "floats"_a, "n_threads"_a);
    module.def("sum_of_rows", sum_of_rows, "X"_a, "origin"_a, "sample_weight"_a, "sums"_a.noconvert(),
               "weight"_a.noconvert(), "n_threads"_a);
    module.def("spread_of_rows", spread_of_rows, "X"_a, "origin"_a, "sample_weight"_a, "n_threads"_a);
    module.def("sq_distances_to", sq_distances_to, "X"_a, "origin"_a, "points"_a, "squares"_a.noconvert(),
               "n_threads"_a);
    module.def("nearer", nearer, "X"_a, "origin"_a, "points"_a, "closest"_a.noconvert(), "n_threads"_a);
    module.def("distances", distances, "X"_a, "origin"_a, "points"_a, "result"_a.noconvert(), "n_threads"_a);
    module.def("labels_at_once", labels_at_once, "X"_a, "origin"_a, "centers"_a, "floats"_a, "labels"_a.noconvert(),
               "n_threads"_a);
    module.def("distances_at_once", distances_at_once, "X"_a, "origin"_a, "centers"_a, "result"_a.noconvert(),
               "n_threads"_a);
    module.def("contenders", look_for_contenders, "X"_a, "origin"_a, "centers"_a, "prices"_a, "reach"_a, "most"_a,
               "floats"_a, "labels"_a.noconvert(), "slack"_a.noconvert(), "norms"_a, "moved"_a, "raised"_a,
               "n_threads"_a);
    module.def("sq_distances_of_pairs", sq_distances_of_pairs, "X"_a, "origin"_a, "rows"_a, "clusters"_a, "centers"_a,
               "squares"_a.noconvert(), "n_threads"_a);
    module.def("mend", mend_sizes, "begin"_a, "clusters"_a, "costs"_a, "n_staying"_a, "low"_a, "high"_a, "reach"_a,
               "chosen"_a.noconvert(), "prices"_a.noconvert());
    module.def("best_intervals", intervals, "numbers"_a, "weights"_a, "counts"_a, "n_threads"_a);
    module.def("keys", keys, "X"_a, "origin"_a, "direction"_a, "result"_a.noconvert());
    module.def("sorted_rows", sorted_rows, "keys"_a, "rows"_a.noconvert());
    module.def("fits", fits, "X"_a, "sample_weight"_a, "begins"_a, "origins"_a.noconvert(), "spreads"_a.noconvert(),
               "centers"_a.noconvert(), "labels"_a.noconvert(), "weights"_a.noconvert(), "greedy"_a, "direction"_a,
               "n_runs"_a, "most"_a, "tol"_a, "bounded_from"_a, "uniforms"_a, "n_threads"_a);
    module.def("greedy", greedy_rows, "X"_a, "origin"_a, "sample_weight"_a, "order"_a.none(), "how"_a, "uniforms"_a,
               "n_threads"_a);
}
