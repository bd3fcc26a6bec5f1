"""Fits for ascending numbers of clusters, on shared work; and the gap statistic, which makes them of random rows."""

import math
import time

import numpy as np
from sklearn.base import clone

from kmeans_xp import arrays
from kmeans_xp.algorithms import OPTIMAL
from kmeans_xp.data import frame_of
from kmeans_xp.estimators.callbacks import UNWATCHED
from kmeans_xp.estimators.kmeans import KMeans
from kmeans_xp.estimators.runs import run_on_sample
from kmeans_xp.optimal import optimal_centers
from kmeans_xp.rows.array import take_rows
from kmeans_xp.seeding.greedy import added, greedy, sample_of
from kmeans_xp.steps import computing
from kmeans_xp.validation import check_n_samples

SMALLEST = np.finfo(float).tiny  # of inertias whose logarithm is taken


def untold(what):
    """For those who do not want to know."""


class Fits:
    """Models for ascending numbers of clusters, each from the centers of the one before or from fresh ones."""

    def __init__(self, model, numbers, X, sample_weight, rng, *, task=UNWATCHED, tell=untold):
        self.model, self.rng, self._task, self._tell = model, rng, task, tell
        self._given = X, sample_weight
        # What makes first centers on the sample
        self._starter = model if isinstance(model, KMeans) else KMeans(numbers[-1], device=model.device)
        with self._starter._opened_to_fit(X, sample_weight) as self.data:
            self.numbers = [k for k in numbers if k <= self.data.shape[0]]
            check_n_samples(self.data, numbers[0])
            self._frame = frame_of(self.data)
            self.sample = sample_of(self.data, self.numbers[-1], self._frame, rng)[:2]
            self._best_centers = None  # those of all numbers, which come from one table
            if self._starter.algorithm == OPTIMAL:
                self._starter._check_optimal(self.data)
                self._best_centers = optimal_centers(self.data, self.numbers, self._frame)

    def __iter__(self):
        """Yield fitted models and the seconds that each took."""
        X, sample_weight = self._given
        fitted = None
        for k in self.numbers:
            began = time.perf_counter()
            fitted = self._unfitted(k, fitted)
            with self._task.by(f"n_clusters={k}", fitted):
                fitted.fit(X, sample_weight=sample_weight)
            vars(fitted).pop("_best_centers", None)
            seconds = time.perf_counter() - began
            self._tell(f"n_clusters={k}: inertia {fitted.inertia_:.6g}, {seconds:.3g} s")
            yield fitted, seconds

    def _unfitted(self, n_clusters, before):
        """A model that has its first centers, after the fitted one before it."""
        model = clone(self.model).set_params(n_clusters=n_clusters)
        if self._best_centers:
            model._best_centers = self._best_centers
            return model
        frame, like = self._frame, self.data.like
        with computing(like, n_clusters, lender=self.data.shown):
            centers = None if before is None else frame.enter(arrays.asarray_like(before.cluster_centers_, like))
            init = arrays.asarray_like(frame.leave(self._start(centers, n_clusters)), self.data.home)
        return model.set_params(init=init, n_init=1, **self._more())

    def _more(self):
        """Parameters of a fit that draws random numbers although its first centers are given, and of one in batches."""
        in_batches = not isinstance(self.model, KMeans)
        seed = {"random_state": self.rng.randint(2**31 - 1)} if self.model.refine or in_batches else {}
        return seed | ({"compute_labels": True} if in_batches else {})

    def _start(self, centers, n_clusters):
        """Centers, relative to the origin: the better on the sample of a fresh start and one that adds to `centers`."""
        job = n_clusters, self._frame, self.rng
        starts = [take_rows(self.sample[0], greedy(*self.sample, *job))]
        if centers is not None:
            starts.append(added(*self.sample, self._frame.leave(centers), *job)[0])
        entered = map(self._frame.enter, starts)
        results = [run_on_sample(self._starter, self.sample, start, self._frame) for start in entered]
        return self._frame.enter(min(results, key=lambda result: result.inertia).centers)


def gaps(fits, inertias, n_references, tell=untold):
    """Gap statistic for each number of clusters, and its standard error: lists."""
    X, sample_weight = map(arrays.to_numpy, fits.sample)
    X, sample_weight = X[sample_weight > 0], sample_weight[sample_weight > 0]
    logs = []
    for reference in range(n_references):
        with computing(fits.data.like, lender=fits.data.shown):
            rows = without_clusters(X.astype(float), sample_weight, fits.rng)
            rows = arrays.asarray_like(rows, fits.data.shown, arrays.result_dtype(fits.data.shown))
        check_n_samples(rows, fits.numbers[-1])
        which = f"gap, reference {reference + 1} of {n_references}, "
        references = Fits(
            fits.model, fits.numbers, rows, None, fits.rng, tell=lambda what, which=which: tell(which + what)
        )
        scale = sample_weight.sum() / len(sample_weight)
        logs.append([math.log(max(fitted.inertia_ * scale, SMALLEST)) for fitted, _ in references])
    logs = np.asarray(logs)
    found = logs.mean(axis=0) - np.log(np.maximum(np.asarray(inertias) / fits.data.weight_unit, SMALLEST))
    return found.tolist(), (logs.std(axis=0) * math.sqrt(1 + 1 / n_references)).tolist()


def without_clusters(X, sample_weight, rng):
    """As many rows, spread evenly over the box along the principal axes of the rows of X."""
    mean = np.average(X, axis=0, weights=sample_weight)
    X = X - mean
    if X.shape[0] < X.shape[1]:  # no more axes than rows: the box is flat in all other directions
        axes = np.linalg.svd(np.sqrt(sample_weight)[:, None] * X, full_matrices=False)[2].T
    else:
        _, axes = np.linalg.eigh((X.T * sample_weight) @ X)
    X = X @ axes
    return rng.uniform(X.min(axis=0), X.max(axis=0), size=X.shape) @ axes.T + mean
