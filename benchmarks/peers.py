"""One small adapter for each library: a default fit, and centers by which its result is judged."""

import importlib
from functools import partial

import numpy as np
from sklearn import cluster

import kmeans_xp


def _estimator(make):
    """Adapter of a class with scikit-learn's interface."""
    return lambda X, k, seed: make(k, random_state=seed).fit(X).cluster_centers_


def _faiss(name, X, k, seed):
    """25 iterations from random rows, of all rows."""
    import faiss

    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(X)}
    model = getattr(faiss, name)(X.shape[1], k, niter=25, seed=seed, **every)
    model.train(np.ascontiguousarray(X, dtype="float32"))
    return model.centroids


def _superkmeans(X, k, seed):
    from superkmeans import SuperKMeans

    every = {"sampling_fraction": 1.0, "max_points_per_cluster": len(X), "early_termination": False}
    model = SuperKMeans(k, X.shape[1], hierarchical=False, iters=25, seed=seed, **every)
    return model.train(np.ascontiguousarray(X, dtype="float32"))


def _kmeans2(X, k, seed):
    from scipy.cluster.vq import kmeans2

    X = np.asarray(X)
    start = X[np.random.RandomState(seed).permutation(len(X))[:k]]  # its "++" costs k² n d
    return kmeans2(X, start, iter=25, minit="matrix", missing="warn")[0]


def _intelex(X, k, seed):
    from sklearnex.cluster import KMeans

    return _estimator(KMeans)(X, k, seed)


# By itself, and with as many iterations as those peers do that have no stopping rule
OURS = {
    "kmeans_xp": _estimator(kmeans_xp.KMeans),
    "kmeans_xp, 25 iterations": _estimator(partial(kmeans_xp.KMeans, max_iter=25)),
}
# name: adapter, module that it needs. superkmeans and kmeans2 do a fixed 25 iterations, as many as faiss by default.
PEERS = {
    "scikit-learn": (_estimator(cluster.KMeans), "sklearn"),
    "elkan": (_estimator(partial(cluster.KMeans, algorithm="elkan")), "sklearn"),
    "MiniBatchKMeans": (_estimator(cluster.MiniBatchKMeans), "sklearn"),
    "scikit-learn-intelex": (_intelex, "sklearnex"),
    "faiss-cpu": (partial(_faiss, "Kmeans"), "faiss"),
    "faiss-cpu, SuperKmeans": (partial(_faiss, "SuperKmeans"), "faiss"),
    "superkmeans": (_superkmeans, "superkmeans"),
    "scipy kmeans2": (_kmeans2, "scipy"),
}
NARROWEST = {"faiss-cpu, SuperKmeans": 32}  # fewest features that it takes
FAST = ("scikit-learn-intelex", "faiss-cpu", "faiss-cpu, SuperKmeans", "superkmeans")
TO_THE_END = (*OURS, "scikit-learn")  # run with all seeds


def installed():
    """Adapters of the peers that are here, and the names of those that are not."""
    present = {name: fit for name, (fit, module) in PEERS.items() if importlib.util.find_spec(module)}
    return present, [name for name in PEERS if name not in present]
