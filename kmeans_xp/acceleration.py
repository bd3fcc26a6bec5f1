"""Acceleration without a change of code: the k-means of scikit-learn becomes ours in all modules that have it."""

import sys
import types
from typing import Any, Literal

from kmeans_xp.devices import cuda_problem, parse_device


def install(
    *,
    device: str | None = None,
    pickle_as: Literal["kmeans_xp", "sklearn"] = "kmeans_xp",
    quiet: bool = False,
) -> None:
    """Have scikit-learn's k-means computed here, in code that is written for scikit-learn.

    `KMeans`, `MiniBatchKMeans`, `BisectingKMeans`, `kmeans_plusplus` and `k_means` are replaced in `sklearn.cluster`
    and in all modules that have imported them, those of scikit-learn among them: its spectral clustering, mixtures and
    discretizers fit by ours then. The replacements have scikit-learn's parameters, defaults and silence at `max_iter`,
    and are subclasses of what they replace. See :doc:`/acceleration` for what is out of reach.

    Parameters
    ----------
    device : None, 'auto', 'cpu', 'cuda' or 'cuda:i', default=None
        Where the replacements compute, see :class:`KMeans`. 'auto' where there is no GPU is None.

    pickle_as : {'kmeans_xp', 'sklearn'}, default='kmeans_xp'
        What a pickle of a replacement opens as: the same again, wherever kmeans_xp is installed; or a model of
        scikit-learn, also where it is not.

    quiet : bool, default=False
        Whether not to say what was replaced, in a line on the standard error. It is said once.

    Raises
    ------
    ValueError
        If an option has another value. Nothing is replaced then.

    See Also
    --------
    uninstall : Puts scikit-learn's back.

    Examples
    --------
    >>> import kmeans_xp
    >>> from sklearn.datasets import load_iris
    >>> kmeans_xp.install(quiet=True)
    >>> from sklearn.cluster import KMeans
    >>> isinstance(KMeans(3, random_state=0).fit(load_iris().data), kmeans_xp.KMeans)
    True
    >>> kmeans_xp.uninstall()
    """
    from kmeans_xp.estimators import replacements

    if device not in (None, "auto"):
        parse_device(device)
    if pickle_as not in ("kmeans_xp", "sklearn"):
        raise ValueError(f"pickle_as={pickle_as!r} is not known: use 'kmeans_xp' or 'sklearn'.")
    problem = cuda_problem() if device == "auto" else None
    options = replacements.options
    options.device, options.pickle_as = None if problem else device, pickle_as
    if _replace(replacements.REPLACEMENTS) and not quiet:
        names = ", ".join(theirs.__name__ for theirs, _ in replacements.REPLACEMENTS)
        where = f"device: {options.device or 'that of the data'}{f', as {problem}' if problem else ''}"
        print(f"kmeans_xp replaces scikit-learn's {names} ({where}).", file=sys.stderr)


def uninstall() -> None:
    """Put scikit-learn's k-means back, in all modules that have what :func:`install` put there.

    Models that were made in between stay what they are.
    """
    from kmeans_xp.estimators import replacements

    replacements.options.device, replacements.options.pickle_as = None, "kmeans_xp"
    _replace([(ours, theirs) for theirs, ours in replacements.REPLACEMENTS])


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext kmeans_xp` in IPython and Jupyter: :func:`install`."""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext kmeans_xp`: :func:`uninstall`."""
    uninstall()


def _replace(pairs):
    """Replace the first of each pair by the second where a module has it under some name: how many times.

    Not where the first is defined, as pickle looks for it there, nor in our own modules.
    """
    replacements = {id(old): new for old, new in pairs}
    homes, count = {old.__module__ for old, _ in pairs}, 0
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name in homes or name.partition(".")[0] == "kmeans_xp":
            continue
        names = object.__getattribute__(module, "__dict__")  # without waking modules that are lazy
        for bound, value in list(names.items()):
            if id(value) in replacements:
                names[bound] = replacements[id(value)]
                count += 1
    return count
