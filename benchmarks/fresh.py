"""Seconds of import and first fit in a fresh process beside scikit-learn's: python -m benchmarks.fresh."""

import os
import statistics
import subprocess
import sys
import time

REPEATS = 9
# As on a user's machine: compiled files of modules are kept, those of installed packages always are
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
DATA = {
    "import alone": None,
    "1,000 x 2, k=3": "X, k = np.random.default_rng(0).normal(size=(1_000, 2)), 3",
    "digits 1,797 x 64, k=10": "from sklearn.datasets import load_digits; X, k = load_digits().data, 10",
    "20,000 x 10, k=8": "X, k = np.random.default_rng(0).normal(size=(20_000, 10)), 8",
    "200,000 x 5, k=20": "X, k = np.random.default_rng(0).normal(size=(200_000, 5)), 20",
    "200,000 x 64, k=100": "X, k = np.random.default_rng(0).normal(size=(200_000, 64)), 100",
}


def seconds(package, data):
    program = f"from {package} import KMeans"
    if data:
        program = f"import numpy as np; {data}; {program}; KMeans(k, max_iter=50, random_state=0).fit(X)"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=ENVIRONMENT)
    return time.perf_counter() - began


def main():
    print(f"{'':26} {'kmeans_xp':>10} {'sklearn':>10} {'ours/theirs':>12}")
    for name, data in DATA.items():
        seconds("kmeans_xp", data)  # files into the system's cache
        pairs = [(seconds("kmeans_xp", data), seconds("sklearn.cluster", data)) for _ in range(REPEATS)]
        ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        print(f"{name:26} {ours:9.2f}s {theirs:9.2f}s {ratio:12.2f}", flush=True)


if __name__ == "__main__":
    main()
