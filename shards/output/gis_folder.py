"""Tiles of a data set as a folder that a GIS opens: GeoTIFFs, and a GeoPackage to draw their labels into."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mkd.dataset.index import DatasetIndex
from mkd.documents import file_name
from mkd.geo.class_map import Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from mkd.geo.vector.drawing_layers import write_drawing_layers
from mkd.geo.vector.polygons import ClassPolygon, placed_polygons
from shards.progress import pluralize
from shards.reading.tile_reader import TileImage
from shards.splitting.neighbours import Placement, place_of

FILE = "labels.gpkg"


def write_gis_folder(
    out: str,
    index: DatasetIndex,
    tiles: Iterable[TileImage],
    prelabels: Mapping[str, Sequence[ClassPolygon]] | None = None,
) -> int:
    """Write ``tiles/KEY.tif`` and ``labels.gpkg``; return the number of tiles.

    Args:
        out: a folder that is not there yet.
        index: of the data set; it needs class names.
        tiles: with their places on Earth, all in one CRS.
        prelabels: by key, a model's polygons in pixels of the tile; None: without a layer of them.

    Raises:
        ValueError: a URL, a folder that is there, no classes, or tiles without a place or of several CRS.
        OSError: a place that cannot be written.
    """
    folder = Path(out)
    if "://" in out:
        raise ValueError(f"--out {out} is a URL: a folder for a GIS lies on a disk")
    if folder.exists():
        raise ValueError(f"--out {out} is there already: labels may be drawn in it; name another folder")
    if not index.classes:
        raise ValueError(
            f"{index.name} has no classes, which the labels need: build it again with --classes FILE.yaml, with the "
            "same --source; a class file without labels is allowed"
        )
    chosen = [(tile, place_of(tile.key, tile.meta).placement) for tile in tiles]
    crs = _common_crs(chosen, index.name)
    aside = folder.with_name(f".tmp-{folder.name}")  # a killed command leaves no folder that looks whole
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "tiles").mkdir(parents=True)
    outlines = {}
    for tile, place in chosen:
        assert place is not None, "tiles without a place are refused"
        height, width, count = tile.image.shape
        target = aside / "tiles" / file_name(f"{tile.key}.tif", "a tile's file")
        kind, outlines[tile.key] = str(tile.image.dtype), (place.transform, height, width)
        with RasterWriter(target, height, width, count, kind, crs=crs, transform=place.transform) as raster:
            raster.write(Window(0, 0, height, width), tile.image)
    placed = None
    if prelabels is not None:
        placed = [
            polygon
            for key, (transform, _, _) in outlines.items()
            for polygon in placed_polygons(prelabels[key], transform)
        ]
    write_drawing_layers(
        aside / FILE, Legend(tuple(index.classes), tuple(index.palette)), crs, outlines, placed
    )
    aside.rename(folder)
    return len(chosen)


def _common_crs(tiles: list[tuple[TileImage, Placement | None]], name: str) -> str:
    lost = [tile.key for tile, place in tiles if place is None]
    if lost:
        raise ValueError(
            f"{pluralize(len(lost), 'tile')} of {name} without a place on Earth, such as {lost[0]}: a GIS needs one; "
            "tiles that were cut from georeferenced rasters have it"
        )
    systems = {place.crs: tile.key for tile, place in tiles if place is not None}
    if len(systems) > 1:
        first, second = list(systems.values())[:2]
        raise ValueError(
            f"the tiles lie in {len(systems)} CRS, such as {first} and {second}: sample data sets of one CRS each"
        )
    return next(iter(systems))
