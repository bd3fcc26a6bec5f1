"""The benchmark runs, and its report shows what it wrote. Times are not looked at."""

import argparse
import json

import pytest

from benchmarks import bench, report, small


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
