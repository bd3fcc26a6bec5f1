"""Small arrays beside scikit-learn, each library in processes of its own: python -m benchmarks.bench --suite small.

In one process the threads of one library slow the other down. So a worker waits for names of jobs on a pipe and answers
with the seconds of a call, on the clock and of all its threads together; the parent asks two workers in turn, and takes
the median over rounds of their ratio.

The first tables, one for each number of threads, have scikit-learn / ours as `clock, CPU` (above 1: we are faster), and
of the fits ours / scikit-learn's mean inertia, over the same seeds. The last has other rows / the same rows as a NumPy
array in C order, ours both (1: the same).
"""

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines set them, and slow NumPy
    os.environ.pop(name, None)

import numpy as np
from sklearn.datasets import load_digits, load_iris, make_blobs


def blobs(n, d, k):
    return make_blobs(n, d, centers=k, random_state=0)[0]


def noise(n, d):
    return np.random.default_rng(0).uniform(size=(n, d))


def tutorial():
    """The three blobs of examples/tutorial.py."""
    centers = np.array([[0.0, 0], [5, 5], [-5, 5]])
    return centers[np.arange(10_000) % 3] + np.random.default_rng(0).normal(size=(10_000, 2))


# name: rows, number of clusters
CASES = {
    "iris 150 x 4": (lambda: load_iris().data, 3),
    "blobs 500 x 2": (lambda: blobs(500, 2, 4), 4),
    "blobs 1,000 x 10": (lambda: blobs(1_000, 10, 8), 8),
    "tutorial 10,000 x 2": (tutorial, 3),
    "noise 3,000 x 10": (lambda: noise(3_000, 10), 8),
    "noise 5,000 x 20": (lambda: noise(5_000, 20), 10),
    "digits 1,797 x 64": (lambda: load_digits().data, 10),
    "digits, float32": (lambda: load_digits().data.astype("float32"), 10),
    "blobs 10,000 x 50": (lambda: blobs(10_000, 50, 20), 20),
    "noise 10,000 x 8, float32": (lambda: noise(10_000, 8).astype("float32"), 30),
}
# How rows are given: how they are made of a NumPy array in C order
KINDS = {
    "NumPy": np.ascontiguousarray,
    "DataFrame": lambda X: _module("pandas").DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]),
    "Fortran order": np.asfortranarray,
    "torch": lambda X: _module("torch").asarray(X.copy()),
    "JAX": lambda X: _module("jax.numpy").asarray(X),
}
NEEDS = {"DataFrame": "pandas", "torch": "torch", "JAX": "jax"}
OTHER_ROWS = {"iris 150 x 4": "DataFrame", "blobs 10,000 x 50": "Fortran order"}  # beside scikit-learn too
LIBRARIES = {"kmeans_xp": "kmeans_xp", "scikit-learn": "sklearn.cluster"}
# name: number of seeds, what is called with a subject and a seed
JOBS = {
    "fit": (10, lambda on, seed: on.module.KMeans(on.k, random_state=seed).fit(on.X)),
    "n_init=10": (3, lambda on, seed: on.module.KMeans(on.k, n_init=10, random_state=seed).fit(on.X)),
    "predict one row": (1, lambda on, _: on.model.predict(on.one_row)),
    "predict all": (1, lambda on, _: on.model.predict(on.X)),
    "transform": (1, lambda on, _: on.model.transform(on.X)),
    "mini-batch": (5, lambda on, seed: on.module.MiniBatchKMeans(on.k, random_state=seed).fit(on.X)),
}
FITS = ("fit", "n_init=10", "mini-batch")


def _module(name):
    return importlib.import_module(name)


# ---- in a worker ----


@dataclass
class Subject:
    """What a job is done with."""

    module: Any  # the library's estimators
    X: Any
    one_row: Any
    k: int
    model: Any  # fitted


@cache
def subject(case, library, kind):
    data, k = CASES[case]
    X, module = KINDS[kind](data()), _module(LIBRARIES[library])
    return Subject(module, X, X[:1], k, module.KMeans(k, n_init=1, random_state=0).fit(X))


def inertia(X, model):
    """Of the labels and centers that a fit gives, in float64."""
    X, centers = (np.asarray(values, dtype=float) for values in (X, model.cluster_centers_))
    return float(np.sum((X - centers[np.asarray(model.labels_)]) ** 2))


def call(on, job, seed):
    result = JOBS[job][1](on, seed)
    return result.block_until_ready() if hasattr(result, "block_until_ready") else result


@cache
def first(job, least, *rows):
    """How often to go through the seeds to take so many seconds; mean inertia of the fits."""
    on, seeds, began = subject(*rows), range(JOBS[job][0]), time.perf_counter()
    results = [call(on, job, seed) for seed in seeds]
    n = max(1, round(least / (time.perf_counter() - began)))
    return n, statistics.fmean(inertia(on.X, model) for model in results) if job in FITS else None


def measure(job, least, *rows):
    """Seconds of a call, on the clock and of all threads, of at least so many; the mean inertia of fits."""
    n, found = first(job, least, *rows)
    on, seeds = subject(*rows), range(JOBS[job][0])
    seconds, cpu = time.perf_counter(), time.process_time()
    for _ in range(n):
        for seed in seeds:
            call(on, job, seed)
    seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    return {"clock": seconds / (n * len(seeds)), "cpu": cpu / (n * len(seeds)), "inertia": found}


def work():
    """Answer jobs until there are no more."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(measure(*json.loads(line))), flush=True)


# ---- in the parent ----


class Worker:
    """A process that has so many threads."""

    def __init__(self, n_threads):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(n_threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.small"],
            env=os.environ | limits | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, *job):
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def in_turn(workers, jobs, rounds, budget):
    """Seconds of ours; median ratios theirs / ours of time, of the clock and the CPU; ours / theirs of inertia.

    Rounds end when another would take all beyond `budget` seconds.
    """
    pairs, began = [], time.perf_counter()
    while not pairs or (len(pairs) < rounds and (time.perf_counter() - began) * (1 + 1 / len(pairs)) < budget):
        pairs.append([worker.ask(*job) for worker, job in zip(workers, jobs, strict=True)])
    found = {which: statistics.median(b[which] / a[which] for a, b in pairs) for which in ("clock", "cpu")}
    found["seconds"] = statistics.median(ours["clock"] for ours, _ in pairs)
    ours, theirs = (each["inertia"] for each in pairs[0])
    return found | {"inertia": ours and ours / theirs}


def compare(rows, n_threads, *limits):
    """For each `case, ours, theirs`, the last two a library and a kind of rows, what `in_turn` finds of each job."""
    rounds, budget, least = limits
    with ExitStack() as stack:
        worker = cache(lambda library, kind: stack.enter_context(Worker(n_threads)))
        for case, *both in rows:
            workers = [worker(*each) for each in both]
            yield {job: in_turn(workers, [(job, least, case, *each) for each in both], rounds, budget) for job in JOBS}


def tables(cases):
    """Title, number of threads, which value is the worst, and rows as `compare` takes them."""
    given = [(case, "NumPy") for case in cases]
    other = [(case, kind) for case, kind in OTHER_ROWS.items() if case in cases and installed(kind)]
    hosts = [(case, kind) for kind in ("torch", "JAX") for case in cases if installed(kind)]
    for n_threads in (1, 2):
        rows = [(case, ("kmeans_xp", kind), ("scikit-learn", kind)) for case, kind in given + other]
        yield "scikit-learn / ours", n_threads, min, rows
    rows = [(case, ("kmeans_xp", "NumPy"), ("kmeans_xp", kind)) for case, kind in other + hosts]
    yield "ours, other rows / NumPy in C order", 1, max, rows


def installed(kind):
    return kind not in NEEDS or importlib.util.find_spec(NEEDS[kind]) is not None


def table(names, found, worst):
    """Markdown: a line a case, then the geometric mean and the worst of each column."""
    columns = {job: [(jobs[job]["clock"], jobs[job]["cpu"]) for jobs in found] for job in JOBS}
    columns |= {f"inertia, {job}": [(jobs[job]["inertia"],) for jobs in found] for job in FITS}
    for title, column in columns.items():
        extreme, parts = worst if title in JOBS else max, [*zip(*column, strict=True)]
        column += [tuple(map(together, parts)) for together in (statistics.geometric_mean, extreme)]
    cells = ([cell(title, values) for values in column] for title, column in columns.items())
    lines = zip([*names, "**geometric mean**", "**worst**"], *cells, strict=True)
    head = ["", *columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines))


def cell(title, values):
    return ", ".join(f"{value:.3g}" if title in JOBS else f"{value:.4f}" for value in values)


def main(options):
    cases, limits = (list(CASES)[:2], (1, 1, 0)) if options.quick else (list(CASES), (5, 2 * options.budget, 0.03))
    with open(options.json or os.devnull, "a", encoding="utf-8") as file:
        for title, n_threads, worst, rows in tables(cases):
            names, found = [f"{case}, k={CASES[case][1]}, {theirs[1]}" for case, _, theirs in rows], []
            for name, jobs in zip(names, compare(rows, n_threads, *limits), strict=True):
                found.append(jobs)
                file.write(json.dumps({"small": name, "threads": n_threads, "what": title, "jobs": jobs}) + "\n")
                file.flush()
            if found:
                print(f"\n{title}, {n_threads} thread(s), `clock, CPU`:\n\n{table(names, found, worst)}", flush=True)


if __name__ == "__main__":
    work()
