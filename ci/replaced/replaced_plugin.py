"""pytest plugin: k-means of scikit-learn replaced by ours. Tests in differences.txt must fail, all others must not."""

from pathlib import Path

import pytest

import kmeans_xp


def differences():
    """Reasons by tests, `module::function` or `module::function[parameters]`."""
    lines = (Path(__file__).parent / "differences.txt").read_text(encoding="utf-8").splitlines()
    listed, reason = {}, None
    for line in lines:
        if line.startswith("# "):
            reason = line.removeprefix("# ")
        elif line:
            listed[line] = reason
    return listed


def pytest_configure(config):
    kmeans_xp.install(quiet=True)


def pytest_collection_modifyitems(items):
    unseen = reasons = differences()
    modules = set()
    for item in items:
        module = getattr(item, "module", None)
        if module is None:  # a doctest
            continue
        modules.add(module.__name__)
        for name in (
            f"{module.__name__}::{getattr(item, 'originalname', item.name)}",
            f"{module.__name__}::{item.name}",
        ):
            if name in reasons:
                item.add_marker(pytest.mark.xfail(reason=reasons[name], strict=True))
                unseen = {test: reason for test, reason in unseen.items() if test != name}
    unseen = [test for test in unseen if test.partition("::")[0] in modules]
    if unseen:
        raise pytest.UsageError(f"differences.txt has tests that do not exist: {unseen}")
