"""Seconds of the first fit on a new machine, in new processes: python -m benchmarks.gpu_first.

Import, the first fit and the next one of 20,000 x 16 rows, first without any compiled kernels, then with those that
CuPy kept on disk; and how many there are. More first fits follow in the second process, with what they compile: other
dtypes, many clusters, rows that are predicted.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import gpu

PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
began = time.perf_counter()
import cupy, numpy as np
from kmeans_xp import KMeans
cupy.zeros(1)
took = {"import": time.perf_counter() - began}
rows = np.random.default_rng(0).normal(size=(int(sys.argv[1]), 16)).astype("float32")
for what in sys.argv[2:]:
    name, dtype, k = what.split()
    X = cupy.asarray(rows.astype(dtype))
    began = time.perf_counter()
    KMeans(int(k), random_state=0, max_iter=20).fit(X).predict(X)
    cupy.cuda.runtime.deviceSynchronize()
    took[name] = time.perf_counter() - began
print(json.dumps(took))
"""
FEW = ("first float32 20", "next float32 20")
MORE = ("many_clusters float32 1000", "float64 float64 20", "float16 float16 20")


def seconds(folder, n_samples, fits):
    """Of a new process that finds compiled kernels in a folder."""
    environment = {**os.environ, "CUPY_CACHE_DIR": folder}
    command = [sys.executable, "-c", PROGRAM, str(n_samples), *fits]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(options):
    n_samples = 2_000 if options.quick else 20_000
    with tempfile.TemporaryDirectory() as folder:
        for state, fits in (("nothing compiled", FEW), ("kept on disk", (*FEW, *MORE) if not options.quick else FEW)):
            found = {"state": state, "seconds": seconds(folder, n_samples, fits)}
            found["kernels"] = sum(path.is_file() for path in Path(folder).rglob("*"))
            gpu.append(options.json, kind="first", **found)
            print(found, flush=True)


if __name__ == "__main__":
    main(gpu.arguments(__doc__).parse_args())
