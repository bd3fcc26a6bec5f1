"""
A photograph in a few colours
=============================

Cluster its 273,280 pixels, and give each the colour of its center.

Run it: python examples/colour_quantisation.py [--colours 16] [--device auto|cuda] [--output FILE]
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from kmeans_xp import KMeans


def quantise(image, n_colours, device=None):
    """The image (height, width, 3) of uint8 in `n_colours` colours."""
    pixels = image.reshape(-1, 3).astype("float32") / 255
    began = time.perf_counter()
    model = KMeans(n_colours, random_state=0, device=device).fit(pixels)
    print(f"{len(pixels)} pixels, {n_colours} colours: fitted in {time.perf_counter() - began:.2f} s")
    print(f"  {model.n_iter_} iterations, inertia {model.inertia_:.2f}, converged: {model.converged_}")
    colours = np.round(model.cluster_centers_ * 255).astype("uint8")
    for colour, size in sorted(zip(colours.tolist(), model.cluster_sizes_, strict=True), key=lambda pair: -pair[1])[:5]:
        print(f"  rgb{tuple(colour)}: {size / len(pixels):.1%} of the picture")
    return colours[model.labels_].reshape(image.shape)


def draw(before, after, n_colours, path):
    """Both pictures side by side."""
    n_before = len(np.unique(before.reshape(-1, 3), axis=0))
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for ax, image, title in zip(axes, (before, after), (f"{n_before:,} colours", f"{n_colours} colours"), strict=True):
        ax.imshow(image)
        ax.set_title(title)
        ax.axis("off")
    figure.savefig(path, dpi=110)
    print("Written:", path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="A photograph in a few colours.")
    parser.add_argument("--colours", type=int, default=16)
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--output", type=Path, default=Path("output/colour_quantisation.png"))
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    photograph = load_sample_image("china.jpg")
    draw(photograph, quantise(photograph, options.colours, options.device), options.colours, options.output)


if __name__ == "__main__":
    main()
