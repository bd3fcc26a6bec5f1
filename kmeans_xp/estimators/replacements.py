"""What `kmeans_xp.install` puts in the place of scikit-learn's k-means: its signatures, our fits."""

from dataclasses import dataclass
from typing import Any

from sklearn import cluster

from kmeans_xp._sklearn_private import validate_params
from kmeans_xp.estimators import bisecting, conversion, kmeans, minibatch, plusplus


@dataclass
class Options:
    """What `install` was told."""

    device: str | None = None  # where fits compute, see KMeans
    pickle_as: str = "kmeans_xp"


options = Options()


class Replacement(type(conversion.KMeans)):  # type: ignore[misc]
    """Metaclass: what is of the class that is replaced is of the replacement too, whenever it was made."""

    def __subclasscheck__(cls, subclass):
        # By the order of bases, as ABCMeta would ask the replaced class, and that all its subclasses, this one too
        return cls._replaces in subclass.__mro__ if "_replaces" in vars(cls) else super().__subclasscheck__(subclass)


class Replacing:
    """Abstract: an estimator of ours with the parameters of scikit-learn's, of which it is a subclass too."""

    _tells_unfinished = False  # as scikit-learn's
    on_iteration = None
    keep_interrupted = False
    size_min = size_max = None
    _known_of_rows = ()  # centers that are set by hand leave it, as scikit-learn's do

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_replaces" in vars(cls):
            cls.__doc__, cls.__init__ = cls._replaces.__doc__, cls._replaces.__init__
            cls._parameter_constraints = {
                name: constraints
                for name, constraints in cls._parameter_constraints.items()
                if name in cls._replaces._parameter_constraints
            }

    @property
    def device(self):
        """Where fits compute."""
        return options.device

    @property
    def _algorithm(self):
        """All distances, or those that may matter: the results are the same, but for the last bits of means."""
        return "auto" if self.algorithm == "lloyd" else self.algorithm

    def __reduce_ex__(self, protocol):
        if options.pickle_as == "sklearn":
            return self._as_theirs(self).__reduce_ex__(1)  # from 2 on, pickle wants an object of this class
        return super().__reduce_ex__(protocol)


class KMeans(Replacing, kmeans.KMeans, conversion.KMeans, metaclass=Replacement):
    _replaces = conversion.KMeans
    _as_theirs = staticmethod(conversion.kmeans_to_sklearn)


class MiniBatchKMeans(Replacing, minibatch.MiniBatchKMeans, conversion.MiniBatchKMeans, metaclass=Replacement):
    _replaces = conversion.MiniBatchKMeans
    _as_theirs = staticmethod(conversion.minibatch_to_sklearn)


class BisectingKMeans(Replacing, bisecting.BisectingKMeans, conversion.BisectingKMeans, metaclass=Replacement):
    _replaces = conversion.BisectingKMeans
    _as_theirs = staticmethod(conversion.bisecting_to_sklearn)


def replacing(theirs):
    """Decorator: a function in the place of one of scikit-learn's, with its docstring and what it checks."""

    def decorate(function):
        checks = theirs._skl_parameter_constraints
        replacement = validate_params(checks, prefer_skip_nested_validation=False)(function)
        replacement.__doc__, replacement._replaces = theirs.__doc__, theirs
        return replacement

    return decorate


@replacing(cluster.kmeans_plusplus)
def kmeans_plusplus(
    X, n_clusters, *, sample_weight=None, x_squared_norms=None, random_state=None, n_local_trials=None
) -> tuple[Any, Any]:
    if n_local_trials is not None or x_squared_norms is not None:  # which ours has no use for
        given = {"sample_weight": sample_weight, "x_squared_norms": x_squared_norms, "n_local_trials": n_local_trials}
        return kmeans_plusplus._replaces(X, n_clusters, random_state=random_state, **given)
    return plusplus.kmeans_plusplus(X, n_clusters, sample_weight=sample_weight, random_state=random_state)


@replacing(cluster.k_means)
def k_means(X, n_clusters, *, sample_weight=None, return_n_iter=False, **params) -> tuple[Any, ...]:
    model = KMeans(n_clusters, **params).fit(X, sample_weight=sample_weight)
    found = model.cluster_centers_, model.labels_, model.inertia_
    return (*found, model.n_iter_) if return_n_iter else found


# What is replaced, by what
REPLACEMENTS = [(ours._replaces, ours) for ours in (KMeans, MiniBatchKMeans, BisectingKMeans, kmeans_plusplus, k_means)]
