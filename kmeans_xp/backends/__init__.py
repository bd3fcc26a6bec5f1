"""How a library's own version takes over a step.

`backends/<library>.py` may define a function with the name and signature of a replaceable step, and the same result up
to rounding and ties. It is called for arrays of that library, and returns NotImplemented to decline. A backend is a
leaf (it imports its library and nothing of ours) and an optimisation: without the file, results are the same.
"""

import functools
import importlib
import importlib.util
import os
import pkgutil
import threading

# Held by whoever imports something amid a fit, and by whoever forks: in the child, a module that was half imported by
# another thread would be waited for for ever.
importing = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)

REPLACEABLE = {}  # steps by their names


@functools.lru_cache
def backend_for(library):
    """The module of steps for `library` (such as 'numpy'), or None. An import error inside it is not hidden."""
    name = f"{__name__}.{library}"
    with importing:
        return importlib.import_module(name) if importlib.util.find_spec(name) else None


@functools.lru_cache
def library_of(kind):
    """The library that a type belongs to, such as 'numpy'."""
    return kind.__module__.partition(".")[0]


def replaceable(portable):
    """Let backends replace the step `portable`, whose first argument is an array; `step.portable` stays reachable.

    Stands above `primitive` where a step is both.
    """
    name = portable.__name__

    @functools.wraps(portable)
    def step(X, *args):
        # The array's type names a library that the caller has already imported.
        fast = getattr(backend_for(library_of(type(X))), name, None)
        result = NotImplemented if fast is None else fast(X, *args)
        return portable(X, *args) if result is NotImplemented else result

    step.portable = getattr(portable, "portable", portable)
    REPLACEABLE[name] = step
    return step


def backend_names():
    """The installed libraries that have a file here."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return sorted(name for name in names if importlib.util.find_spec(name))
