"""How the pages look: their pictures, and the order of the gallery."""

import matplotlib.pyplot as plt

GREY = "#7a7a7a"  # contrast 4.3 with white, and with the theme's dark background


def light_and_dark(*example):
    """Draw without a background and in a grey that is read on a light page and on a dark one, from here on.

    Sphinx-Gallery calls it before each example.
    """
    drawn = ["axes.edgecolor", "axes.labelcolor", "legend.edgecolor", "text.color", "xtick.color", "ytick.color"]
    plt.rcParams.update(dict.fromkeys(drawn, GREY))
    plt.rcParams.update({"axes.facecolor": "none", "figure.facecolor": "none"})


def tutorial_first(filename):
    """By what the examples are sorted."""
    return filename != "tutorial.py", filename
