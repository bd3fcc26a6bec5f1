"""One refined fit beside default fits and the best of ten: python -m benchmarks.refine [--seeds 3] [--case photo].

For the cases of `benchmarks.bench`: mean inertia of refined fits beside the mean and the best of default ones, and how
many times as long a refined fit takes, as the median of the seeds; default and refined fits in turn.
"""

import argparse
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


def fitted(X, n_clusters, seed, **options):
    """Seconds and inertia of a fit."""
    began = time.perf_counter()
    inertia = KMeans(n_clusters, n_init=1, random_state=seed, **options).fit(X).inertia_
    return time.perf_counter() - began, inertia


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--case", default="", help="only cases whose names have this in them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    below_mean, times = [], []
    for name, (data, n_clusters, _) in CASES.items():
        X = None if any(word in name for word in SAME_ROWS) or options.case not in name else data()
        if X is None:
            continue
        default, refined = [], []
        for seed in range(N_DEFAULT):
            default.append(fitted(X, n_clusters, seed))
            if seed < options.seeds:
                refined.append(fitted(X, n_clusters, seed, refine=True))
        inertias = [inertia for _, inertia in default]
        found = statistics.fmean(inertia for _, inertia in refined)
        below_mean.append(found / statistics.fmean(inertias))
        times.append(statistics.median(one / other for (one, _), (other, _) in zip(refined, default, strict=False)))
        beside_best = found / min(inertias) - 1
        print(f"{name:36} mean {below_mean[-1] - 1:+.3%}  best {beside_best:+.4%}  time {times[-1]:.2f}", flush=True)
    for what, values in ("inertia / mean of default fits", below_mean), ("time / default fit", times):
        print(f"{what}: geometric mean {statistics.geometric_mean(values):.3f}, worst {max(values):.3f}")


if __name__ == "__main__":
    main()
