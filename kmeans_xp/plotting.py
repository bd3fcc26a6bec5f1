"""Pictures of clusterings, after scikit-learn's Display objects: matplotlib is imported when one is drawn.

Each has `from_estimator` (a fitted model) and, where that makes sense, `from_predictions` (labels), takes `ax=`, and
keeps `ax_` and `figure_`. What can be clustered can be drawn: arrays of any library, sparse rows, Dask arrays, files.
Of many rows a random share is drawn, which the title says, and only that is read, moved or predicted.
"""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import metrics
from kmeans_xp.arrays import is_foreign, to_numpy
from kmeans_xp.criteria import CRITERIA
from kmeans_xp.data import random_rows
from kmeans_xp.projection import host_rows, in_two_dimensions
from kmeans_xp.validation import check_present

# Okabe and Ito's colours, which people with colour-blindness tell apart too; more clusters than colours go round again,
# with other marks
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
MARKS = "os^Dv*PX"
MOST_POINTS = 20_000  # drawn of a scatter
MOST_SILHOUETTES = 10_000  # that are computed: all pairs of rows are compared


class _Display:
    """Abstract: what all displays do with their axes."""

    def _axes(self, ax):
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("The displays need matplotlib: pip install 'kmeans_xp[plot]'") from error

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        return ax

    def _say_that_it_is_a_sample(self, n_drawn):
        """If fewer rows are drawn than there are."""
        if self.n_samples is not None and n_drawn < self.n_samples:
            self.ax_.set_title(f"{n_drawn:,} of {self.n_samples:,} rows, at random", fontsize="medium")


class ElbowDisplay(_Display):
    """Inertia, or another column of the table of a sweep, against the number of clusters.

    Parameters
    ----------
    n_clusters : list of int
        Numbers of clusters.

    values : list of float
        The value of each.

    name : str
        What the values are.

    best : int or None
        Number to mark.

    criterion : str or None
        What recommends it, for the legend.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(
        self,
        n_clusters: list[int],
        values: list[float],
        name: str = "inertia",
        best: int | None = None,
        criterion: str | None = None,
    ) -> None:
        self.n_clusters, self.values, self.name, self.best = n_clusters, values, name, best
        self.criterion = criterion

    @classmethod
    def from_estimator(cls, sweep: Any, *, column: str = "inertia", ax: Any = None) -> Self:
        """Draw a column of `results_` of a fitted :class:`KMeansSweep`.

        Marked is what the column recommends, if it is a criterion, or else what the criterion of the sweep does. The
        legend says which.
        """
        _require(sweep, "results_", "KMeansSweep")
        results = sweep.results_
        if column not in results:
            raise ValueError(f"column={column!r} is not in results_: use one of {list(results)}.")
        criterion = column if column in {"gap", *CRITERIA} else sweep.criterion
        best, _ = sweep.recommend(criterion)
        return cls(results["n_clusters"], results[column], column, best, criterion).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        ax.plot(self.n_clusters, self.values, marker="o", color=COLOURS[0])
        if self.best is not None:
            by = "" if self.criterion is None else f" by {_words(self.criterion)}"
            ax.axvline(self.best, color=COLOURS[5], linestyle="--", label=f"recommended{by}: {self.best}")
            ax.legend()
        ax.set(xlabel="number of clusters", ylabel=_words(self.name))
        ax.xaxis.get_major_locator().set_params(integer=True)
        return self


class SilhouetteDisplay(_Display):
    """The silhouettes of the rows, sorted within their clusters: a knife for each cluster.

    Parameters
    ----------
    silhouettes : ndarray of shape (n_samples,)
        Silhouette of each row.

    labels : ndarray of shape (n_samples,)
        Cluster of each row.

    name : str
        What the silhouettes are.

    n_samples : int or None
        How many rows these were drawn from, if not all are here.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(self, silhouettes: Any, labels: Any, name: str = "silhouette", n_samples: int | None = None) -> None:
        self.silhouettes, self.labels, self.name, self.n_samples = silhouettes, labels, name, n_samples

    @classmethod
    def from_estimator(
        cls,
        model: Any,
        X: Any,
        *,
        metric: str = "euclidean",
        sample_size: int | None = MOST_SILHOUETTES,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the rows of X by the labels that the fitted model gives them; see :meth:`from_predictions`."""
        _, X, n_samples = random_rows(X, sample_size, random_state)
        return cls._of(X, model.predict(X), metric, n_samples).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        labels: Any,
        *,
        metric: str = "euclidean",
        sample_size: int | None = MOST_SILHOUETTES,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw rows by labels.

        `metric` is that of :func:`metrics.silhouette_samples`, 'euclidean' or 'sqeuclidean'. Of more than `sample_size`
        rows, that many at random: their mean is :func:`metrics.silhouette_score` with the same `sample_size` and
        `random_state`. None takes all, whose pairs 'euclidean' compares.
        """
        rows, X, n_samples = random_rows(X, sample_size, random_state)
        return cls._of(X, _labels(labels, n_samples)[rows], metric, n_samples).plot(ax=ax)

    @classmethod
    def _of(cls, X, labels, metric, n_samples):
        """The silhouettes of some of the rows."""
        silhouettes = to_numpy(metrics.silhouette_samples(X, labels, metric=metric))
        name = "silhouette" if metric == "euclidean" else "silhouette of squared distances"
        return cls(silhouettes, _labels(labels, len(silhouettes)), name, n_samples)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        bottom, gap = 0, max(1, len(self.labels) // 100)
        places = []
        for i, label in enumerate(np.unique(self.labels)):
            knife = np.sort(self.silhouettes[self.labels == label])
            heights = np.arange(bottom, bottom + len(knife))
            ax.fill_betweenx(heights, 0, knife, color=COLOURS[i % len(COLOURS)], linewidth=0)
            places.append((bottom + len(knife) / 2, f"{label} ({len(knife)})"))
            bottom += len(knife) + gap
        mean = self.silhouettes.mean()
        ax.axvline(mean, color="black", linestyle="--", label=f"mean {mean:.2f}")
        ax.legend(loc="lower left")
        ax.set_yticks(*zip(*places, strict=True))
        ax.set(xlabel=self.name, ylabel="cluster (rows)", ylim=(-gap, bottom))
        self._say_that_it_is_a_sample(len(self.labels))
        return self


class ClustersDisplay(_Display):
    """The rows in two dimensions, coloured by cluster, with the centers.

    Of more than two features, the two principal components of the rows that are drawn.

    Parameters
    ----------
    points : ndarray of shape (n_points, 2)
        Places of rows.

    labels : ndarray of shape (n_points,)
        Their clusters.

    centers : ndarray of shape (n_clusters, 2) or None
        Places of the centers.

    axis_names : tuple of str
        Names of the two axes.

    n_samples : int or None
        How many rows the points were drawn from, if not all are here.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(
        self,
        points: Any,
        labels: Any,
        centers: Any = None,
        axis_names: tuple[str, str] = ("feature 0", "feature 1"),
        n_samples: int | None = None,
    ) -> None:
        self.points, self.labels, self.centers, self.axis_names = points, labels, centers, axis_names
        self.n_samples = n_samples

    @classmethod
    def from_estimator(
        cls, model: Any, X: Any, *, random_state: int | np.random.RandomState | None = 0, ax: Any = None
    ) -> Self:
        """Draw X by the labels and centers of a fitted model. Of more than 20,000 rows, that many at random."""
        _, X, n_samples = random_rows(X, MOST_POINTS, random_state)
        return cls._of(X, model.predict(X), model.cluster_centers_, n_samples).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        labels: Any,
        *,
        centers: Any = None,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw X by labels. Of more than 20,000 rows, that many at random."""
        rows, X, n_samples = random_rows(X, MOST_POINTS, random_state)
        return cls._of(X, _labels(labels, n_samples)[rows], centers, n_samples).plot(ax=ax)

    @classmethod
    def _of(cls, X, labels, centers, n_samples):
        """Some of the rows, and the centers."""
        X = host_rows(X)
        place, names = in_two_dimensions(X)
        centers = None if centers is None else place(host_rows(centers))
        return cls(place(X), _labels(labels, X.shape[0]), centers, names, n_samples)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        size = float(np.clip(20_000 / len(self.points), 2, 30))
        for i, label in enumerate(np.unique(self.labels)):
            mine = self.points[self.labels == label]
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i // len(COLOURS) % len(MARKS)]}
            ax.scatter(*mine.T, s=size, alpha=0.6, linewidths=0, label=str(label), rasterized=True, **style)
        if self.centers is not None:
            ax.scatter(*self.centers.T, s=120, marker="X", color="white", edgecolors="black", linewidths=1.5)
        if len(np.unique(self.labels)) <= 10:
            ax.legend(title="cluster", markerscale=max(1, 5 / size**0.5))
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        self._say_that_it_is_a_sample(len(self.points))
        return self


class ConvergenceDisplay(_Display):
    """What each iteration of a fit did: the inertia, and how many rows changed cluster.

    Parameters
    ----------
    history : dict of lists
        `history_` of a fitted :class:`KMeans`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(self, history: dict[str, list[float]]) -> None:
        self.history = history

    @classmethod
    def from_estimator(cls, model: Any, *, ax: Any = None) -> Self:
        """Draw the history of a fitted :class:`KMeans`."""
        _require(model, "history_", "KMeans")
        return cls(model.history_).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        iterations = np.arange(1, len(self.history["inertia"]) + 1)
        ax.plot(iterations, self.history["inertia"], marker="o", markersize=3, color=COLOURS[0])
        ax.set_xlabel("iteration")
        ax.set_ylabel("inertia before it", color=COLOURS[0])
        ax.xaxis.get_major_locator().set_params(integer=True)
        other = ax.twinx()
        other.plot(iterations, self.history["n_changed"], linestyle="--", color=COLOURS[5])
        other.set_yscale("symlog", linthresh=1)
        other.set_ylim(bottom=0)
        other.set_ylabel("rows that changed cluster", color=COLOURS[5])
        return self


class ClusterSizesDisplay(_Display):
    """How many rows each cluster has.

    Parameters
    ----------
    labels : ndarray of shape (n_clusters,)
        The clusters.

    sizes : ndarray of shape (n_clusters,)
        Their rows.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(self, labels: Any, sizes: Any) -> None:
        self.labels, self.sizes = labels, sizes

    @classmethod
    def from_estimator(cls, model: Any, *, ax: Any = None) -> Self:
        """Draw the sizes of the clusters of a fitted model."""
        check_is_fitted(model, "labels_")
        return cls.from_predictions(model.labels_, ax=ax)

    @classmethod
    def from_predictions(cls, labels: Any, *, ax: Any = None) -> Self:
        """Draw the sizes of clusters by the labels of rows."""
        return cls(*np.unique(_labels(labels), return_counts=True)).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        order = np.argsort(-self.sizes, kind="stable")
        bars = ax.bar(np.arange(len(order)), self.sizes[order], color=COLOURS[0])
        ax.set(xlabel="cluster", ylabel="rows")
        if len(order) <= 20:
            ax.set_xticks(np.arange(len(order)), [str(label) for label in self.labels[order]])
            ax.bar_label(bars, fmt="{:,.0f}", fontsize="small")
        else:
            ax.set_xticks([])
        return self


def _labels(labels, n_samples=None):
    """Labels of any library as a NumPy array."""
    labels = check_present(labels)
    labels = to_numpy(labels) if is_foreign(labels) else labels
    if n_samples is not None and labels.shape not in ((n_samples,), (n_samples, 1)):
        raise ValueError(f"labels.shape == {tuple(labels.shape)}, expected {(n_samples,)}.")
    return labels.reshape(-1)


def _words(name):
    """A name as it is read aloud."""
    return name.replace("_", " ")


def _require(model, attribute, name):
    """A fitted model of a class that has the attribute."""
    if not hasattr(model, attribute) and type(model).__name__ != name:
        raise TypeError(f"This display draws a fitted {name}, got a {type(model).__name__}.")
    check_is_fitted(model, attribute)
