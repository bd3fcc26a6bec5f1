"""Fitted models of scikit-learn from ours, and ours from theirs."""

import warnings

from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays
from kmeans_xp.estimators.saving import on_host

ONLY_OURS = (
    "metric",
    "zero_rows",
    "device",
    "on_iteration",
    "keep_interrupted",
    "refine",
    "size_min",
    "size_max",
)  # parameters


def to_sklearn(ours):
    """A fitted KMeans of scikit-learn."""
    check_is_fitted(ours)
    if ours.metric == "cosine":
        raise ValueError("scikit-learn has no KMeans with metric='cosine': use its Normalizer before its KMeans.")
    centers = arrays.to_numpy(ours.cluster_centers_)
    params = {name: on_host(value) for name, value in ours.get_params().items() if name not in ONLY_OURS}
    if isinstance(ours.init, str) and ours.init != "random":
        params["init"] = "k-means++"
    params["algorithm"] = "elkan" if ours.algorithm == "elkan" else "lloyd"
    # A fit to the centers themselves sets what scikit-learn keeps privately
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = cluster.KMeans(len(centers), init=centers, n_init=1, max_iter=1).fit(centers)
    model.set_params(**params)
    model.cluster_centers_ = centers
    for name in ("labels_", "inertia_", "n_iter_", "feature_names_in_"):
        if hasattr(ours, name):
            setattr(model, name, on_host(getattr(ours, name)))
        elif hasattr(model, name):
            delattr(model, name)
    return model


def from_sklearn(ours, model):
    """Our estimator, fitted to what the model of scikit-learn is."""
    if not isinstance(model, (cluster.KMeans, cluster.MiniBatchKMeans, cluster.BisectingKMeans)):
        raise TypeError(f"A KMeans or MiniBatchKMeans of scikit-learn is needed, got {type(model).__name__}.")
    check_is_fitted(model, "cluster_centers_")
    known = ours.get_params()
    ours.set_params(**{name: value for name, value in model.get_params().items() if name in known})
    for name in ("cluster_centers_", "labels_", "inertia_", "n_iter_", "n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(ours, name, getattr(model, name))
    return ours
