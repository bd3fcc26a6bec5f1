"""Spherical k-means beside scikit-learn on rows of norm 1 and faiss' spherical: python -m benchmarks.spherical.

The objective is the sum of 1 - cos between rows and their nearest centers, for all of them.
"""

import statistics
from functools import partial

import numpy as np
from sklearn import cluster
from sklearn.datasets import load_sample_image

from benchmarks.bench import blobs, timed  # first: it sets the environment
from kmeans_xp import KMeans

SEEDS = range(5)


def patches(n=100_000):
    """Patches of 8 x 8 grey pixels of a photograph, less their mean: an embedding of what is to be seen there."""
    grey = load_sample_image("china.jpg").astype("float32").mean(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8)).reshape(-1, 64)
    X = windows[np.random.default_rng(0).permutation(len(windows))[: n + n // 10]]
    X = X - X.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(X[np.linalg.norm(X, axis=1) > 1][:n])


def objective(X, centers):
    """Sum of 1 - cos, in float64, of unit rows."""
    centers = centers.astype(float) / np.linalg.norm(centers.astype(float), axis=1, keepdims=True)
    return sum((1 - (X[i : i + 10_000] @ centers.T).max(axis=1)).sum() for i in range(0, len(X), 10_000))


def faiss_spherical(k, unit, seed):
    import faiss

    model = faiss.Kmeans(
        unit.shape[1], k, spherical=True, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(unit)
    )
    model.train(unit)
    return model.centroids


def main():
    cases = {
        "patches of a photo, 100,000 x 64": (patches(), 100),
        "blobs 100,000 x 128": (blobs(100_000, 128, 200), 200),
    }
    for name, (X, k) in cases.items():
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        fits = {
            "ours": lambda seed, X=X, k=k: KMeans(k, metric="cosine", random_state=seed).fit(X).cluster_centers_,
            "ours, 25 iterations": lambda seed, X=X, k=k: (
                KMeans(k, metric="cosine", max_iter=25, random_state=seed).fit(X).cluster_centers_
            ),
            "scikit-learn, unit rows": lambda seed, unit=unit, k=k: (
                cluster.KMeans(k, random_state=seed).fit(unit).cluster_centers_
            ),
            "faiss spherical, 25 iterations": partial(faiss_spherical, k, unit),
        }
        print(f"{name}, k={k}")
        for which, fit in fits.items():
            timed(lambda fit=fit: fit(99))  # warm
            found = [timed(lambda fit=fit, seed=seed: fit(seed)) for seed in SEEDS]
            values = [objective(unit.astype(float), centers) for _, centers in found]
            seconds = statistics.median(seconds for seconds, _ in found)
            print(f"  {which:32}{seconds:8.3f} s  objective {statistics.fmean(values):.2f}", flush=True)


if __name__ == "__main__":
    main()
