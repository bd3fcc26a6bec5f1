"""
Texts: what are NumPy's functions about?
========================================

TF-IDF vectors of the docstrings of NumPy's functions, clustered by the angle between them. The matrix is sparse and
stays so; each cluster is described by its strongest words and its most typical functions.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from kmeans_xp import KMeans
from kmeans_xp.plotting import ClusterDistancesDisplay

MODULES = {"": np, "linalg.": np.linalg, "fft.": np.fft, "random.": np.random}
MODULES["polynomial."] = np.polynomial.polynomial


def is_documented(name, member):
    """Whether it is a public function with a docstring."""
    is_function = callable(member) and not inspect.isclass(member)
    return is_function and not name.startswith("_") and inspect.getdoc(member)


texts = {
    prefix + name: inspect.getdoc(member)
    for prefix, module in MODULES.items()
    for name, member in sorted(vars(module).items())
    if is_documented(name, member)
}
names = np.array(list(texts))

# %%
# Common words of all docstrings are left out. Some 500 texts have 2,000 different words, a few dozen each.

pattern = r"[a-zA-Z]{3,}"
vectorizer = TfidfVectorizer(
    max_df=0.3, min_df=3, token_pattern=pattern, sublinear_tf=True
)
X = vectorizer.fit_transform(texts.values())
n_texts, n_words = X.shape
print(f"{n_texts} texts, {n_words} words, {X.nnz / n_texts:.0f} of them in a text")

# %%
# `metric="cosine"` is spherical k-means. Rows of norm 1, as TF-IDF has them, could be clustered by distance too; but
# then centers are means, which lie inside of the sphere.

model = KMeans(12, metric="cosine", n_init=5, random_state=0).fit(X)
cosine = 1 - model.inertia_ / n_texts
print(f"inertia {model.inertia_:.1f}, mean cosine of a text and its center {cosine:.2f}")

# %%
# The strongest words of each center, and the functions nearest to it.

words = vectorizer.get_feature_names_out()
typical = model.nearest_rows(X, 4, return_distance=False)
strongest = words[np.argsort(-model.cluster_centers_, axis=1)[:, :6]]
order = np.argsort(-model.cluster_sizes_)
for k in order:
    print(f"{model.cluster_sizes_[k]:4} texts: {', '.join(strongest[k])}")
    print(f"           such as {', '.join(names[typical[k]])}")

# %%
# Which of them are near each other: 1 - cos between their centers. The topics by their two strongest words.

ax = ClusterDistancesDisplay.from_estimator(model).ax_
topics = [" ".join(strongest[int(tick.get_text()), :2]) for tick in ax.get_yticklabels()]
ax.set(yticks=ax.get_yticks(), yticklabels=topics, ylabel="")
plt.show()
