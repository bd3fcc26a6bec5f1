"""The passes in C++, where they are installed and this processor and Python can run them."""

try:
    import kmeans_xp.backends._native._kmeans as native

    problem = None
except ImportError as error:
    native, problem = None, str(error)
