"""Generators of random numbers that are lent to a job: to seed one again takes 2 us, to make one 120."""

from contextlib import contextmanager
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

_idle: list[np.random.RandomState] = []  # those that no job has: to take one out and to put it back are atomic


@contextmanager
def generator(random_state, *, escapes=False):
    """Context with what draws by the parameter `random_state`: one of its own, if it `escapes` to the user's code.

    Jobs within jobs and beside them never share one, but for what the user shares.
    """
    if escapes or not isinstance(random_state, (int, Integral)):
        yield check_random_state(random_state)
        return
    try:
        rng = _idle.pop()
    except IndexError:
        rng = np.random.RandomState(0)
    try:
        rng.seed(random_state)
        yield rng
    finally:
        _idle.append(rng)


class Recorded:
    """A generator of numbers in [0, 1) that can draw again what it has drawn, whatever it is."""

    def __init__(self, rng):
        self._rng, self._drawn, self._again = rng, [], np.empty(0)

    def random_sample(self, n):
        again, self._again = self._again[:n], self._again[n:]
        if len(again) == n:
            return again
        self._drawn.append(self._rng.random_sample(n - len(again)))
        return np.concatenate((again, self._drawn[-1])) if len(again) else self._drawn[-1]

    def rewind(self):
        """Begin again."""
        self._again = np.concatenate((np.empty(0), *self._drawn))
