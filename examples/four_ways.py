"""
Default, refined, of equal sizes, bisected
==========================================

The same rows clustered in four ways: eight groups, small and large, tight and loose. Each way has a task of its own,
and the inertia alone does not say which.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

from kmeans_xp import BisectingKMeans, KMeans
from kmeans_xp.plotting import ClustersDisplay

GROUPS = np.array(  # mean, spread, rows
    [
        [-4.1, -3.3, 0.7, 400],
        [2.9, -5.2, 0.6, 320],
        [2.9, -0.1, 0.4, 260],
        [1.4, -2.7, 0.5, 210],
        [1.4, 4.1, 0.3, 170],
        [-1.8, 5.3, 0.3, 140],
        [-1.1, -0.4, 0.7, 110],
        [-3.5, 1.6, 0.3, 90],
    ]
)
means, n_groups = GROUPS[:, :2], len(GROUPS)
group = np.repeat(np.arange(n_groups), GROUPS[:, 3].astype(int))
noise = np.random.default_rng(2).normal(size=(len(group), 2))
X = means[group] + GROUPS[group, 2:3] * noise

least = len(X) // n_groups
models = {
    "default": KMeans(n_groups, random_state=0),
    "refined": KMeans(n_groups, refine=True, random_state=0),
    "equal sizes": KMeans(n_groups, size_min=least, size_max=least + 1, random_state=0),
    "bisected": BisectingKMeans(n_groups, random_state=0),
}
for model in models.values():
    model.fit(X)

# %%
# - **Default**: two centers share the largest group, and two other groups share one. No small step leads out of that.
# - **Refined**: one of the two has gone to where a center was missed, and the clusters are the groups.
# - **Equal sizes**: large groups are cut, and small ones filled up with rows of others. That is right for classes of
#   pupils and tours of lorries, and wrong where groups are looked for.
# - **Bisected**: the first cuts (lines) go through two of the groups, and what they cut stays apart. In return the
#   clusters form a tree, and each split looks at the rows of one cluster only.


def draw(ax, name, model):
    """Clusters in the colours of the groups that their centers are nearest to."""
    distances = np.linalg.norm(model.cluster_centers_[:, None] - means, axis=2)
    colours = linear_sum_assignment(distances)[1]
    labels, centers = colours[model.labels_], model.cluster_centers_
    ClustersDisplay.from_predictions(X, labels, centers=centers, ax=ax)
    ax.get_legend().remove()
    sizes = ", ".join(str(size) for size in sorted(model.cluster_sizes_))
    title = f"{name}: inertia {model.inertia_:,.0f}\nsizes {sizes}"
    ax.set_title(title, fontsize="medium")
    ax.set(xlabel="", ylabel="", aspect="equal")


figure, axes = plt.subplots(2, 2, sharex=True, sharey=True, layout="constrained")
figure.set_size_inches(9, 10.5)
for ax, (name, model) in zip(axes.flat, models.items(), strict=True):
    draw(ax, name, model)
(left, right), (low, high) = axes[1, 1].get_xlim(), axes[1, 1].get_ylim()
first = BisectingKMeans(4, random_state=0).fit(X)  # the beginning of the same tree
grid = np.meshgrid(np.linspace(left, right, 500), np.linspace(low, high, 500))
sides = first.predict(np.stack(grid, axis=-1).reshape(-1, 2)).reshape(500, 500)
axes[1, 1].contour(*grid, sides, levels=[0.5, 1.5, 2.5], colors="gray", linewidths=1)
plt.show()

# %%
# Here 6 of 10 seeds lead the default into such a place, and none the refined fit. The best of ten fits finds the groups
# too, at ten times the cost; with more clusters it mostly does not.

found = {}
for name in ("default", "refined"):
    found[name] = []
    for seed in range(10):
        found[name].append(models[name].set_params(random_state=seed).fit(X).inertia_)
    print(f"{name:8} " + " ".join(f"{inertia:6.0f}" for inertia in found[name]))
