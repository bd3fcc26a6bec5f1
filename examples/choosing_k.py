"""
How many clusters? What each criterion says
===========================================

One sweep over the number of clusters, several criteria, on data where the answer is clear, where there are two answers,
and where there is none.
"""

import matplotlib.pyplot as plt
import numpy as np

from kmeans_xp import KMeansSweep
from kmeans_xp.plotting import ClustersDisplay, ElbowDisplay, SilhouetteDisplay

CRITERIA = [
    "calinski_harabasz",
    "davies_bouldin",
    "simplified_silhouette",
    "silhouette",
    "bic",
    "gap",
]
rng = np.random.default_rng(0)


def sweep(X):
    """Fit 1 to 12 clusters, and say what each criterion recommends."""
    found = KMeansSweep(range(1, 13), criteria=CRITERIA, random_state=0).fit(X)
    for criterion in [*CRITERIA, "elbow"]:
        print(f"{criterion:22} {found.recommend(criterion)[0]:3}")
    return found


# %%
# Five blobs that lie apart
# -------------------------

centers = np.array([[0, 0], [9, 1], [2, 10], [11, 9], [-8, 6]])
clear = centers[rng.integers(5, size=1500)] + rng.normal(size=(1500, 2))
of_clear = sweep(clear)

# %%
# The knives of the silhouette are alike, and hardly any row is nearer to another cluster.

print(of_clear.reason_)
SilhouetteDisplay.from_estimator(of_clear, clear)

# %%
# Two groups of three
# -------------------
# Silhouettes and the gap see the two groups, BIC and Calinski-Harabasz the six blobs. Both are right.

groups = np.array([[0, 0], [5, 0], [2.5, 4.5], [60, 0], [65, 0], [62.5, 4.5]])
nested = groups[rng.integers(6, size=1500)] + rng.normal(size=(1500, 2))
of_nested = sweep(nested)

# %%
# No clusters at all
# ------------------
# One round cloud. The gap can say so, and here BIC; the inertia bends nevertheless.

cloud = rng.normal(size=(1500, 2))
of_cloud = sweep(cloud)
ElbowDisplay.from_estimator(of_cloud)

# %%

ClustersDisplay.from_estimator(of_cloud.best_estimator_, cloud)
plt.show()
