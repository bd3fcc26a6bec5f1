"""Many small problems beside a loop of scikit-learn's fits, and one dimension: python -m benchmarks.problems.

`kmeans_batch` uses all threads that it may, scikit-learn's loop one, as a loop of small fits is fastest so. Our own
loop has the same bits, which is checked. kmeans1d is asked where it is installed.
"""

import importlib.util
import statistics
import time
import warnings

import numpy as np
from sklearn import cluster
from threadpoolctl import threadpool_limits

from benchmarks.bench import noise  # first: it sets the environment
from benchmarks.large_k import of_rank
from benchmarks.memory import watch
from kmeans_xp import KMeans, kmeans_batch

REPEATS = 5
CASES = [(1000, 400, 8, 16), (1000, 100, 2, 4), (200, 2000, 16, 32)]  # problems, rows, features, clusters


def seconds(function, *args):
    """Median of the times of a few calls."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def small_problems(n_problems, n, d, k):
    """A line of the first table."""
    X = noise(n_problems * n, d).reshape(n_problems, n, d)
    batch = kmeans_batch(X, k, random_state=0)
    loop = [KMeans(k, random_state=0).fit(x) for x in X]
    same = all(
        np.array_equal(model.cluster_centers_, centers) and np.array_equal(model.labels_, labels)
        for model, centers, labels in zip(loop, batch.centers, batch.labels, strict=True)
    )
    ours = seconds(lambda: kmeans_batch(X, k, random_state=0))
    our_loop = seconds(lambda: [KMeans(k, random_state=0).fit(x) for x in X[::10]]) * 10
    with threadpool_limits(1):
        models = [cluster.KMeans(k, random_state=0).fit(x) for x in X[::10]]
        theirs = seconds(lambda: [cluster.KMeans(k, random_state=0).fit(x) for x in X[::10]]) * 10
    inertia = batch.inertia[::10].sum() / sum(model.inertia_ for model in models)
    what = f"{n_problems:,} of {n:,} x {d}, k={k}"
    print(f"| {what} | {ours:.3f} | {theirs / ours:.1f} | {our_loop / ours:.1f} | {inertia:.4f} | {same} |", flush=True)


def numbers():
    """One dimension."""
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(4096, 4096, 1)), rng.uniform(0.5, 2, size=(4096, 4096))
    began, found = time.perf_counter(), []
    extra, _ = watch(lambda: found.append(kmeans_batch(X, 16, sample_weight=weights, algorithm="optimal")), "RssAnon")
    print(f"\n4,096 weighted problems of 4,096 numbers, k=16, optimal: {time.perf_counter() - began:.1f} s, ", end="")
    print(f"{extra / 2**20:.0f} MiB beyond X and weights, {found[0].labels.nbytes / 2**20:.0f} of them labels")
    usual = [
        KMeans(16, random_state=0).fit(x, sample_weight=w).inertia_ for x, w in zip(X[:20], weights[:20], strict=True)
    ]
    print(f"  inertia / that of a default fit, 20 problems: {found[0].inertia[:20].sum() / sum(usual):.4f}")
    far = np.concatenate((rng.normal(size=2000), rng.normal(size=10) * 1e3 + 1e4))[:, None]
    best = KMeans(16, algorithm="optimal").fit(far).inertia_
    theirs = [cluster.KMeans(16, random_state=seed).fit(far).inertia_ / best for seed in range(10)]
    print(f"2,000 numbers and 10 far ones: scikit-learn's inertia / the lowest {min(theirs):.3f} to {max(theirs):.3f}")
    for n in (100_000, 1_000_000):
        ours = KMeans(16, algorithm="optimal")
        x = rng.normal(size=(n, 1))
        print(f"{n:,} numbers, k=16, optimal: {seconds(ours.fit, x):.2f} s", flush=True)
        if importlib.util.find_spec("kmeans1d"):
            kmeans1d, values = importlib.import_module("kmeans1d"), x[:, 0].tolist()
            apart = np.abs(ours.cluster_centers_[:, 0] - kmeans1d.cluster(values, 16)[1]).max()
            print(f"  kmeans1d: {seconds(kmeans1d.cluster, values, 16):.2f} s, centers differ by up to {apart:.1e}")


def product_quantiser():
    """Codebooks of vectors near a plane, beside faiss: 16 parts of 8 numbers, 256 centers each, 25 iterations."""
    X = of_rank(20_000, 128, 16)
    parts = X.reshape(len(X), 16, 8).swapaxes(0, 1)
    options = {"max_iter": 25, "random_state": 0}
    batch = kmeans_batch(parts, 256, **options)
    restored = batch.centers[np.arange(16), batch.labels.T].reshape(X.shape)
    spread = ((X - X.mean(axis=0)) ** 2).sum()
    lost, took = ((X - restored) ** 2).sum() / spread, seconds(lambda: kmeans_batch(parts, 256, **options))
    print(f"\nProduct quantiser, 20,000 x 128 in 16 bytes: {took:.2f} s, {lost:.4%} of the variance is lost")
    if importlib.util.find_spec("faiss"):
        faiss = importlib.import_module("faiss")
        model = faiss.ProductQuantizer(128, 16, 8)
        model.cp.max_points_per_centroid = len(X)
        took = seconds(model.train, X)
        lost = ((X - model.decode(model.compute_codes(X))) ** 2).sum() / spread
        print(f"  faiss: {took:.2f} s, {lost:.4%}", flush=True)


def main():
    warnings.simplefilter("ignore")
    print("| problems | s | scikit-learn / ours | our loop / ours | inertia / scikit-learn's | bits of our loop |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        small_problems(*case)
    product_quantiser()
    numbers()


if __name__ == "__main__":
    main()
