"""How models are copied and pickled: nothing of a library that may be missing elsewhere, and the version."""

import copy
import inspect
import re
import warnings
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any, Self

from kmeans_xp import arrays

VERSION = "_kmeans_xp_version"  # its name in a pickled state


class Saved:
    """Abstract: an estimator whose pickles have host arrays, so that they open where its library doesn't exist.

    Lazy arrays are computed. The callback of a fit that is over stays behind. A subclass says what a fitted model must
    have.
    """

    _needed_when_fitted: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: on_host(value) for name, value in super().__getstate__().items()}  # type: ignore[misc]
        if self._is_fitted(state) and "on_iteration" in state:
            state["on_iteration"] = None
        return {**state, VERSION: own_version()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        saved_by = state.pop(VERSION, None)
        name, by = type(self).__name__, f"kmeans_xp {saved_by or 'of an unknown version'}"
        missing = [needed for needed in self._needed_when_fitted if needed not in state]
        if self._is_fitted(state) and missing:
            raise ValueError(
                f"The saved {name} has no {', '.join(missing)}. It was saved by {by}, and this is {own_version()}: "
                "load it with the version that saved it, or fit it again."
            )
        if saved_by and _release(saved_by) > _release(own_version()):
            warnings.warn(
                f"The {name} was saved by {by}, which is newer than this version, {own_version()}: its results may "
                "differ. Update kmeans_xp.",
                UserWarning,
                stacklevel=2,
            )
        parameters = inspect.signature(type(self)).parameters.values()  # one may be newer than the pickle
        super().__setstate__({parameter.name: parameter.default for parameter in parameters} | state)  # type: ignore[misc]

    def __copy__(self) -> Self:
        model = type(self).__new__(type(self))
        vars(model).update(vars(self))
        return model

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = model = type(self).__new__(type(self))
        vars(model).update(copy.deepcopy(vars(self), memo))
        return model

    @staticmethod
    def _is_fitted(state: dict[str, Any]) -> bool:
        return any(name.endswith("_") for name in state)


def on_host(value: Any) -> Any:
    """An array of another library as NumPy's, a lazy one computed, also in lists and dataclasses; else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(on_host, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: on_host(getattr(value, field.name)) for field in fields(value)})
    if arrays.is_dask(value):
        value = value.compute()
    return arrays.to_numpy(value) if arrays.is_foreign(value) else value


@cache
def own_version() -> str:
    """The version of this library."""
    return version("kmeans_xp")


def _release(version: str) -> list[int]:
    """The numbers of a release: not those of what comes before it, or of who built it."""
    return [int(number) for number in re.split(r"[^\d.]", version)[0].split(".") if number]
