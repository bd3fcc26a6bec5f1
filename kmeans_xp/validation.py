"""What the estimators accept, and what they say about anything else.

NumPy arrays, lists and data frames go through scikit-learn. It would pull an array of another library to the host, so
those are checked where they are, in scikit-learn's words.
"""

import math
import numbers

import numpy as np
from sklearn import get_config
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from kmeans_xp.arrays import (
    FLOATS,
    NARROW,
    accumulator,
    as_dask_array,
    asarray_like,
    check_file,
    device,
    is_cupy_sparse,
    is_dask,
    is_float,
    is_foreign,
    is_frame,
    is_half,
    is_scipy_sparse,
    is_sparse,
    is_writeable,
    namespace,
    refuse_masked,
    refuse_spread,
    result_dtype,
    shared_with_numpy,
    to_floats,
    to_numpy,
    undisturbed,
)
from kmeans_xp.nearest import TOO_LARGE
from kmeans_xp.rows.csr import SparseRows
from kmeans_xp.rows.cupy import CupyRows
from kmeans_xp.rows.scipy import ScipyRows


def check_rows(X, estimator=None, *, reset=True):
    """X as a finite array in its own library, (n_samples, n_features), neither being 0.

    It is of float32 or float64, or stays what it is: NumPy's of a dtype in `NARROW`, others with half precision. With
    `reset`, the estimator learns the number and names of the features, else they must be those it knows.
    """
    if isinstance(X, SparseRows):
        return X
    rows, names = seen_by_numpy(X)
    is_theirs = rows is X or names is not None  # that scikit-learn would check
    is_taken_for_finite = is_theirs and get_config()["assume_finite"]
    if is_plain(rows, names, estimator, reset=reset) and (is_taken_for_finite or has_finite_sum(rows)):
        if estimator is not None and reset:
            estimator.n_features_in_ = rows.shape[1]
            if names is not None:
                estimator.feature_names_in_ = np.asarray(names, dtype=object)
        return rows if is_theirs else X
    check_not_lazy(X)
    refuse_masked(X, "X")
    if is_sparse(X) and not (is_scipy_sparse(X) or is_cupy_sparse(X)):
        how = ".to_dense()" if hasattr(X, "to_dense") else ".toarray()"
        raise TypeError(
            f"Sparse data of {type(X).__module__.partition('.')[0]} was passed for X, but only the sparse matrices of "
            f"SciPy and CuPy are supported. Use '{how}' to convert to a dense array."
        )
    check_file(X)
    if not (is_foreign(X) or is_cupy_sparse(X)):
        given, options = X, {"dtype": [np.float64, np.float32], "accept_sparse": "csr"}
        if isinstance(rows, np.ndarray) and rows.dtype in NARROW and (is_taken_for_finite or has_finite_sum(rows)):
            options["dtype"].append(rows.dtype)
        if estimator is None:
            X = check_array(X, input_name="X", **options)
        else:
            X = validate_data(estimator, X, reset=reset, **options)
        if is_sparse(X):
            return _canonical(X, given)
        # Columns of a record may be any number of bytes apart, which DLPack has no words for
        return X if X.flags.aligned else X.copy()
    if not is_cupy_sparse(X):
        X = _check_foreign(X, "X", keep_half=True)
    required_by = "" if estimator is None else f" by {type(estimator).__name__}"
    if X.ndim < 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead:\narray={X}.\n"
            "Reshape your data either using array.reshape(-1, 1) if your data has a single feature "
            "or array.reshape(1, -1) if it contains a single sample."
        )
    if X.ndim > 2:
        raise ValueError(f"Found array with dim {X.ndim}, while dim <= 2 is required{required_by}.")
    for count, noun in zip(X.shape, ("sample", "feature"), strict=True):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {noun}(s) (shape={tuple(X.shape)}) while a minimum of 1 is required{required_by}."
            )
    if estimator is not None:
        validate_data(estimator, X, skip_check_array=True, reset=reset)
    return _cupy_rows(X) if is_cupy_sparse(X) else X


def seen_by_numpy(X):
    """Rows, as NumPy sees them where that takes no copy, and the names of the columns of a data frame of pandas.

    These are None for any other X, and for frames of other columns than such as have different words for names and are
    all of one dtype that rows may have.
    """
    if not is_frame(X):
        return shared_with_numpy(X), None
    names, dtypes = X.columns.tolist(), set(X.dtypes.to_numpy())
    if set(map(type, names)) != {str} or len(set(names)) < len(names):
        return X, None
    are_alike = len(dtypes) == 1 and isinstance(*dtypes, np.dtype) and dtypes <= {*FLOATS, *NARROW}
    return (X.to_numpy(), names) if are_alike else (X, None)


def is_plain(X, names=None, estimator=None, *, reset=False):
    """Whether X is an array in which scikit-learn would find no fault, if it is finite; that takes 20 times as long."""
    if type(X) is not np.ndarray or X.ndim != 2 or 0 in X.shape or not X.flags.aligned:
        return False
    if X.dtype not in FLOATS and X.dtype not in NARROW:
        return False
    if estimator is None or (reset and names is not None):
        return True
    known = getattr(estimator, "feature_names_in_", None)
    if (known is None) != (names is None) or (names is not None and known.tolist() != names):
        return False
    return reset or getattr(estimator, "n_features_in_", X.shape[1]) == X.shape[1]


def has_finite_sum(x):
    """Whether the sum of an array of NumPy is finite, as are all its numbers then."""
    if x.dtype.kind in "iub":
        return True
    with np.errstate(all="ignore"):
        return math.isfinite(np.add.reduce(x, axis=None, dtype=result_dtype(x)))


def check_not_lazy(X):
    """X is in memory, or read from a file: not on a cluster of Dask."""
    if is_dask(X):
        raise TypeError(
            f"A dask {type(X).__name__.lower()} was passed for X, but data in memory is required here. "
            "Use '.compute()' first, or 'fit', which takes arrays and data frames of Dask as they are."
        )


def _cupy_rows(X):
    """Rows of a sparse matrix of CuPy, finite float32 or float64."""
    with X.data.device:
        X = X.tocsr()
        data = _check_foreign(X.data, "X")
        return CupyRows.of(X if data is X.data else X.astype(data.dtype))


def _canonical(X, given):
    """Rows of a CSR matrix, in which equal rows are stored alike. What was `given` is not written to."""
    _check_places(X)
    if not X.has_canonical_format or np.count_nonzero(X.data) < len(X.data):
        X = X.copy() if X is given else X
        X.sum_duplicates()
        X.eliminate_zeros()
    return ScipyRows(X)


def _check_places(X):
    """All numbers of a CSR matrix lie in it. They may not, if its arrays were written to, and nothing else looks."""
    begins, columns = X.indptr, X.indices[: X.indptr[-1]]
    if begins[0] != 0 or np.any(begins[1:] < begins[:-1]) or begins[-1] > min(len(X.indices), len(X.data)):
        raise ValueError("X is a broken sparse matrix: by its indptr, rows begin or end where it has no numbers.")
    if len(columns) and (columns.min() < 0 or columns.max() >= X.shape[1]):
        raise ValueError(f"X is a broken sparse matrix: it has indices that are not from 0 to {X.shape[1] - 1}.")


def check_source(X, estimator=None, *, reset=True):
    """X, which is not in memory, with real numbers in rows and columns, neither being 0. Of Dask, an array."""
    named = X
    if is_dask(X):
        X = as_dask_array(X, "X")
        named = named if named is X else named._meta  # the columns of a data frame
    if len(X.shape) != 2:
        raise ValueError(f"Expected 2D data, got {len(X.shape)}D data of shape {tuple(X.shape)} instead.")
    for count, noun in zip(X.shape, ("sample", "feature"), strict=True):
        if count == 0:
            raise ValueError(f"Found data with 0 {noun}(s) (shape={tuple(X.shape)}) while a minimum of 1 is required.")
    if np.dtype(X.dtype).kind not in "fiub":
        raise ValueError(f"Data of dtype {X.dtype} is not supported: use real numbers.")
    if estimator is not None:
        validate_data(estimator, named, skip_check_array=True, reset=reset)
    return X


def check_out(out, shape, largest=None):
    """Where results are to be written has room for them: integers from 0 to `largest` or, if it is None, floats."""
    if not hasattr(out, "shape") or is_dask(out) or not is_writeable(out):
        read_only = "a read-only " if hasattr(out, "shape") else ""
        raise TypeError(f"out must be an array to write into, got {read_only}{type(out).__name__}.")
    if tuple(out.shape) != shape:
        raise ValueError(f"out.shape == {tuple(out.shape)}, expected {shape}.")
    dtype = getattr(out, "dtype", None)
    if dtype is None:
        return
    if largest is None:
        holds, what = "float" in str(dtype), "distances: use a floating-point dtype"
    else:
        holds = _holds_integers(str(dtype).rpartition(".")[2], largest)
        what = f"labels from 0 to {largest}: use int32"
    if not holds:
        raise TypeError(f"out.dtype == {dtype} cannot hold {what}.")


def _holds_integers(dtype, largest):
    """Whether the dtype of this name, of any library, has all integers from 0 to `largest`."""
    try:
        dtype = np.dtype(dtype)
    except TypeError:  # bfloat16, say
        return False
    if dtype.kind in "iu":
        return largest <= np.iinfo(dtype).max
    return dtype.kind == "f" and largest <= 2 ** (np.finfo(dtype).nmant + 1)


def check_sample_weight(sample_weight, X, *, may_be_zero=False):
    """Weights as a float64 array (n_samples,) next to X: finite, none negative, not all zero. None means ones."""
    if type(X) is np.ndarray:
        if sample_weight is None:
            return np.ones(X.shape[0])
        seen = shared_with_numpy(sample_weight)
        if _are_plain_weights(seen, X.shape[0]):
            return seen
    xp = namespace(X)
    dtype = accumulator(X)
    n_samples = X.shape[0]
    if is_dask(sample_weight):
        sample_weight = as_dask_array(sample_weight, "sample_weight").compute()
    refuse_masked(sample_weight, "sample_weight")
    if sample_weight is None:
        return xp.ones(n_samples, dtype=dtype, device=device(X))
    if isinstance(sample_weight, numbers.Number):
        sample_weight = xp.full(n_samples, float(sample_weight), dtype=dtype, device=device(X))
    elif is_foreign(sample_weight):
        sample_weight = _check_foreign(sample_weight, "sample_weight")
    else:
        sample_weight = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
        sample_weight = sample_weight if sample_weight.flags.aligned else sample_weight.copy()
    if sample_weight.ndim != 1:
        raise ValueError(
            f"Sample weights must be 1D array or scalar, got {sample_weight.ndim}D array. "
            f"Expected either a scalar value or a 1D array of length {n_samples}."
        )
    if sample_weight.shape != (n_samples,):
        raise ValueError(f"sample_weight.shape == {tuple(sample_weight.shape)}, expected {(n_samples,)}!")
    sample_weight = asarray_like(sample_weight, X, dtype)
    least, total = to_floats(xp.min(sample_weight), xp.sum(sample_weight))
    if not math.isfinite(total):
        raise ValueError("Input sample_weight contains NaN or infinity, or its sum is too large.")
    if least < 0:
        raise ValueError("Negative values in data passed to `sample_weight`.")
    if total == 0 and not may_be_zero:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return sample_weight


def _are_plain_weights(sample_weight, n_samples):
    """Whether weights are an array in which no fault is to be found."""
    if type(sample_weight) is not np.ndarray or sample_weight.dtype != FLOATS[1] or sample_weight.shape != (n_samples,):
        return False
    if not sample_weight.flags.aligned:
        return False
    return n_samples > 0 and has_finite_sum(sample_weight) and sample_weight.min() >= 0 < sample_weight.max()


def check_weight_of_source(sample_weight, X):
    """The same as a NumPy array for X that is not in memory; None stays None."""
    return None if sample_weight is None else check_sample_weight(sample_weight, np.empty((X.shape[0], 0)))


def check_present(labels):
    """Labels as an array of their library, none of them missing. Lazy ones are computed: they are n integers."""
    if is_dask(labels):
        labels = labels.compute()
    if is_foreign(labels):
        whole = namespace(labels).isdtype(labels.dtype, ("bool", "integral"))
        return labels if whole else _check_foreign(labels, "labels")
    refuse_masked(labels, "labels")
    found = np.asarray(labels)
    if found.dtype.kind == "f":
        assert_all_finite(found, input_name="labels")
    elif found.dtype.kind not in "biu":
        for value in np.asarray(labels, dtype=object).flat:  # a list of names and NaN would have a name 'nan'
            if value is None or type(value).__name__ == "NAType" or value != value:
                raise ValueError(
                    f"Input labels contains NaN, here {value!r}: a missing label is no cluster. Leave its rows out, or "
                    "give them a label of their own."
                )
    return found


def check_labels(labels, like, n_samples):
    """How many different labels there are, and the place of that of each row among them, (n_samples,) int32.

    The places are next to `like`.
    """
    xp = namespace(like)
    labels = check_present(labels)
    if not is_foreign(labels):
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)  # names too
    labels = asarray_like(labels, like)
    if labels.shape == (n_samples, 1):
        labels = xp.reshape(labels, (-1,))
    if labels.ndim != 1 or labels.shape[0] != n_samples:
        raise ValueError(f"labels.shape == {tuple(labels.shape)}, expected {(n_samples,)}.")
    values, places = xp.unique_inverse(labels)
    return values.shape[0], xp.astype(xp.reshape(places, (-1,)), xp.int32)


def check_given_centers(centers, name):
    """Centers of any library as a finite array of float32 or float64, (n_clusters, n_features)."""
    if is_dask(centers):
        centers = as_dask_array(centers, name).compute()
    refuse_masked(centers, name)
    if is_sparse(centers):
        raise TypeError(f"Sparse data was passed for {name}, but dense data is required. Use '.toarray()' first.")
    if not is_foreign(centers):
        return check_array(centers, dtype=[np.float64, np.float32], input_name=name)
    centers = _check_foreign(centers, name)
    if centers.ndim != 2 or 0 in centers.shape:
        raise ValueError(f"{name} has the shape {tuple(centers.shape)}, expected (n_clusters, n_features).")
    return centers


def check_centers(centers, X, n_clusters):
    """Initial centers as an array (n_clusters, n_features) next to X."""
    centers = check_given_centers(centers, "init")
    if centers.shape[0] != n_clusters:
        raise ValueError(
            f"The shape of the initial centers {tuple(centers.shape)} does not match "
            f"the number of clusters {n_clusters}."
        )
    return _beside_rows(centers, X)


def check_first_centers(centers, X, n_clusters):
    """Some of the initial centers as an array (n_centers, n_features) next to X."""
    centers = check_given_centers(centers, "centers")
    if centers.shape[0] > n_clusters:
        raise ValueError(f"centers has {centers.shape[0]} rows: there shall be no more than n_clusters={n_clusters}.")
    return _beside_rows(centers, X)


def _beside_rows(centers, X):
    """Centers next to X, which has as many features."""
    if centers.shape[1] != X.shape[1]:
        raise ValueError(
            f"The shape of the initial centers {tuple(centers.shape)} does not match "
            f"the number of features of the data {X.shape[1]}."
        )
    return asarray_like(centers, X)


def check_device_of_dask(device):
    """Partitions of Dask are computed with where they lie."""
    if device not in (None, "auto", "cpu"):
        raise ValueError(
            f"device={device!r} is not possible for Dask, whose partitions are computed with where they lie: use "
            "device=None, and '.map_blocks(cupy.asarray)' for partitions on GPUs."
        )


def check_count(name, count, most, what):
    """`count`, which must be an integer from 1 to `most`."""
    if not isinstance(count, numbers.Integral) or not 1 <= count <= most:
        raise ValueError(f"{name}={count!r} must be an integer from 1 to {what}, which is {most}.")
    return int(count)


def check_n_samples(X, n_clusters):
    """At least as many rows as clusters."""
    if X.shape[0] < n_clusters:
        raise ValueError(f"n_samples={X.shape[0]} should be >= n_clusters={n_clusters}.")


def check_sizes(size_min, size_max, n_samples, n_clusters):
    """Bounds of the sizes of clusters that can be met, two arrays (n_clusters,) int64 of NumPy. None: 1, and any."""
    low = _sizes("size_min", 1 if size_min is None else size_min, n_clusters)
    high = _sizes("size_max", n_samples if size_max is None else size_max, n_clusters)
    if size_min is None:
        low = np.minimum(low, high)
    crossed = np.flatnonzero(low > high)
    if len(crossed):
        first = crossed[0]
        raise ValueError(f"size_min={low[first]} is above size_max={high[first]} for cluster {first}.")
    least, most = (sum(sizes.tolist()) for sizes in (low, high))
    if least > n_samples:
        raise ValueError(
            f"size_min cannot be met: {n_clusters} clusters of at least that size have {least} rows together, and X "
            f"has {n_samples}."
        )
    if most < n_samples:
        raise ValueError(
            f"size_max cannot be met: {n_clusters} clusters of at most that size have {most} rows together, and X has "
            f"{n_samples}."
        )
    return low, np.minimum(high, n_samples)


def _sizes(name, sizes, n_clusters):
    """A number of rows for each cluster."""
    refuse_masked(sizes, name)
    given = to_numpy(sizes) if is_foreign(sizes) else np.asarray(sizes)
    whole = given.dtype.kind in "iu" or (given.dtype.kind == "f" and bool(np.all(given == np.floor(given))))
    if given.shape not in ((), (n_clusters,)):
        raise ValueError(
            f"{name} has the shape {given.shape}, expected a number or one for each of {n_clusters} clusters."
        )
    if not whole or (given < 0).any() or (given >= 2.0**53).any():
        raise ValueError(f"{name} must be whole numbers of rows, from 0 on.")
    return np.broadcast_to(given.astype(np.int64), (n_clusters,)).copy()


def check_weighs_alike(data):
    """Rows of a source in memory weigh the same, as sizes count them."""
    xp, sample_weight = namespace(data.like), data.all_rows()[1]
    if data.lost[0]:
        raise ValueError(
            f"Rows of zeros have no direction, and X has {data.lost[0]}: with size_min or size_max each row must "
            "belong to a cluster. Leave them out."
        )
    least, most = to_floats(xp.min(sample_weight), xp.max(sample_weight))
    if least < most:
        raise ValueError(
            "size_min and size_max count rows, so that sample_weight must be the same for all: rows of different "
            "weights cannot be split between clusters. Repeat a row instead of giving it a weight."
        )


def check_spread(spread):
    """Finite squared distances, given their mean."""
    if not math.isfinite(spread):
        raise ValueError(TOO_LARGE)


def check_same_library(X, estimator, method):
    """Refuse X of another library or device than fit's, if scikit-learn's `array_api_dispatch` is on.

    Its common checks demand that. Without the switch the centers move to X.
    """
    if not get_config()["array_api_dispatch"]:
        return
    fitted = _library_and_device(estimator.cluster_centers_)
    given = _library_and_device(X)
    if fitted != given:
        name = type(estimator).__name__
        raise ValueError(
            f"Inputs passed to {name}.{method}() must use the same namespace and the same device as those passed to "
            f"fit(). fit() was given {fitted[0]} on {fitted[1]}, {method}() {given[0]} on {given[1]}. Convert X, or "
            "turn array_api_dispatch off to let the centers follow X."
        )


def _library_and_device(x):
    """Name of the library (lists and data frames count as NumPy) and device."""
    return (namespace(x).__name__, device(x)) if is_foreign(x) else ("numpy", "cpu")


def _check_foreign(x, name, keep_half=False):
    """A finite array of another library than NumPy, as float32 or float64 where it is, or as its half precision."""
    refuse_spread(x, name)
    xp = namespace(x)
    half = is_half(x)
    if not half and xp.isdtype(x.dtype, "complex floating"):
        raise ValueError(f"Complex data not supported\n{x}\n")
    with undisturbed(x, gradients=True):
        if not (is_float(x) or (half and keep_half)):
            x = xp.astype(x, result_dtype(x))
        # A sum without an extreme is finite: one reduction and no temporary, unless something is wrong.
        (total,) = to_floats(xp.sum(x, dtype=result_dtype(x)))
        if not math.isfinite(total) and not bool(xp.all(xp.isfinite(x))):
            what = "NaN" if bool(xp.any(xp.isnan(x))) else f"infinity or a value too large for {x.dtype}"
            raise ValueError(f"Input {name} contains {what}.")
    return x
