"""What limits k-means on a cluster, on paper: python -m benchmarks.dask_model [--n 1e9 --d 128 --k 4096].

A simulation of one dense iteration of `kmeans_xp.data.dask`: every worker fetches the centers from one that has them,
computes its partitions, and sums go up a tree of tasks with a fan-in of 8, which a scheduler hands out one by one. Of
its inputs, the rate of a core and the time that Dask takes for a task are measured here; the network, the cores of a
node and the rate of a GPU are assumptions, printed with the result.
"""

import argparse
import heapq
import time

import numpy as np

FAN_IN = 8
NETWORK = 25e9 / 8  # bytes a second of a node: 25 Gb/s
CORES = 32  # of a node
GPU_RATE = 0.55 * 67e12  # multiplications and additions a second; docs/dask.md says where the share comes from


def core_rate():
    """Operations a second of one core in a float32 matrix product."""
    from threadpoolctl import threadpool_limits

    a, b = np.ones((4096, 128), "float32"), np.ones((128, 1024), "float32")
    with threadpool_limits(1):
        a @ b
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - began)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / np.median(seconds)


def task_seconds():
    """Seconds that a distributed scheduler takes for a task, from submission to result."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(abs, range(100)))
        began = time.perf_counter()
        client.gather(client.map(abs, range(1000, 3000)))
        return (time.perf_counter() - began) / 2000


def iteration(n, d, k, n_workers, rate, task, partition_bytes):
    """Seconds of an iteration, of it computing alone, and bytes that cross the network."""
    message = 8 * k * d
    transfer = message / NETWORK
    n_partitions = max(n_workers, -(-4 * n * d // partition_bytes))
    compute = 2 * n * d * k / n_partitions / rate

    # The centers: each worker that has them serves one other at a time
    ready, have = [], [0.0]
    for _ in range(n_workers):
        free = heapq.heappop(have)
        heapq.heappush(have, free + transfer)
        heapq.heappush(have, free + transfer)
        ready.append(free + transfer)
    sent = n_workers * message

    # The partitions, dealt out in turn; the scheduler's time for a task goes on beside the computation
    free_at, done = sorted(ready), []
    for partition in range(n_partitions):
        worker = partition % n_workers
        free_at[worker] = max(free_at[worker], task * partition) + compute
        done.append((free_at[worker], worker))

    # The tree: a task runs where the first of its inputs is, and fetches those of other workers
    issued = n_partitions
    while len(done) > 1:
        level = []
        for first in range(0, len(done), FAN_IN):
            group = done[first : first + FAN_IN]
            home = group[0][1]
            fetched = sum(worker != home for _, worker in group)
            sent += fetched * message
            start = max(max(moment for moment, _ in group), task * issued)
            level.append((start + fetched * transfer, home))
            issued += 1
        done = level
    return done[0][0] + transfer, n_partitions / n_workers * compute, sent + message


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=float, default=1e9)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--k", type=int, default=4096)
    options = parser.parse_args()
    core, task = core_rate(), task_seconds()
    print(f"measured: {core / 1e9:.0f} GFLOP/s a core, {task * 1e3:.2f} ms a task")
    print(f"assumed: {CORES} cores a node, {NETWORK * 8 / 1e9:.0f} Gb/s, {GPU_RATE / 1e12:.0f} TFLOP/s a GPU")
    for mib in (256, 4096):
        print(f"float32 partitions of {mib} MiB:")
        for name, rate in (("node", CORES * core), ("GPU", GPU_RATE)):
            for n_workers in (1, 8, 64):
                job = int(options.n), options.d, options.k, n_workers, rate, task, mib * 2**20
                total, computing, sent = iteration(*job)
                print(
                    f"{n_workers:3} {name}s: {total:8.2f} s an iteration, {computing:8.2f} s of it computing "
                    f"({computing / total:.0%}), {sent / 1e9:.2f} GB over the network"
                )


if __name__ == "__main__":
    main()
