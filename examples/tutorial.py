"""
Tutorial: a clustering algorithm that is a scikit-learn estimator
==================================================================

The tutorial "Writing a scikit-learn compatible clustering algorithm" writes Lloyd's algorithm in NumPy and wraps it in
an estimator. This is what it does with it, done with `kmeans_xp`: fit, predict and score, the elbow curve, a Pipeline
and GridSearchCV.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_xp import KMeans, KMeansSweep
from kmeans_xp.plotting import ClustersDisplay, ConvergenceDisplay, ElbowDisplay


def blobs(centers, n_samples=10_000, scale=1.0, seed=0):
    """Rows around `centers`, equally many around each up to one."""
    rng = np.random.default_rng(seed)
    centers = np.asarray(centers, dtype=float)
    members = np.arange(n_samples) % len(centers)
    return centers[members] + rng.normal(scale=scale, size=(n_samples, centers.shape[1]))


# %%
# Fit
# ---
# Three blobs of points, and where the clusters are found.

X = blobs([[0, 0], [5, 5], [-5, 5]])
model = KMeans(n_clusters=3, random_state=0).fit(X)
print("centers:", *np.round(model.cluster_centers_, 2).tolist())
print("sizes:", model.cluster_sizes_.tolist())
ClustersDisplay.from_estimator(model, X)

# %%
# Predict and score
# -----------------
# The score is minus the inertia, the sum of the squared distances of the points from their centers.

print("cluster of the point (4, 6):", model.predict([[4, 6]])[0])
print("score:", round(model.score(X), 1))

# %%
# Each iteration moved the centers less. Of three clear blobs there are few iterations, so look at four that overlap,
# from random starting points.

overlapping = blobs([[0, 0], [3, 0], [0, 3], [3, 3]], seed=1)
slow = KMeans(4, init="random", n_init=1, random_state=0).fit(overlapping)
print(slow.n_iter_, "iterations, converged:", slow.converged_)
ConvergenceDisplay.from_estimator(slow)

# %%
# The elbow curve
# ---------------
# The inertia for 1 to 8 clusters. It always falls; the bend is at 3. `KMeansSweep` fits them all, through any Pipeline.

scaled = StandardScaler().fit_transform(X)
sweep = KMeansSweep(range(1, 9), criterion="elbow", random_state=0).fit(scaled)
print(sweep.reason_)
ElbowDisplay.from_estimator(sweep)

# %%
# Pipeline and GridSearchCV
# -------------------------
# A higher score is better, so that a search does not choose one cluster.

pipeline = make_pipeline(StandardScaler(), KMeans(random_state=0))
search = GridSearchCV(pipeline, {"kmeans__n_clusters": [1, 2, 3, 4]}, cv=3)
search.fit(overlapping)
print("GridSearchCV chooses", search.best_params_)
print("mean scores:", np.round(search.cv_results_["mean_test_score"], 1).tolist())

# %%
# It would choose 40 clusters just as well, since the inertia falls with every one. A criterion that can say "enough" is
# what "Choosing k" is about.

plt.show()
