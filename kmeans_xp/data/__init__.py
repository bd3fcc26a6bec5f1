"""Where rows lie: in memory, in a file, on the workers of a Dask cluster. Only here it is asked which of them X is.

`open_data` makes a `source.Source` of it, over which passes are made alike.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import check_random_state

from kmeans_xp import arrays, devices
from kmeans_xp._sklearn_private import rows_at
from kmeans_xp.data.memory import InMemory
from kmeans_xp.data.shards import Shards, dealt
from kmeans_xp.data.source import PerRow as PerRow
from kmeans_xp.data.stream import Reader, Stream
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.passes import moments
from kmeans_xp.rows.array import as_given, take_rows
from kmeans_xp.steps import computing
from kmeans_xp.validation import (
    check_device_of_dask,
    check_rows,
    check_same_library,
    check_sample_weight,
    check_source,
    check_spread,
    check_weight_of_source,
)

# Multiplications of one pass from which on device="auto" sends NumPy arrays to a GPU: an H100, copying X included, is
# as fast as 16 cores at 3e7 and twice as fast at 3e8. Before that, importing CuPy and loading kernels take seconds.
AUTO_GPU_WORK = 10**8
NO_SHARDS = f"device={devices.ALL!r} needs rows of the host: a NumPy array, a data frame, or what is read in blocks."


@dataclass(frozen=True)
class Purpose:
    """What data are opened for."""

    n_clusters: int = 1
    metric: Any = EUCLIDEAN
    device: str | None = None  # where to compute, see KMeans
    weighs: bool = True  # whether weights of rows are asked for
    fitting: bool = False  # many passes: they stay where they are computed with, and weights are in their unit
    estimator: Any = None  # that knows the number and names of the features
    learns: bool = False  # or learns them
    method: str | None = None  # of a fitted one that needs X to be of its library, where scikit-learn wants that
    gradients: bool = False  # whether the user may ask for them


LOOK = Purpose()


@contextmanager
def open_data(X, sample_weight=None, purpose=LOOK):
    """X, checked and placed, as a source: within the context it is computed with."""
    checked = {"estimator": purpose.estimator, "reset": purpose.learns}
    source = _elsewhere(X, sample_weight, purpose, checked)
    if source is not None:
        with computing(source.like, purpose.n_clusters):
            yield source
        return
    if purpose.method is not None:
        check_same_library(X, purpose.estimator, purpose.method)
    home = check_rows(X, **checked)
    if purpose.device == devices.ALL:
        if type(home) is not np.ndarray:
            raise ValueError(NO_SHARDS)
        weights = None if sample_weight is None else check_sample_weight(sample_weight, home)
        parts = dealt(home)
        if all(devices.fits_on_device(home[rows], name) for name, rows in parts):
            data = Shards(home, weights, purpose, parts)
        else:
            data = Stream(home, weights, purpose, working_memory(), devices.every_cuda_device())
        with computing(data.like, purpose.n_clusters):
            yield data
        return
    target = _target(home, purpose)
    placed = home if target is None else _placed(home, target)
    rows = placed if _is_differentiated(placed, purpose) else arrays.shared(placed)
    rows = arrays.by_rows(rows) if purpose.method is None else rows
    lender = None if rows is placed else placed
    with computing(rows, purpose.n_clusters, gradients=purpose.gradients, lender=lender):
        weights = check_sample_weight(sample_weight, rows) if purpose.weighs else None
        given = None if sample_weight is None else weights
        options = {"home": home, "lender": lender, "given_weights": given, "fitting": purpose.fitting}
        yield InMemory(purpose.metric.prepare(rows), weights, purpose.metric, **options)


def _elsewhere(X, sample_weight, purpose, checked):
    """The source of X that is not in memory; None for what is."""
    if arrays.is_frame(X) or (type(X) is np.ndarray and purpose.device is None and not purpose.metric.spherical):
        return None
    if arrays.is_dask(X):
        from kmeans_xp.data.dask import Partitions

        check_device_of_dask(purpose.device)
        return Partitions(check_source(X, **checked), sample_weight, purpose)
    if _is_read_in_blocks(X, purpose):
        X, target = check_source(X, **checked), _target(X, purpose)
        places = devices.every_cuda_device() if target == devices.ALL else [None if target == "cpu" else target]
        return Stream(X, check_weight_of_source(sample_weight, X), purpose, working_memory(), places)
    return None


def _placed(X, target):
    """Rows on the device called `target`. Narrow ones are widened there, if it is not the CPU."""
    placed = devices.to_device(X, target)
    if arrays.is_host(placed):
        return placed
    with arrays.undisturbed(placed):
        if type(X) is not np.ndarray:
            return arrays.widened(placed)
        return arrays.namespace(placed).astype(placed, arrays.float_dtype(X), copy=False)


def _is_differentiated(X, purpose):
    """Whether gradients with respect to X, or to the centers, are to be recorded."""
    return purpose.gradients and any(map(arrays.is_differentiated, (X, purpose.estimator.cluster_centers_)))


def _target(X, purpose):
    """Name of the device to compute on; None for where X is."""
    if purpose.device != "auto":
        return purpose.device
    pays = X.shape[0] * X.shape[1] * purpose.n_clusters >= AUTO_GPU_WORK
    return "cuda" if pays and not arrays.is_foreign(X) and devices.cuda_problem() is None else None


def _is_read_in_blocks(X, purpose):
    """Whether X is to be read block by block."""
    if type(X) is np.ndarray and X.ndim == 2 and purpose.device != devices.ALL:
        target = _target(X, purpose)
        if target is not None and devices.parse_device(target)[0] == "cuda":
            return not devices.fits_on_device(X, target)
        n_bytes = X.size * arrays.float_dtype(X).itemsize
        return purpose.metric.spherical and n_bytes > working_memory()  # scaled block by block
    return _lies_in_a_file(X)


def _lies_in_a_file(X):
    """Whether X is a source, or a memory map that is too large to be taken for an array."""
    return arrays.is_source(X) or (isinstance(X, np.memmap) and X.nbytes > working_memory())


def working_memory():
    """Bytes that temporaries may take, by scikit-learn's configuration."""
    return int(get_config()["working_memory"] * 2**20)


def frame_of(data):
    """The frame of a job on a source."""
    frame = moments(data, arrays.tile_bytes(data.like, working_memory()))
    check_spread(frame.spread)
    return frame


def random_rows(X, most, random_state):
    """At most so many rows of X, drawn without replacement: numbers, ascending, the rows, and n_samples.

    X is whatever a user has for it; all but those rows is not read, moved or checked. `most` is None for all rows.
    """
    X = arrays.as_dask_array(X, "X") if arrays.is_dask(X) else X
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    if n_samples != n_samples:
        raise ValueError(
            "X has partitions of unknown size, needed to choose rows. Use 'X.compute_chunk_sizes()' first, "
            "or 'X.to_dask_array(lengths=True)' of a data frame."
        )
    numbers = np.arange(n_samples)
    if most is not None and most < n_samples:
        numbers = np.sort(check_random_state(random_state).permutation(n_samples)[:most])
    return numbers, some_rows(X, numbers), n_samples


def some_rows(X, numbers):
    """Rows of X by their numbers, ascending, as X has them but in memory."""
    if arrays.is_dask(X):
        return X[numbers].compute()
    if _lies_in_a_file(X):
        return Reader(check_source(X)).take(numbers)
    if arrays.is_cupy_sparse(X):
        rows = check_rows(X)
        with computing(rows):
            return as_given(take_rows(rows, arrays.asarray_like(numbers, rows, np.int64)))
    if hasattr(X, "tocsr"):
        return X.tocsr()[numbers]
    if arrays.is_foreign(X):
        with computing(X):
            return take_rows(X, arrays.asarray_like(numbers, X, arrays.namespace(X).int64))
    return rows_at(X, numbers)
