"""Everything that is to be known of a GPU, in a quarter of an hour: python -m benchmarks.gpu_run [--quick].

Correctness of what is new first, then variants side by side, our times, peers, and the other tests, each part in a
process of its own with a limit of time: one that hangs, or cannot be imported, loses nothing. Results are lines of JSON
in FOLDER/results.jsonl, written by the parts as they come; each part's output is in FOLDER/<part>.log; FOLDER/table.md
is written anew after each part. The exit status says whether all tests that were begun have passed.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import gpu
from benchmarks.gpu_peers import PEERS

ROOT = Path(__file__).parent.parent
# Of what has changed since a GPU last ran it
NEWEST = tuple(f"tests/test_{name}.py" for name in ("cupy_graphs", "cupy", "problems", "lent_memory"))
SANITIZED = """
import cupy
import numpy as np
from kmeans_xp import KMeans
X = cupy.asarray(np.random.default_rng(0).normal(size=(2000, 5)))
print(KMeans(20, random_state=0).fit(X).inertia_)
"""


@dataclass(frozen=True)
class Part:
    """A command, and the seconds that it may take."""

    name: str
    command: list
    limit: float
    must_pass: bool = False


def parts(quick, results):
    """In order: what must not be lost comes first."""

    def module(name, *arguments):
        return [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", results, *["--quick"] * quick]

    tests = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider"]
    tests += ["-n", "4"] * (importlib.util.find_spec("xdist") is not None)
    fit = [sys.executable, "-c", SANITIZED]
    return [
        Part("first-fit", module("gpu_first"), 90),
        Part("newest-tests", [*tests, *NEWEST], 210, must_pass=True),
        Part("products", module("gpu_variants"), 60, must_pass=True),  # labels must be the same
        Part("cases", module("bench", "--suite", "gpu"), 90),
        Part("problems", module("gpu_problems"), 60),
        Part("constants", module("gpu_constants"), 90),
        *(Part(name.replace(" ", "-"), module("gpu_peers", name), 75) for name in PEERS),
        Part("other-tests", [*tests, "tests", *(f"--ignore={path}" for path in NEWEST)], 150, must_pass=True),
        Part("sanitizer", ["compute-sanitizer", "--error-exitcode", "1", *fit], 60, must_pass=True),
    ]


def run(part, folder, left):
    """Run a part for the seconds that are left to it. -> status, seconds"""
    limit, log = min(part.limit, left), folder / f"{part.name}.log"
    if limit < 1:
        return "no time was left", 0.0
    environment = {**os.environ, "CUPY_TF32": "0", "PYTHONUNBUFFERED": "1"}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX would take most of the memory
    if part.name.endswith("tests"):
        environment.setdefault("KMEANS_XP_REQUIRE", "cupy")
    began = time.perf_counter()
    try:
        with open(log, "w", encoding="utf-8") as output:
            process = subprocess.Popen(
                part.command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        status = {0: "passed"}.get(process.wait(limit), "failed")
    except FileNotFoundError:
        status = f"{part.command[0]} is not installed"
    except subprocess.TimeoutExpired:
        status = f"stopped after {limit:.0f} s"
    finally:
        if "process" in locals() and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait()
    return status, time.perf_counter() - began


def run_all(chosen, folder, seconds):
    """Run parts, and write what they find. -> whether those that must pass did"""
    began, good = time.perf_counter(), True
    for part in chosen:
        print(f"{part.name} …", flush=True)
        status, took = run(part, folder, seconds - (time.perf_counter() - began))
        good = good and not (part.must_pass and (status == "failed" or status.startswith("stopped")))
        log = folder / f"{part.name}.log"
        line = {"kind": "part", "part": part.name, "status": status, "seconds": took}
        if part.name.endswith("tests"):
            line |= outcomes(log)
        gpu.append(folder / "results.jsonl", **line)
        print(f"    {status} ({took:.0f} s)", flush=True)
        if status == "failed":
            print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), flush=True)
        (folder / "table.md").write_text(table(read(folder / "results.jsonl")), encoding="utf-8")
    return good


def outcomes(log):
    """Tests by outcome, as far as they got."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    words = [word for line in lines if "::" in line for word in line.split() if word in ("PASSED", "FAILED", "ERROR")]
    return {name.lower(): words.count(name) for name in ("PASSED", "FAILED", "ERROR")}


def read(path):
    """Lines of results; a last one that is cut off is left out."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def table(lines):
    """What was found, in Markdown."""
    of = {kind: [line for line in lines if line["kind"] == kind] for kind in ("machine", "part", "first")}
    text = [machines(of["machine"]), "## Parts", parts_table(of["part"]), "## First fit on a new machine"]
    text += [first_table(of["first"]), "## Labels: kernels by their products", products_table(lines)]
    text += ["## Iterations from the same start, milliseconds", *peers_tables(lines)]
    text += ["## Many problems: seconds of a batch, and times as long as it", problems_table(lines)]
    text += ["## Constants: a fit's time with another value / with the one in use", constants_table(lines)]
    return "\n\n".join(text) + "\n"


def rows(head, body):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *body))


def case(line):
    return f"{line['n']:,} x {line['d']}, k={line['k']:,}, {line['dtype']}"


def machines(lines):
    """The device, and the rates of the runs from the lowest to the highest."""
    if not lines:
        return "No part got as far as measuring the device."
    rates = {name: [line[name] for line in lines] for name in lines[0] if name.endswith(("GB_s", "GFLOP_s"))}
    what = ", ".join(f"{name} {min(values):.0f} to {max(values):.0f}" for name, values in rates.items())
    return f"{lines[0]['device']}, CuPy {lines[0]['cupy']}, commit {lines[0]['commit']}: {what}"


def parts_table(lines):
    tests = ("passed", "failed", "error")
    return rows(
        ("part", "status", "s"),
        (
            (
                line["part"],
                line["status"] + "".join(f", {line[name]} {name}" for name in tests if name in line),
                f"{line['seconds']:.0f}",
            )
            for line in lines
        ),
    )


def first_table(lines):
    body = (
        (line["state"], name, f"{took:.2f}", line["kernels"])
        for line in lines
        for name, took in line["seconds"].items()
    )
    return rows(("kernels", "what", "s", "kernels on disk at the end"), body)


def products_table(lines):
    head = ("case", "products", "labels, ms", "kernel, ms", "of the bytes", "of the operations", "uncertain")
    body = []
    for line in lines:
        for products, of in line.items() if line["kind"] == "products" else ():
            if isinstance(of, dict):
                times = (f"{1e3 * of[name]:.3f}" for name in ("labels_s", "kernel_s"))
                shares = (f"{of[name]:.1%}" for name in ("bytes", "operations", "uncertain"))
                body.append((case(line), products, *times, *shares))
    return rows(head, body)


def problems_table(lines):
    body = (
        (
            f"{line['n_problems']:,} of {case(line)}",
            f"{line['batch_s']:.4f}",
            f"{line['loop']:.2f}",
            f"{line['host']:.2f}",
        )
        for line in lines
        if line["kind"] == "problems"
    )
    return rows(("problems", "batch, s", "loop", "on the host"), body)


def peers_tables(lines):
    """Iterations, whole fits, and what is missing."""
    ours, theirs = ([line for line in lines if line["kind"] == kind] for kind in ("case", "peer"))
    iterations, fits = [], []
    for line in ours:
        inside = "" if line["torch_in"] is None else f"; torch in x {max(line['torch_in'].values()):.2f}"
        times = (f"{1e3 * line[name]:.3f}" for name in ("dense_s", "auto_s"))
        iterations.append((case(line), "kmeans_xp", " / ".join(times), f"{line['roofline']:.0%}{inside}", "", ""))
        fits.append((case(line), "kmeans_xp", f"{line['fit_s']:.4f}", "", ""))
    for line in theirs:
        if "iteration_s" in line:
            took = line["iteration_s"]
            ratios = " / ".join(f"{took / line[name]:.2f}" for name in ("dense_s", "auto_s"))
            cells = f"{1e3 * took:.3f}", f"{line['roofline']:.0%}", ratios, f"{line['inertia']:.5f}"
            iterations.append((case(line), line["peer"], *cells))
            cells = f"{line['fit_s']:.4f}", f"{line['fit_s'] / line['our_fit_s']:.2f}", f"{line['fit_inertia']:.5f}"
            fits.append((case(line), line["peer"], *cells))
    found = {line["peer"] for line in theirs}
    problems = [
        f"- {line['peer']}: {case(line) + ': ' if 'n' in line else ''}{line['problem']}"
        for line in theirs
        if "problem" in line
    ]
    problems += [f"- {name}: not measured" for name in PEERS if name not in found]
    iterations.sort(key=lambda row: row[0])
    fits.sort(key=lambda row: row[0])
    head = ("case", "library", "ms (ours: dense / auto)", "of the roofline", "/ ours (dense / auto)", "inertia / ours")
    return [
        rows(head, iterations),
        "## Whole fits, seconds",
        rows(("case", "library", "s", "/ ours", "inertia / ours"), fits),
        "## Left out",
        "\n".join(problems) or "none",
    ]


def constants_table(lines):
    head = ("case", "constant", "value in use", "other value", "time", "inertia", "iterations")
    body = (
        (
            *(case(line), line["constant"], _value(line["used"]), _value(line["value"]), f"{line['ratio']:.3f}"),
            *(f"{line['inertia']:.6f}", f"{line['n_iter']} for {line['used_n_iter']}"),
        )
        for line in lines
        if line["kind"] == "constant"
    )
    return rows(head, body)


def _value(value):
    return "never" if value == 2**62 else f"{value:g}" if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose times mean nothing")
    parser.add_argument("--folder", default=os.environ.get("OUT", "output/gpu"), help="for results ($OUT, output/gpu)")
    parser.add_argument("--seconds", type=float, default=840, help="that all parts may take together (840)")
    parser.add_argument("--parts", help="only these, by name, separated by commas")
    options = parser.parse_args()
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    every = parts(options.quick, str(folder / "results.jsonl"))
    names = options.parts.split(",") if options.parts else [part.name for part in every]
    unknown = set(names) - {part.name for part in every}
    if unknown:
        parser.error(f"no such parts: {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in every)}")
    good = run_all([part for part in every if part.name in names], folder, options.seconds)
    print((folder / "table.md").read_text(encoding="utf-8"))
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
