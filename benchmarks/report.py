"""Table and picture of what benchmarks.bench wrote: python -m benchmarks.report FILE [FILE …] [--picture PNG].

The table is Markdown, as in docs/benchmarks.md. The last measurement of a case counts.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks import bench
from benchmarks.bench import COLUMNS

COLOURS = {
    "kmeans_xp": "#0072b2",
    "scikit-learn": "#d55e00",
    "scikit-learn-intelex": "#cc79a7",
    "faiss-cpu": "#009e73",
    "superkmeans": "#777777",
}


def read(paths):
    """Cases, and points of growth."""
    lines = [json.loads(line) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if "whole" in line:
            line["ratios"]["peer"] = bench.peer_ratio(line["whole"])
    cases = {line["case"]: line for line in lines if "case" in line}
    return cases, [line for line in lines if "growth" in line]


def table(cases):
    """Markdown: a line a case, then geometric means and worst values."""
    rows = [["", "fit, s", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    for name, found in cases.items():
        ratios = found["ratios"]
        rows.append([name, f"{found['whole']['kmeans_xp']['seconds']:.3f}", *(_cell(c, ratios[c]) for c in COLUMNS)])
    for label, mean in (("geometric mean", statistics.geometric_mean), ("worst", None)):
        row = [f"**{label}**", ""]
        for column in COLUMNS:
            values = [found["ratios"][column] for found in cases.values() if found["ratios"][column]]
            worst = max if column == "inertia" else min
            row.append(_cell(column, (mean or worst)(values) if values else None))
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(column, value):
    return "" if value is None else f"{value:.4f}" if column == "inertia" else f"{value:.2f}"


def picture(cases, points, path):
    """Ratio of each case, and seconds against n, d and k."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), width_ratios=[1.6, 1, 1, 1], layout="constrained")
    places = range(len(cases))[::-1]
    axes[0].axvline(1, color="black", linewidth=1)
    for label, column, marker, colour in (
        ("whole fit", "whole", "o", "#0072b2"),
        ("iterations", "iterations", "s", "#009e73"),
    ):
        ratios = [found["ratios"][column] for found in cases.values()]
        axes[0].plot(ratios, places, marker, color=colour, label=label)
    axes[0].set(xscale="log", yticks=places, yticklabels=list(cases), xlabel="times as fast as scikit-learn")
    axes[0].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, handletextpad=0)
    for axis, (size, letter) in zip(
        axes[1:], {"n_samples": "n", "n_features": "d", "n_clusters": "k"}.items(), strict=True
    ):
        mine = [point for point in points if point["growth"] == size]
        for name, colour in COLOURS.items():
            values = [(point[letter], point["seconds"][name]) for point in mine if name in point["seconds"]]
            if values:
                axis.plot(*zip(*values, strict=True), "o-", color=colour, label=name, markersize=4)
        fixed = ", ".join(f"{other} = {mine[0][other]:,}" for other in "ndk" if mine and other != letter)
        axis.set(xscale="log", yscale="log", xlabel=size, title=fixed)
    axes[1].set_ylabel("seconds of a fit")
    if axes[1].get_legend_handles_labels()[0]:
        axes[1].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--picture", help="write a picture too")
    options = parser.parse_args()
    cases, points = read(options.files)
    if cases:
        print(table(cases))
    if options.picture:
        picture(cases, points, options.picture)


if __name__ == "__main__":
    main()
