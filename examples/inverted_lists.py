"""
An index of vectors: inverted lists and their recall
====================================================

The nearest neighbours of a vector are mostly in the clusters whose centers are nearest to it. So an index keeps a list
of vectors for each of many clusters, and a search looks at a few lists.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

from kmeans_xp import KMeans

# %%
# Vectors as embeddings are: 64 numbers, along few directions mostly. Some of them are the questions.

rng = np.random.default_rng(0)
n_vectors, n_features, rank = 50_000, 64, 10
directions = rng.normal(size=(rank, n_features)) * np.geomspace(1, 0.3, rank)[:, None]
vectors = rng.normal(size=(n_vectors + 500, rank)) @ directions
vectors += 0.1 * rng.normal(size=vectors.shape)
vectors, questions = np.split(vectors.astype("float32"), [n_vectors])

# %%
# The index
# ---------
# 2,500 lists of 20 vectors in the mean. Ten iterations are enough: the last percents of inertia change no search.

began = time.perf_counter()
ten = {"on_iteration": lambda found: found.number == 10}
index = KMeans(2_500, random_state=0, **ten).fit(vectors)
print(f"{index.n_iter_} iterations, {time.perf_counter() - began:.1f} s")

order = np.argsort(index.labels_, kind="stable")  # vectors by their lists
sizes = np.bincount(index.labels_, minlength=2_500)
lists = np.split(order, np.cumsum(sizes)[:-1])

# %%
# Searches
# --------
# The true neighbours come from all vectors. A search compares a question with those in the lists of the nearest
# centers, which `nearest_centers` finds.

n_neighbours = 10
products = questions @ vectors.T
squares = (vectors**2).sum(axis=1) - 2 * products
true = np.argpartition(squares, n_neighbours, axis=1)[:, :n_neighbours]

_, visited = index.nearest_centers(questions, 64)
n_lists = 2 ** np.arange(7)
recall, compared = [], []
for n in n_lists:
    found, n_compared = 0, 0
    for question in range(len(questions)):
        candidates = np.concatenate([lists[center] for center in visited[question, :n]])
        nearest = candidates[np.argsort(squares[question, candidates])[:n_neighbours]]
        found += len(np.intersect1d(nearest, true[question]))
        n_compared += len(candidates)
    recall.append(found / true.size)
    compared.append(n_compared / len(questions) / n_vectors)

for n, share, vectors_seen in zip(n_lists, recall, compared, strict=True):
    found = f"{share:.1%} of the neighbours, {vectors_seen:.2%} of the vectors"
    print(f"{n:3} lists: {found}")

figure, ax = plt.subplots(layout="constrained")
ax.semilogx(np.asarray(compared) * 100, np.asarray(recall) * 100, "o-")
for n, share, vectors_seen in zip(n_lists, recall, compared, strict=True):
    ax.annotate(
        f"{n} lists" if n > 1 else "1 list",
        (vectors_seen * 100, share * 100),
        textcoords="offset points",
        xytext=(6, -12),
    )
ax.margins(x=0.16, y=0.1)  # room for the words
ax.set_xlabel("vectors that a question is compared with, %")
ax.set_ylabel(f"of the {n_neighbours} nearest found, %")
plt.show()

# %%
# How long a search takes depends on the sizes of the lists, and those of k-means are uneven: a list is met the more
# often the longer it is. `size_max` bounds them (:doc:`/bounded-sizes`), for some inertia.

print(f"{sizes.min()} to {sizes.max()} vectors in a list, in the mean {sizes.mean():.0f}")
