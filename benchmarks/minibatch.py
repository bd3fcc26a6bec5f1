"""MiniBatchKMeans beside scikit-learn's, defaults and 10 seeds: python -m benchmarks.minibatch."""

import argparse
import math
import statistics
from functools import partial

from sklearn import cluster

from benchmarks.bench import CASES, compare, timed  # first: it sets the environment
from kmeans_xp import MiniBatchKMeans


def fit(make, X, k, seed):
    return make(k, random_state=seed).fit(X)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some of the cases, three seeds")
    quick = parser.parse_args().quick
    classes = {"ours": MiniBatchKMeans, "theirs": cluster.MiniBatchKMeans}
    print(f"{'':36}{'ours, s':>10}{'theirs, s':>10}{'theirs/ours':>12}{'inertia':>9}")
    rows = []
    for name, (data, k, is_quick) in CASES.items():
        X = data() if is_quick or not quick else None
        if X is None:
            continue
        calls = {which: partial(fit, make, X, k) for which, make in classes.items()}
        for call in calls.values():
            timed(lambda call=call: call(99))  # warm
        seconds, models = compare(calls, 3 if quick else 10, 60)
        inertia = {which: statistics.fmean(model.inertia_ for model in found) for which, found in models.items()}
        ours, theirs = (statistics.median(seconds[which]) for which in classes)
        rows.append((theirs / ours, inertia["ours"] / inertia["theirs"]))
        print(f"{name:36}{ours:10.3f}{theirs:10.3f}{rows[-1][0]:12.2f}{rows[-1][1]:9.4f}", flush=True)
    means = (math.exp(statistics.fmean(map(math.log, column))) for column in zip(*rows, strict=True))
    print("geometric means: theirs/ours {:.2f}, inertia {:.4f}".format(*means))


if __name__ == "__main__":
    main()
