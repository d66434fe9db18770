"""How labels of orthomosaics are given: rasters or vector files, and what a user asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mkd.geo.raster_info import RasterInfo, grid_difference, grid_text
from mkd.geo.vector.vector_labels import VectorSource, classes_by_text, vector_path
from mkd.labels import IGNORE
from shards.inputs.class_file import ClassFile


@dataclass(frozen=True)
class LabelOptions:
    """What a user asks for.

    Attributes:
        layer: of a vector file; None = the only one.
        field: attribute of the layer that names the class; None = "class".
        outside: "ignore", or the name or id of the class of the ground outside every polygon; None = "ignore".
        extent: vector file of the ground that was looked at; None = all.
        buffer: metres by which points and lines grow; None = they are refused.
        warp_labels: bring label rasters of another grid onto the image's, each pixel the nearest.
    """

    layer: str | None = None
    field: str | None = None
    outside: str | None = None
    extent: str | None = None
    buffer: float | None = None
    warp_labels: bool = False

    def given(self) -> dict[str, object]:
        """Return the options that differ from their defaults; older data sets were made without any."""
        return {key: value for key, value in asdict(self).items() if value not in (None, False)}


def vector_source(label: str, options: LabelOptions, classfile: ClassFile) -> VectorSource | None:
    """Return how a vector file is read; None for a label raster.

    Args:
        label: path of either.
        options: what the user asks for.
        classfile: the classes.

    Raises:
        ValueError: a URL, an option of the other kind of label, a class that is not there, or a buffer below 0.
    """
    if vector_path(label) is None:
        asked = [f"--{name}" for name in ("layer", "field", "outside", "extent", "buffer")]
        wrong = [name for name in asked if getattr(options, name[2:]) is not None]
        if wrong:
            raise ValueError(
                f"{wrong[0]} is for vector labels (.gpkg, .geojson, .shp, .fgb), but --labels has {label}: leave it out"
            )
        return None
    if options.warp_labels:
        raise ValueError(
            f"--warp-labels is for label rasters: {label} is brought to the image anyway, leave it out"
        )
    for path in (label, options.extent or ""):
        if "://" in path:
            raise ValueError(
                f"{path} is a URL, and vector files are read from a disk only: copy it to one first"
            )
    if options.extent is not None and vector_path(options.extent) is None:
        raise ValueError(f"--extent {options.extent}: give a GeoPackage, GeoJSON, Shapefile or FlatGeobuf")
    if options.buffer is not None and not 0 < options.buffer < 1e6:
        raise ValueError(f"--buffer {options.buffer:g}: give metres above 0 by which points and lines grow")
    outside = _outside_id(options.outside, classfile)
    field = "class" if options.field is None else options.field
    return VectorSource(label, options.layer, field, outside, options.buffer, options.extent)


def check_grid(label: str, info: RasterInfo, image: str, other: RasterInfo, warp: bool) -> bool:
    """Compare the grid of a label raster with its image's.

    Returns:
        True when the label must be warped.

    Raises:
        ValueError: they differ, and warping is not asked for or not possible.
    """
    difference = grid_difference(other, info)
    if difference is None:
        return False
    both = f"{image} and its label {label} differ in {difference} (image: {grid_text(other)}; label: {grid_text(info)})"
    if not warp:
        raise ValueError(
            f"{both}: give --warp-labels, which takes the nearest label pixel, or bring the label onto the image's grid"
        )
    for name, grid in ((image, other), (label, info)):
        if grid.crs is None or grid.transform is None:
            raise ValueError(
                f"{both}, and {name} has no CRS or no transform, so --warp-labels cannot lay one on the other: give it "
                "one (gdal_edit.py -a_srs EPSG:N -a_ullr LEFT TOP RIGHT BOTTOM)"
            )
    return True


def _outside_id(outside: str | None, classfile: ClassFile) -> int:
    names = classfile.classes
    known = {"ignore": IGNORE, str(IGNORE): IGNORE} | classes_by_text(names)
    if outside is None:
        return IGNORE
    if outside not in known:
        raise ValueError(f"--outside {outside!r}: give 'ignore' or a class, one of {', '.join(names)}")
    return known[outside]
