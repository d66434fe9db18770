"""Seconds and peak memory of the polygons of a large, mostly empty map.

    python -m mkd.benchmarks.polygon_cost [SIDE] [FOLDER]

The map has SIDE x SIDE pixels (30,000; a multiple of 1,000). Each strip of 1,000 rows holds two squares of 500 x 500
pixels with three classes in squares of 10 x 10; all else is no data. FOLDER (the working folder) takes it for a while.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.vector.polygon_file import write_polygons
from mkd.geo.vector.polygons import class_polygons
from mkd.labels import NODATA

LEGEND = Legend(("a", "b", "c"), ((0, 0, 0), (0, 200, 0), (0, 0, 200)))
_STRIP, _SQUARE, _PATCH = 1000, 500, 10  # pixels


def main(side: str = "30000", place: str = ".") -> None:
    """Print polygons, seconds and peak resident memory; the polygons are made in a process of their own."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        write_sparse_map(Path(folder) / "map.tif", int(side))
        subprocess.run([sys.executable, "-m", "mkd.benchmarks.polygon_cost", "--made", folder], check=True)


def write_sparse_map(path: Path, side: int) -> None:
    """Write the map of the module's docstring."""
    rng, ground = np.random.default_rng(0), (0.5, 0.0, 4e5, 0.0, -0.5, 5.6e6)
    with ClassMapWriter(path, side, side, LEGEND, crs="EPSG:32632", transform=ground) as writer:
        for row in range(0, side, _STRIP):
            pixels = np.full((_STRIP, side, 2), NODATA, np.uint8)
            for column in rng.integers(0, side - _SQUARE, 2):
                square = pixels[200 : 200 + _SQUARE, column : column + _SQUARE]
                ids = rng.integers(0, len(LEGEND.names), (_SQUARE // _PATCH,) * 2)
                square[..., 0] = np.kron(ids, np.ones((_PATCH, _PATCH)))
                square[..., 1] = 200
            writer.write(Window(row, 0, _STRIP, side), pixels)


def measure(folder: str) -> None:
    """Make the polygons of the map in a folder; print what that took."""
    began = time.perf_counter()
    with RasterReader(Path(folder) / "map.tif") as reader:
        count = write_polygons(class_polygons(reader), Path(folder) / "map.gpkg", LEGEND, reader.info)
        side = reader.info.height
    took, peak = time.perf_counter() - began, getrusage(RUSAGE_SELF).ru_maxrss / 1024
    print(f"{side} x {side} pixels: {count:,} polygons in {took:.0f} s; peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--made"]:
        measure(sys.argv[2])
    else:
        main(*sys.argv[1:])
