"""The benchmark on a GPU: python -m benchmarks.bench --suite gpu [--quick].

For each case, with the array on the device: seconds of an iteration that compares all rows with all centers (`dense`)
and of one as it comes (`auto`), from the same k-means++ start; of a default fit and of predict; the most device memory
beyond X; and `roofline`: the time in which the device could read X twice (once for the labels, once for the sums), or
multiply it with the centers in its dtype, whichever is longer, at the rates of this run, as a share of `dense`.
Those products are not in TF32, so the share may exceed 1. Peers do the same number of iterations from the same start;
`inertia` is theirs / ours. Those not installed are named. `torch_in` is how many times as long the same calls take with
torch's tensors on the memory of the CuPy arrays, in turns: a fit of the iterations, a default one, predict.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import time

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
QUICK = [(600, 8, 10, "float32"), (400, 40, 20, "float64")]  # for a dry run: their times mean nothing
N_ITER = 10


def blobs(n, d, k, dtype):
    """Rows around k centers that overlap, on the host."""
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=1.5, size=(k, d)).astype(dtype)
    return centers[rng.integers(k, size=n)] + rng.normal(size=(n, d)).astype(dtype)


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
    """Bytes a second of a copy, and float32 and float64 operations a second of a matrix product."""
    import cupy

    size, side = (2**16, 128) if quick else (2**28, 8192)
    source = cupy.ones(size, dtype="float32")
    target = cupy.empty_like(source)
    found = {"copy_GB_s": 2 * source.nbytes / seconds(lambda: cupy.copyto(target, source))[0] / 1e9}
    for dtype in ("float32", "float64"):
        square = cupy.ones((side, side), dtype=dtype)
        found[f"{dtype}_GFLOP_s"] = 2 * side**3 / seconds(lambda x=square: x @ x)[0] / 1e9
    return found


def ours(X, start, n_iter, algorithm="lloyd"):
    model = kmeans_xp.KMeans(len(start), init=start, max_iter=n_iter, tol=0, algorithm=algorithm).fit(X)
    return model.cluster_centers_


def plain_cupy(X, start, n_iter):
    """What one writes first: all scores in memory, sums by atomic additions."""
    import cupy

    for _ in range(n_iter):
        labels = (X @ (-2 * start.T) + cupy.sum(start**2, axis=1)).argmin(axis=1)
        sums = cupy.zeros_like(start)
        cupy.add.at(sums, labels, X)
        counts = cupy.sum(labels[:, None] == cupy.arange(len(start)), axis=0)
        start = cupy.where(counts[:, None] > 0, sums / cupy.maximum(counts, 1)[:, None], start).astype(X.dtype)
    return start


def plain_torch(X, start, n_iter):
    """The same in torch."""
    import cupy
    import torch

    X, start = torch.from_dlpack(X), torch.from_dlpack(start)
    for _ in range(n_iter):
        labels = torch.addmm((start**2).sum(1), X, start.T, alpha=-2).argmin(1)
        sums = torch.zeros_like(start).index_add_(0, labels, X)
        counts = torch.bincount(labels, minlength=len(start))
        start = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], start)
    return cupy.from_dlpack(start)


def cuml(X, start, n_iter):
    from cuml.cluster import KMeans

    return KMeans(len(start), init=start, n_init=1, max_iter=n_iter, tol=1e-30).fit(X).cluster_centers_


def faiss(X, start, n_iter):
    import cupy
    import faiss

    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(X), "gpu": True}
    model = faiss.Kmeans(X.shape[1], len(start), niter=n_iter, **every)
    model.train(X.get().astype("float32"), init_centroids=start.get().astype("float32"))  # it takes host arrays only
    return cupy.asarray(model.centroids, dtype=X.dtype)


def cuvs(X, start, n_iter):
    import cupy
    from cuvs.cluster import kmeans

    job = {"n_clusters": len(start), "init_method": "Array", "max_iter": n_iter, "tol": 1e-30}
    return cupy.asarray(kmeans.fit(kmeans.KMeansParams(**job), X, centroids=start.copy())[0])


def flash_kmeans(X, start, n_iter):
    """It multiplies in TF32."""
    import cupy
    import torch
    from flash_kmeans import batch_kmeans_Euclid

    X, start = (torch.from_dlpack(x)[None] for x in (X, start))
    centers = batch_kmeans_Euclid(X, start.shape[1], max_iters=n_iter, tol=-1.0, init_centroids=start)[1]
    return cupy.from_dlpack(centers[0].contiguous())


# name: adapter, module that it needs
PEERS = {
    "plain CuPy": (plain_cupy, "cupy"),
    "torch": (plain_torch, "torch"),
    "cuML": (cuml, "cuml"),
    "cuVS": (cuvs, "cuvs"),
    "faiss-gpu": (faiss, "faiss"),
    "flash-kmeans": (flash_kmeans, "flash_kmeans"),
}
ON_TORCH = ("torch", "flash_kmeans")


def usable():
    """Adapters of the peers that are here and can use the device, and why the others are left out."""
    present, missing = {}, []
    for name, (fit, module) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            missing.append(f"{name} (not installed)")
        elif module in ON_TORCH and not importlib.import_module("torch").cuda.is_available():
            missing.append(f"{name} (torch sees no GPU)")
        elif module == "faiss" and not hasattr(importlib.import_module("faiss"), "StandardGpuResources"):
            missing.append("faiss-gpu (faiss is built without CUDA)")
        else:
            present[name] = fit
    return present, missing


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


def measure(shape, rates, peers):
    """Everything about one case."""
    import cupy

    n, d, k, dtype = shape
    cupy.get_default_memory_pool().free_all_blocks()  # lest X lies in a part of one, whose rest would not be counted
    X = cupy.asarray(blobs(n, d, k, dtype))
    start, _ = kmeans_xp.kmeans_plusplus(X[: 100 * k], k, random_state=0)
    found = {"n": n, "d": d, "k": k, "dtype": dtype}

    def default():
        return kmeans_xp.KMeans(k, random_state=0).fit(X)

    found["peak_MiB"] = peak_bytes(default) / 2**20
    found["fit_s"], model = seconds(default)
    found["inertia"], found["n_iter"] = model.inertia_, model.n_iter_
    found["predict_s"] = seconds(lambda: model.predict(X))[0]
    two = seconds(lambda: ours(X, start, 2))[0]
    for algorithm, name in (("lloyd", "dense_s"), ("auto", "auto_s")):
        took, centers = seconds(lambda algorithm=algorithm: ours(X, start, N_ITER + 2, algorithm))
        found[name] = (took - two) / N_ITER
    found["torch_in"] = torch_in(X, start, model)
    bound = max(2 * X.nbytes / rates["copy_GB_s"], 2 * n * k * d / rates[f"{dtype}_GFLOP_s"]) / 1e9
    found["roofline"] = bound / found["dense_s"]
    reference = inertia(X, centers)
    for name, fit in peers.items():
        two = seconds(lambda fit=fit: fit(X, start, 2))[0]
        took, centers = seconds(lambda fit=fit: fit(X, start, N_ITER + 2))
        found[name] = {"iteration_s": (took - two) / N_ITER, "inertia": inertia(X, centers) / reference}
    return found


def main(options):
    problem = kmeans_xp.devices.cuda_problem()
    if problem:
        raise SystemExit(f"No GPU: {problem}")
    import cupy

    rates, (peers, missing) = limits(options.quick), usable()
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = {"device": kmeans_xp.devices.cuda_devices()[0], "cupy": cupy.__version__, "commit": revision, **rates}
    machine["CUPY_TF32"] = os.environ.get("CUPY_TF32", "0")
    print(machine)
    print("left out:", ", ".join(missing) or "none")
    if options.quick:
        print("Tiny sizes: these times mean nothing.")
    with open(options.json or os.devnull, "a", encoding="utf-8") as file:
        for shape in QUICK if options.quick else CASES:
            found = measure(shape, rates, peers)
            file.write(json.dumps({**machine, **found}) + "\n")
            file.flush()
            print(f"{found['n']} x {found['d']}, k={found['k']}, {found['dtype']}: inertia {found['inertia']:.6g}")
            print(
                f"    fit {found['fit_s']:.4f} s ({found['n_iter']} iterations), predict {found['predict_s']:.4f} s, "
                f"an iteration {found['dense_s']:.5f} s dense ({found['roofline']:.0%} of the roofline), "
                f"{found['auto_s']:.5f} s auto, {found['peak_MiB']:.0f} MiB beyond X"
            )
            if found["torch_in"] is not None:
                ratios = (f"{name} {ratio:.2f}" for name, ratio in found["torch_in"].items())
                print(f"    torch's tensors take as many times as long: {', '.join(ratios)}")
            for name in peers:
                print(
                    f"    {name}: {found[name]['iteration_s']:.5f} s, inertia {found[name]['inertia']:.4f}", flush=True
                )
