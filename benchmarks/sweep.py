"""KMeansSweep over 2 to 30 clusters beside a fit for each number by scikit-learn: python -m benchmarks.sweep.

And the criteria beside scikit-learn's, at 10,000 rows and, those that take no square of it, at 1,000,000.
"""

import math
import statistics

import sklearn.metrics
from sklearn import cluster

from benchmarks.bench import blobs, pixels, timed  # first: it sets the environment
from kmeans_xp import KMeans, KMeansSweep, metrics

NUMBERS = range(2, 31)


def sweep(name, X):
    """Seconds, and inertia beside that of single fits."""
    KMeansSweep([2, 3], random_state=0).fit(X[:5000])  # warm
    seconds, ours = timed(lambda: KMeansSweep(NUMBERS, random_state=0).fit(X))
    theirs, inertias = timed(lambda: [cluster.KMeans(k, random_state=0).fit(X).inertia_ for k in NUMBERS])
    ratio = math.exp(statistics.fmean(map(math.log, ours.results_["inertia"])))
    ratio /= math.exp(statistics.fmean(map(math.log, inertias)))
    judged = sum(ours.results_["seconds"])
    print(
        f"{name}: {seconds:.1f} s ({judged:.1f} s of it fits), scikit-learn's fits alone {theirs:.1f} s; "
        f"inertia {ratio:.4f} of theirs; {ours.reason_}",
        flush=True,
    )


def criteria(n):
    """Seconds and values of each criterion."""
    X = blobs(n, 16, 20).astype("float64")
    labels = KMeans(20, random_state=0).fit(X).labels_
    names = ["calinski_harabasz_score", "davies_bouldin_score"]
    if n <= 10_000:
        names.append("silhouette_score")
    for name in names:
        getattr(metrics, name)(X[:1000], labels[:1000])  # warm
        (ours, value), (theirs, expected) = (
            timed(lambda module=module, name=name: getattr(module, name)(X, labels))
            for module in (metrics, sklearn.metrics)
        )
        print(
            f"{name}, {n:,} x 16: {ours:.3f} s, scikit-learn {theirs:.3f} s; {value:.9g} and {expected:.9g}", flush=True
        )
    seconds, value = timed(lambda: metrics.silhouette_score(X, labels, metric="sqeuclidean"))
    print(f"silhouette of squared distances, {n:,} x 16: {seconds:.3f} s; {value:.9g}", flush=True)


def main():
    sweep("photo 273,280 x 3", pixels())
    sweep("blobs 200,000 x 64, 20 clusters", blobs(200_000, 64, 20, spread=1.0))
    for n in (10_000, 1_000_000):
        criteria(n)


if __name__ == "__main__":
    main()
