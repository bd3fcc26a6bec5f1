"""`python -m kmeans_xp script.py`, or `-m module`: a program, with scikit-learn's k-means replaced by ours."""

import argparse
import runpy
import sys
from pathlib import Path

from kmeans_xp.acceleration import install


def main(arguments: list[str]) -> None:
    """Run the program that the arguments name, with those that follow it."""
    parser = argparse.ArgumentParser(
        "python -m kmeans_xp", description="Run a program with scikit-learn's k-means replaced by kmeans_xp's."
    )
    parser.add_argument("--device", help="where to compute: auto, cpu, cuda or cuda:i; default: where the data is")
    parser.add_argument("--pickle-as", choices=["kmeans_xp", "sklearn"], default="kmeans_xp", help="what pickles hold")
    parser.add_argument("--quiet", action="store_true", help="do not say what was replaced")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module and its arguments")
    what.add_argument("script", nargs="?", help="a script, and its arguments after it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.module is not None and not given.module:
        parser.error("argument -m: the name of a module is missing")
    try:
        install(device=given.device, pickle_as=given.pickle_as, quiet=given.quiet)
    except ValueError as error:
        parser.error(str(error))
    if given.module:
        sys.argv = given.module
        runpy.run_module(given.module[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [given.script, *given.arguments]
        if not sys.flags.safe_path:
            sys.path[0] = str(Path(given.script).resolve().parent)
        runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
