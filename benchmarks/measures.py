"""How the package is built, in numbers: python -m benchmarks.measures.

Counts calls of functions of the package on one thread: whatever the modules are called, a function that multiplies
matrices is known by its code, and the loop by its name, `lloyd`. Where none multiplies, as native code does, the calls
that reach the backend count for it. Frames of dask and others are left out.
"""

import ast
import dis
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # else parts of a pass run out of sight

import dask.array
import numpy as np
import scipy.sparse
import sklearn

import kmeans_xp
from kmeans_xp import KMeans

PACKAGE = Path(kmeans_xp.__file__).parent


class Calls:
    """What Python calls in the package while this is active, on this thread."""

    def __init__(self, X=None):
        self.n, self.n_in_backends, self.takers, self._X = 0, 0, [], X
        self._products, self._in_backend = [], []

    def __enter__(self):
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def _note(self, frame, event, _):
        if event != "call" or not is_ours(frame):
            return
        self.n += 1
        self.n_in_backends += is_in_backend(frame)
        code, chain = frame.f_code, chain_of(frame)
        if not self._products and any(frame.f_locals[name] is self._X for name in code.co_varnames[: code.co_argcount]):
            self.takers.append(code.co_qualname)
        if "lloyd" in chain and multiplies(code):
            self._products.append(chain)
        elif "lloyd" in chain and is_in_backend(frame):
            self._in_backend.append(chain)

    @property
    def chains(self):
        """Names of the functions that are running when matrices are multiplied in the loop."""
        return self._products or self._in_backend


def is_ours(frame):
    return frame.f_code.co_filename.startswith(str(PACKAGE))


def is_in_backend(frame):
    """Whether it is a backend's: what it replaces a step by may be one native call."""
    path = Path(frame.f_code.co_filename).relative_to(PACKAGE)
    return path.parts[0] == "backends" and path.name != "__init__.py"


def multiplies(code):
    """Whether a function's own code has a matrix product."""
    named = {"matmul", "dot", "gemm", "einsum", "tensordot"} & {*code.co_names}
    return bool(named) or any(step.argrepr in ("@", "@=") for step in dis.get_instructions(code))


def chain_of(frame):
    """Names of the functions of the package that are running, the outermost first."""
    names = []
    while frame is not None:
        if is_ours(frame):
            names.append(f"[{frame.f_code.co_qualname}]" if is_in_backend(frame) else frame.f_code.co_qualname)
        frame = frame.f_back
    return names[::-1]


def data(folder):
    X = np.random.default_rng(0).uniform(size=(20_000, 10))
    np.save(f"{folder}/rows.npy", X)
    yield "NumPy", X
    yield "CSR", scipy.sparse.csr_array(X)
    yield "memory map", np.load(f"{folder}/rows.npy", mmap_mode="r")
    yield "Dask", dask.array.from_array(X, chunks=(5_000, 10))


def fit(X, n_iter=4):
    KMeans(8, init=np.eye(8, 10), algorithm="lloyd", max_iter=n_iter, tol=0).fit(X)


def calls_of_fit(n_iter):
    X = np.random.default_rng(0).uniform(size=(3_000, 10))
    fit(X)  # imports
    with Calls() as calls:
        fit(X, n_iter)
    return np.array([calls.n, calls.n - calls.n_in_backends])


def numbers_of_parameters():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield sum(isinstance(each, ast.arg) for each in ast.walk(node.args))


def main():
    warnings.simplefilter("ignore")
    lines = {path.relative_to(PACKAGE): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    longest = max(lines, key=lines.get)
    print(f"{sum(lines.values()):6}  lines of Python in {len(lines)} files")
    print(f"{lines[longest]:6}  lines in the longest, {longest}")
    print(f"{sum(n >= 8 for n in numbers_of_parameters()):6}  functions with 8 parameters or more")
    calls, around = (calls_of_fit(14) - calls_of_fit(4)) / 10
    print(f"{calls:6.1f}  calls an iteration, NumPy 3,000 x 10, k=8; {around:.1f} of them outside of the backend")
    sklearn.set_config(working_memory=1)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        for name, X in data(folder):
            with Calls(X) as calls:
                fit(X)
            deepest = max(calls.chains, key=len)
            below = deepest[deepest.index("lloyd") + 1 :]
            to_backend = sum(not call.startswith("[") for call in below)
            print(f"\n{len(below):6}  calls from lloyd() to the product, {name}; {to_backend} to the [backend]")
            print(f"        {' > '.join(deepest)}")
            takers = list(dict.fromkeys(calls.takers))
            print(f"{len(takers):6}  functions that are given X before that\n        {', '.join(takers)}")


if __name__ == "__main__":
    main()
