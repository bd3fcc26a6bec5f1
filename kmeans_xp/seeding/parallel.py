"""k-means||: a few rounds of many draws at once, then k-means++ on those candidates."""

from kmeans_xp.data.source import new_run
from kmeans_xp.passes import add, canonical_order, join
from kmeans_xp.rows.array import take_rows
from kmeans_xp.seeding.draws import Law, by_weight, draw_by
from kmeans_xp.seeding.greedy import greedy
from kmeans_xp.steps import lloyd_step

N_ROUNDS = 5  # and candidates per round for each cluster, as in the experiments of the paper
OVERSAMPLING = 2


def k_means_parallel(data, n_clusters, frame, rng, refine=None):
    """Centers by greedy k-means++ on candidates that are weighted by their clusters.

    Bahmani et al., "Scalable k-means++", 2012, with exactly 2 * n_clusters draws in each of 5 rounds.
    """
    options = {"run": new_run(), "in_order": not data.in_blocks}
    X, _, _ = draw_by(data, by_weight(frame, **options), rng.uniform(size=1))
    points = [X]
    for _ in range(N_ROUNDS):
        law = Law(0.0, 1.0, list(points), frame, **options)
        X, _, _ = draw_by(data, law, rng.uniform(size=OVERSAMPLING * n_clusters))
        points.append(X)
    candidates = join(points)
    (weights,) = data.reduce(cluster_weights, add, candidates, frame)
    chosen = greedy(candidates, weights, n_clusters, frame, rng, canonical_order(candidates, frame))
    return frame.enter(take_rows(candidates, chosen))


def cluster_weights(block, points, frame):
    """Weights of the rows that are nearest to each of the points, in a tuple."""
    return (lloyd_step(block.X, block.sample_weight, frame.enter(points), frame)[2],)
