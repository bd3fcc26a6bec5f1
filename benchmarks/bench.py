"""Speed and inertia beside scikit-learn, in one process, interleaved: python -m benchmarks.bench [--quick].

Prints, for each case, the median seconds and the ratio scikit-learn / kmeans_xp (above 1: we are faster) of
- a whole default fit, seeding included, with the mean inertia over the seeds;
- iterations from the same start and of the same number, against the better of scikit-learn's two algorithms;
- predict.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines set them, and slow NumPy
    os.environ.pop(name, None)

import numpy as np
import sklearn
from sklearn import cluster
from sklearn.datasets import load_digits, load_sample_image
from threadpoolctl import threadpool_info

import kmeans_xp

N_ITERATIONS = 10


def blobs(n, d, k, spread=2.0):
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=spread, size=(k, d))
    return (centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype("float32")


def noise(n, d):
    return np.random.default_rng(0).uniform(size=(n, d)).astype("float32")


def pixels():
    return load_sample_image("china.jpg").reshape(-1, 3).astype("float32") / 255


# name: data, k, whether --quick runs it
CASES = {
    "photo 273,280 x 3, k=16": (pixels, 16, True),
    "photo 273,280 x 3, k=64": (pixels, 64, False),
    "photo 273,280 x 3, k=256": (pixels, 256, False),
    "digits 1,797 x 64, k=10": (lambda: load_digits().data, 10, True),
    "blobs 1,000,000 x 8, k=8": (lambda: blobs(1_000_000, 8, 8), 8, False),
    "blobs 2,000,000 x 2, k=3": (lambda: blobs(2_000_000, 2, 3), 3, False),
    "blobs 200,000 x 64, k=100": (lambda: blobs(200_000, 64, 100), 100, True),
    "blobs 100,000 x 128, k=1,000": (lambda: blobs(100_000, 128, 1000), 1000, False),
    "noise 100,000 x 16, k=50": (lambda: noise(100_000, 16), 50, True),
    "noise 20,000 x 784, k=30": (lambda: noise(20_000, 784), 30, False),
}


def timed(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def compare(contenders, repeats):
    """Median seconds and the results of each of the calls `contenders[name](repeat)`, run in turn."""
    seconds, results = {name: [] for name in contenders}, {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, call in contenders.items():
            took, result = timed(lambda call=call, repeat=repeat: call(repeat))
            seconds[name].append(took)
            results[name].append(result)
    return {name: statistics.median(values) for name, values in seconds.items()}, results


def whole_fit(X, k, seeds):
    fits = {
        "kmeans_xp": lambda seed: kmeans_xp.KMeans(k, random_state=seed).fit(X),
        "scikit-learn": lambda seed: cluster.KMeans(k, random_state=seed).fit(X),
    }
    seconds, models = compare(fits, seeds)
    # One ruler for both: scikit-learn sums in float32
    means = {name: np.mean([-_ruler(m).score(X) for m in found]) for name, found in models.items()}
    return {
        "seconds": seconds["kmeans_xp"],
        "ratio": seconds["scikit-learn"] / seconds["kmeans_xp"],
        "inertia_ratio": means["kmeans_xp"] / means["scikit-learn"],
    }


def _ruler(model):
    return model if isinstance(model, kmeans_xp.KMeans) else kmeans_xp.KMeans.from_sklearn(model)


def iterations(X, k, repeats):
    start = X[np.random.default_rng(1).choice(len(X), k, replace=False)]
    params = {"init": start, "n_init": 1, "max_iter": N_ITERATIONS, "tol": 0}
    fits = {"kmeans_xp": lambda _: kmeans_xp.KMeans(k, **params).fit(X)}
    for algorithm in ("lloyd", "elkan"):
        fits[algorithm] = lambda _, algorithm=algorithm: cluster.KMeans(k, algorithm=algorithm, **params).fit(X)
    seconds, models = compare(fits, repeats)
    ours, theirs = models["kmeans_xp"][0], models["lloyd"][0]
    assert abs(ours.inertia_ / theirs.inertia_ - 1) < 1e-3, "not the same result: a time would mean nothing"
    best = min(seconds["lloyd"], seconds["elkan"])
    return {"seconds": seconds["kmeans_xp"] / ours.n_iter_, "ratio": best / seconds["kmeans_xp"]}


def predict(X, k, repeats):
    theirs = cluster.KMeans(k, init=X[:k], n_init=1, max_iter=2).fit(X)
    ours = kmeans_xp.KMeans.from_sklearn(theirs)
    seconds, _ = compare({"kmeans_xp": lambda _: ours.predict(X), "scikit-learn": lambda _: theirs.predict(X)}, repeats)
    return {"seconds": seconds["kmeans_xp"], "ratio": seconds["scikit-learn"] / seconds["kmeans_xp"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small cases, three seeds")
    parser.add_argument("--json", help="append results to this file, one line a case")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    blas = [f"{p['internal_api']} {p.get('architecture', '')} x{p['num_threads']}" for p in threadpool_info()]
    machine = {"numpy": np.__version__, "sklearn": sklearn.__version__, "pools": blas, "commit": revision}
    print(f"Python {sys.version.split()[0]}, {machine}")
    print(f"{'':30} {'whole fit':>24} {'an iteration':>18} {'predict':>18}")
    print(f"{'':30} {'s':>7} {'ratio':>6} {'inertia':>9} {'ms':>11} {'ratio':>6} {'ms':>11} {'ratio':>6}")
    ratios = {"whole": [], "iterations": [], "predict": []}
    for name, (data, k, quick) in CASES.items():
        if options.quick and not quick:
            continue
        X = data()
        kmeans_xp.KMeans(2, max_iter=1, random_state=0).fit(X[:1000])
        cluster.KMeans(2, max_iter=1, random_state=0).fit(X[:1000])
        row = {
            "whole": whole_fit(X, k, 3 if options.quick else 10),
            "iterations": iterations(X, k, 3),
            "predict": predict(X, k, 5),
        }
        for key, values in ratios.items():
            values.append(row[key]["ratio"])
        whole, steps, guess = row.values()
        print(
            f"{name:30} {whole['seconds']:7.3f} {whole['ratio']:6.2f} {whole['inertia_ratio']:9.4f} "
            f"{steps['seconds'] * 1e3:11.2f} {steps['ratio']:6.2f} "
            f"{guess['seconds'] * 1e3:11.2f} {guess['ratio']:6.2f}",
            flush=True,
        )
        if options.json:
            with open(options.json, "a", encoding="utf-8") as file:
                file.write(json.dumps({"case": name, **machine, **row}) + "\n")
    for key, values in ratios.items():
        print(f"{key}: geometric mean {statistics.geometric_mean(values):.2f}, worst {min(values):.2f}")


if __name__ == "__main__":
    main()
