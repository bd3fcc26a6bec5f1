"""The scikit-learn side: parameters, checks of input, fitted attributes. What X is they don't ask."""

from kmeans_xp.estimators.bisecting import BisectingKMeans
from kmeans_xp.estimators.kmeans import KMeans
from kmeans_xp.estimators.minibatch import MiniBatchKMeans
from kmeans_xp.estimators.plusplus import kmeans_plusplus
from kmeans_xp.estimators.problems import kmeans_batch
from kmeans_xp.estimators.sweep import KMeansSweep

__all__ = ["BisectingKMeans", "KMeans", "KMeansSweep", "MiniBatchKMeans", "kmeans_batch", "kmeans_plusplus"]
