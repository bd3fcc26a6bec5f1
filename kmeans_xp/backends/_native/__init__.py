"""The passes in C++, where they have been built and this Python can load them."""

import importlib

try:
    native, problem = importlib.import_module(f"{__name__}._kmeans"), None
except ModuleNotFoundError:
    native, problem = None, "the native part has not been built, which takes a C++ compiler"
except ImportError as error:  # built for another Python, or broken
    native, problem = None, f"the native part cannot be loaded: {error}"
