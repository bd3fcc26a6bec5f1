"""The benchmark runs, and its report shows what it wrote. Times are not looked at."""

import argparse
import json
import os
import sys

import pytest

from benchmarks import bench, gpu_peers, gpu_run, report, small


@pytest.mark.filterwarnings("ignore")  # peers' own
def test_a_case_is_measured_and_reported(tmp_path, capsys):
    options = argparse.Namespace(budget=0.1, quick=True)
    X = bench.blobs(1500, 3, 4)
    found = bench.measure(X, 4, options)
    assert set(report.COLUMNS) <= set(found["ratios"])
    assert 0.8 < found["ratios"]["inertia"] < 1.2
    lines = [
        {"case": "blobs", **found},
        {"growth": "n_samples", "n": 10, "d": 2, "k": 3, "seconds": {"kmeans_xp": 0.1, "scikit-learn": 0.2}},
    ]
    (tmp_path / "results").write_text("\n".join(map(json.dumps, lines)))
    cases, points = report.read([tmp_path / "results"])
    assert "| blobs |" in report.table(cases)
    report.picture(cases, points, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_peer_that_is_hardest_to_beat_counts():
    whole = {
        "kmeans_xp": {"seconds": 1.0, "inertia": 10.0},
        "kmeans_xp, 25 iterations": {"seconds": 0.5, "inertia": 10.14},
        "faiss-cpu": {"seconds": 0.8, "inertia": 10.15},  # our 25 iterations are as good
        "superkmeans": {"seconds": 3.0, "inertia": 10.1},  # they are not
    }
    assert bench.peer_ratio(whole) == pytest.approx(1.6)
    whole["scikit-learn-intelex"] = {"seconds": 0.7, "inertia": 9.0}  # better than ours: our default fit against it
    assert bench.peer_ratio(whole) == pytest.approx(0.7)
    whole["faiss-cpu"] = {"seconds": 0.1, "inertia": 11.0}  # not the same quality
    assert bench.peer_ratio(whole) == pytest.approx(0.7)


def test_small_arrays_are_measured_in_processes_of_their_own(monkeypatch, tmp_path, capfd):
    pytest.importorskip("torch")
    monkeypatch.setattr(small, "CASES", {"iris 150 x 4": small.CASES["iris 150 x 4"]})
    monkeypatch.setattr(small, "installed", lambda kind: kind in ("NumPy", "torch"))
    small.main(argparse.Namespace(quick=True, budget=1, json=tmp_path / "results"))
    lines = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    measured = [(line["small"].removeprefix("iris 150 x 4, k=3, "), line["threads"]) for line in lines]
    assert measured == [("NumPy", 1), ("NumPy", 2), ("torch", 1)]
    for line in lines:
        assert list(line["jobs"]) == list(small.JOBS)
        assert all(line["jobs"][fit]["inertia"] == pytest.approx(1, abs=0.05) for fit in small.FITS)
    printed, errors = capfd.readouterr()
    assert printed.count("| **geometric mean** |") == 3
    assert not errors


def test_a_table_ends_with_means_and_worst_values():
    jobs = {job: {"clock": 2.0, "cpu": 4.0, "inertia": 1.01} for job in small.JOBS}
    slower = {job: {"clock": 0.5, "cpu": 4.0, "inertia": 1.01} for job in small.JOBS}
    *_, mean, worst = small.table(["a", "b"], [jobs, slower], min).splitlines()
    assert mean.split(" | ")[:2] == ["| **geometric mean**", "1, 4"]
    assert worst.split(" | ")[:2] == ["| **worst**", "0.5, 4"]
    assert worst.endswith("1.0100 |")


def part(name, program, **settings):
    return gpu_run.Part(name, [sys.executable, "-c", program], **{"limit": 60, **settings})


WRITES = "import pathlib, sys, time; pathlib.Path({path!r}).open('a').write({line!r} + chr(10)); "


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="processes are ended in groups")
def test_a_part_that_hangs_or_fails_loses_nothing(tmp_path, capsys):
    line = {"kind": "peer", "peer": "cuVS", "problem": "not installed"}
    writes = WRITES.format(path=str(tmp_path / "results.jsonl"), line=json.dumps(line))
    child = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']).wait()"
    chosen = [
        part("hangs", writes + child, limit=3),
        part("fails", "raise SystemExit('a reason')"),
        gpu_run.Part("absent", ["a-command-that-does-not-exist"], 60),
        part("cut", f"import pathlib; pathlib.Path({str(tmp_path / 'results.jsonl')!r}).open('a').write('{{')"),
        part("passes", "print(1)", must_pass=True),
    ]
    assert gpu_run.run_all(chosen, tmp_path, 600)
    lines = gpu_run.read(tmp_path / "results.jsonl")
    assert lines[0] == line
    status = {line["part"]: line["status"] for line in lines if line["kind"] == "part"}
    assert status["hangs"] == "stopped after 3 s"
    assert status["fails"] == "failed"
    assert status["absent"] == "a-command-that-does-not-exist is not installed"
    assert status["cut"] == status["passes"] == "passed"
    assert "a reason" in capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert "| passes | passed |" in table
    assert "- cuVS: not installed" in table
    assert "- flash-kmeans: not measured" in table


@pytest.mark.parametrize(
    ("program", "seconds", "good"), [("", 60, True), ("raise SystemExit(1)", 60, False), ("", 0, True)]
)
def test_only_what_must_pass_counts(tmp_path, program, seconds, good):
    chosen = [part("tests", program, must_pass=True), part("peer", "raise SystemExit(1)")]
    assert gpu_run.run_all(chosen, tmp_path, seconds) == good
    first = gpu_run.read(tmp_path / "results.jsonl")[0]
    assert (first["status"] == "no time was left") == (seconds == 0)


def test_tests_are_counted_as_far_as_they_got(tmp_path):
    lines = [
        "tests/a.py::one PASSED [ 5%]",
        "[gw1] [ 10%] PASSED tests/a.py::two[x] ",
        "[gw0] [ 20%] FAILED tests/b.py::three ",
        "tests/b.py::fo",
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    assert gpu_run.outcomes(tmp_path / "log") == {"passed": 2, "failed": 1, "error": 0}
    assert gpu_run.outcomes(tmp_path / "no such log") == {"passed": 0, "failed": 0, "error": 0}


def test_the_table_of_a_gpu_has_everything_that_was_found():
    case = {"n": 1_000_000, "d": 128, "k": 100, "dtype": "float32"}
    rates = {"copy_GB_s": 2900.0, "float16_GFLOP_s": 6e5, "float32_GFLOP_s": 5e4, "float64_GFLOP_s": 5e4}
    products = {"labels_s": 9e-4, "kernel_s": 6e-4, "bytes": 0.6, "operations": 0.25, "uncertain": 0.02}
    ours = {
        "fit_s": 0.05,
        "dense_s": 1.2e-3,
        "auto_s": 1e-3,
        "roofline": 0.3,
        "torch_in": {"fit": 1.01, "predict": 1.04},
    }
    peer = {"dense_s": 1.2e-3, "auto_s": 1e-3, "iteration_s": 3e-3, "inertia": 1.0, "roofline": 0.1}
    peer |= {"our_fit_s": 0.05, "fit_s": 0.2, "fit_inertia": 1.001}
    constant = {"constant": "MANY_NUMBERS", "used": 2**22, "value": 2**62, "ratio": 1.25, "inertia": 1.0}
    lines = [
        {"kind": "machine", "device": "NVIDIA H100", "cupy": "14.2.0", "commit": "abc", **rates},
        {"kind": "part", "part": "tests", "status": "failed", "seconds": 99.6, "passed": 800, "failed": 1, "error": 0},
        {"kind": "first", "state": "nothing compiled", "seconds": {"first": 28.0}, "kernels": 58},
        {"kind": "products", **case, "float16": products},
        {"kind": "case", **case, **ours},
        {"kind": "peer", "peer": "cuVS", **case, **peer},
        {"kind": "peer", "peer": "torch", **case, "problem": "OutOfMemoryError: none"},
        {"kind": "constant", **case, **constant, "n_iter": 20, "used_n_iter": 21},
    ]
    table = gpu_run.table(lines)
    what = "1,000,000 x 128, k=100, float32"
    for expected in (
        "NVIDIA H100, CuPy 14.2.0, commit abc: copy_GB_s 2900 to 2900",
        "| tests | failed, 800 passed, 1 failed, 0 error | 100 |",
        "| nothing compiled | first | 28.00 | 58 |",
        f"| {what} | float16 | 0.900 | 0.600 | 60.0% | 25.0% | 2.0% |",
        f"| {what} | kmeans_xp | 1.200 / 1.000 | 30%; torch in x 1.04 |  |  |",
        f"| {what} | cuVS | 3.000 | 10% | 2.50 / 3.00 | 1.00000 |",
        f"| {what} | cuVS | 0.2000 | 4.00 | 1.00100 |",
        f"- torch: {what}: OutOfMemoryError: none",
        f"| {what} | MANY_NUMBERS | 4194304 | never | 1.250 | 1.000000 | 20 for 21 |",
    ):
        assert expected in table
    assert "cuVS: not measured" not in table


def test_peers_that_cannot_be_used_are_named(monkeypatch, tmp_path):
    (tmp_path / "breaks_at_import.py").write_text("import a_library_of_theirs_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    assert gpu_peers.missing("no_such_module") == "not installed"
    assert gpu_peers.missing("breaks_at_import").startswith("cannot be imported: ModuleNotFoundError: No module named")
