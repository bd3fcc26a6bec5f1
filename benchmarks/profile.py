"""Where the time of a fit goes, and how far that is from the machine's limits: python -m benchmarks.profile.

Share of each step in a default fit, and the speed of the steps that touch all rows against that of a copy of X (bytes)
and of a float32 matrix product (operations), all measured in this run.
"""

import argparse
import time
import warnings
from collections import defaultdict
from unittest import mock

import numpy as np

import kmeans_xp
from benchmarks import bench
from kmeans_xp import algorithms, passes, steps
from kmeans_xp.data import Purpose, open_data
from kmeans_xp.seeding import greedy

DEFAULT = ["photo 273,280 x 3, k=256", "noise 20,000 x 784, k=30", "blobs 100,000 x 128, k=1,000"]
PASSES = {
    "moments": (passes, "moments"),
    "seeding: sample": (greedy, "coreset"),
    "seeding: k-means++": (greedy, "greedy"),
    "iterations, dense": (algorithms, "lloyd_step"),
    "iterations, bounded": (algorithms, "bounded_step"),
    "final sums": (passes, "update"),
    "inertia": (passes, "inertia"),
}


def profile(X, k):
    """Seconds in each of the passes, and of the whole fit."""
    took = defaultdict(float)

    def timed(name, function):
        def call(*args):
            began = time.perf_counter()
            result = function(*args)
            took[name] += time.perf_counter() - began
            return result

        return call

    patches = [mock.patch.object(m, f, timed(name, getattr(m, f))) for name, (m, f) in PASSES.items()]
    for patch in patches:
        patch.start()
    began = time.perf_counter()
    model = kmeans_xp.KMeans(k, random_state=0).fit(X)
    total = time.perf_counter() - began
    for patch in patches:
        patch.stop()
    return took, total, model


def dense_seconds(X, k):
    """Seconds of one iteration that compares all rows with all centers."""
    with open_data(X, None, Purpose(k)) as data:
        frame, job = passes.moments(data, 2**22), data.all_rows()
        centers = frame.enter(X[:k])
        return min(bench.timed(lambda: steps.lloyd_step(*job, centers, frame))[0] for _ in range(5))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=bench.CASES)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    limits = bench.limits()
    print(f"copy {limits['copy_GB_s']:.1f} GB/s, matrix product {limits['matmul_GFLOP_s']:.0f} GFLOP/s (float32)")
    for name in options.case or DEFAULT:
        data, k, _ = bench.CASES[name]
        X = np.asarray(data())
        kmeans_xp.KMeans(k, random_state=0, max_iter=3).fit(X)
        took, total, model = profile(X, k)
        print(f"\n{name}: {total:.3f} s, {model.n_iter_} iterations on all rows")
        for step, seconds in sorted(took.items(), key=lambda item: -item[1]):
            print(f"  {step:22} {seconds:8.3f} s {seconds / total:6.1%}")
        print(f"  {'everything else':22} {total - sum(took.values()):8.3f} s")
        dense = dense_seconds(X, k)
        rate = 2 * X.size * k / dense / 1e9
        reading = X.nbytes / dense / 1e9
        print(
            f"  one dense iteration {dense * 1e3:.1f} ms: {rate:.0f} GFLOP/s, {rate / limits['matmul_GFLOP_s']:.0%} of "
            f"the matrix product; reads X at {reading:.1f} GB/s, {2 * reading / limits['copy_GB_s']:.0%} of a copy"
        )


if __name__ == "__main__":
    main()
