"""The benchmark runs, and its report shows what it wrote. Times are not looked at."""

import argparse
import json

import pytest

from benchmarks import bench, report


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
