"""k-means on any Array API library, under scikit-learn estimators."""

from importlib.metadata import version

from kmeans_xp import metrics
from kmeans_xp.acceleration import (
    install,
    load_ipython_extension,
    uninstall,
    unload_ipython_extension,
)
from kmeans_xp.estimators import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans, kmeans_batch, kmeans_plusplus
from kmeans_xp.versions import show_versions

__version__ = version("kmeans_xp")
__all__ = [
    "BisectingKMeans",
    "KMeans",
    "KMeansSweep",
    "MiniBatchKMeans",
    "__version__",
    "install",
    "kmeans_batch",
    "kmeans_plusplus",
    "load_ipython_extension",
    "metrics",
    "show_versions",
    "uninstall",
    "unload_ipython_extension",
]
