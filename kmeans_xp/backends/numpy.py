"""Steps for NumPy arrays."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from scipy.sparse import csc_array
from threadpoolctl import ThreadpoolController

SCORES = 2**19  # numbers in a block of `lowest_score`: 2**19 to 2**20 were fastest from k = 8 to 1,000


def cluster_sums(X, labels, sample_weight, n_clusters):
    """`steps.cluster_sums` as the product of a sparse membership matrix, one entry a row of X, with X.

    Costs n_samples * n_features operations instead of n_clusters times as many.
    """
    n_samples = X.shape[0]
    membership = csc_array(
        (sample_weight, labels, np.arange(n_samples + 1, dtype=labels.dtype)), shape=(n_clusters, n_samples)
    )
    return membership @ X, np.bincount(labels, sample_weight, minlength=n_clusters)


def lowest_score(X, minus_2_centers, sq_norms):
    """`steps.lowest_score` in a block of scores that stays in the cache and is not allocated anew."""
    n_samples, n_clusters = X.shape[0], sq_norms.shape[0]
    labels = np.empty(n_samples, dtype=np.int32)
    n_rows = max(1, SCORES // n_clusters)
    scores = np.empty((min(n_rows, n_samples), n_clusters), dtype=X.dtype)
    for start in range(0, n_samples, n_rows):
        rows = X[start : start + n_rows]
        block = np.matmul(rows, minus_2_centers, out=scores[: len(rows)])
        block += sq_norms
        labels[start : start + len(rows)] = np.argmin(block, axis=1)
    return labels


def map_slices(X, function, slices):
    """`steps.map_slices` on as many threads as the BLAS would use, each with a BLAS of one thread.

    Of the NumPy functions in a pass only matmul is threaded by itself, but all release the interpreter's lock.
    """
    n_threads = min(len(slices), _blas.n_threads())
    return _map_on_threads(function, slices, n_threads) if n_threads > 1 else NotImplemented


def _map_on_threads(function, slices, n_threads):
    """Yield the results in order; no more than a few wait to be taken."""
    with _blas.one_thread(), ThreadPoolExecutor(n_threads) as pool:
        waiting = deque()
        for rows in slices:
            waiting.append(pool.submit(function, rows))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Blas:
    """The thread pool of the BLAS: a setting of the process, so that concurrent passes share one change of it."""

    def __init__(self):
        self._controller = ThreadpoolController().select(user_api="blas")
        self._lock = threading.Lock()
        self._n_users = 0

    def n_threads(self):
        """Threads that the BLAS uses now: 1 also where somebody limited it, such as joblib in its workers."""
        return max((pool["num_threads"] for pool in self._controller.info()), default=1)

    @contextmanager
    def one_thread(self):
        with self._lock:
            self._n_users += 1
            if self._n_users == 1:
                self._limit = self._controller.limit(limits=1)
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._limit.restore_original_limits()


_blas = _Blas()
