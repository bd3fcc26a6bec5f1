"""Thousands of clusters beside faiss and superkmeans: python -m benchmarks.large_k [--growth [--picture FILE]].

Each fit in a process of its own, 10 iterations for all. For each case seconds, CPU seconds, memory beyond X, and the
inertia of the centers, in float64 and by one program for all. Of ours also how many of 10,000 labels of `predict` are
not exactly those of the nearest center, by differences in float64. Peers come with the extra `bench`.

`--growth`: how the CPU time of ours grows from 100 to 100,000 clusters.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import warnings

import numpy as np

from benchmarks.bench import noise  # first: it sets the environment
from benchmarks.memory import watch
from kmeans_xp import KMeans

ITERATIONS = 10
GROWTH = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


def of_rank(n, d, rank):
    """Rows near a plane of few dimensions, as embeddings are."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) / rank**0.5
    return (X + 0.1 * rng.normal(size=(n, d))).astype("float32")


def splat(n):
    """Coefficients of a Gaussian splat: 45 numbers, the first much larger than the last; and opacities as weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 45)) * np.repeat([0.3, 0.1, 0.05], [9, 15, 21])
    return X.astype("float32"), rng.uniform(0.01, 1, size=n)


CASES = {  # name: rows (and weights), n_clusters
    "30,000 x 128 of rank 16, k=2,048": (lambda: (of_rank(30_000, 128, 16), None), 2_048),
    "200,000 x 256 of rank 24, k=8,192": (lambda: (of_rank(200_000, 256, 24), None), 8_192),
    "100,000 x 64 without structure, k=4,096": (lambda: (noise(100_000, 64), None), 4_096),
    "200,000 x 45, a splat, weighted, k=16,384": (lambda: splat(200_000), 16_384),
}


def ours(X, weights, k):
    return KMeans(k, max_iter=ITERATIONS, random_state=0).fit(X, sample_weight=weights).cluster_centers_


def _faiss(name):
    def fit(X, weights, k):
        import faiss

        every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(X)}
        model = getattr(faiss, name)(X.shape[1], k, niter=ITERATIONS, seed=0, **every)
        model.train(X, **({} if weights is None else {"weights": weights.astype("float32")}))
        return model.centroids

    return fit


def superkmeans(X, weights, k):
    from superkmeans import SuperKMeans

    every = {"sampling_fraction": 1.0, "max_points_per_cluster": len(X), "early_termination": False}
    return SuperKMeans(k, X.shape[1], hierarchical=False, iters=ITERATIONS, seed=0, **every).train(X)


FITS = {  # name: fit, the module that it needs, whether it takes weights
    "kmeans_xp": (ours, "kmeans_xp", True),
    "faiss Kmeans": (_faiss("Kmeans"), "faiss", True),
    "faiss SuperKMeans": (_faiss("SuperKMeans"), "faiss", False),
    "superkmeans": (superkmeans, "superkmeans", False),
}


def squares_from_nearest(X, centers):
    """Squared distance of each row from its nearest center, by differences, and the label of that; (n_rows,) each."""
    squares, labels = np.empty(len(X)), np.empty(len(X), dtype=np.int64)
    norms = (centers**2).sum(axis=1)
    for begin in range(0, len(X), 2_048):
        rows = X[begin : begin + 2_048].astype("float64")
        few = np.argpartition(norms - 2 * rows @ centers.T, 3, axis=1)[:, :4]
        apart = ((rows[:, None] - centers[few]) ** 2).sum(axis=2)
        best = apart.argmin(axis=1)
        labels[begin : begin + 2_048] = few[np.arange(len(rows)), best]
        squares[begin : begin + 2_048] = apart[np.arange(len(rows)), best]
    return squares, labels


def measure(name, case):
    """Print what one fit took, as JSON."""
    (rows, k), (fit, _, weighs) = CASES[case], FITS[name]
    X, weights = rows()
    weights = weights if weighs else None
    began, began_cpu, found = time.perf_counter(), time.process_time(), []
    extra, _ = watch(lambda: found.append(fit(X, weights, k)), "RssAnon")
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - began_cpu, "MiB": extra / 2**20}
    centers = np.asarray(found[0], dtype="float64").reshape(k, -1)
    squares, _ = squares_from_nearest(X, centers)
    took["inertia"] = float((squares if weights is None else squares * weights).sum())
    if name == "kmeans_xp":
        squares, nearest = squares_from_nearest(X[:10_000], centers)
        predicted = KMeans.from_centers(centers.astype("float32")).predict(X[:10_000])
        apart = ((X[:10_000].astype("float64") - centers[predicted]) ** 2).sum(axis=1)
        took["wrong"] = int(((predicted != nearest) & (apart > squares * (1 + 1e-12))).sum())
    print(json.dumps(took))


def in_a_process(*arguments):
    """What `python -m benchmarks.large_k` prints last with these, from JSON."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large_k", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(cases):
    print("| | | seconds | CPU s | MiB beyond X | inertia beside ours |\n| --- | --- | --- | --- | --- | --- |")
    for case in cases:
        reference = None
        for name, (_, module, weighs) in FITS.items():
            if importlib.util.find_spec(module) is None or not (weighs or "weighted" not in case):
                continue
            found = in_a_process("--fit", name, case)
            reference = reference or found["inertia"]
            note = f"; {found['wrong']} of 10,000 labels not the nearest" if "wrong" in found else ""
            times = f"{found['seconds']:.1f} | {found['cpu']:.1f} | {found['MiB']:.0f}"
            print(f"| {case} | {name} | {times} | {found['inertia'] / reference:.4f}{note} |", flush=True)


def growth(picture):
    """CPU seconds of fits to 300,000 x 32 rows, and of `predict`."""
    X, times = of_rank(300_000, 32, 8), []
    for k in GROWTH:
        began = time.process_time()
        extra, model = watch(lambda k=k: KMeans(k, max_iter=ITERATIONS, random_state=0).fit(X), "RssAnon")
        fitted = time.process_time()
        model.predict(X)
        fit, predict = fitted - began, time.process_time() - fitted
        times.append((fit, predict))
        print(f"k={k:7,}: fit {fit:6.2f} s, {extra / 2**20:5.0f} MiB beyond X; predict {predict:6.2f} s", flush=True)
    if picture:
        draw(times, picture)


def draw(times, picture):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for place, name in enumerate(("fit, 10 iterations", "predict")):
        ax.loglog(GROWTH, [pair[place] for pair in times], "o-", label=name)
    first = times[GROWTH.index(1_000)][0] / 1_000
    ax.loglog(GROWTH, [first * k for k in GROWTH], ":", color="gray", label="linear")
    ax.set(xlabel="clusters", ylabel="CPU seconds", title="300,000 x 32")
    ax.legend()
    figure.savefig(picture, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", nargs=2, metavar=("LIBRARY", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--picture", help="file of the picture of the growth")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.fit:
        measure(*options.fit)
    elif options.growth:
        growth(options.picture)
    else:
        compare(options.case or CASES)


if __name__ == "__main__":
    main()
