"""One refined fit beside default fits, the best of ten, and bkmeans.

python -m benchmarks.refine [--seeds 3] [--case photo] [--peer]

For the cases of `benchmarks.bench`: mean inertia of refined fits beside the mean and the best of default ones, and how
many times as long a refined fit takes, as the median of the seeds; default and refined fits in turn. `--peer` runs
breathing k-means by its author too (the package bkmeans, from the extra `bench`), and says how its mean inertia and its
time are beside those of our refined fits: minutes a seed where rows and clusters are many.
"""

import argparse
import importlib
import os
import statistics
import time
import warnings

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines set them, and slow NumPy
    os.environ.pop(name, None)

from benchmarks.bench import CASES
from kmeans_xp import KMeans

N_DEFAULT = 10  # fits, of which the best is taken
SAME_ROWS = "DataFrame", "Fortran order"  # cases with the rows of another one


def fitted(make, X, n_clusters, seed, **options):
    """Seconds and inertia of a fit."""
    began = time.perf_counter()
    inertia = make(n_clusters=n_clusters, n_init=1, random_state=seed, **options).fit(X).inertia_
    return time.perf_counter() - began, inertia


def times_as_long(some, others):
    """Median over the seeds that both have."""
    return statistics.median(one / other for (one, _), (other, _) in zip(some, others, strict=False))


def mean_inertia(fits):
    return statistics.fmean(inertia for _, inertia in fits)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--case", default="", help="only cases whose names have this in them")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    peer = importlib.import_module("bkmeans").BKMeans if options.peer else None
    warnings.simplefilter("ignore")
    below_mean, times = [], []
    for name, (data, n_clusters, _) in CASES.items():
        X = None if any(word in name for word in SAME_ROWS) or options.case not in name else data()
        if X is None:
            continue
        default, refined, theirs = [], [], []
        for seed in range(N_DEFAULT):
            default.append(fitted(KMeans, X, n_clusters, seed))
            if seed < options.seeds:
                refined.append(fitted(KMeans, X, n_clusters, seed, refine=True))
                theirs += [fitted(peer, X, n_clusters, seed)] if peer else []
        found = mean_inertia(refined)
        below_mean.append(found / mean_inertia(default))
        times.append(times_as_long(refined, default))
        beside_best = found / min(inertia for _, inertia in default) - 1
        line = f"{name:36} mean {below_mean[-1] - 1:+.3%}  best {beside_best:+.4%}  time {times[-1]:.2f}"
        if peer:
            inertia, seconds = mean_inertia(theirs) / found, times_as_long(theirs, refined)
            line += f"  bkmeans: inertia {inertia - 1:+.3%}, time {seconds:.1f}"
        print(line, flush=True)
    for what, values in ("inertia / mean of default fits", below_mean), ("time / default fit", times):
        print(f"{what}: geometric mean {statistics.geometric_mean(values):.3f}, worst {max(values):.3f}")


if __name__ == "__main__":
    main()
