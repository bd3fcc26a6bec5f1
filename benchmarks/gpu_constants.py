"""Constants of the CUDA backend that were guessed, each at other values: python -m benchmarks.gpu_constants [--quick].

For each case, with the array and first centers on the device, but where k-means++ is measured, and each value: how many
times as long a fit takes as with the value that is in use, in turns (below 1: the other value is better); its inertia
over that of the other, and its iterations. 2^62 stands for never. A line of --json is written for each value.
"""

import kmeans_xp
from benchmarks import gpu
from kmeans_xp import cuda

NEVER = 2**62
CASES = [*gpu.CASES[:3], (2**16, 16, 50, "float32"), (2**18, 16, 50, "float32"), gpu.CASES[4]]
# Where it is looked up, its name: other values
VALUES = {
    ("cuda", "PRODUCTS"): ("float16",),
    ("runs", "MOST_TOGETHER"): (1, 4, 16),  # iterations between two looks at what they found
    ("runs", "WORTH_A_GRAPH"): (2, NEVER),  # iterations from which on two are captured in a graph
    ("seeding", "MOST_TOGETHER"): (1, 16),  # rounds of k-means++ between two looks
    ("seeding", "WORTH_A_GRAPH"): (NEVER,),  # such rounds from which on one is captured
    ("runs", "MANY_NUMBERS"): (0, NEVER),  # from which on sums are of rows that changed cluster
    ("runs", "FEW_CHANGED"): (1 / 128, 1 / 16, 1 / 8),  # share of the rows up to which they are
    ("backend", "PRUNING_SIZE"): (0, NEVER),  # n_features * n_clusters from which on there are bounds
}


def measure(X, start, module, name, value):
    """Fits with a value beside those with the one in use."""
    used, init = getattr(module, name), "k-means++" if module.__name__.endswith("seeding") else start

    def fit(value):
        setattr(module, name, value)
        try:
            return kmeans_xp.KMeans(len(start), init=init, random_state=0, max_iter=100).fit(X)
        finally:
            setattr(module, name, used)

    model, expected = fit(value), fit(used)
    ratio = gpu.times_as_long(lambda: fit(value), lambda: fit(used), 3)
    found = {"ratio": ratio, "inertia": model.inertia_ / expected.inertia_}
    return {**found, "n_iter": model.n_iter_, "used": used, "used_n_iter": expected.n_iter_}


def main(options):
    gpu.append(options.json, kind="machine", **gpu.machine(options.quick))
    from kmeans_xp.backends import cupy as backend

    modules = {"cuda": cuda, "backend": backend, "runs": backend._cupy_runs, "seeding": backend._cupy_seeding}
    for shape in gpu.QUICK if options.quick else CASES:
        X, start = gpu.on_device(shape)
        for (module, name), values in VALUES.items():
            for value in values:
                measured = measure(X, start, modules[module], name, value)
                found = {"constant": f"{module}.{name}", "value": value, **measured}
                gpu.append(options.json, kind="constant", **gpu.named(shape), **found)
                print(shape, found, flush=True)


if __name__ == "__main__":
    main(gpu.arguments(__doc__).parse_args())
