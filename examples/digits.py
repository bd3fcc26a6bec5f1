"""
Handwritten digits without their labels
=======================================

Cluster scikit-learn's handwritten digits, and compare the clusters with the true digits.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from kmeans_xp import KMeans

X, digits = load_digits(return_X_y=True)
model = KMeans(n_clusters=10, n_init=10, random_state=0).fit(X)
score = adjusted_rand_score(digits, model.labels_)
print(f"{X.shape[0]} digits of {X.shape[1]} pixels")
print(f"inertia {model.inertia_:.0f}, {model.n_iter_} iterations")
print(f"Adjusted Rand index against the true digits: {score:.3f}")

# %%
# The center of each cluster, and below it the three digits that are nearest to it.

rows = model.nearest_rows(X, 3, return_distance=False)
figure, axes = plt.subplots(4, 10, figsize=(8, 3.4), layout="constrained")
for column, ax in enumerate(axes.T):
    pictures = [model.cluster_centers_[column], *X[rows[column]]]
    for place, picture in zip(ax, pictures, strict=True):
        place.imshow(picture.reshape(8, 8), cmap="gray_r")
        place.axis("off")
figure.suptitle("Centers, and the digits nearest to them")
plt.show()
