"""Threads for passes over NumPy arrays, in place of those of the BLAS.

Of the NumPy functions in a pass only matmul is threaded by itself, but all release the interpreter's lock.
"""

import contextvars
import functools
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from threadpoolctl import ThreadpoolController

PARALLEL_WORK = 4e6  # multiplications of a pass that repay waking threads
MOST_PARTS = 32  # of a pass


def count_parts(work, most=MOST_PARTS):
    """In how many parts a pass is cut: a power of two that depends on its shape alone, as sums add up in this order."""
    n_parts = 1
    while 2 * n_parts <= most and work > n_parts * PARALLEL_WORK:
        n_parts *= 2
    return n_parts


def in_parallel(n_parts, function):
    """Results of `function(part, n_parts)` for all parts, in order, on as many threads as the BLAS would use."""
    if n_parts == 1:
        return [function(0, 1)]
    n_helpers = min(blas.n_threads(), n_parts) - 1
    results, parts = [None] * n_parts, deque(range(n_parts))
    parts.extend([None] * (n_helpers + 1))  # the end, for each thread

    def take_parts():
        for part in iter(parts.popleft, None):
            results[part] = function(part, n_parts)

    helpers = []
    try:
        for _ in range(n_helpers):
            helpers.append(Task(take_parts))
        take_parts()
        for helper in helpers:
            helper.result()
    finally:  # after an error or an interruption no thread goes on writing
        parts.extendleft([None] * n_helpers)
        for helper in helpers:
            helper.cancel()
    return results


def map_in_order(function, items):
    """Yield the results in order; no more than a few wait to be taken."""

    def call(item):
        # Not around the loop: while somebody holds the error that ended it, its frame is kept, and would keep the limit
        with blas.one_thread():
            return function(item)

    most, waiting = 2 * blas.n_threads(), deque()
    try:
        for item in items:
            waiting.append(Task(call, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for task in waiting:
            task.cancel()


class Task:
    """A call that is made once: by a kept thread that has time, else by the thread that needs the result."""

    def __init__(self, function, *args):
        self._call = functools.partial(contextvars.copy_context().run, function, *args)  # np.errstate, say
        self._takers, self._ended = [], threading.Event()
        self._result = self._error = None
        with suppress(RuntimeError):  # no thread can be started: by a limit, or as the main thread has ended
            _threads(blas.n_threads()).submit(self._run)

    def result(self):
        """What the call returns; to be asked for once."""
        if self._is_first(None):
            return self._call()
        self._ended.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # whose frames hold this task, and the rows
        return self._result

    def cancel(self):
        """See that no thread begins the call any more, and wait for the end if one has."""
        if not self._is_first(None):
            self._ended.wait()

    def _run(self):
        if self._is_first(object()):
            try:
                self._result = self._call()
            except BaseException as error:  # for the thread that needs the result
                self._error = error
            finally:
                self._ended.set()

    def _is_first(self, taker):
        """Whether the call is the taker's; None stands for the thread that needs it, which may ask again."""
        self._takers.append(taker)
        return self._takers[0] is taker


@functools.cache
def _threads(n_threads):
    """Threads that are kept: to start them takes as long as a small pass."""
    return ThreadPoolExecutor(n_threads)


class _Blas:
    """The thread pool of the BLAS: a setting of the process, so that concurrent fits share one change of it."""

    def __init__(self):
        self._controller = ThreadpoolController().select(user_api="blas")
        self._lock = threading.RLock()  # a collected generator may leave `one_thread` while its thread holds the lock
        self._users = set()
        self._before = None  # threads of each library, while they have one

    def n_threads(self):
        """Threads that the BLAS uses when it may: 1 also where somebody limited it, such as joblib in its workers."""
        with self._lock:
            return max(self._before or self._now(), default=1)

    @contextmanager
    def one_thread(self):
        user = object()
        try:
            with self._lock:
                self._users.add(user)
                self._settle()
            yield
        finally:
            with self._lock:
                self._users.discard(user)
                self._settle()

    def _settle(self):
        """Limit the BLAS if it has users, else put back what was before; an interrupted change is made again."""
        if self._users:
            self._before = self._before or self._now()
            if len(self._users) == 1:
                self._set([1] * len(self._before))
        elif self._before:
            self._set(self._before)
            self._before = None

    def _now(self):
        return [library.num_threads for library in self._controller.lib_controllers]

    def _set(self, numbers):
        for library, number in zip(self._controller.lib_controllers, numbers, strict=True):
            if library.num_threads == number:
                continue
            # Since threadpoolctl 3.8 OpenBLAS listens to the thread that set it first, as long as that lives. But the
            # first of concurrent fits may end first, and then others may want to set it.
            anyone_may_set = getattr(library, "clear_controlling_thread", lambda force: None)
            anyone_may_set(force=True)
            library.set_num_threads(number)
            anyone_may_set(force=True)

    def before_fork(self):
        """Have no other thread amid a change."""
        self._lock.acquire()

    def after_fork(self):
        self._lock.release()

    def after_fork_in_child(self):
        """The threads of the users don't exist here."""
        self._lock = threading.RLock()
        self._users = set()
        self._settle()


blas = _Blas()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=blas.before_fork, after_in_parent=blas.after_fork, after_in_child=blas.after_fork_in_child
    )
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has none of them
