"""
A photograph in a few colours
=============================

Cluster its 273,280 pixels, and give each the colour of its center.

Run it: `python examples/colour_quantisation.py [--colours 16] [--device auto|cuda] [--output FILE]`
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
    seconds = time.perf_counter() - began
    print(f"{len(pixels)} pixels, {n_colours} colours: fitted in {seconds:.2f} s")
    print(f"  {model.n_iter_} iterations, inertia {model.inertia_:.2f}", end=", ")
    print(f"converged: {model.converged_}")
    colours = np.round(model.cluster_centers_ * 255).astype("uint8")
    for k in np.argsort(-model.cluster_sizes_)[:5]:
        share = model.cluster_sizes_[k] / len(pixels)
        print(f"  rgb{tuple(colours[k].tolist())}: {share:.1%} of the picture")
    return colours[model.labels_].reshape(image.shape)


def draw(before, after, n_colours, path):
    """Both pictures side by side."""
    n_before = len(np.unique(before.reshape(-1, 3), axis=0))
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for ax, image, n in zip(axes, (before, after), (n_before, n_colours), strict=True):
        ax.imshow(image)
        ax.set_title(f"{n:,} colours")
        ax.axis("off")
    figure.savefig(path, dpi=110)
    print("Written:", path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="A photograph in a few colours.")
    parser.add_argument("--colours", type=int, default=16)
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--output", type=Path, default="output/colour_quantisation.png")
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    photograph = load_sample_image("china.jpg")
    quantised = quantise(photograph, options.colours, options.device)
    draw(photograph, quantised, options.colours, options.output)


if __name__ == "__main__":
    main()
