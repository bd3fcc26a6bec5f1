"""k-means++ as fits have it: on a sample of many rows, in two levels for many clusters."""

from kmeans_xp.rows.array import take_rows
from kmeans_xp.seeding.greedy import greedy, order_of, sample_of, sample_size
from kmeans_xp.seeding.hierarchical import MANY, hierarchical

REFINE_FROM = 4  # times the sample: fewer rows go without iterations on the sample


def k_means_plus_plus(data, n_clusters, frame, rng, refine=None):
    """Centers by k-means++ on a sample and, where that is little beside all rows, iterations on the sample.

    They cost little, and leave fewer for all rows (Bradley and Fayyad, "Refining initial points for k-means
    clustering", 1998).
    """
    sample = sample_of(data, n_clusters, frame, rng)
    given = sample.X, sample.weights, n_clusters, frame, rng, order_of(data, sample, frame)
    centers = hierarchical(*given, refine) if n_clusters >= MANY else frame.enter(take_rows(sample.X, greedy(*given)))
    repays = data.shape[0] >= REFINE_FROM * sample_size(n_clusters)
    return refine(sample.X, sample.weights, centers) if repays and refine is not None else centers
