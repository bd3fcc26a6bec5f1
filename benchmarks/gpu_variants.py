"""Labels by each kind of products that tensor cores have, side by side: python -m benchmarks.gpu_variants [--quick].

For each case, with the array and k-means++ centers on the device, and each value of `cuda.PRODUCTS`: seconds for all
labels, and of these for the kernel on tensor cores alone; the share of rows that it leaves to the exact one; and the
shares of its time in which the device could read the rows as often as the kernel does (`bytes`) and do its operations
(`operations`), at the rates of this run. Labels must be the same before anything is timed. A line of --json is written
as each case ends.
"""

import math

import numpy as np

from benchmarks import gpu
from kmeans_xp import cuda, passes
from kmeans_xp.data.memory import InMemory
from kmeans_xp.metric import EUCLIDEAN

CASES = gpu.CASES[:4]
QUICK = [(600, 8, 10, "float32"), (300, 40, 50, "float32"), (150, 140, 20, "float32")]  # their times mean nothing
OF_FLOAT16 = {"tf32": 0.5, "float16": 1.0}  # the rate of operations


def work(products, device, shape):
    """How often a kernel reads the rows, and the operations that it does for each, with what fills its tiles."""
    _, d, k, dtype = shape
    if products == "tf32":
        width, (_, stay), _ = cuda.plan_certain(device, d, k, np.dtype(dtype))
        n_tiles, padded = math.ceil(k / width), 16 * math.ceil(d / 16)
        reads = 1 if stay else n_tiles
    else:
        plan = cuda.plan_half(device, d, k)
        width, n_tiles, padded = plan.width, math.ceil(k / plan.width), 16 * plan.n_groups
        is_wide = plan.kernel == "relabel_wide"
        reads = n_tiles if is_wide and plan.room < plan.n_groups else 1
    return reads, 2 * padded * n_tiles * width


def measure(shape, rates):
    """Everything about one case."""
    import cupy

    from kmeans_xp.backends import cupy as backend

    n, _, k, _ = shape
    X, start = gpu.on_device(shape)
    frame = passes.moments(InMemory(X, cupy.ones(n), EUCLIDEAN, fitting=False), 2**28)
    centers = frame.enter(start)
    found, expected = gpu.named(shape), None
    for products in backend.passes.CERTAIN:
        cuda.PRODUCTS = products
        labels = backend.assign(X, centers, frame)
        expected = labels if expected is None else expected
        cupy.testing.assert_array_equal(labels, expected)

        kernels = backend._kernels(X, frame.distance_dtype)
        label = backend.passes.CERTAIN[products](kernels, centers, frame, cupy.zeros(k))
        uncertain, counts = cupy.empty(n, dtype="int32"), cupy.zeros(2, dtype="uint64")
        n_uncertain = cupy.zeros(1, dtype="uint64")

        def label_all(label=label, labels=labels, counts=counts, listed=(uncertain, n_uncertain)):
            listed[1].fill(0)
            label(X, (None, None), (labels, None), counts, listed)

        took = gpu.seconds(label_all, 10)[0]
        reads, operations = work(products, backend.passes.device(), shape)
        found[products] = {
            "labels_s": gpu.seconds(lambda: backend.assign(X, centers, frame), 10)[0],
            "kernel_s": took,
            "uncertain": int(n_uncertain[0]) / n,
            "bytes": reads * X.nbytes / (1e9 * rates["copy_GB_s"]) / took,
            "operations": n * operations / (1e9 * OF_FLOAT16[products] * rates["float16_GFLOP_s"]) / took,
        }
    return found


def main(options):
    chosen, rates = cuda.PRODUCTS, gpu.machine(options.quick)
    gpu.append(options.json, kind="machine", **rates)
    try:
        for shape in QUICK if options.quick else CASES:
            case = measure(shape, rates)
            gpu.append(options.json, kind="products", **case)
            print(f"{case['n']} x {case['d']}, k={case['k']}, {case['dtype']}: the same labels")
            for products in OF_FLOAT16:
                of = case[products]
                print(
                    f"    {products}: labels {1e3 * of['labels_s']:.3f} ms, kernel {1e3 * of['kernel_s']:.3f} ms "
                    f"({of['bytes']:.0%} of the bytes, {of['operations']:.0%} of the operations that there could "
                    f"be), {of['uncertain']:.1%} uncertain",
                    flush=True,
                )
    finally:
        cuda.PRODUCTS = chosen


if __name__ == "__main__":
    main(gpu.arguments(__doc__).parse_args())
