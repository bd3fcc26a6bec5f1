"""Many problems on a GPU: python -m benchmarks.gpu_problems [--quick].

`kmeans_batch` beside a loop over `KMeans`, on the device (of every tenth problem) and on the host, where it has to
fetch the rows. Small problems are an axis of the grid; those of the last case are fitted one after the other.
"""

import numpy as np

from benchmarks import gpu
from kmeans_xp import KMeans, kmeans_batch

CASES = [
    *((1000, 400, 8, 16), (1000, 100, 2, 4), (200, 2000, 16, 32)),
    (1, 8192, 16, 250),  # about the most that a block chooses rows for
    (32, 74_256, 128, 1000),
]
QUICK = [(3, 40, 3, 4)]  # problems, rows, features, clusters


def measure(n_problems, n, d, k):
    """Seconds of a batch, and times as long as it that the others take."""
    import cupy

    X = cupy.asarray(gpu.blobs(n_problems * n, d, k, "float32").reshape(n_problems, n, d))
    some = X[::10]
    took, batch = gpu.seconds(lambda: kmeans_batch(X, k, random_state=0))
    loop, models = gpu.seconds(lambda: [KMeans(k, random_state=0).fit(rows) for rows in some], 1)
    host, _ = gpu.seconds(lambda: kmeans_batch(cupy.asnumpy(X), k, random_state=0), 1)
    same = all(
        cupy.array_equal(model.labels_, labels) for model, labels in zip(models, batch.labels[::10], strict=True)
    )
    n_iter = float(np.mean(cupy.asnumpy(batch.n_iter)))
    found = {"batch_s": took, "loop": loop * len(X) / len(some) / took, "host": host / took}
    return {**found, "n_iter": n_iter, "same": bool(same)}


def main(options):
    gpu.append(options.json, kind="machine", **gpu.machine(options.quick))
    for n_problems, n, d, k in QUICK if options.quick else CASES:
        found = measure(n_problems, n, d, k)
        shape = {"n_problems": n_problems, "n": n, "d": d, "k": k, "dtype": "float32"}
        gpu.append(options.json, kind="problems", **shape, **found)
        print(shape, found, flush=True)


if __name__ == "__main__":
    main(gpu.arguments(__doc__).parse_args())
