"""Some tiles of a data set for a person: a picture beside their labels, or a folder to label them in a GIS."""

from __future__ import annotations

import io
import logging
import os
from pathlib import PurePosixPath

import numpy as np

from mkd.dataset.index import DatasetIndex, read_index
from mkd.image_header import MAX_PIXELS
from mkd.storage.folder import Folder, split_url
from shards.output.gis_folder import FILE, write_gis_folder
from shards.progress import pluralize
from shards.reading.contact_sheet import Card, Sheet, draw_contact_sheet
from shards.reading.tile_reader import TileImage, read_samples, stretch_to_rgb8

_log = logging.getLogger(__name__)


def sample(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    number: int = 12,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Choose tiles at random; draw them into one PNG, or write them into a folder that a GIS opens.

    The picture shows image, label over the image and class shares, with a legend below. The folder has the tiles as
    GeoTIFFs and a GeoPackage to draw labels into, see `shards.output.gis_folder`.

    Args:
        data: a data set, path or URL; only the chosen tiles are read.
        out: a PNG, path or URL; or a folder that is not there yet.
        number: how many tiles, >= 1; all of them when there are fewer.
        seed: another seed, other tiles.
        max_pixels: greatest number of pixels of a tile.

    Raises:
        ValueError: no data set, no tile in it, a damaged one, a number below 1, a seed below 0, another kind of
            file, or tiles that a GIS cannot place.
        OSError: a place that cannot be written.
    """
    place, (where, name) = Folder(data), split_url(str(out))
    ending = PurePosixPath(name).suffix.lower()
    if ending not in ("", ".png"):
        raise ValueError(f"--out {out}: give a picture's name that ends in .png, or a folder for a GIS")
    if seed < 0:
        raise ValueError(f"--seed {seed}: give a whole number from 0 on")
    index = read_index(place)
    if number < 1 or not index.samples:
        raise ValueError(
            f"{data} has {pluralize(index.samples, 'tile')}, --n is {number}: both must be at least 1"
        )
    chosen = np.random.default_rng(seed).choice(index.samples, min(number, index.samples), replace=False)
    tiles = read_samples(place, index, sorted(int(row) for row in chosen), max_pixels)
    if not ending:
        count = write_gis_folder(str(out), index, tiles)
        _log.info(
            "%s of %s written into %s, with %s to draw labels into",
            pluralize(count, "tile"),
            index.name,
            out,
            FILE,
        )
        return
    cards = [_card(tile, index) for tile in tiles]
    picture = draw_contact_sheet(_sheet(index, len(cards), seed), cards)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    where.write(name, buffer.getvalue())
    _log.info("%s of %s drawn into %s", pluralize(len(cards), "tile"), index.name, out)


def _card(tile: TileImage, index: DatasetIndex) -> Card:
    height, width, bands = tile.image.shape
    lines = [f"{height} x {width}"]
    if tile.label is not None:
        counts = np.bincount(tile.label.ravel(), minlength=256) / tile.label.size
        order = sorted(range(index.num_classes), key=lambda number: -counts[number])
        shares = [
            f"{index.classes[number]} {counts[number]:.0%}" for number in order if counts[number] >= 0.005
        ]
        lines.append(", ".join(shares[:4]))
    return Card(tile.key, " · ".join(lines), stretch_to_rgb8(tile.image), tile.label)


def _sheet(index: DatasetIndex, number: int, seed: int) -> Sheet:
    facts = [
        f"{number:,} of {pluralize(index.samples, 'tile')}",
        f"{index.labelled:,} labelled",
        f"seed {seed}",
    ]
    if index.bands > 3:
        facts.append(f"bands 1, 2, 3 of {index.bands}")
    if index.bands < 3:
        facts.append(f"band 1 of {index.bands}, grey")
    if index.dtype != "uint8":
        facts.append(f"{index.dtype}, each tile stretched from its 2nd to its 98th percentile")
    total = sum(index.histogram)
    shares = [f"{pixels / total:.1%}" if total else "" for pixels in index.histogram]
    return Sheet(index.name, " · ".join(facts), index.classes, index.palette, shares, index.labelled > 0)
