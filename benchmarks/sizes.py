"""Bounded sizes beside k-means-constrained: python -m benchmarks.sizes [--peer] [--seeds 10] [--large].

Prints, for clusters whose sizes are within 2 % of n / k, CPU seconds and inertia of each seed, and their means.
`--peer` runs k-means-constrained too, which comes with the extra `bench`: 30 to 40 s a seed for blobs. `--large` fits
1,000,000 x 32 with k = 100 instead, and says how much memory that takes beyond X. `--noise`: rows without clusters.
"""

import argparse
import math
import resource
import statistics
import time
import warnings

import numpy as np

from kmeans_xp import KMeans


def rows(n, d, k, is_noise):
    """Round clusters that overlap somewhat, or none."""
    rng = np.random.default_rng(0)
    if is_noise:
        return rng.normal(size=(n, d))
    centers, labels = rng.normal(scale=2.0, size=(k, d)), rng.integers(k, size=n)
    X = rng.normal(size=(n, d))
    X += centers[labels]
    return X


def timed(make, X):
    """CPU seconds, and the fitted model."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().fit(X)
    return time.process_time() - began, model


def peak():
    """MiB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    for flag in ("--peer", "--large", "--noise"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    n, d, k = (1_000_000, 32, 100) if options.large else (100_000, 16, 50)
    sizes = {"size_min": math.ceil(0.98 * n / k), "size_max": math.floor(1.02 * n / k)}
    KMeans(2, size_min=1).fit(np.random.default_rng(0).normal(size=(500, 2)))
    X = rows(n, d, k, options.noise)
    makers = {"kmeans_xp": KMeans}
    if options.peer:
        from k_means_constrained import KMeansConstrained

        makers["k-means-constrained"] = KMeansConstrained
    found = {name: [] for name in makers}
    for seed in range(options.seeds):
        for name, maker in makers.items():
            before, began = peak(), time.perf_counter()
            seconds, model = timed(lambda maker=maker, seed=seed: maker(k, n_init=1, random_state=seed, **sizes), X)
            counts = np.bincount(model.labels_)
            print(
                f"{name}, seed {seed}: {seconds:.1f} s of CPU, {time.perf_counter() - began:.1f} s, {model.n_iter_} "
                f"iterations, inertia {model.inertia_:.7g}, sizes {counts.min()} to {counts.max()}, "
                f"{peak() - before:.0f} MiB more than before",
                flush=True,
            )
            found[name].append((seconds, model.inertia_))
    for name, results in found.items():
        seconds, inertias = zip(*results, strict=True)
        print(f"{name}: median {statistics.median(seconds):.2f} s of CPU, mean inertia {statistics.mean(inertias):.8g}")


if __name__ == "__main__":
    main()
