"""How far the map of a crop agrees with that of its scene: python FILE MODEL SCENE.tif [SIDE].

The upper left SIDE x SIDE pixels are the scene. It is mapped as it is, and without its first k rows and columns; the
two maps are compared a window away from the borders. "Corner" are rasters without a place: their windows begin at their
corners. "Ground" are rasters with their transform: their windows begin on one grid.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from mkd import load
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from tests.helpers.maps import predict_map

SHIFTS = (13, 32, 37)  # pixels


def main(folder: str, path: str, side: int = 640) -> None:
    """Print a line for each kind of grid and overlap."""
    model = load(folder, device="cpu")
    crop = model.card.crop
    assert crop is not None, "the model's card has no crop"
    with RasterReader(path) as reader:
        image, transform = reader.read(Window(0, 0, side, side)), reader.info.transform
    assert transform is not None, f"{path} has no transform"
    a, b, c, d, e, f = transform

    def found(shift: int, overlap: int, placed: bool) -> np.ndarray:
        moved = (a, b, c + (a + b) * shift, d, e, f + (d + e) * shift)
        part, place = np.ascontiguousarray(image[shift:, shift:]), moved if placed else None
        with tempfile.TemporaryDirectory() as aside:
            files = Path(aside, "in.tif"), Path(aside, "map.tif")
            with RasterWriter(files[0], *part.shape[:2], 3, "uint8", transform=place) as writer:
                writer.write(Window(0, 0, *part.shape[:2]), part)
            predict_map(model.network, model.card.palette, *files, tile=crop, overlap=overlap, batch=1)
            with RasterReader(files[1]) as reader:
                return reader.read(Window(0, 0, *part.shape[:2]))[..., 0]

    for name, overlap in (("ground", crop // 4), ("corner", crop // 4), ("corner", crop // 2)):
        whole, line = (
            found(0, overlap, name == "ground"),
            f"{name}, window {crop}, overlap {overlap}: same at",
        )
        for shift in SHIFTS:
            inner = slice(crop, side - shift - crop)
            same = (
                found(shift, overlap, name == "ground")[inner, inner] == whole[shift:, shift:][inner, inner]
            )
            line += f"  {shift}: {100 * float(same.mean()):.2f} %"
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], *(int(side) for side in sys.argv[3:]))
