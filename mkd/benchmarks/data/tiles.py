"""JPEG tiles for the benchmark of data: cut at random places out of real pictures or of procedural landscapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from mkd.config.load import CONFIGS
from mkd.synth.landscape import render, write_orthomosaic
from shards.commands.tile import tile
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions

QUALITY = 90
SCENE = 2048  # side of a landscape, pixels
SCENES = 6  # landscapes, half of each domain
CLASSES = {
    "name": "bench",
    "classes": ["any"],
    "palette": [[0, 0, 0]],
    "masks": "ids",
    "layout": {"images": "images/*.jpg", "masks": None},
    "source": "tiles of the benchmark",
}

Pixels = NDArray[np.uint8]


def make_tiles(folder: Path, number: int, size: int, images: str | None) -> Path:
    """Write a folder of tiles and a class file, unless one with the same settings exists.

    Args:
        folder: gets ``images/000000.jpg`` .. and ``classes.yaml``.
        number: tiles, all different.
        size: edge of a tile, pixels.
        images: folder of pictures, each at least `size` pixels in both directions; None = procedural landscapes.

    Returns:
        The folder of the tiles.

    Raises:
        ValueError: no picture that is large enough.
    """
    out, note = folder / "images", folder / "tiles.json"
    settings = json.dumps({"number": number, "size": size, "images": images, "quality": QUALITY})
    if note.is_file() and note.read_text() == settings:
        return out
    pictures = _scenes(size) if images is None else _pictures(Path(images), size)
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place in range(number):
        pixels = _cut(rng, pictures[place % len(pictures)], size)
        data = simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420")
        (out / f"{place:06d}.jpg").write_bytes(data)
    (folder / "classes.yaml").write_text(json.dumps(CLASSES))  # JSON is YAML
    note.write_text(settings)
    return out


def make_labelled_set(folder: Path, size: int = 256) -> str:
    """Return a data set of 16 labelled tiles of ``size`` x ``size`` pixels, cut from a landscape unless it is there."""
    if not (folder / "data" / "index.json").is_file():
        scene = write_orthomosaic(render("target", 4 * size, 4 * size, 0), folder / "scenes", "scene")
        classes = CONFIGS / "datasets" / "demo_target.yaml"
        tile(scene[0], classes, BuildOptions(folder / "data"), scene[1], TilingOptions(size=size))
    return str(folder / "data")


def tile_facts(images: Path) -> dict[str, Any]:
    """Return number and mean KiB of the tiles; reading them all warms the page cache."""
    sizes = [len(path.read_bytes()) for path in sorted(images.iterdir())]
    return {"tiles": len(sizes), "mean_kib": sum(sizes) / len(sizes) / 1024}


def _scenes(size: int) -> list[Pixels]:
    side = max(SCENE if size >= 256 else 4 * size, 64)
    return [render(("target", "intermediate")[seed % 2], side, side, seed).image for seed in range(SCENES)]


def _pictures(folder: Path, size: int) -> Sequence[Pixels]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            with Image.open(path) as picture:
                if min(picture.size) >= size:
                    found.append(np.asarray(picture.convert("RGB")))
    if not found:
        raise ValueError(
            f"images={folder}: no JPEG or PNG of {size} x {size} pixels or more; give another folder"
        )
    return found


def _cut(rng: np.random.Generator, picture: Pixels, size: int) -> Pixels:
    """Return a window at a random place in one of eight orientations, so that no two tiles are equal."""
    row, col = (int(rng.integers(edge - size + 1)) for edge in picture.shape[:2])
    window = np.rot90(picture[row : row + size, col : col + size], int(rng.integers(4)))
    return np.ascontiguousarray(window[:, ::-1] if rng.integers(2) else window)
