"""Threads for passes over NumPy arrays, in place of those of the BLAS.

Of the NumPy functions in a pass only matmul is threaded by itself, but all release the interpreter's lock.
"""

import functools
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

PARALLEL_WORK = 4e6  # multiplications of a pass that repay waking threads


def in_parallel(work, function):
    """Results of `function(part, n_parts)` for all parts, on as many threads as the BLAS would use."""
    n_parts = blas.n_threads() if work > PARALLEL_WORK else 1
    waiting = [_threads(n_parts).submit(function, part, n_parts) for part in range(1, n_parts)]
    return [function(0, n_parts), *(future.result() for future in waiting)]


def map_in_order(function, items):
    """Yield the results in order; no more than a few wait to be taken."""
    n_threads = blas.n_threads()
    pool, waiting = _threads(n_threads), deque()
    with blas.one_thread():
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@functools.cache
def _threads(n_threads):
    """Threads that are kept: to start them takes as long as a small pass."""
    return ThreadPoolExecutor(n_threads)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has none of them


class _Blas:
    """The thread pool of the BLAS: a setting of the process, so that concurrent fits share one change of it."""

    def __init__(self):
        self._controller = ThreadpoolController().select(user_api="blas")
        self._lock = threading.Lock()
        self._n_users = 0

    def n_threads(self):
        """Threads that the BLAS uses when it may: 1 also where somebody limited it, such as joblib in its workers."""
        with self._lock:
            return self._n_before if self._n_users else self._n_now()

    def _n_now(self):
        return max((library.num_threads for library in self._controller.lib_controllers), default=1)

    @contextmanager
    def one_thread(self):
        with self._lock:
            self._n_users += 1
            if self._n_users == 1:
                self._n_before = self._n_now()
                self._limit = self._controller.limit(limits=1)
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._limit.restore_original_limits()


blas = _Blas()
