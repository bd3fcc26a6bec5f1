"""A file larger than memory, in a process of little memory: python -m benchmarks.streaming [--gib 10 --d 64 --k 100].

Writes blobs to a file in --folder, deletes it at the end. Reports seconds of each pass against reading the file, peak
memory that is not the system's file cache, and whether the labels of a slice are those of the same slice in memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sklearn

from benchmarks.memory import resident_bytes, watch
from kmeans_xp import KMeans


def write(path, n, d, k):
    """Blobs of float32 in a file."""
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=2.0, size=(k, d)).astype("float32")
    with open(path, "wb") as file:
        for start in range(0, n, 2**18):
            labels = rng.integers(k, size=min(2**18, n - start))
            (centers[labels] + rng.standard_normal((len(labels), d), dtype="float32")).tofile(file)


def read(path, evict=False):
    """Seconds to read the file from front to back, on demand after it was taken out of the system's file cache."""
    buffer = bytearray(2**26)
    if evict:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def fit(path, n, d, k, algorithm, working_memory):
    """One fit in this process, reported."""
    X = np.memmap(path, dtype="float32", mode="r", shape=(n, d))
    KMeans(2, n_init=1).fit(np.asarray(X[:10_000]))  # imports, thread pools
    passes, before, began = [], resident_bytes("RssAnon"), time.perf_counter()
    model = KMeans(
        k,
        random_state=0,
        algorithm=algorithm,
        on_iteration=lambda iteration: passes.append(iteration.seconds),
    )
    with sklearn.config_context(working_memory=working_memory):
        extra, _ = watch(lambda: model.fit(X), "RssAnon")
    print(
        f"{algorithm}: fit {time.perf_counter() - began:.1f} s, {model.n_iter_} iterations of "
        f"{', '.join(f'{seconds:.1f}' for seconds in passes)} s; peak memory {(before + extra) / 2**20:.0f} MiB; "
        f"inertia {model.inertia_:.6g}"
    )
    few = np.asarray(X[:500_000])
    start = model.cluster_centers_
    expected = KMeans(k, init=start, tol=0, max_iter=300).fit(few)
    with sklearn.config_context(working_memory=64):
        ours = KMeans(k, init=start, tol=0, max_iter=300).fit(X[:500_000])
    same = np.mean(ours.labels_ == expected.labels_)
    print(f"  of the first 500,000 rows, {same:.4%} have the label of the fit in memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=10)
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--memory", type=int, default=512, help="MiB of working memory")
    parser.add_argument("--algorithm", help="for the process that it starts")
    options = parser.parse_args()
    n = int(options.gib * 2**30 / 4 / options.d)
    path = Path(options.folder) / "kmeans_xp_streaming.bin"
    if options.algorithm:
        fit(path, n, options.d, options.k, options.algorithm, options.memory)
        return
    try:
        write(path, n, options.d, options.k)
        print(f"{n:,} x {options.d} float32, {path.stat().st_size / 2**30:.1f} GiB; k={options.k}")
        print(f"reading it from the disk: {read(path, evict=True):.1f} s, from the file cache {read(path):.1f} s")
        for algorithm in ("lloyd", "auto"):
            subprocess.run([sys.executable, "-m", "benchmarks.streaming", *sys.argv[1:], "--algorithm", algorithm])
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
