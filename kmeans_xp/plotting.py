"""Pictures of clusterings, after scikit-learn's Display objects: matplotlib is imported when one is drawn.

Each has `from_estimator` (a fitted model, or a Pipeline that ends with one, whose other steps are applied to X) and,
where that makes sense, `from_predictions` (labels), takes `ax=` and `title=`, and keeps `ax_` and `figure_`. What can
be clustered can be drawn: arrays of any library, data frames, sparse rows, Dask arrays, files. Of many rows a random
share is drawn, which the title says, and only that is read, moved or predicted.
"""

from typing import Any, Self

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import metrics
from kmeans_xp.arrays import is_foreign, to_numpy
from kmeans_xp.criteria import CRITERIA
from kmeans_xp.data import random_rows
from kmeans_xp.projection import host_rows, in_two_dimensions
from kmeans_xp.validation import check_present

# Okabe and Ito's colours, which people with colour-blindness tell apart too; more clusters than colours go round again,
# with other marks. Grey is their black, which a dark page would hide
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#888888"]
MARKS = "os^Dv*PX"
MOST_POINTS = 20_000  # drawn of a scatter
MOST_SILHOUETTES = 10_000  # that are computed: all pairs of rows are compared
MOST_IN_LEGEND = 10  # clusters
MOST_NUMBERED = 100  # centers that bear their numbers
MOST_TICKS = 50  # of an axis
TICKS_PER_INCH = 12  # that stand side by side, of axes before their layout, which is mostly to widen them
MOST_WRITTEN = 10  # columns of a heat map whose cells bear their values


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

    def _entitle(self, title, n_drawn=None):
        """The title, and whether fewer rows are drawn than there are."""
        lines = [] if title is None else [title]
        if n_drawn is not None and self.n_samples is not None and n_drawn < self.n_samples:
            lines.append(f"{n_drawn:,} of {self.n_samples:,} rows, at random")
        if lines:
            self.ax_.set_title("\n".join(lines), fontsize="medium")

    def _heat(self, values, names, legend, **colours):
        """A heat map with a scale of colours, and names of its rows."""
        ax = self.ax_
        image = ax.imshow(values, aspect="auto", interpolation="nearest", **colours)
        self.figure_.colorbar(image, ax=ax, label=legend)
        _tick(ax.yaxis, names)
        return image


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

    errors : list of float or None
        Standard error of each value, drawn as a bar.

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
        errors: list[float] | None = None,
    ) -> None:
        self.n_clusters, self.values, self.name, self.best = n_clusters, values, name, best
        self.criterion, self.errors = criterion, errors

    @classmethod
    def from_estimator(cls, sweep: Any, *, column: str = "inertia", ax: Any = None, title: str | None = None) -> Self:
        """Draw a column of `results_` of a fitted :class:`KMeansSweep`.

        Marked is what the column recommends, if it is a criterion, or else what the criterion of the sweep does. The
        legend says which. The gap statistic has its standard errors as bars.
        """
        sweep = _last_step(sweep)
        _require(sweep, "results_", "KMeansSweep")
        results = sweep.results_
        if column not in results:
            raise ValueError(f"column={column!r} is not in results_: use one of {list(results)}.")
        criterion = column if column in {"gap", *CRITERIA} else sweep.criterion
        best, _ = sweep.recommend(criterion)
        errors = results["gap_error"] if column == "gap" else None
        drawn = cls(results["n_clusters"], results[column], column, best, criterion, errors)
        return drawn.plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        values = np.asarray(self.values, dtype=float)
        ax.errorbar(self.n_clusters, values, self.errors, marker="o", color=COLOURS[0], ecolor=COLOURS[4])
        if self.best is not None:
            by = "" if self.criterion is None else f" by {_words(self.criterion)}"
            ax.axvline(self.best, color=COLOURS[5], linestyle="--", label=f"recommended{by}: {self.best}")
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
            ax.legend(loc="upper right")
        ax.set(xlabel="number of clusters", ylabel=_words(self.name))
        ax.xaxis.get_major_locator().set_params(integer=True)
        self._entitle(title)
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
        title: str | None = None,
    ) -> Self:
        """Draw the rows of X by the labels that the fitted model gives them; see :meth:`from_predictions`."""
        _, X, n_samples = random_rows(X, sample_size, random_state)
        (X, _), model = _seen_by_last_step(X, model), _last_step(model)
        return cls._of(X, model.predict(X), metric, n_samples).plot(ax=ax, title=title)

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
        title: str | None = None,
    ) -> Self:
        """Draw rows by labels.

        `metric` is that of :func:`metrics.silhouette_samples`, 'euclidean' or 'sqeuclidean'. Of more than `sample_size`
        rows, that many at random: their mean is :func:`metrics.silhouette_score` with the same `sample_size` and
        `random_state`. None takes all, whose pairs 'euclidean' compares.
        """
        rows, X, n_samples = random_rows(X, sample_size, random_state)
        return cls._of(X, _labels(labels, n_samples)[rows], metric, n_samples).plot(ax=ax, title=title)

    @classmethod
    def _of(cls, X, labels, metric, n_samples):
        """The silhouettes of some of the rows."""
        silhouettes = to_numpy(metrics.silhouette_samples(X, labels, metric=metric))
        name = "silhouette" if metric == "euclidean" else "silhouette of squared distances"
        return cls(silhouettes, _labels(labels, len(silhouettes)), name, n_samples)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        bottom, gap = 0, max(1, len(self.labels) // 100)
        knives, places, names = np.unique(self.labels), [], []
        for i, label in enumerate(knives):
            knife = np.sort(self.silhouettes[self.labels == label])
            heights = np.arange(bottom, bottom + len(knife))
            ax.fill_betweenx(heights, 0, knife, color=COLOURS[i % len(COLOURS)], linewidth=0)
            places.append(bottom + len(knife) / 2)
            names.append(f"{label} ({len(knife)})")
            bottom += len(knife) + gap
        mean = self.silhouettes.mean()
        ax.axvline(mean, color=ax.xaxis.label.get_color(), linestyle="--", label=f"mean {mean:.2f}")
        _legend_beside(ax)
        _tick(ax.yaxis, names, places, length=bottom + gap)
        ax.set(xlabel=self.name, ylabel="cluster (rows)", ylim=(-gap, bottom))
        self._entitle(title, len(self.labels))
        return self


class ClustersDisplay(_Display):
    """The rows in two dimensions, coloured by cluster, with the centers and their numbers.

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
        cls,
        model: Any,
        X: Any,
        *,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw X by the labels and centers of a fitted model. Of more than 20,000 rows, that many at random."""
        _, X, n_samples = random_rows(X, MOST_POINTS, random_state)
        (X, names), model = _seen_by_last_step(X, model), _last_step(model)
        return cls._of(X, model.predict(X), model.cluster_centers_, n_samples, names).plot(ax=ax, title=title)

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        labels: Any,
        *,
        centers: Any = None,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Draw X by labels. Of more than 20,000 rows, that many at random."""
        rows, X, n_samples = random_rows(X, MOST_POINTS, random_state)
        return cls._of(X, _labels(labels, n_samples)[rows], centers, n_samples, _column_names(X)).plot(
            ax=ax, title=title
        )

    @classmethod
    def _of(cls, X, labels, centers, n_samples, feature_names):
        """Some of the rows, and the centers."""
        X = host_rows(X)
        place, names = in_two_dimensions(X)
        if feature_names is not None and X.shape[1] <= 2:
            names = tuple([*feature_names, ""][:2])
        centers = None if centers is None else place(host_rows(centers))
        return cls(place(X), _labels(labels, X.shape[0]), centers, names, n_samples)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        size = float(np.clip(20_000 / len(self.points), 2, 30))
        for i, label in enumerate(np.unique(self.labels)):
            mine = self.points[self.labels == label]
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i // len(COLOURS) % len(MARKS)]}
            ax.scatter(*mine.T, s=size, alpha=0.6, linewidths=0, label=str(label), rasterized=True, **style)
        labels = np.unique(self.labels)
        if self.centers is not None:
            _number(ax, self.centers, range(len(self.centers)))
        elif len(labels) > MOST_IN_LEGEND:
            _number(ax, np.stack([np.median(self.points[self.labels == i], axis=0) for i in labels]), labels)
        if len(labels) <= MOST_IN_LEGEND:
            legend = _legend_beside(ax, title="cluster", markerscale=max(1, 5 / size**0.5))
            for mark in legend.legend_handles:
                mark.set_alpha(1)
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        self._entitle(title, len(self.points))
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
    def from_estimator(cls, model: Any, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the history of a fitted :class:`KMeans`."""
        model = _last_step(model)
        _require(model, "history_", "KMeans")
        return cls(model.history_).plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
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
        self._entitle(title)
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
    def from_estimator(cls, model: Any, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the sizes of the clusters of a fitted model."""
        model = _last_step(model)
        check_is_fitted(model, "labels_")
        return cls.from_predictions(model.labels_, ax=ax, title=title)

    @classmethod
    def from_predictions(cls, labels: Any, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the sizes of clusters by the labels of rows."""
        return cls(*np.unique(_labels(labels), return_counts=True)).plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        order = np.argsort(-self.sizes, kind="stable")
        bars = ax.bar(np.arange(len(order)), self.sizes[order], color=COLOURS[0])
        ax.set(xlabel="cluster", ylabel="rows")
        _tick(ax.xaxis, self.labels[order])
        if len(order) <= 20:
            ax.bar_label(bars, fmt="{:,.0f}", fontsize="small")
        self._entitle(title)
        return self


class ClusterDistancesDisplay(_Display):
    """A heat map of the distances between the centers, in an order in which centers that are near are mostly neighbors.

    The order is that along the first principal component of the centers.

    Parameters
    ----------
    distances : ndarray of shape (n_clusters, n_clusters)
        Distances, in the order of `labels`.

    labels : ndarray of shape (n_clusters,)
        The clusters.

    name : str
        What the distances are.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(self, distances: Any, labels: Any, name: str = "distance between centers") -> None:
        self.distances, self.labels, self.name = distances, labels, name

    @classmethod
    def from_estimator(cls, model: Any, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw the distances that `transform` of a fitted model gives between its centers."""
        model = _last_step(model)
        check_is_fitted(model, "cluster_centers_")
        distances, centers = to_numpy(model.transform(model.cluster_centers_)), host_rows(model.cluster_centers_)
        place, _ = in_two_dimensions(centers)
        order = np.argsort(place(centers)[:, 0], kind="stable")
        name = "1 - cos between centers" if getattr(model, "metric", "") == "cosine" else "distance between centers"
        return cls(distances[np.ix_(order, order)], order, name).plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        between = np.where(np.eye(len(self.labels), dtype=bool), np.nan, self.distances)  # the diagonal stays white
        image = self._heat(between, self.labels, self.name, cmap="viridis")
        _tick(ax.xaxis, self.labels)
        if len(self.labels) <= MOST_WRITTEN:
            _write_cells(image, between)
        ax.set(xlabel="cluster", ylabel="cluster")
        self._entitle(title)
        return self


class ClusterProfilesDisplay(_Display):
    """A heat map of the centers: what is large and small in each cluster, a row for each feature.

    Colours tell how many standard deviations of the feature, among the centers, a center is above their mean; up to 10
    clusters bear their values, in the units of the data.

    Parameters
    ----------
    centers : ndarray of shape (n_clusters, n_features)
        Centers in the units of the data.

    feature_names : list of str
        Names of the features.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of these axes.
    """

    def __init__(self, centers: Any, feature_names: list[str]) -> None:
        self.centers, self.feature_names = centers, feature_names

    @classmethod
    def from_estimator(cls, model: Any, *, feature_names: Any = None, ax: Any = None, title: str | None = None) -> Self:
        """Draw the centers of a fitted model.

        Of a Pipeline, what `inverse_transform` of its other steps makes of them: a scaler's gives the units back. The
        names are those of the data frame that it was fitted to, or `feature_names`.
        """
        last = _last_step(model)
        check_is_fitted(last, "cluster_centers_")
        centers = to_numpy(last.cluster_centers_)
        for name, step in reversed(_other_steps(model)):
            if not hasattr(step, "inverse_transform"):
                raise TypeError(f"Step {name!r} has no inverse_transform: draw the last step, which is in its units.")
            centers = np.asarray(step.inverse_transform(centers))
        names = getattr(model, "feature_names_in_", None) if feature_names is None else feature_names
        names = [f"feature {i}" for i in range(centers.shape[1])] if names is None else [str(name) for name in names]
        if len(names) != centers.shape[1]:
            raise ValueError(f"feature_names has {len(names)} names, and the centers have {centers.shape[1]} features.")
        return cls(centers, names).plot(ax=ax, title=title)

    def plot(self, *, ax: Any = None, title: str | None = None) -> Self:
        """Draw it, on new axes unless there are some."""
        ax = self._axes(ax)
        spread = self.centers.std(axis=0)
        above = (self.centers - self.centers.mean(axis=0)) / np.where(spread > 0, spread, 1)
        legend = "standard deviations above the mean"
        image = self._heat(above.T, self.feature_names, legend, cmap="RdBu_r", vmin=-2.5, vmax=2.5)
        _tick(ax.xaxis, range(len(above)))
        if len(above) <= MOST_WRITTEN and len(self.feature_names) <= MOST_TICKS:
            _write_cells(image, self.centers.T)
        ax.set(xlabel="cluster")
        self._entitle(title)
        return self


def _labels(labels, n_samples=None):
    """Labels of any library as a NumPy array."""
    labels = check_present(labels)
    labels = to_numpy(labels) if is_foreign(labels) else labels
    if n_samples is not None and labels.shape not in ((n_samples,), (n_samples, 1)):
        raise ValueError(f"labels.shape == {tuple(labels.shape)}, expected {(n_samples,)}.")
    return labels.reshape(-1)


def _last_step(model):
    """What clusters: the last step of a Pipeline."""
    return model[-1] if isinstance(model, Pipeline) else model


def _column_names(X):
    """Names of the columns of a data frame, or None."""
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def _other_steps(model):
    """Names and transformers of a Pipeline; none of another model."""
    steps = model.steps[:-1] if isinstance(model, Pipeline) else []
    return [(name, step) for name, step in steps if step is not None and step != "passthrough"]


def _seen_by_last_step(X, model):
    """X after the other steps of a Pipeline, and names of its columns, if X has names and the steps say theirs."""
    names = _column_names(X)
    for _, step in _other_steps(model):
        if names is not None:
            names = step.get_feature_names_out(names) if hasattr(step, "get_feature_names_out") else None
        X = step.transform(X)
        names = _column_names(X) or names
    return X, names


def _legend_beside(ax, **options):
    """A legend that covers nothing."""
    return ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, **options)


def _tick(axis, names, places=None, length=None):
    """Names at places, by default 0, 1, ..., on an axis of some length, but for those too near to the one before."""
    names = [str(name) for name in names]
    places = np.arange(len(names)) if places is None else places
    box = axis.axes.bbox
    inches = (box.width if axis.axis_name == "x" else box.height) / axis.axes.figure.dpi
    room = (len(names) if length is None else length) / min(MOST_TICKS, max(1, TICKS_PER_INCH * inches))
    shown, last = [], -np.inf
    for place, name in zip(places, names, strict=True):
        if place - last >= room:
            shown.append((place, name))
            last = place
    crowded = len(shown) > 5 * inches
    long = axis.axis_name == "x" and (crowded or max(map(len, names)) * len(shown) > 8 * inches)
    axis.set_ticks(*zip(*shown, strict=True), fontsize="x-small" if crowded else "medium", rotation=90 * long)


def _number(ax, places, labels):
    """Centers, with their numbers if they are not very many."""
    ax.scatter(*places.T, s=150, marker="o", color="white", edgecolors="black", linewidths=1)
    if len(places) <= MOST_NUMBERED:
        for place, label in zip(places, labels, strict=True):
            ax.annotate(str(label), place, ha="center", va="center", fontsize=8, color="black")


def _write_cells(image, values):
    """The values of a heat map in its cells, black on light ones and white on dark ones."""
    red, green, blue = np.moveaxis(image.cmap(image.norm(image.get_array()))[..., :3], -1, 0)
    light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "black" if light[i, j] else "white"
            image.axes.text(j, i, f"{value:.4g}", ha="center", va="center", fontsize="small", color=color)


def _words(name):
    """A name as it is read aloud."""
    return name.replace("_", " ")


def _require(model, attribute, name):
    """A fitted model of a class that has the attribute."""
    if not hasattr(model, attribute) and type(model).__name__ != name:
        raise TypeError(f"This display draws a fitted {name}, got a {type(model).__name__}.")
    check_is_fitted(model, attribute)
