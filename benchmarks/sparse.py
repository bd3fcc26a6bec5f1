"""Sparse rows beside scikit-learn: python -m benchmarks.sparse.

20,000 rows of 50,000 columns with some 45 numbers each, whose columns are as frequent as words of a text (Zipf).
"""

import statistics

import numpy as np
from scipy import sparse
from sklearn import cluster
from sklearn.preprocessing import normalize

from benchmarks.bench import timed  # first: it sets the environment
from kmeans_xp import KMeans

SEEDS = range(3)


def texts(n=20_000, d=50_000, size=100):
    """Rows of norm 1 with `size` words, some of them repeated."""
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, size=n * size) - 1, d - 1)
    X = sparse.csr_matrix((rng.uniform(size=n * size), (np.repeat(np.arange(n), size), words)), shape=(n, d))
    return normalize(X)


def compare(X, k, name, seeds, **parameters):
    """Print seconds and inertia of both."""

    def fits(make):
        found = [timed(lambda seed=seed: make(k, random_state=seed, **parameters).fit(X)) for seed in seeds]
        return statistics.median(time for time, _ in found), statistics.fmean(model.inertia_ for _, model in found)

    (ours, inertia), (theirs, expected) = map(fits, (KMeans, cluster.KMeans))
    print(
        f"k={k:3}, {name:33} {ours:7.2f} s, scikit-learn {theirs:7.2f} s: {theirs / ours:.2f}; "
        f"inertia {inertia / expected:.4f} of theirs",
        flush=True,
    )


def main():
    X = texts()
    print(f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:.0f} numbers a row")
    for k in (20, 100):
        compare(X, k, "default fit", SEEDS)
        given = {"init": X[:k].toarray(), "n_init": 1, "max_iter": 10, "tol": 0}
        compare(X, k, "10 iterations from given centers", SEEDS, **given)


if __name__ == "__main__":
    main()
