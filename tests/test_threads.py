"""Threads, the BLAS and forks: what a fit finds when it begins, and what it leaves to others in the process."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
from conftest import blobs, use_plain_numpy
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

from kmeans_xp import KMeans, backends

threads = pytest.importorskip("kmeans_xp.backends._threads")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")


@pytest.fixture
def wide():
    """Rows enough for a fit of 8 clusters to limit the BLAS and to run on threads, in plain NumPy."""
    return blobs(np.random.default_rng(0), 80_000, 8, n_clusters=8)


def fit(X, **params):
    return KMeans(8, init=np.asarray(X[:8]), max_iter=3, tol=0, **params).fit(X)


def widths():
    """Threads of each BLAS. Not of one that a peer of the benchmark brought in since."""
    return [library["num_threads"] for library in threads.blas._controller.info()]


def set_widths(numbers):
    for library, number in zip(threads.blas._controller.lib_controllers, numbers, strict=True):
        anyone_may_set = getattr(library, "clear_controlling_thread", lambda force: None)
        anyone_may_set(force=True)
        library.set_num_threads(number)
        anyone_may_set(force=True)


@pytest.fixture(autouse=True)
def two():
    """What `widths` gives where nobody limits the BLAS: two threads each, on any machine."""
    before = widths()
    if not before:
        pytest.skip("NumPy's BLAS is one whose threads cannot be set")
    set_widths([2] * len(before))
    yield [2] * len(before)
    assert widths() == [2] * len(before), "somebody has left another number of threads"
    set_widths(before)


@contextmanager
def other_thread():
    """A thread that lives as long as the block, and a function that has it call one."""
    calls, results = [], []
    wanted, done = threading.Semaphore(0), threading.Semaphore(0)

    def work():
        while wanted.acquire() and (call := calls.pop()):
            results.append(call())
            done.release()

    def call_there(function):
        calls.append(function)
        wanted.release()
        assert done.acquire(timeout=60)
        return results.pop()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield call_there
    finally:
        calls.append(None)
        wanted.release()
        thread.join()


def limited_widths():
    with threadpool_limits(1, user_api="blas"):
        return widths()


class TestLimitOfTheBlas:
    def test_is_undone_when_the_thread_that_began_first_ends_first(self, two):
        with other_thread() as in_first, other_thread() as in_second:
            first, second = threads.blas.one_thread(), threads.blas.one_thread()
            in_first(first.__enter__)
            in_second(second.__enter__)
            in_first(lambda: first.__exit__(None, None, None))
            assert set(widths()) == {1}
            in_second(lambda: second.__exit__(None, None, None))
            assert widths() == two
            with other_thread() as in_third:
                assert set(in_third(limited_widths)) == {1}
            assert set(in_first(limited_widths)) == {1}
            assert set(limited_widths()) == {1}
            assert widths() == two

    def test_is_undone_after_concurrent_fits(self, wide, two):
        """The first waits in an iteration until the second is in its own, which waits until the first is done."""
        first_began, second_began, first_ended, second_ended = (threading.Event() for _ in range(4))
        between, after = [], []

        def watch(began, awaited):
            return lambda iteration: began.set() or (awaited.wait(60) and None)

        def fit_first():
            fit(wide, on_iteration=watch(first_began, second_began))
            between.extend(widths())
            first_ended.set()
            assert second_ended.wait(60)

        def fit_second():
            assert first_began.wait(60)
            fit(wide, on_iteration=watch(second_began, first_ended))
            after.extend(widths())
            second_ended.set()

        workers = [threading.Thread(target=work) for work in (fit_first, fit_second)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert set(between) == {1}
        assert after == widths() == two

    def test_leaves_the_blas_to_other_threads(self, wide, two):
        fit(wide)
        with other_thread() as there:
            assert set(there(limited_widths)) == {1}
        assert widths() == two

    def test_is_that_of_the_caller_where_it_is_tighter(self, wide):
        with threadpool_limits(1, user_api="blas"):
            assert threads.blas.n_threads() == 1
            fit(wide)
            assert set(widths()) == {1}

    def test_ends_with_a_pass_that_failed_while_its_error_is_held(self, wide, tmp_path, two):
        model = fit(wide)
        wide[70_000, 3] = np.nan
        np.save(tmp_path / "X.npy", wide)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        for call in (model.predict, model.score, model.fit):
            with pytest.raises(ValueError, match="NaN") as held:
                call(mapped)
            assert widths() == two
            del held

    def test_is_no_generators(self, two):
        """One that nobody goes on with holds nothing, whoever holds it."""
        results = threads.map_in_order(abs, range(-20, 0))
        assert next(results) == 20
        for task in results.gi_frame.f_locals["waiting"]:
            task.cancel()
        assert widths() == two
        results.close()

    @pytest.mark.parametrize("moment", ["limit", "restore"])
    @pytest.mark.parametrize("done", [False, True])
    def test_survives_an_interruption_of_its_change(self, monkeypatch, two, moment, done):
        put = threads.blas._set

        def interrupted(numbers):
            monkeypatch.setattr(threads.blas, "_set", put)
            if done:
                put(numbers)
            raise KeyboardInterrupt

        def fail():
            if moment == "limit":
                monkeypatch.setattr(threads.blas, "_set", interrupted)
            with threads.blas.one_thread():
                monkeypatch.setattr(threads.blas, "_set", interrupted)

        with pytest.raises(KeyboardInterrupt):
            fail()
        with threads.blas.one_thread():
            assert set(widths()) == {1}
            assert threads.blas.n_threads() == 2
        assert widths() == two


class TestTasks:
    @pytest.fixture
    def fresh_threads(self):
        threads._threads.cache_clear()
        yield
        threads._threads.cache_clear()

    @pytest.fixture(params=[0, 1, 2])
    def few_threads(self, request, monkeypatch, fresh_threads):
        """No more than some threads can be started, though the BLAS would use three."""
        started, start = [], threading.Thread.start

        def start_some(thread):
            if len(started) == request.param:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(threads.blas, "n_threads", lambda: 3)
        monkeypatch.setattr(threading.Thread, "start", start_some)

    @pytest.mark.usefixtures("few_threads")
    def test_are_each_done_once_however_many_threads_start(self):
        done = []
        for _ in range(50):
            done.clear()
            results = threads.in_parallel(8, lambda part, n_parts: done.append(part) or (part, n_parts))
            assert results == [(part, 8) for part in range(8)]
            assert sorted(done) == list(range(8))
            done.clear()
            assert list(threads.map_in_order(lambda item: done.append(item) or -item, range(20))) == [
                -item for item in range(20)
            ]
            assert sorted(done) == list(range(20))

    @pytest.mark.usefixtures("few_threads")
    def test_do_a_fit_where_no_thread_starts(self, wide, tmp_path):
        np.save(tmp_path / "X.npy", wide)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threads.blas, "n_threads", lambda: 1)
            expected = fit(wide)
        assert_array_equal(fit(wide).labels_, expected.labels_)
        assert_array_equal(fit(mapped).labels_, expected.labels_)
        assert_array_equal(expected.predict(mapped), expected.labels_)

    def test_raise_the_error_of_another_thread(self, monkeypatch, fresh_threads):
        monkeypatch.setattr(threads.blas, "n_threads", lambda: 2)
        barrier, here = threading.Barrier(2), threading.current_thread()

        def work(part, n_parts):
            barrier.wait(60)
            if threading.current_thread() is not here:
                raise LookupError("there")

        with pytest.raises(LookupError, match="there"):
            threads.in_parallel(2, work)

    @pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
    def test_stop_with_the_first_error(self, monkeypatch, fresh_threads, error):
        """No thread goes on writing into what the caller has back."""
        monkeypatch.setattr(threads.blas, "n_threads", lambda: 3)
        barrier, begun, ended = threading.Barrier(3), [], []

        def work(part, n_parts):
            begun.append(part)
            if part < 3:
                barrier.wait(60)
            if threading.current_thread() is threading.main_thread():
                raise error
            failed.wait(60)
            ended.append(part)

        failed = threading.Event()
        clear = threads.Task.cancel

        def cancel(task):
            failed.set()
            clear(task)

        monkeypatch.setattr(threads.Task, "cancel", cancel)
        with pytest.raises(error):
            threads.in_parallel(1000, work)
        n_begun = len(begun)
        assert n_begun == 3
        assert len(ended) == 2
        assert threads.in_parallel(4, lambda part, n_parts: part) == [0, 1, 2, 3]
        assert len(begun) == n_begun

    def test_may_have_tasks_of_their_own(self, monkeypatch, fresh_threads):
        """All threads may be busy with tasks that wait for tasks."""
        monkeypatch.setattr(threads.blas, "n_threads", lambda: 2)

        def outer(part, n_parts):
            return sum(threads.in_parallel(4, lambda inner, n: part * inner))

        for _ in range(20):
            assert threads.in_parallel(8, outer) == [6 * part for part in range(8)]


LATE = """
    import atexit, sys, threading
    import numpy as np
    from kmeans_xp import KMeans

    X = np.random.default_rng(0).normal(size=(80_000, 8))
    np.save(sys.argv[1], X)
    mapped = np.load(sys.argv[1], mmap_mode="r")

    def fit(rows):
        model = KMeans(8, init=X[:8], max_iter=3, tol=0).fit(rows)
        return [*model.labels_, *model.predict(rows)]

    expected = fit(X)

    def check(when):
        assert fit(X) == expected
        assert fit(mapped) == expected
        print(when)

    def after_main():
        threading.main_thread().join()
        check("after the main thread")

    atexit.register(check, "at exit")
    threading.Thread(target=after_main).start()
"""


@pytest.mark.parametrize("warm", [False, True])
def test_fits_go_on_after_the_main_thread_and_at_exit(tmp_path, warm):
    """With threads that were started before, and without."""
    code = textwrap.dedent(LATE)
    if not warm:
        code = code.replace("expected = fit(X)", "expected = None").replace("== expected", "!= expected")
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "X.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout.splitlines(), done.stderr) == (["after the main thread", "at exit"], "")


def exit_code_of_child(function):
    """Fork and call a function in the child: 0 if it returns. It is ended after some time."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
class TestForks:
    def test_find_the_blas_as_it_was_before_the_fit(self, wide, two):
        def check():
            assert widths() == two
            assert threads.blas.n_threads() == 2
            fit(wide)
            assert widths() == two

        codes = []
        fit(wide, on_iteration=lambda iteration: codes.append(exit_code_of_child(check)))
        with other_thread() as there:
            limit = threads.blas.one_thread()
            there(limit.__enter__)
            codes.append(exit_code_of_child(check))
            assert set(widths()) == {1}
            there(lambda: limit.__exit__(None, None, None))
        assert set(codes) == {0}
        assert widths() == two

    def test_may_go_on_with_the_fit(self, wide, two):
        """A callback that forks returns in both processes."""
        children = []

        def on_iteration(iteration):
            if iteration.number == 1:
                children.append(os.fork())
                if children[0] == 0:
                    signal.alarm(20)

        code = 1
        try:
            model = fit(wide, on_iteration=on_iteration)
            assert widths() == two
            assert_array_equal(model.labels_, model.predict(wide))
            code = 0
        finally:
            if children[0] == 0:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0

    @pytest.mark.parametrize("lock", ["setting", "importing"])
    def test_wait_for_what_a_child_would_wait_for_in_vain(self, monkeypatch, tmp_path, lock):
        """A change of the setting and an import that another thread is amid."""
        begun, go_on = threading.Event(), threading.Event()
        if lock == "importing":
            # An import holds a lock that is none of ours, which a child could not get
            (tmp_path / "slow.py").write_text("import test_threads\ntest_threads.amid_import()\n")
            monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
            monkeypatch.setitem(sys.modules, "test_threads", sys.modules[__name__])
            monkeypatch.setattr(
                sys.modules[__name__], "amid_import", lambda: begun.set() or go_on.wait(60), raising=False
            )

            def hold():
                backends.backend_for("slow")

            def use():
                assert backends.backend_for("slow")
        else:

            def hold():
                with threads.blas._lock:
                    begun.set()
                    go_on.wait(60)

            def use():
                with threads.blas._lock:
                    pass

        codes, forked = [], threading.Event()

        def fork():
            codes.append(exit_code_of_child(use))
            forked.set()

        holder, forker = threading.Thread(target=hold), threading.Thread(target=fork)
        holder.start()
        assert begun.wait(60)
        forker.start()
        assert not forked.wait(0.3), "forked amid it"
        go_on.set()
        holder.join()
        forker.join()
        assert codes == [0]
        backends.backend_for.cache_clear()


class TestPartsOfAPass:
    def test_depend_on_the_work_alone(self, monkeypatch):
        for n_threads in (1, 2, 100):
            monkeypatch.setattr(threads.blas, "n_threads", lambda n=n_threads: n)
            assert threads.count_parts(threads.PARALLEL_WORK) == 1, "small passes are not cut"
            found = [threads.count_parts(threads.PARALLEL_WORK * factor) for factor in (1.1, 3, 9, 1e3, 1e9)]
            assert found == [2, 4, 16, threads.MOST_PARTS, threads.MOST_PARTS]
            assert threads.count_parts(1e12, 6) == 4

    @pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
    @pytest.mark.parametrize(
        ("passes", "shape"),
        [
            *product(("plain", "native"), [(90_000, 8, 30), (20_000, 40, 90), (600_000, 2, 9)]),
            # Too little for threads of our own, and enough for some of the BLAS
            *product(("plain",), [(40_000, 1, 3), (12_000, 40, 8)]),
        ],
    )
    def test_give_the_same_bits_on_any_number_of_threads(self, monkeypatch, passes, shape, algorithm):
        backend = pytest.importorskip("kmeans_xp.backends.numpy")
        if passes == "plain":
            use_plain_numpy(monkeypatch)
        elif backend.native_problem():
            pytest.skip("the native steps are not in use")
        n_samples, n_features, n_clusters = shape
        X = np.random.default_rng(0).normal(size=(n_samples, n_features)) + 1.7
        found = []

        def fit_once():
            model = KMeans(n_clusters, random_state=0, max_iter=4, algorithm=algorithm).fit(X)
            found.append((model.cluster_centers_.tobytes(), model.inertia_, model.labels_.tobytes()))
            found[-1] += (model.transform(X[:1000]).tobytes(), model.score(X))

        for n_threads in (1, 2, 3, 7):
            with threadpool_limits(n_threads, user_api="blas"):
                fit_once()
        assert all(other == found[0] for other in found[1:])
