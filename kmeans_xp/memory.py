"""Data in memory, as `fit` sees it: the counterpart of `partitions.Partitioned`."""

from kmeans_xp import seeding
from kmeans_xp.lloyd import Rows
from kmeans_xp.steps import moments, take_rows


class InMemory:
    """Rows and their weights, arrays of one library on one device."""

    def __init__(self, X, sample_weight):
        self._X, self._sample_weight = X, sample_weight
        self.shape, self.like = X.shape, X

    def moments(self, n_clusters, tile_bytes):
        """The frame of the fit."""
        return moments(self._X, self._sample_weight, n_clusters, tile_bytes)

    def initial_centers(self, init, n_clusters, frame, rng, stopping):
        """Centers, relative to the origin, by the method called `init`."""
        job = self._X, self._sample_weight, n_clusters, frame, rng
        if init == "k-means++" and seeding.repays_refinement(self.shape[0], n_clusters):
            return seeding.refined_start(*job, **stopping)
        return frame.enter(take_rows(self._X, seeding.METHODS[init](*job)))

    def rows(self, n_clusters, frame, algorithm):
        """What `lloyd` iterates over."""
        return Rows(self._X, self._sample_weight, n_clusters, frame, algorithm)
