"""Generators of random numbers that are lent to a job: to seed one again takes 2 us, to make one 120."""

from contextlib import contextmanager
from functools import partial
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


def rewinding(rng, random_state):
    """A function after which `rng`, which draws by the parameter `random_state`, draws the same as from now on."""
    if rng is random_state:
        return partial(rng.set_state, rng.get_state())  # which takes 40 us
    return partial(rng.seed, random_state)
