"""
Texts: what are NumPy's functions about?
========================================

TF-IDF vectors of the docstrings of NumPy's functions, clustered by the angle between them. The matrix is sparse and
stays so; each cluster is described by its strongest words and its most typical functions.
"""

import inspect

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from kmeans_xp import KMeans

MODULES = {"": np, "linalg.": np.linalg, "fft.": np.fft, "random.": np.random, "polynomial.": np.polynomial.polynomial}
texts = {
    prefix + name: inspect.getdoc(member)
    for prefix, module in MODULES.items()
    for name, member in sorted(vars(module).items())
    if callable(member) and not name.startswith("_") and not inspect.isclass(member) and inspect.getdoc(member)
}
names = np.array(list(texts))

# %%
# Common words of all docstrings are left out. Some 700 texts have thousands of different words, a few dozen each.

vectorizer = TfidfVectorizer(max_df=0.3, min_df=3, token_pattern=r"[a-zA-Z]{3,}", sublinear_tf=True)
X = vectorizer.fit_transform(texts.values())
print(f"{X.shape[0]} texts, {X.shape[1]} words, {X.nnz / X.shape[0]:.0f} of them in a text")

# %%
# `metric="cosine"` is spherical k-means. Rows of norm 1, as TF-IDF has them, could be clustered by distance too; but
# then centers are means, which lie inside of the sphere.

model = KMeans(12, metric="cosine", n_init=5, random_state=0).fit(X)
print(
    f"inertia {model.inertia_:.1f}: the mean cosine of a text and its center is {1 - model.inertia_ / X.shape[0]:.2f}"
)

# %%
# The strongest words of each center, and the functions nearest to it.

words = vectorizer.get_feature_names_out()
typical = model.nearest_rows(X, 4, return_distance=False)
for k in np.argsort(-model.cluster_sizes_):
    strongest = words[np.argsort(-model.cluster_centers_[k])[:6]]
    print(f"{model.cluster_sizes_[k]:4} texts: {', '.join(strongest)}")
    print(f"           such as {', '.join(names[typical[k]])}")
