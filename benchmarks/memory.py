"""Peak memory of a fit beyond X, each in a fresh process: python benchmarks/memory.py [--n 2000000 --d 16 --k 256]."""

import argparse
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np


def resident_bytes(field="VmRSS"):
    """Memory of this process that is in RAM (Linux); of 'RssAnon', what is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def watch(call, field="VmRSS"):
    """Most memory during `call` beyond what was there before, sampled every millisecond."""
    before, peak, done = resident_bytes(field), [0], threading.Event()

    def sample():
        while not done.is_set():
            peak[0] = max(peak[0], resident_bytes(field))
            time.sleep(0.001)

    thread = threading.Thread(target=sample)
    thread.start()
    result = call()
    done.set()
    thread.join()
    return peak[0] - before, result


def measure(library, n, d, k):
    if library == "kmeans_xp":
        from kmeans_xp import KMeans
    else:
        from sklearn.cluster import KMeans
    X = np.random.default_rng(0).normal(size=(n, d)).astype("float32")
    warnings.simplefilter("ignore")
    KMeans(2, n_init=1, max_iter=1).fit(X[:100])  # imports, thread pools
    for init in ("random", "k-means++"):
        model = KMeans(k, init=init, n_init=1, max_iter=3, random_state=0)
        extra, _ = watch(lambda model=model: model.fit(X))
        print(f"{library:10} {init:10} {extra / 2**20:8.0f} MiB beyond X   inertia {model.inertia_:.6g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("n", 2_000_000), ("d", 16), ("k", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--library")
    options = parser.parse_args()
    if options.library:
        measure(options.library, options.n, options.d, options.k)
        return
    for library in ("kmeans_xp", "scikit-learn"):
        subprocess.run([sys.executable, *sys.argv, "--library", library], check=True)


if __name__ == "__main__":
    main()
