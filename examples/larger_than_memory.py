"""
A Parquet file, block by block
==============================

Cluster it with a progress bar, write the labels into a file, and draw a share of the rows.

Anything with shape, dtype and row slicing is read like that: a memory map, an h5py dataset, a zarr array, or a class of
a few lines as here.

Run it: `python examples/larger_than_memory.py [--rows 1000000 --folder output]`
"""

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
from tqdm import tqdm

from kmeans_xp import KMeans
from kmeans_xp.plotting import ClustersDisplay

COLUMNS = [f"x{i}" for i in range(8)]


class ParquetRows:
    """The rows of a Parquet file with columns of float32."""

    dtype = np.dtype("float32")

    def __init__(self, path, columns):
        self._file, self._columns = pq.ParquetFile(path), columns
        groups = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        self._ends = list(
            itertools.accumulate((group.num_rows for group in groups), initial=0)
        )
        self.shape = self._ends[-1], len(columns)

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(self.shape[0])
        first = np.searchsorted(self._ends, start, side="right") - 1
        last = np.searchsorted(self._ends, stop, side="left")
        table = self._file.read_row_groups(range(first, last), columns=self._columns)
        table = table.slice(start - self._ends[first], stop - start)
        return np.column_stack([column.to_numpy() for column in table.itercolumns()])


def write(path, n_rows):
    """Rows around 20 centers, in row groups of 50,000."""
    rng = np.random.default_rng(0)
    centers = rng.normal(scale=5, size=(20, len(COLUMNS)))
    schema = pa.schema([(name, pa.float32()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n_rows, 50_000):
            labels = rng.integers(20, size=min(50_000, n_rows - start))
            X = rng.normal(centers[labels]).astype("float32")
            columns = [pa.array(column) for column in X.T]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default="output")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder / "rows.parquet", options.rows)

    X = ParquetRows(options.folder / "rows.parquet", COLUMNS)
    with (
        sklearn.config_context(working_memory=64),
        tqdm(total=300, desc="k-means", unit="iteration", ncols=80) as bar,
    ):

        def on_iteration(iteration):
            inertia = f"{iteration.inertia:.6g}"
            bar.set_postfix(inertia=inertia, changed=iteration.n_changed)
            bar.update()

        model = KMeans(20, random_state=0, on_iteration=on_iteration).fit(X)
        path, n_rows = options.folder / "labels.npy", X.shape[0]
        out = np.lib.format.open_memmap(path, mode="w+", dtype="int32", shape=(n_rows,))
        model.predict(X, out=out)
    print(f"{n_rows} rows, {model.n_iter_} iterations, inertia {model.inertia_:.0f}")
    ClustersDisplay.from_estimator(model, X)  # reads the rows that it draws
    plt.show()
    return model


if __name__ == "__main__":
    main()
