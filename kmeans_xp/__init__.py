"""k-means on any Array API library, under scikit-learn estimators."""

from importlib.metadata import version

from kmeans_xp import metrics
from kmeans_xp.estimators import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans, kmeans_batch, kmeans_plusplus
from kmeans_xp.versions import show_versions

__version__ = version("kmeans_xp")
__all__ = [
    "BisectingKMeans",
    "KMeans",
    "KMeansSweep",
    "MiniBatchKMeans",
    "__version__",
    "kmeans_batch",
    "kmeans_plusplus",
    "metrics",
    "show_versions",
]
