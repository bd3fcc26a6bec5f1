"""How the pictures of the pages are drawn: no background, and a grey that is read on a light page and on a dark one."""

import matplotlib.pyplot as plt

GREY = "#7a7a7a"  # contrast 4.3 with white, and with the theme's dark background


def light_and_dark(*example):
    """Draw like that from here on. Sphinx-Gallery calls it before each example."""
    drawn = ["axes.edgecolor", "axes.labelcolor", "legend.edgecolor", "text.color", "xtick.color", "ytick.color"]
    plt.rcParams.update(dict.fromkeys(drawn, GREY))
    plt.rcParams.update({"axes.facecolor": "none", "figure.facecolor": "none"})
