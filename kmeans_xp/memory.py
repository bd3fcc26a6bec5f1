"""Data in memory, as `fit` sees it: the counterpart of `partitions.Partitioned`."""

from kmeans_xp import seeding
from kmeans_xp.lloyd import Rows
from kmeans_xp.steps import in_unit, moments, take_rows


class InMemory:
    """Rows and their weights, arrays of one library on one device. What is computed is in the unit of the weights."""

    in_blocks = False

    def __init__(self, X, sample_weight, metric):
        self._X = metric.prepare(X)
        sample_weight, self.weight_unit = in_unit(sample_weight)
        self._sample_weight, self.lost = metric.weigh(self._X, sample_weight)
        self.shape, self.like = X.shape, self._X

    def moments(self, n_clusters, tile_bytes):
        """The frame of the fit."""
        return moments(self._X, self._sample_weight, n_clusters, tile_bytes)

    def initial_centers(self, init, n_clusters, frame, rng, stopping):
        """Centers, relative to the origin, by the method called `init`."""
        job = self._X, self._sample_weight, n_clusters, frame, rng
        if init == "k-means++" and seeding.repays_refinement(self.shape[0], n_clusters):
            return seeding.refined_start(*job, **stopping)
        return frame.enter(take_rows(self._X, seeding.METHODS[init](*job)))

    def sample(self, n_clusters, frame, rng):
        """A weighted sample of the rows, or all of them if they are few: rows, weights."""
        if self.shape[0] <= seeding.sample_size(n_clusters):
            return self._X, self._sample_weight
        rows, weights = seeding.coreset(self._X, self._sample_weight, seeding.sample_size(n_clusters), frame, rng)
        return take_rows(self._X, rows), weights

    def all_rows(self):
        """Rows, weights."""
        return self._X, self._sample_weight

    def rows(self, n_clusters, frame, algorithm):
        """What `lloyd` iterates over."""
        return Rows(self._X, self._sample_weight, n_clusters, frame, algorithm)
