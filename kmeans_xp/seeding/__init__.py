"""Choosing the first centers. Random numbers are drawn on the host.

Every method picks rows, and distances are float64, so a seed picks the same rows on every library. Random choices run
through the rows in an order that depends on their values alone (`draws.canonical_order`), where all of them are in
memory. So k-means|| and, up to `greedy.sample_size` rows and of fewer than `hierarchical.MANY` clusters, k-means++ pick
the same points whatever the order of the rows, and whether a row stands there twice or has weight 2.
"""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from kmeans_xp.data.memory import InMemory
from kmeans_xp.metric import EUCLIDEAN
from kmeans_xp.seeding.chain import afk_mc2
from kmeans_xp.seeding.greedy import sample_size
from kmeans_xp.seeding.parallel import k_means_parallel
from kmeans_xp.seeding.plus_plus import k_means_plus_plus
from kmeans_xp.seeding.random_rows import random_rows
from kmeans_xp.steps import computing
from kmeans_xp.validation import check_centers


@dataclass(frozen=True)
class Seeding:
    """A way to choose the first centers, and what estimators must know of it."""

    # (data, n_clusters, frame, rng, refine) -> centers relative to the origin of the frame: different rows that have
    # weight or, if there are fewer, all of them and some again
    choose: Callable[..., Any]
    description: str  # for the docstrings
    n_runs: int = 1  # that n_init='auto' asks for
    n_runs_in_batches: int = 1  # the same of MiniBatchKMeans


METHODS = {
    "k-means++": Seeding(
        k_means_plus_plus,
        "one after the other among the rows, with probability proportional to weight times squared distance from the "
        "nearest so far, the best of `2 + log(n_clusters)` draws each time [1]_. Of more than "
        "`max(20_000, 50 * n_clusters)` rows, it looks at a weighted sample of that size [4]_; of 4 times as many or "
        "more, the run starts from centers that were iterated on the sample [5]_. 2,000 centers or more are chosen in "
        "two levels: within about `sqrt(n_clusters)` coarse clusters, which k-means++ and iterations find first.",
    ),
    "k-means||": Seeding(
        k_means_parallel,
        "many at a time in 5 rounds, then k-means++ on those candidates [2]_. For large `n_clusters`.",
    ),
    "afk-mc2": Seeding(
        afk_mc2,
        "as k-means++ without its best of several draws, approximately: by Markov chains of 200 rows each [8]_. A few "
        "passes, whatever `n_clusters` is, and a higher inertia at the start.",
    ),
    "random": Seeding(
        random_rows,
        "distinct rows, with probability proportional to weight.",
        n_runs=10,
        n_runs_in_batches=3,
    ),
}
N_RUNS_OF_CALLABLES = METHODS["random"].n_runs, METHODS["random"].n_runs_in_batches


def first_centers(init, data, n_clusters, frame, rng, refine=None):
    """Centers, relative to the origin, by the method called `init`. Few rows are brought together for that.

    Where iterations on a sample pay, `refine(X, sample_weight, centers)` makes them.
    """
    if data.in_blocks and data.shape[0] <= sample_size(n_clusters):
        data = InMemory(*data.all_rows(), metric=EUCLIDEAN, fitting=False)
    return METHODS[init].choose(data, n_clusters, frame, rng, refine)


def given_centers(init, data, n_clusters, rng):
    """Centers that the caller gave, or whose callable did, relative to zero."""
    if callable(init):
        with computing(data.shown):
            init = init(data.given, n_clusters, random_state=rng)
    return check_centers(init, data.like, n_clusters)


def n_runs(init, n_init, *, in_batches=False):
    """Number of runs that `n_init` asks for, whose centers come from `init`: one, if these are given."""
    if not (isinstance(init, str) or callable(init)):
        return 1
    if n_init != "auto":
        return n_init
    if callable(init):
        return N_RUNS_OF_CALLABLES[in_batches]
    return METHODS[init].n_runs_in_batches if in_batches else METHODS[init].n_runs


def describing_seedings(estimator):
    """Have the docstring of an estimator name the methods, where it says {seedings}, {each seeding} and {runs}."""
    if estimator.__doc__ is not None:  # as it is with python -OO
        names = "{" + ", ".join(map(repr, METHODS)) + "}"
        each = "\n\n".join(_wrapped(name, method.description) for name, method in METHODS.items()).strip()
        in_batches = "batch_size" in signature(estimator).parameters
        several = {name: n for name in METHODS if (n := n_runs(name, "auto", in_batches=in_batches)) > 1}
        runs = ", ".join(f"{n} for {name!r}" for name, n in several.items())
        runs += f", {N_RUNS_OF_CALLABLES[in_batches]} for callables"
        for place, text in (("seedings", names), ("each seeding", each), ("runs", runs)):
            estimator.__doc__ = estimator.__doc__.replace(f"{{{place}}}", text)
    return estimator


def _wrapped(name, description):
    """An entry of the list in the docstring."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), f"'{name}' : {description}")
    return textwrap.fill(whole, 120, initial_indent=" " * 8, subsequent_indent=" " * 8).replace("\0", " ")
