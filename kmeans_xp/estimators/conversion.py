"""Fitted models of scikit-learn from ours, and ours from theirs."""

import copy
import warnings

import numpy as np
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans  # also where `install` has replaced them since
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from kmeans_xp import arrays
from kmeans_xp.estimators.saving import on_host

OF_FIT = "labels_", "inertia_", "n_iter_", "n_steps_", "feature_names_in_"


def kmeans_to_sklearn(ours):
    """A KMeans of scikit-learn, fitted as ours is, or not."""
    return _converted(ours, KMeans, algorithm="elkan" if ours.algorithm == "elkan" else "lloyd")


def minibatch_to_sklearn(ours):
    """A MiniBatchKMeans of scikit-learn, which goes on where ours is."""
    model = _converted(ours, MiniBatchKMeans)
    seen = {"_counts": "_counts", "_n_since_last_reassign": "_n_since", "_random_state": "_random_state"}
    for theirs, name in seen.items():
        if name in vars(ours):
            setattr(model, theirs, copy.deepcopy(on_host(vars(ours)[name])))
    return model


def bisecting_to_sklearn(ours):
    """A BisectingKMeans of scikit-learn, whose rows go down the same tree."""
    if "cluster_centers_" in vars(ours) and "_tree" not in vars(ours):
        raise ValueError(
            "cluster_centers_ was set by hand, and scikit-learn's BisectingKMeans needs a tree of them: use KMeans."
        )
    model = _converted(ours, BisectingKMeans, algorithm="elkan" if ours.algorithm == "elkan" else "lloyd")
    if "_tree" in vars(ours):
        model._X_mean = np.zeros(ours.cluster_centers_.shape[1], arrays.to_numpy(ours.cluster_centers_).dtype)
        model._bisecting_tree = _grown(on_host(ours._tree), type(model._bisecting_tree))
    return model


def from_sklearn(ours, model):
    """Our estimator, fitted to what the model of scikit-learn is."""
    if not isinstance(model, (KMeans, MiniBatchKMeans, BisectingKMeans)):
        raise TypeError(f"A KMeans or MiniBatchKMeans of scikit-learn is needed, got {type(model).__name__}.")
    check_is_fitted(model, "cluster_centers_")
    known = ours.get_params()
    ours.set_params(**{name: value for name, value in model.get_params().items() if name in known})
    for name in ("cluster_centers_", "labels_", "inertia_", "n_iter_", "n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(ours, name, getattr(model, name))
    return ours


def _converted(ours, kind, **params):
    """A model of scikit-learn's class `kind`: parameters that it has, centers, and what the fit says of its rows."""
    if ours.metric == "cosine":
        raise ValueError(f"scikit-learn has no {kind.__name__} with metric='cosine': use its Normalizer before it.")
    model = kind()
    known = model.get_params()
    params = {name: on_host(value) for name, value in ours.get_params().items() if name in known} | params
    if isinstance(ours.init, str) and ours.init != "random":
        params["init"] = "k-means++"
    if "cluster_centers_" not in vars(ours):
        return model.set_params(**params)
    centers = arrays.to_numpy(ours.cluster_centers_)
    # A fit to the centers themselves sets what scikit-learn keeps privately
    given = {"n_clusters": len(centers), "init": centers} if kind is not BisectingKMeans else {"n_clusters": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(**given, n_init=1, max_iter=1).fit(centers)
    model.set_params(**params)
    model.cluster_centers_ = centers
    for name in OF_FIT:
        if hasattr(ours, name):
            setattr(model, name, on_host(getattr(ours, name)))
        elif hasattr(model, name):
            delattr(model, name)
    model._n_features_out = len(centers)
    return model


def _grown(tree, kind):
    """The root of a tree of scikit-learn's nodes, of class `kind`, with the splits of ours; None has none."""
    if tree is None:
        root = kind(center=None, indices=None, score=0)
        root.label = 0
        return root
    # A split comes after that which it is a side of
    nodes = {0: kind(center=tree.centers[0].mean(axis=0), indices=None, score=0)}
    for number, (sides, centers) in enumerate(zip(tree.sides, tree.centers, strict=True)):
        children = [kind(center=center, indices=None, score=0) for center in centers]
        nodes[number].left, nodes[number].right = children
        for side, child in zip(sides, children, strict=True):
            if side < 0:
                child.label = ~side
            else:
                nodes[side] = child
    return nodes[0]
