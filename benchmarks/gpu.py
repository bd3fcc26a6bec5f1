"""Our own times on a GPU: python -m benchmarks.bench --suite gpu [--quick].

For each case, with the array on the device: seconds of an iteration that compares all rows with all centers (`dense`)
and of one as it comes (`auto`), from the same k-means++ start; of a default fit and of predict; the most device memory
beyond X; and `roofline`: the time in which the device could read X twice (once for the labels, once for the sums), or
multiply it with the centers in its dtype, whichever is longer, at the rates of this run, as a share of `dense`.
Those products are not in TF32, so the share may exceed 1. `torch_in` is how many times as long the same calls take with
torch's tensors on the memory of the CuPy arrays, in turns: a fit of the iterations, a default one, predict.

Peers are measured by benchmarks.gpu_peers, variants of kernels by benchmarks.gpu_variants, constants by
benchmarks.gpu_constants, many problems by benchmarks.gpu_problems. benchmarks.gpu_run runs all of these, each in a
process of its own.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import kmeans_xp

# n_samples, n_features, n_clusters, dtype
CASES = [
    (1_000_000, 128, 100, "float32"),
    (10_000_000, 16, 100, "float32"),
    (1_000_000, 128, 1000, "float32"),
    (1_000_000, 768, 1000, "float32"),
    (2_000_000, 3, 16, "float32"),
    (1_000_000, 32, 100, "float64"),
]
QUICK = [(300, 8, 10, "float32")]  # for a dry run: its times mean nothing
N_ITER = 10


def blobs(n, d, k, dtype):
    """Rows around k centers that overlap, on the host; the same in every process."""
    centers = np.random.default_rng(0).normal(scale=1.5, size=(k, d)).astype(dtype)
    X, size = np.empty((n, d), dtype=dtype), 2**16

    def fill(start):
        rows, rng = X[start : start + size], np.random.default_rng([1, start])
        rng.standard_normal(out=rows, dtype=rows.dtype)
        rows += centers[rng.integers(k, size=len(rows))]

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, n, size)))
    return X


def seconds(call, repeats=3):
    """Median seconds until the device has finished, and the last result."""
    import cupy

    took = []
    for _ in range(repeats + 1):  # the first one warms up
        cupy.cuda.runtime.deviceSynchronize()
        began = time.perf_counter()
        result = call()
        cupy.cuda.runtime.deviceSynchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:]), result


def times_as_long(call, other, repeats=5):
    """Median seconds of `call` as a multiple of those of `other`, in turns."""
    pairs = [(seconds(call, 1)[0], seconds(other, 1)[0]) for _ in range(repeats)]
    ours, theirs = map(statistics.median, zip(*pairs, strict=True))
    return ours / theirs


def torch_in(X, start, model):
    """What torch's tensors cost beside CuPy's arrays of the same memory; None where torch sees no GPU."""
    if importlib.util.find_spec("torch") is None or not importlib.import_module("torch").cuda.is_available():
        return None
    import torch

    def of(X, start):
        return {
            "iterations": lambda: ours(X, start, N_ITER + 2),
            "fit": lambda: kmeans_xp.KMeans(len(start), random_state=0).fit(X),
            "predict": lambda: model.predict(X),
        }

    theirs = of(X, start)
    return {name: times_as_long(call, theirs[name]) for name, call in of(*map(torch.from_dlpack, (X, start))).items()}


def limits(quick):
    """Bytes a second of a copy, and operations a second of a matrix product of each dtype."""
    import cupy

    size, side = (2**16, 128) if quick else (2**28, 8192)
    source = cupy.ones(size, dtype="float32")
    target = cupy.empty_like(source)
    found = {"copy_GB_s": 2 * source.nbytes / seconds(lambda: cupy.copyto(target, source))[0] / 1e9}
    for dtype in ("float16", "float32", "float64"):
        # The stand-in multiplies no float16
        square = cupy.ones((side, side), dtype="float32" if quick else dtype)
        found[f"{dtype}_GFLOP_s"] = 2 * side**3 / seconds(lambda x=square: x @ x)[0] / 1e9
    return found


def machine(quick):
    """The device, versions, and the rates of this run; an error where there is no GPU."""
    problem = kmeans_xp.devices.cuda_problem()
    if problem:
        raise SystemExit(f"No GPU: {problem}")
    import cupy

    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {"cupy": cupy.__version__, "commit": revision, "CUPY_TF32": os.environ.get("CUPY_TF32", "0")}
    found = {"device": kmeans_xp.devices.cuda_devices()[0], **versions, **limits(quick)}
    print(found)
    if quick:
        print("Tiny sizes: these times mean nothing.")
    return found


def arguments(doc):
    """A parser of what the benchmarks on a GPU are told, for a module with that docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose times mean nothing")
    parser.add_argument("--json", help="file that a line for each result is appended to")
    return parser


def append(path, **line):
    """Append a line of results, where a path is given; what is written stays if the process is ended later."""
    if path:
        with open(path, "a+b") as file:
            file.seek(max(0, file.tell() - 1))
            cut = file.read() not in (b"", b"\n")  # whoever wrote before was ended amid a line
            file.write(b"\n" * cut + json.dumps(line).encode() + b"\n")


def on_device(shape):
    """X of a case on the device, and k-means++ centers of some of its rows; the same in every process."""
    import cupy

    n, d, k, dtype = shape
    cupy.get_default_memory_pool().free_all_blocks()  # lest X lies in a part of one, whose rest would not be counted
    X = cupy.asarray(blobs(n, d, k, dtype))
    return X, kmeans_xp.kmeans_plusplus(X[: 100 * k], k, random_state=0)[0]


def named(shape):
    return dict(zip(("n", "d", "k", "dtype"), shape, strict=True))


def ours(X, start, n_iter, algorithm="lloyd"):
    model = kmeans_xp.KMeans(len(start), init=start, max_iter=n_iter, tol=0, algorithm=algorithm).fit(X)
    return model.cluster_centers_


def inertia(X, centers):
    """One ruler for all, with sums in float64."""
    model = kmeans_xp.KMeans(len(centers), init=centers, max_iter=1, tol=1e300).fit(X)
    model.cluster_centers_ = centers.astype(X.dtype)
    return -model.score(X)


def peak_bytes(call):
    """Device memory that the pool took for a call."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    call()
    return pool.total_bytes() - before


def iteration_seconds(fit, X, start):
    """Seconds of one of the iterations of `fit(X, start, n_iter)` -> centers, iterations done; and the centers."""
    two, (_, few) = seconds(lambda: fit(X, start, 2))
    took, (centers, many) = seconds(lambda: fit(X, start, N_ITER + 2))
    return (took - two) / (many - few), centers


def roofline(X, k, rates):
    """Seconds in which the device could do an iteration that compares all rows with all centers."""
    return max(2 * X.nbytes / rates["copy_GB_s"], 2 * X.size * k / rates[f"{X.dtype}_GFLOP_s"]) / 1e9


def our_iterations(X, start):
    """Seconds of an iteration, dense and as it comes, and the centers."""
    found = {}
    for algorithm, name in (("lloyd", "dense_s"), ("auto", "auto_s")):
        call = lambda X, start, n_iter, algorithm=algorithm: (ours(X, start, n_iter, algorithm), n_iter)  # noqa: E731
        found[name], centers = iteration_seconds(call, X, start)
    return found, centers


def measure(shape, rates):
    """Everything about one case."""
    X, start = on_device(shape)
    found, k = named(shape), len(start)

    def default():
        return kmeans_xp.KMeans(k, random_state=0).fit(X)

    found["peak_MiB"] = peak_bytes(default) / 2**20
    found["fit_s"], model = seconds(default)
    found["inertia"], found["n_iter"] = model.inertia_, model.n_iter_
    found["predict_s"] = seconds(lambda: model.predict(X))[0]
    found.update(our_iterations(X, start)[0])
    found["torch_in"] = torch_in(X, start, model)
    found["roofline"] = roofline(X, k, rates) / found["dense_s"]
    return found


def main(options):
    rates = machine(options.quick)
    append(options.json, kind="machine", **rates)
    for shape in QUICK if options.quick else CASES:
        found = measure(shape, rates)
        append(options.json, kind="case", **found)
        print(f"{found['n']} x {found['d']}, k={found['k']}, {found['dtype']}: inertia {found['inertia']:.6g}")
        print(
            f"    fit {found['fit_s']:.4f} s ({found['n_iter']} iterations), predict {found['predict_s']:.4f} s, "
            f"an iteration {found['dense_s']:.5f} s dense ({found['roofline']:.0%} of the roofline), "
            f"{found['auto_s']:.5f} s auto, {found['peak_MiB']:.0f} MiB beyond X",
            flush=True,
        )
        if found["torch_in"] is not None:
            ratios = (f"{name} {ratio:.2f}" for name, ratio in found["torch_in"].items())
            print(f"    torch's tensors take as many times as long: {', '.join(ratios)}", flush=True)
