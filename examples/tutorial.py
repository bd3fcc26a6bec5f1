"""The tutorial "Writing a scikit-learn compatible clustering algorithm", with `kmeans_xp`.

Run it: python examples/tutorial.py [--output DIRECTORY]
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_xp import KMeans


def blobs(centers, n_samples=10_000, scale=1.0, seed=0):
    """Rows around `centers`, equally many around each up to one."""
    rng = np.random.default_rng(seed)
    centers = np.asarray(centers, dtype=float)
    members = np.arange(n_samples) % len(centers)
    return centers[members] + rng.normal(scale=scale, size=(n_samples, centers.shape[1]))


def three_blobs():
    """Fit, look at the centers, predict one point, score."""
    X = blobs([[0, 0], [5, 5], [-5, 5]])
    model = KMeans(n_clusters=3, random_state=0).fit(X)
    print("Three blobs of", len(X), "points")
    print("  centers:", *np.round(model.cluster_centers_, 2).tolist())
    print("  cluster of the point (4, 6):", model.predict([[4, 6]])[0])
    print("  score (minus the inertia):", round(model.score(X), 1))
    print("  iterations:", model.n_iter_, "- inertia:", np.round(model.history_["inertia"], 1).tolist())
    return X, model


def elbow(X, ks=range(1, 9)):
    """Inertia for each number of clusters, through a Pipeline that scales the columns."""
    inertias = []
    for k in ks:
        pipeline = make_pipeline(StandardScaler(), KMeans(n_clusters=k, random_state=0)).fit(X)
        inertias.append(pipeline[-1].inertia_)
    print("Elbow curve:", dict(zip(ks, np.round(inertias, 1).tolist(), strict=True)))
    return list(ks), inertias


def four_overlapping_blobs():
    """GridSearchCV over the number of clusters. A higher score is better, so it doesn't choose one cluster."""
    X = blobs([[0, 0], [3, 0], [0, 3], [3, 3]], scale=1.0, seed=1)
    pipeline = make_pipeline(StandardScaler(), KMeans(random_state=0))
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [1, 2, 3, 4]}, cv=3).fit(X)
    print("Four overlapping blobs: GridSearchCV chooses", search.best_params_)
    print("  mean scores:", np.round(search.cv_results_["mean_test_score"], 1).tolist())
    return search


def draw(X, model, curve, path):
    """Clusters with their centers, and the elbow curve."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.scatter(X[:, 0], X[:, 1], c=model.labels_, s=2, cmap="viridis")
    left.scatter(*model.cluster_centers_.T, marker="X", s=120, c="crimson", edgecolor="white", label="centers")
    left.set(title="Three blobs", aspect="equal")
    left.legend()
    right.plot(*curve, "o-")
    right.set(title="Elbow curve (scaled data)", xlabel="number of clusters", ylabel="inertia", ylim=(0, None))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print("Written:", path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output"), help="directory for the picture")
    directory = parser.parse_args(arguments).output
    directory.mkdir(parents=True, exist_ok=True)
    X, model = three_blobs()
    draw(X, model, elbow(X), directory / "tutorial.png")
    four_overlapping_blobs()


if __name__ == "__main__":
    main()
