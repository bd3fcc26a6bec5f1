"""scikit-learn's callbacks, from 1.9 on: the tasks of a fit, of which `set_callbacks` lets others know."""

from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:
    with_callbacks = None

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Says what is missing."""

        def set_callbacks(self, *callbacks: Any) -> Any:
            """Needs scikit-learn 1.9."""
            raise ImportError(
                f"set_callbacks needs scikit-learn 1.9, and this is {version('scikit-learn')}: use on_iteration, or "
                "verbose."
            )


class Watched(CallbackSupportMixin):
    """Abstract: an estimator that takes callbacks."""

    @property
    def _has_callbacks(self):
        """Whether the fit is to call callbacks: of this estimator, or of one that it is a part of."""
        return "_skl_callbacks" in vars(self)


class Task:
    """A part of a fit, which may have parts in turn."""

    def __init__(self, context, estimator, given):
        self._context, self._estimator, self._given = context, estimator, given
        context.call_on_fit_task_begin(estimator=estimator, **given)

    @contextmanager
    def part(self, name, n_parts=0):
        """Context of a part with so many parts of its own; None for a number that is not known."""
        task = Task(self._context.subcontext(name, max_subtasks=n_parts), self._estimator, self._given)
        yield task
        task.end()

    def tell(self, name, centers):
        """A part is over, which found centers; whether callbacks want no more."""
        known = {} if centers is None else {"cluster_centers_": centers}
        return Task(self._context.subcontext(name), self._estimator, self._given).end(**known)

    @contextmanager
    def by(self, name, estimator):
        """Context of a part that is the fit of another estimator."""
        context = self._context.subcontext(name)
        with context.propagate_callback_context(estimator):
            task = Task(context, self._estimator, self._given)
            yield
            task.end(best_estimator_=estimator)

    def end(self, **known):
        """The part is over, and attributes of the estimator are known; whether callbacks want no more of its kind."""
        known = {"reconstruction_attributes": known or None}
        return self._context.call_on_fit_task_end(estimator=self._estimator, **self._given, **known)


class Unwatched:
    """A part of a fit that nobody watches."""

    @contextmanager
    def part(self, name, n_parts=0):
        yield self

    def tell(self, name, centers):
        return False

    @contextmanager
    def by(self, name, estimator):
        yield


UNWATCHED = Unwatched()


def watched_fit(fit, estimator, X, y=None, sample_weight=None):
    """Fit with callbacks: the estimator has the task in `_task`, and knows how many parts it has."""

    @with_callbacks
    def run(estimator):
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = estimator._init_callback_context(max_subtasks=estimator._n_parts(X))
        estimator._task = Task(context, estimator, {"X": X, "y": y, "metadata": metadata})
        try:
            fit(estimator, X, y, sample_weight)
            estimator._task.end(n_features_in_=estimator.n_features_in_)  # and all else that is fitted
        finally:
            vars(estimator).pop("_task", None)
        return estimator

    return run(estimator)


def task_of(estimator):
    """What the fit of an estimator is told to."""
    return vars(estimator).get("_task", UNWATCHED)
