"""BisectingKMeans beside scikit-learn's: fits and predictions in turn, medians of the times, mean inertia of the seeds.

python -m benchmarks.bisecting [--seeds 10]
"""

import argparse
import statistics
import time

from sklearn import cluster
from sklearn.datasets import load_digits, load_iris, make_blobs

from kmeans_xp import BisectingKMeans

CASES = [
    ("iris", lambda: load_iris().data, (2, 8, 100)),
    ("digits", lambda: load_digits().data, (2, 8, 100)),
    ("blobs 10,000 x 2", lambda: make_blobs(10_000, 2, random_state=0)[0], (4, 8, 16)),
    ("blobs 100,000 x 20", lambda: make_blobs(100_000, 20, centers=50, random_state=0)[0], (50,)),
]


def timed(function, *args):
    """What the function gives, and the seconds that it took."""
    began = time.perf_counter()
    found = function(*args)
    return found, time.perf_counter() - began


def measure(X, n_clusters, seeds):
    """How many times as fast fits and predictions are as scikit-learn's, our fit's ms, and the ratio of inertias."""
    found = {kind: ([], [], []) for kind in (BisectingKMeans, cluster.BisectingKMeans)}
    for kind in found:
        kind(n_clusters, random_state=0).fit(X)
    for seed in range(seeds):
        for kind, (fits, predictions, inertias) in found.items():
            model, seconds = timed(kind(n_clusters, random_state=seed).fit, X)
            fits.append(seconds)
            predictions.append(timed(model.predict, X)[1])
            inertias.append(model.inertia_)
    ours, theirs = ([statistics.median(some[0]), statistics.median(some[1]), sum(some[2])] for some in found.values())
    return theirs[0] / ours[0], theirs[1] / ours[1], ours[0] * 1e3, ours[2] / theirs[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print("| data | k | fit, ms | fit, times as fast | predict | inertia |\n|---|---|---|---|---|---|")
    for name, make, numbers in CASES:
        X = make()
        for n_clusters in numbers:
            fit, predict, ms, inertia = measure(X, n_clusters, seeds)
            print(f"| {name} | {n_clusters} | {ms:.1f} | {fit:.2f} | {predict:.2f} | {inertia:.3f} |", flush=True)


if __name__ == "__main__":
    main()
