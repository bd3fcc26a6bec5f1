// Passes over rows: what is compiled once for each instruction set (passes.cpp), and asked for through a table.
#pragma once
#include <cstdint>

namespace kmeans {

using Index = int64_t;

// The narrow ones, from float16 on, are widened to float64 where rows are read: all else computes with the first two.
enum class Dtype { float32, float64, float16, int8, uint8, int16, uint16 };

// An array of rows in any layout, seen relative to an origin.
struct Rows {
    const char* data;
    Index n_samples, n_features;
    Index row_stride, column_stride;  // bytes
    Dtype dtype;
    const double* origin;  // (n_features,)
};

// Which of n_parts parts of a pass. Parts depend on the shape alone, and are summed up in their order: so results do
// not depend on how many threads there are.
struct Part {
    Index number, n_parts;
};

// What a part adds to the clusters. Only those that are touched have been set to 0 before.
struct Totals {
    double *sums, *weights;  // (n_clusters, n_features), (n_clusters,); null if rows are only counted
    uint8_t* touched;        // (n_clusters,)
    Index n_changed, n_active, n_settled;  // rows
};

// Of a squared distance, see frame.py: error <= coefficient * ||x||² + offset. Which of two scores is lower is sure
// beyond doubt * (||x||² + ||c||²) + least.
template <class C>
struct Rounding {
    C coefficient, offset, doubt, least;
};

// The numbers of rows as they are compared, side by side: relative to the origin, and ||x||² after them.
template <class C>
struct Compact {
    const C* numbers;  // (n_samples, stride), 0 beyond; null if there are none
    Index stride;
};

// Coordinates of rows and centers along a few axes, orthogonal ones, in which they differ most (leading.hpp).
template <class C>
struct Leading {
    Index n_axes;              // 0 if they are not made use of
    const C* axes;             // (n_axes, n_features)
    const C* minus_2_centers;  // (n_clusters, n_axes + 1): of the coordinates, and of the length of what is left
    C left;                    // what is left of ||x||² may be so many times ||x||² more, by rounding
    C error, offset;           // of a score, see leading.hpp: <= error * ||x||² + offset
    C margin, margin_offset;   // the same, with what else leaves doubt
};

// Rows that are to be compared with centers, in floating-point numbers C.
template <class C>
struct Job {
    Rows rows;
    Compact<C> compact;           // of them; may be null
    const double* sample_weight;  // (n_samples,); may be null where nothing is summed
    Index n_clusters;
    const double* centers;       // (n_clusters, n_features), relative to the origin
    const C* minus_2_centers;    // the same
    const C* sq_norms;           // (n_clusters,), a little too small
    Rounding<C> rounding;
    Leading<C> leading;
    int32_t* labels;             // (n_samples,), -1 for none yet; written
    double* slack;               // (n_samples,), written; null to compare all rows and sum all of them
    const double* path;          // (n_clusters,)
    const double* between;       // (n_clusters, n_clusters) distances of centers, a little too small; or null
    const double* nearest_other; // (n_clusters,)
    // The nearest center of a row, whatever rounding does
    int32_t (*settle)(const Job&, Index row, void* workspace);
    bool (*stops)(void*);  // whether to give up: asked for between tiles of rows
    void* stopping;
    int* too_large;   // set to 1, atomically, when squared distances leave the range of float64
    int* not_finite;  // the same when a row has a number that is not finite
};

// Squared distances between rows and points.
struct Squares {
    Rows rows;
    Index n_points;
    const double* points;  // (n_points, n_features), relative to the origin
};

// What greedy k-means++ knows of each row, in the order in which draws run through them: neighbours are near each other,
// so that whole blocks are left out.
struct Closest {
    double* squares;   // (n_samples,) squared distance from the nearest center so far
    int32_t* nearest;  // (n_samples,) which that is
    double* within;    // (n_centers,) up to which squared distance its rows are no nearer to any of the candidates
};

// Candidates of greedy k-means++ for one center.
struct Candidates {
    Rows rows;
    const Index* order;           // (n_samples,) of the rows; null for their own
    const double* sample_weight;  // in that order
    Closest closest;
    Index n;               // of candidates
    const double* points;  // (n, n_features), relative to the origin
    // To leave out rows that they are surely farther from than the nearest center, in float32; null to compare all
    const float* packed;    // blocks of all rows (n_blocks, n_features + 1, lanes), the last of each ||x||²
    const float* minus_2_points;  // (n, n_features)
    const float* sq_norms;  // (n,)
    float doubt, least;     // as in Rounding
};

// What a candidate takes off the sum of weighted squared distances.
struct Gain {
    double most, least;
};

// Rows of a CSR matrix, seen relative to an origin that is kept beside them: (x - o)·c = x·c - o·c.
struct SparseRows {
    const char *data, *columns;  // int64 if `wide`, else int32; increasing in each row
    const Index* begins;         // (n_samples + 1,) of each row among the numbers
    Index n_samples, n_features;
    Dtype dtype;
    bool wide;
    const double* origin;  // (n_features,)
};

// A row that is to be added to the sums of a cluster, and taken from those of another unless that is -1.
struct Change {
    Index row;
    int32_t before, now;
};

// How many of them there are, how many labels are new, and how many rows were looked at.
struct Changes {
    Index n, n_changed, n_active;
};

// Numbers of a table that stand together: columns of `Table` come in so many.
constexpr Index TOGETHER = 8;

// What sparse rows are multiplied with: a score of row and center is a constant and the row's product with a column.
struct Table {
    Index n_clusters, width;  // of which there are at least n_clusters + 1, in whole `TOGETHER`
    double* numbers;          // (n_features, width): -2 c, in the column after the centers -2 o, else 0
    double* constants;        // (width,): ||c||² a little too small, + 2 o·c; infinite where there is no center
};

// Sparse rows that are to be compared with the centers of a table.
struct SparseJob {
    SparseRows rows;
    Table table;
    double sq_origin, rounding, offset;  // error of a squared distance <= rounding * ||x - o||² + offset
    int32_t* labels;     // as in Job
    double* slack;       // null to compare all rows; all of them are changes then
    const double* path;
    bool (*stops)(void*);
    void* stopping;
};

// Centers that are put into a table: as they are or, if there are sums, as the means of these.
struct Tabulation {
    Table table;
    Index n_features, n_chunks;  // of features
    const double* origin;        // of the rows
    const double* centers_old;   // (n_clusters, n_features)
    double* centers;             // the same; written, if there are sums
    const double *sums, *weights;  // may be null
    const double* norms;           // (n_clusters,) by which means are divided as directions; null for means
    const double* frame_origin;    // that centers are relative to
    bool to_floats;                // whether they are rounded to float32
    double* totals;                // (n_chunks, N_TOTALS, width) of each center, see below
};

// Of a center c, that before it b, and the sum s of its cluster: ||c - b||², ||c||², o·c, b·s
enum { MOVED, SQUARED, WITH_ORIGIN, CROSSED, N_TOTALS };

// Sums of weights, of numbers and of squares up to each place (n + 1,); and what rounding left of each.
struct Sums {
    const double *weights, *weights_low, *numbers, *numbers_low, *squares, *squares_low;
};

// Where an interval begins, and what all up to its end cost.
struct Split {
    Index place;
    double cost;
};

template <class C>
struct PassesIn {
    Index lanes;  // rows of a block
    // Label rows; sums of clusters as they change (bounds), of all rows, or none if totals is null
    void (*relabel)(const Job<C>&, Part, Totals*, char* workspace);
    // Numbers of rows begin to end as Job::compact has them
    void (*compact)(const Rows&, Index begin, Index end, C* numbers, Index stride);
    // Label some rows, and by how much the second lowest score is higher, less what is in doubt on account of ||x||²
    void (*lead)(const Job<C>&, const Index* which, Index n_which, double* leads, char* workspace);
    // With how many centers some rows are compared that leading coordinates don't leave out
    Index (*count_candidates)(const Job<C>&, const Index* which, Index n_which, char* workspace);
};

struct Passes {
    const char* name;
    PassesIn<float> in_float;
    PassesIn<double> in_double;
    // Sums of given clusters
    void (*sum)(const Rows&, const double* sample_weight, const int32_t* labels, Part, Totals&);
    // Rows of clusters begin to end whose label is new are added to their sums, and taken from those of the label
    // `before`; null for none
    void (*sum_changes)(const Rows&, const double* sample_weight, const int32_t* before, const int32_t* labels,
                        Index begin, Index end, double* sums, double* weights);
    // Squared distance of each row from the center of its cluster, summed directly
    void (*own)(const Rows&, const int32_t* labels, const double* centers, Part, double* squares);
    // (n_points, n_samples) of rows begin to end
    void (*squares)(const Squares&, Index begin, Index end, double* result, Index stride, char* workspace);
    // Distances (n_samples, n_points)
    void (*distances)(const Squares&, Part, void* result, bool is_float, char* workspace);
    // Squared distances of some rows from a few points, (n_points, n_which) with `stride` numbers between points
    void (*squares_of)(const Squares&, const Index* which, Index n_which, double* result, Index stride, char* workspace);
    // Blocks of rows in float32
    void (*pack)(const Rows&, const Index* order, Index begin, Index end, float* packed);
    // For each candidate what it would take off the sum of weighted squared distances, of rows of some blocks, by
    // float32: `gains` (n,) is added to. And to which rows it may be nearer, a bit each, (n_blocks, n). -> the sum
    double (*estimate_gains)(const Candidates&, Index begin, Index end, Gain* gains, uint32_t* near, char* workspace);
    // The same exactly: what would be left of the sum is added to `potentials` (n,)
    void (*try_candidates)(const Candidates&, Index begin, Index end, double* potentials, uint32_t* near,
                           char* workspace);
    // Make one of them the nearest center of rows that it is nearer to, of those in `near`
    void (*take_candidate)(const Candidates&, Index chosen, Index begin, Index end, const uint32_t* near,
                           int32_t center, char* workspace);
    // Label sparse rows begin to end; what that changes is written to `changes`
    Changes (*relabel_sparse)(const SparseJob&, Index begin, Index end, Change* changes, double* workspace);
    // One of the parts of a table: TOGETHER of the centers, a chunk of the features
    void (*tabulate)(const Tabulation&, Index part);
    // The best place, from the first to the last, for an interval up to `end` to begin, if what stands before costs
    // `before`; of equally good ones the first. Arrays are read up to MOST_LANES numbers beyond the last
    Split (*best_split)(const Sums&, const double* before, Index first, Index last, Index end);
};

// The row at a place of an order, which is null for the rows' own.
static inline Index row_at(const Index* order, Index place) { return order == nullptr ? place : order[place]; }

constexpr Index MOST_LANES = 32;   // rows of a block, at most
constexpr Index SQUARE = 8;        // numbers of compact rows come in whole squares of rows and features
constexpr Index FEW = 4;           // features up to which no vectors are made along a row
constexpr Index TILE = 4096;       // rows whose bounds are looked at in one go

// Rows of a tile for a part to take: a multiple of the lanes, so that small arrays have some for all parts.
static inline Index rows_of_tile(Index n_samples, Index n_parts) {
    Index rows = n_samples / (4 * n_parts) / MOST_LANES * MOST_LANES;
    return rows < 256 ? 256 : rows > TILE ? TILE : rows;
}

// Stale rows that are gathered before they are ordered by their clusters, for those to fill blocks.
static inline Index enough_rows(Index n_clusters) { return TILE > 64 * n_clusters ? TILE : 64 * n_clusters; }

// Rows that a part has room for.
static inline Index room_for_rows(Index n_samples, Index n_clusters) {
    const Index most = enough_rows(n_clusters) + TILE;
    return n_samples < most ? n_samples : most;
}

// Scores are summed by stretches of so many features, so that rounding does not grow with their number.
constexpr Index STRETCH = 64;

// How many roundings a sum over the features goes through, at most.
static inline Index roundings_of_sum(Index n_features) {
    return n_features <= STRETCH ? n_features : STRETCH + (n_features + STRETCH - 1) / STRETCH;
}

constexpr Index MOST_AXES = 128;
constexpr Index CENTERS_OF_TILE = 1024;  // whose scores are in a cache

// Bytes that a part needs for itself.
static inline Index workspace_bytes(Index n_samples, Index n_features, Index n_clusters) {
    Index rows = 2 * room_for_rows(n_samples, n_clusters), numbers = (MOST_LANES + 4) * n_features + 8 * MOST_LANES;
    return 8 * (rows + numbers + 4 * n_clusters + 64 + MOST_LANES * n_clusters);
}

// The same of a block that is compared by leading coordinates.
static inline Index leading_bytes(Index n_features) {
    return 8 * MOST_LANES * (MOST_AXES + 1 + n_features + MOST_LANES + CENTERS_OF_TILE);
}

// Nearest center by differences (exact.cpp).
template <class C>
int32_t nearest_by_differences(const Job<C>&, Index row, void* workspace);

double number_of(const Rows&, Index row, Index feature);

// Squared distances of pairs of a row and a center, with the bits of every other library.
void squares_of_pairs(const Rows&, const Index* rows, const int32_t* clusters, Index n_pairs, const double* centers,
                      double* squares);

// As `passes.row_keys`: the same number for equal rows, with the bits of every other library.
void keys_of_rows(const Rows&, const double* direction, double* keys);

extern const Passes baseline, avx2, avx512;

}  // namespace kmeans
