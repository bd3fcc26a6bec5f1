"""BisectingKMeans beside scikit-learn's and beside KMeans: fits and predictions in turn, medians of the times of seeds.

python -m benchmarks.bisecting [--seeds 10] [--many]

`--many` fits many clusters of many rows, where splitting may pay, beside `KMeans` alone: some minutes with 3 seeds.
Inertias are means over the seeds.
"""

import argparse
import statistics
import time
import warnings

from sklearn import cluster
from sklearn.datasets import load_digits, load_iris, make_blobs

from benchmarks.bench import noise, pixels
from kmeans_xp import BisectingKMeans, KMeans

CASES = [
    ("iris", lambda: load_iris().data, (2, 8, 100)),
    ("digits", lambda: load_digits().data, (2, 8, 100)),
    ("blobs 10,000 x 2", lambda: make_blobs(10_000, 2, random_state=0)[0], (4, 8, 16)),
    ("blobs 100,000 x 20", lambda: make_blobs(100_000, 20, centers=50, random_state=0)[0], (50,)),
]
MANY = [
    ("photo 273,280 x 3", pixels, (16, 256, 2000)),
    ("noise 100,000 x 16", lambda: noise(100_000, 16), (50, 500, 2000)),
    ("noise 100,000 x 128", lambda: noise(100_000, 128), (50, 500, 2000)),
]


def timed(function, *args):
    """What the function gives, and the seconds that it took."""
    began = time.perf_counter()
    found = function(*args)
    return found, time.perf_counter() - began


def measure(peer, X, n_clusters, seeds):
    """How many times as fast fits and predictions are as the peer's, our fit's ms, and the ratio of inertias."""
    found = {kind: ([], [], []) for kind in (BisectingKMeans, peer)}
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--many", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    peer, cases = (KMeans, MANY) if options.many else (cluster.BisectingKMeans, CASES)
    print("| data | k | fit, ms | fit, times as fast | predict | inertia |\n|---|---|---|---|---|---|")
    for name, make, numbers in cases:
        X = make()
        for n_clusters in numbers:
            fit, predict, ms, inertia = measure(peer, X, n_clusters, options.seeds)
            print(f"| {name} | {n_clusters} | {ms:.1f} | {fit:.2f} | {predict:.2f} | {inertia:.3f} |", flush=True)


if __name__ == "__main__":
    main()
