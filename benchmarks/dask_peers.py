"""Dask arrays on two worker processes, beside dask-ml and our fit in memory: python -m benchmarks.dask_peers.

`--kill` ends one worker in the middle of a fit instead, and prints the log of the scheduler.
"""

import argparse
import importlib.util
import logging
import os
import signal
import time
import warnings

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait

from benchmarks.bench import blobs, timed  # first: it sets the environment
from benchmarks.memory import resident_bytes
from kmeans_xp import KMeans


def peak_bytes():
    """Most memory that this process ever had in RAM (Linux)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit_dask_ml(X, k):
    from dask_ml.cluster import KMeans

    return KMeans(k, random_state=0).fit(X)


def compare(X, k, chunks):
    """Each contender on workers of its own, so that memory is its own too."""
    contenders = {"kmeans_xp, Dask": lambda rows: KMeans(k, random_state=0).fit(rows)}
    if importlib.util.find_spec("dask_ml"):
        contenders["dask-ml"] = lambda rows: fit_dask_ml(rows, k)
    else:
        print("not installed: dask-ml")
    for name, call in contenders.items():
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            rows = da.from_array(X, chunks=(chunks, -1)).persist()
            wait(rows)
            call(rows[: 10 * k])  # imports
            before = client.run(resident_bytes)
            seconds, model = timed(lambda call=call, rows=rows: call(rows))
            inertia = -KMeans.from_centers(np.asarray(model.cluster_centers_)).score(X)
            peaks = client.run(peak_bytes)
            grown = ", ".join(f"{(peaks[worker] - before[worker]) / 2**20:.0f}" for worker in peaks)
            print(
                f"{name:18} {seconds:7.2f} s, {model.n_iter_} iterations, inertia {inertia:.6g}, "
                f"workers grew by {grown} MiB"
            )
    seconds, model = timed(lambda: KMeans(k, random_state=0).fit(X))
    print(f"{'in memory':18} {seconds:7.2f} s, {model.n_iter_} iterations, inertia {model.inertia_:.6g}")


def kill(X, k, chunks):
    """A fit of whose two workers one is killed after the third iteration."""
    logging.basicConfig(level=logging.WARNING)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())

        def on_iteration(iteration):
            print(
                f"iteration {iteration.number}: {iteration.seconds:.2f} s, inertia {iteration.inertia:.6g}", flush=True
            )
            if iteration.number == 3:
                print(f"kill -9 {pids[0]}", flush=True)
                os.kill(pids[0], signal.SIGKILL)
                time.sleep(0.2)

        ours = KMeans(k, random_state=0, on_iteration=on_iteration).fit(da.from_array(X, chunks=(chunks, -1)))
        same = np.mean(ours.labels_.compute() == KMeans(k, random_state=0).fit_predict(X))
    print(f"{same:.4%} of the labels are those of the fit in memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2_000_000)
    parser.add_argument("--d", type=int, default=16)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X = blobs(options.n, options.d, options.k, spread=1.0)
    (kill if options.kill else compare)(X, options.k, -(-options.n // 8))


if __name__ == "__main__":
    main()
