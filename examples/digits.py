"""Cluster scikit-learn's handwritten digits, and compare the clusters with the true digits.

Run it: python examples/digits.py
"""

from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from kmeans_xp import KMeans


def main():
    X, digits = load_digits(return_X_y=True)
    model = KMeans(n_clusters=10, n_init=10, random_state=0).fit(X)
    score = adjusted_rand_score(digits, model.labels_)
    print(f"{X.shape[0]} digits of {X.shape[1]} pixels: inertia {model.inertia_:.0f}, {model.n_iter_} iterations")
    print(f"Adjusted Rand index against the true digits: {score:.3f}")
    return score


if __name__ == "__main__":
    main()
