"""
Quantisers: codebooks of vectors, and weights in four bits
==========================================================

k-means as a part of something else: many small problems at once, and the best clusters of numbers.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from kmeans_xp import KMeans, kmeans_batch

# %%
# Product quantisation
# --------------------
# An image of 8 x 8 pixels is cut into its rows. Each row of all images is a problem of its own, with 256 clusters, so
# that an image becomes 8 bytes. `kmeans_batch` finds the 8 codebooks at once.

X, y = load_digits(return_X_y=True)
parts = X.reshape(-1, 8, 8).swapaxes(0, 1)  # (8 problems, 1797 rows, 8 features)
codebooks = kmeans_batch(parts, n_clusters=256, random_state=0)
codes = codebooks.labels.T  # (1797, 8)
restored = codebooks.centers[np.arange(8), codes].reshape(X.shape)

# %%
# A single codebook of whole images has as many numbers, and an image becomes one byte; but 8 bytes name `256**8`
# images, and one byte 256.

whole = KMeans(256, random_state=0).fit(X)
by_one = whole.cluster_centers_[whole.labels_]
spread = ((X - X.mean(axis=0)) ** 2).sum()
lost = {
    "8 bytes, a codebook for each row": ((X - restored) ** 2).sum() / spread,
    "1 byte, one codebook": whole.inertia_ / spread,
}
for name, share in lost.items():
    print(f"{name}: {share:.1%} of the variance is lost")

figure, axes = plt.subplots(3, 10, figsize=(9, 3), layout="constrained")
for column, image in enumerate(range(10)):
    for ax, rows in zip(axes[:, column], (X, restored, by_one), strict=True):
        ax.imshow(rows[image].reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], ("given", "8 bytes", "1 byte"), strict=True):
    ax.set_ylabel(name)
plt.show()

# %%
# Weights in few bits
# -------------------
# The weights of a small network are numbers, and `algorithm="optimal"` finds the values that they are best rounded to:
# no other choice of as many has a smaller sum of squared errors. Evenly spaced values are what one takes without.

seen, unseen, classes, true_classes = train_test_split(X / 16, y, random_state=0)
network = MLPClassifier((64,), max_iter=400, random_state=0).fit(seen, classes)
given = network.coefs_


def evenly(weights, n_values):
    """Weights rounded to values at equal distances."""
    values = np.linspace(weights.min(), weights.max(), n_values)
    return values[np.abs(weights[..., None] - values).argmin(axis=-1)]


def best(weights, n_values):
    """Weights rounded to the best values."""
    model = KMeans(n_values, algorithm="optimal").fit(weights.reshape(-1, 1))
    return model.cluster_centers_[model.labels_, 0].reshape(weights.shape)


bits = [1, 2, 3, 4]
accuracy = {}
for rounded in (evenly, best):
    accuracy[rounded.__name__] = []
    for n_bits in bits:
        network.coefs_ = [rounded(weights, 2**n_bits) for weights in given]
        accuracy[rounded.__name__].append(network.score(unseen, true_classes))
network.coefs_ = given

figure, ax = plt.subplots(layout="constrained")
as_they_are = network.score(unseen, true_classes)
ax.axhline(as_they_are, color="gray", linestyle=":", label="weights as they are")
ax.plot(bits, accuracy["best"], "o-", label='algorithm="optimal"')
ax.plot(bits, accuracy["evenly"], "s--", label="evenly spaced")
ax.set(xlabel="bits a weight", ylabel="accuracy on images not seen", xticks=bits)
ax.legend()
plt.show()

# %%
# With two and three bits the best values are far ahead, with four there is little left to gain. With one bit the even
# ones are better here: the least squared error of the weights need not be the best network.
