"""How rows are stored: in an array, or in a form of their own that stands in the place of one.

Whatever is done with rows asks few things of them: the primitives. For arrays each is a function, most of them in
`steps.py`; `StoredRows` have methods of the same names. What else is done with rows is written once, in terms of these.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self

from kmeans_xp.arrays import device, namespace

PRIMITIVES = {}  # functions by their names


def primitive(portable):
    """Let stored rows answer what `portable` answers for arrays, by a method of its name; `.portable` stays reachable.

    A step that is `replaceable` too follows from the other primitives, and stored rows have a method only if that is
    faster, or more exact; it may return NotImplemented.
    """
    name = portable.__name__

    @functools.wraps(portable)
    def step(X, *args):
        own = getattr(X, name, None) if isinstance(X, StoredRows) else None
        result = NotImplemented if own is None else own(*args)
        return portable(X, *args) if result is NotImplemented else result

    step.portable = portable
    PRIMITIVES[name] = step
    return step


class StoredRows:
    """Abstract: rows that are no array. `beside` is an array of the library and on the device that they belong to."""

    def __init__(self, shape, dtype, beside):
        self.shape, self.dtype, self.beside = shape, dtype, beside

    def __array_namespace__(self, **_):
        return namespace(self.beside)

    @property
    def device(self):
        return device(self.beside)

    def __dlpack_device__(self):
        return self.beside.__dlpack_device__()


class Rows(Protocol):
    """What rows that stand in the place of an array have: an array's shape, dtype and slices, and the primitives.

    Arrays that go in and come out are of the rows' library, on their device; what is computed is float64. In place of
    dense `others` there may be rows of the same form, relative to the same origin.
    """

    shape: tuple[int, int]
    dtype: Any
    beside: Any

    def __getitem__(self, rows_and_all: tuple[slice, slice], /) -> Self:
        """Some rows, `X[begin:end, :]`."""

    def __matmul__(self, others: Any, /) -> Any:
        """Product with an array, (n_features, n_columns) -> (n_samples, n_columns)."""

    def dense(self) -> Any:
        """Array of (few) rows."""

    def row_size(self) -> int:
        """How many numbers a row takes, by which rows are cut into tiles; the mean, if rows differ."""

    def map_slices(self, function: Callable[[slice], Any], slices: Iterable[slice], /) -> Iterator[Any]:
        """Yield `function(rows)` for each of the slices, in order; they may be cut into smaller ones."""

    def take_rows(self, rows: Any, /) -> Self:
        """Rows by their numbers, in any order, some perhaps several times."""

    def joined(self, *others: Self) -> Self:
        """These rows and others of the same matrix, relative to the same origin, one after the other."""

    def relative(self, origin: Any, dtype: Any, /) -> Self:
        """The rows less an origin, (n_features,), or None; in `dtype` or a wider one, or a form that computes in it."""

    def largest(self) -> Any:
        """Largest absolute value in each row, before an origin is subtracted, (n_samples,); NaN where there is one."""

    def scaled(self, most: Any, /) -> Self:
        """The rows divided by their norms; `most` are the largest absolute values in them."""

    def as_given(self) -> Any:
        """The rows as a user has them."""

    def sq_norms(self) -> Any:
        """Squared norm of each row, (n_samples,)."""

    def projections(self, direction: Any, /) -> Any:
        """Numbers that are equal for equal rows, (n_samples,): products with a direction, (n_features,)."""

    def sq_distances(self, others: Any, /) -> Any:
        """Squared distances from centers or other rows, (n_samples, n_others), never negative."""

    def sq_distances_of_tile(self, labels: Any, centers: Any, /) -> Any:
        """Squared distance of each row from the center of its cluster, (n_samples,), exact where it is near 0."""

    def cluster_sums(self, labels: Any, sample_weight: Any, n_clusters: int, /) -> tuple[Any, Any]:
        """Weighted sum of the rows of each cluster, (n_clusters, n_features), and its weight, (n_clusters,)."""
