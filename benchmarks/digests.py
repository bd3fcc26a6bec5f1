"""Digests of the results of a fixed list of fits, to see which bits a change of the code moves.

    python -m benchmarks.digests > after.txt                     # one line a fit, a minute on one core
    python -m benchmarks.digests --compare before.txt after.txt  # the lines that differ, and how many

Between tabs: what is done; the digest of the labels; that of the centers; the number of iterations; the inertia. What
raises has the error's type instead. Only the public API is used.
"""

import hashlib
import importlib
import itertools
import os
import sys
import tempfile
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported: on more threads a BLAS may add in another order

import numpy as np
import scipy.sparse
import sklearn

from kmeans_xp import BisectingKMeans, KMeans, KMeansSweep, MiniBatchKMeans, kmeans_plusplus, metrics

FOLDER = tempfile.TemporaryDirectory()
COLUMNS = list("abcdefgh")


class Sliced:
    """A source that gives slices of rows and nothing else."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows):
        return self._X[rows]


def blobs(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    return 4 * rng.normal(size=(k, d))[rng.integers(0, k, size=n)] + rng.normal(size=(n, d))


def memory_map(X):
    """Larger than the working memory where X has a MiB."""
    path = Path(tempfile.mkdtemp(dir=FOLDER.name), "rows.npy")
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def dask_array(X):
    return importlib.import_module("dask.array").from_array(X, chunks=(len(X) // 4, X.shape[1]))


DATA = {  # rows, number of clusters, dtypes; "weighted" has weights, and everything is done with it
    "small": (blobs(300, 4, 5), 5, ("float64", "float32")),
    "far": (blobs(2_000, 4, 5) + 1e4, 5, ("float64", "float32")),
    "equal rows": (
        np.random.default_rng(0).integers(0, 2, size=(20_000, 2))[:, [0, 1, 1, 0] * 2] * 1.5,
        7,
        ("float64", "float32"),
    ),
    "sampled": (blobs(30_000, 8, 40), 48, ("float32",)),  # seeding looks at a sample
    "refined": (blobs(100_000, 6, 8), 6, ("float64",)),  # iterations start on the sample
    "weighted": (blobs(20_000, 8, 6), 6, ("float64", "float32")),
}
WEIGHTS = np.random.default_rng(1).integers(0, 4, size=20_000).astype(float)
KINDS = {
    "numpy": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "data frame": lambda X: importlib.import_module("pandas").DataFrame(X, columns=COLUMNS[: X.shape[1]]),
    "strict": lambda X: importlib.import_module("array_api_strict").asarray(X),
    "torch": lambda X: importlib.import_module("torch").asarray(X.copy()),
    "csr": scipy.sparse.csr_array,
    "source": Sliced,
    "memory map": memory_map,
    "dask": dask_array,
    "dask frame": lambda X: dask_array(X).to_dask_dataframe(columns=COLUMNS[: X.shape[1]]),
}
VARIANTS = {
    "random": {"init": "random", "n_init": 3},
    "k-means||": {"init": "k-means||"},
    "array": {"init": blobs(6, 8, 3, seed=2)},
    "empty clusters": {"init": np.repeat([[0.0], [90], [-90], [99], [1], [2]], 8, axis=1), "max_iter": 12},
    "callable": {"init": lambda X, n_clusters, random_state: blobs(n_clusters, 8, 3, seed=3), "n_init": 1},
    "elkan": {"algorithm": "elkan", "tol": 0},
    "lloyd": {"algorithm": "lloyd", "tol": 0},
    "three iterations": {"max_iter": 3, "n_init": 3},
    "cosine": {"metric": "cosine"},
    "refine": {"refine": True},
    "cosine, random, elkan": {"metric": "cosine", "init": "random", "n_init": 2, "algorithm": "elkan"},
}


def fitted(model, X, sample_weight=None):
    lies_unsized = sample_weight is not None and hasattr(X, "to_dask_array")
    model.fit(X, sample_weight=dask_array(sample_weight[:, None])[:, 0] if lies_unsized else sample_weight)
    return model.labels_, model.cluster_centers_, model.n_iter_, model.inertia_


def swept(X):
    model = KMeansSweep(range(2, 6), criterion="bic", random_state=0).fit(X)
    figures = [values for name, values in model.results_.items() if name != "seconds"]
    return model.labels_, model.cluster_centers_, model.best_n_clusters_, (model.inertia_, figures)


def in_batches(X):
    model = MiniBatchKMeans(5, random_state=0)
    for start in range(0, 2_000, 500):
        batch = slice(start, start + 500)
        model.partial_fit(X[batch, :] if hasattr(X, "__array_namespace__") else X[batch])
    return model.predict(X), model.cluster_centers_, model.n_steps_, None


def on_weighted():
    """What is done with the weighted data beside a default fit, without weights where these must be equal."""
    for name, params in VARIANTS.items():
        yield name, lambda X, params=params: fitted(KMeans(6, random_state=0).set_params(**params), X, WEIGHTS)
    for kind in (MiniBatchKMeans, BisectingKMeans):
        yield kind.__name__, lambda X, kind=kind: fitted(kind(6, random_state=0), X, WEIGHTS)
    for metric in ("euclidean", "cosine"):
        bounded = {"size_min": 3_300, "size_max": [3_400] * 5 + [9_999], "metric": metric}
        yield f"sizes, {metric}", lambda X, bounded=bounded: fitted(KMeans(6, random_state=0, **bounded), X)
    yield from {"partial_fit": in_batches, "KMeansSweep": swept}.items()
    yield "kmeans_plusplus", lambda X: (*kmeans_plusplus(X, 6, random_state=0)[::-1], "", "")
    for metric in ("euclidean", "cosine"):
        model = KMeans(6, random_state=0, metric=metric).fit(DATA["weighted"][0])
        yield f"predict, {metric}", lambda X, m=model: (m.predict(X), m.transform(X), "", m.score(X))
        yield f"nearest centers, {metric}", lambda X, m=model: (*m.nearest_centers(X, 2)[::-1], "", "")
        yield f"nearest rows, {metric}", lambda X, m=model: (*m.nearest_rows(X, 3)[::-1], "", "")
    known = {"labels": model.labels_, "sample_weight": WEIGHTS}
    for name in ("calinski_harabasz_score", "davies_bouldin_score", "bic_score"):
        yield name, lambda X, name=name: (None, None, "", getattr(metrics, name)(X, **known))
    yield "inertias", lambda X: (*metrics.cluster_inertias(X, **known), "", "")
    yield "simplified", lambda X: (metrics.simplified_silhouette_samples(X, **known), None, "", "")
    for more in ({"sample_size": 500, "random_state": 0}, {"metric": "sqeuclidean"}):
        yield f"silhouette {[*more]}", lambda X, m=more: (None, None, "", metrics.silhouette_score(X, **known, **m))


def jobs():
    """A name, a function of rows, and the rows."""
    for name, (X, k, dtypes) in DATA.items():
        weights = WEIGHTS if name == "weighted" else None
        fit = {"fit": lambda X, k=k, weights=weights: fitted(KMeans(k, random_state=0), X, weights)}
        for kind, dtype in itertools.product(KINDS, dtypes):
            rows = KINDS[kind](X.astype(dtype))
            more = dict(on_weighted()) if (name, dtype) == ("weighted", "float64") else {}
            for what, function in (fit | more).items():
                yield f"{name} / {kind} / {dtype} / {what}", function, rows


def digest(values):
    """Of the library, dtype, shape and bytes of an array."""
    if values is None:
        return ""
    library = type(values).__module__.partition(".")[0]
    values = np.ascontiguousarray(values.compute() if library == "dask" else values)
    return hashlib.sha256(f"{library} {values.dtype} {values.shape}".encode() + values.tobytes()).hexdigest()[:12]


def line(name, function, rows):
    try:
        labels, centers, n_iter, inertia = function(rows)
        found = digest(labels), digest(centers), str(n_iter), repr(inertia)
    except Exception as error:  # of whatever type: it belongs to what is compared
        found = (type(error).__name__,)
    return "\t".join((name, *found))


def compare(old, new):
    before, after = (dict(row.split("\t", 1) for row in Path(path).read_text().splitlines()) for path in (old, new))
    differing = [name for name in before | after if before.get(name) != after.get(name)]
    for name in differing:
        print(name, before.get(name), after.get(name), sep="\n    ")
    print(f"{len(differing)} of {len(before | after)} differ.")


def main():
    if sys.argv[1:2] == ["--compare"]:
        return compare(*sys.argv[2:])
    warnings.simplefilter("ignore")
    dask = importlib.import_module("dask")
    with FOLDER, sklearn.config_context(working_memory=1), dask.config.set(scheduler="synchronous"):
        for job in jobs():
            print(line(*job), flush=True)


if __name__ == "__main__":
    main()
