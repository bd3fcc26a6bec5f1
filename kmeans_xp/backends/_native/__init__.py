"""The passes in C++, where they are installed and this processor and Python can run them."""

try:
    from kmeans_xp.backends._native import _kmeans as native

    problem = None
except ImportError as error:
    native, problem = None, str(error)
