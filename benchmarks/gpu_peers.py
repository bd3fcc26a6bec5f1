"""One other library on a GPU beside ours, in a process of its own: python -m benchmarks.gpu_peers NAME [--quick].

For each case of benchmarks.gpu, with the array on the device: seconds of an iteration from our start, and beside it of
ours on the same array, dense and as they come; `inertia` of the centers after the same iterations, theirs / ours. Then
a whole fit, as one writes it by the library's documentation, beside our default fit, and the same ratio. What cannot
be imported, or fails in a case, is named in a line of its own.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import kmeans_xp
from benchmarks import gpu

TWENTY_FIVE = 25  # iterations of those that stop after a number


@dataclass(frozen=True)
class Peer:
    """A library: the module that it needs, and what is measured."""

    module: str
    iterate: Callable  # (X, start, n_iter) -> centers, iterations done
    fit: Callable  # (X, k) -> centers


def random_rows(X, k):
    return X[np.random.default_rng(0).choice(len(X), size=k, replace=False)]


def plain_cupy(X, start, n_iter):
    """What one writes first: all scores in memory, sums by atomic additions."""
    import cupy

    for _ in range(n_iter):
        labels = (X @ (-2 * start.T) + cupy.sum(start**2, axis=1)).argmin(axis=1)
        sums = cupy.zeros_like(start)
        cupy.add.at(sums, labels, X)
        counts = cupy.sum(labels[:, None] == cupy.arange(len(start)), axis=0)
        start = cupy.where(counts[:, None] > 0, sums / cupy.maximum(counts, 1)[:, None], start).astype(X.dtype)
    return start, n_iter


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
    return cupy.from_dlpack(start), n_iter


def cuml(X, start, n_iter):
    from cuml.cluster import KMeans

    model = KMeans(len(start), init=start, n_init=1, max_iter=n_iter, tol=1e-30).fit(X)
    return model.cluster_centers_, int(model.n_iter_)


def cuml_fit(X, k):
    from cuml.cluster import KMeans

    return KMeans(k, random_state=0).fit(X).cluster_centers_


def faiss(X, start, n_iter):
    """It takes host arrays only, and float32."""
    import cupy
    import faiss

    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(X), "gpu": True}
    model = faiss.Kmeans(X.shape[1], len(start), niter=n_iter, **every)
    model.train(X.get().astype("float32"), init_centroids=start.get().astype("float32"))
    return cupy.asarray(model.centroids, dtype=X.dtype), n_iter


def cuvs(X, start, n_iter):
    import cupy
    from cuvs.cluster import kmeans

    job = {"n_clusters": len(start), "init_method": "Array", "max_iter": n_iter, "tol": 1e-30}
    centers, _, done = kmeans.fit(kmeans.KMeansParams(**job), X, centroids=start.copy())
    return cupy.asarray(centers), int(done)


def cuvs_fit(X, k):
    import cupy
    from cuvs.cluster import kmeans

    params = kmeans.KMeansParams(n_clusters=k, init_method="KMeansPlusPlus", max_iter=300, tol=1e-4)
    return cupy.asarray(kmeans.fit(params, X)[0])


def _flash(X, n_clusters, **job):
    import cupy
    import torch
    from flash_kmeans import batch_kmeans_Euclid

    centers = batch_kmeans_Euclid(torch.from_dlpack(X)[None], n_clusters, **job)[1]
    return cupy.from_dlpack(centers[0].contiguous())


def flash_kmeans(X, start, n_iter):
    """It multiplies in TF32."""
    import torch

    start = torch.from_dlpack(start)[None]
    return _flash(X, start.shape[1], max_iters=n_iter, tol=-1.0, init_centroids=start), n_iter


PEERS = {
    "flash-kmeans": Peer("flash_kmeans", flash_kmeans, lambda X, k: _flash(X, k, tol=1e-4)),
    "cuVS": Peer("cuvs", cuvs, cuvs_fit),
    "torch": Peer("torch", plain_torch, lambda X, k: plain_torch(X, random_rows(X, k), TWENTY_FIVE)[0]),
    "faiss-gpu": Peer("faiss", faiss, lambda X, k: faiss(X, random_rows(X, k), TWENTY_FIVE)[0]),
    "cuML": Peer("cuml", cuml, cuml_fit),
    "plain CuPy": Peer("cupy", plain_cupy, lambda X, k: plain_cupy(X, random_rows(X, k), TWENTY_FIVE)[0]),
}
ON_TORCH = ("torch", "flash_kmeans")


def missing(module):
    """Why a module cannot be used with the device, or None."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    try:
        loaded = importlib.import_module(module)
        if module in ON_TORCH and not importlib.import_module("torch").cuda.is_available():
            return "torch sees no GPU"
    except Exception as error:  # of its libraries
        return f"cannot be imported: {type(error).__name__}: {error}"
    if module == "faiss" and not hasattr(loaded, "StandardGpuResources"):
        return "built without CUDA"
    return None


def measure(peer, shape, rates):
    """A case: theirs beside ours."""
    X, start = gpu.on_device(shape)
    k, (found, centers) = len(start), gpu.our_iterations(X, start)
    reference = gpu.inertia(X, centers)
    found["iteration_s"], centers = gpu.iteration_seconds(peer.iterate, X, start)
    found["inertia"] = gpu.inertia(X, centers) / reference
    found["roofline"] = gpu.roofline(X, k, rates) / found["iteration_s"]
    found["our_fit_s"], model = gpu.seconds(lambda: kmeans_xp.KMeans(k, random_state=0).fit(X))
    found["fit_s"], centers = gpu.seconds(lambda: peer.fit(X, k))
    found["fit_inertia"] = gpu.inertia(X, centers) / gpu.inertia(X, model.cluster_centers_)
    return found


def main(options):
    name, peer = options.peer, PEERS[options.peer]
    why = missing(peer.module)
    if why:
        print(f"{name}: {why}")
        gpu.append(options.json, kind="peer", peer=name, problem=why)
        return
    rates = gpu.machine(options.quick)
    gpu.append(options.json, kind="machine", **rates)
    for shape in gpu.QUICK if options.quick else gpu.CASES:
        line = {"kind": "peer", "peer": name, **gpu.named(shape)}
        try:
            found = measure(peer, shape, rates)
        except Exception as error:  # theirs: the next case may do
            found = {"problem": f"{type(error).__name__}: {error}"[:300]}
        gpu.append(options.json, **line, **found)
        print(line, found, flush=True)


if __name__ == "__main__":
    parser = gpu.arguments(__doc__)
    parser.add_argument("peer", choices=PEERS)
    main(parser.parse_args())
