"""k-means on any Array API library, under scikit-learn estimators."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kmeans_xp import metrics
from kmeans_xp.acceleration import (
    install,
    load_ipython_extension,
    uninstall,
    unload_ipython_extension,
)
from kmeans_xp.estimators import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans, kmeans_batch, kmeans_plusplus
from kmeans_xp.versions import show_versions

if TYPE_CHECKING:
    from kmeans_xp import plotting as plotting

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


def __getattr__(name: str) -> Any:
    """`kmeans_xp.plotting`, imported when it is asked for."""
    if name == "plotting":
        return import_module("kmeans_xp.plotting")
    raise AttributeError(f"module 'kmeans_xp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "plotting"})
