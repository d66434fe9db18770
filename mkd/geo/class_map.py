"""Class maps as a GIS opens them: a cloud-optimised GeoTIFF with colours, class names, overviews and tags.

GDAL's COG driver takes one way of resampling for all bands. Here band 1 (class ids) needs the mode and band 2
(confidence) the average. So each band is written to a file of its own with overviews of its own kind, and the COG
is made of a virtual raster over the two, whose overviews it takes as they are.
"""

import json
import mmap
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import Resampling

from mkd.atomic import write_text, written_aside
from mkd.geo.grid import Window
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.raster import read_back
from mkd.geo.raster_errors import translated
from mkd.geo.raster_info import Transform
from mkd.labels import NODATA, Colour

BLOCK = 512  # side of a block of the COG, pixels; GDAL's own default
# GDAL takes the second band of a file with a colour table for alpha (and low confidence for holes), unless the file's
# metadata say otherwise, which the COG driver cannot write. So it writes a note of the same length in its place.
_GREY = b'<Item name="COLORINTERP" sample="1" role="colorinterp">Gray</Item>'
_KEY = "PLACE"
_NOTE = f'<Item name="{_KEY}" sample="1">'.encode()
_FILL = "x" * (len(_GREY) - len(_NOTE) - len(b"</Item>"))


@dataclass(frozen=True)
class Legend:
    """What the values of a class map mean.

    Attributes:
        names: class names, by id from 0.
        palette: (r, g, b) of each class.
        tags: what else the file says of itself, such as model and date.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    tags: Mapping[str, str] = field(default_factory=dict)


class ClassMapWriter:
    """A class map and its confidence, written window by window, there only once it is complete.

    Band 1 holds class ids with a colour table, band 2 the confidence; 255 is no data in both. Beside ``NAME.tif``
    stand ``NAME.tif.aux.xml`` with the class names, as GDAL reads them, and ``NAME.qml``, the style that QGIS takes.
    """

    def __init__(
        self,
        path: str | Path,
        height: int,
        width: int,
        legend: Legend,
        *,
        crs: str | None = None,
        transform: Transform | None = None,
        control: ControlPoints | None = None,
    ) -> None:
        """Create two rasters aside, in a folder ``.tmp-NAME.parts`` that a killed run may leave and the next removes.

        Args:
            path: where the map will be; its folder must exist.
            height: rows, pixels.
            width: columns, pixels.
            legend: names, colours and tags.
            crs: WKT or "EPSG:n", or None.
            transform: (a, b, c, d, e, f), see `RasterInfo`, or None.
            control: control points or RPCs of a scene without a transform, or None.

        Raises:
            ValueError: a place that cannot be written.
        """
        self.path, self._legend = Path(path), legend
        self._size, self._crs, self._transform, self._control = (height, width), crs, transform, control
        if not self.path.parent.is_dir():
            raise ValueError(f"cannot write the raster {self.path}: its folder does not exist, create it")
        self._folder = self.path.parent / f".tmp-{self.path.name}.parts"
        profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
        profile |= {"compress": "deflate", "zlevel": 1, "BIGTIFF": "IF_SAFER", "nodata": NODATA, "crs": crs}
        profile |= {"height": height, "width": width, "count": 1, "dtype": "uint8"}
        if transform is not None:
            profile["transform"] = rasterio.Affine(*transform)
        with ExitStack() as stack, translated(str(self.path), "write"):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._bands = [
                stack.enter_context(rasterio.open(self._folder / name, "w", **profile))
                for name in ("classes.tif", "confidence.tif")
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> "ClassMapWriter":
        """Return the writer itself."""
        return self

    def write(self, window: Window, pixels: NDArray[np.uint8]) -> None:
        """Write the pixels of a window.

        Args:
            window: inside the map, pixels.
            pixels: (H, W, 2) class id and confidence, 255 without data.

        Raises:
            ValueError: an array of another shape, or a disk that takes no more.
        """
        if pixels.shape != (window.height, window.width, 2):
            raise ValueError(
                f"{self.path}: window {tuple(window)} takes ({window.height}, {window.width}, 2) values, "
                f"found {pixels.shape}"
            )
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        with translated(str(self.path), "write"):
            for number, band in enumerate(self._bands):
                band.write(pixels[..., number], 1, window=place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the finished map in place, or remove what there is of it after an error."""
        with self._stack:
            if kind is None:
                with translated(str(self.path), "write"):
                    self._finish()

    def _finish(self) -> None:
        """Make overviews, the COG, and the files of class names; the COG comes last and makes the map whole."""
        for band, way in zip(self._bands, (Resampling.mode, Resampling.average), strict=True):
            band.close()
            with rasterio.open(band.name, "r+") as raster:
                raster.build_overviews(overview_factors(*self._size), way)
        virtual = self._folder / "map.vrt"
        virtual.write_text(self._virtual_raster(), encoding="utf-8")
        options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": BLOCK, "BIGTIFF": "IF_SAFER"}
        options["OVERVIEWS"] = "FORCE_USE_EXISTING" if overview_factors(*self._size) else "NONE"
        with written_aside(self.path) as aside:
            rasterio.shutil.copy(virtual, aside, driver="COG", **options)
            _mark_grey(aside)
            read_back(aside)
            write_text(f"{self.path}.aux.xml", category_names(self._legend))
            write_text(self.path.with_suffix(".qml"), qgis_style(self._legend))

    def _virtual_raster(self) -> str:
        """Return the VRT that joins the two bands, with colours, place and tags."""
        height, width = self._size
        place = f"<SRS>{escape(self._crs)}</SRS>" if self._crs else ""
        if self._transform is not None:
            numbers = ", ".join(repr(float(v)) for v in rasterio.Affine(*self._transform).to_gdal())
            place += f"<GeoTransform>{numbers}</GeoTransform>"
        if self._control is not None:
            place += self._control.to_xml()
        tags = {"CLASSES": json.dumps(list(self._legend.names), ensure_ascii=False)} | dict(self._legend.tags)
        said = "".join(f'<MDI key="{k}">{escape(v)}</MDI>' for k, v in tags.items())
        colours = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255"/>' for r, g, b in self._legend.palette)
        looks = (
            f"<ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable>",
            f'<Metadata><MDI key="{_KEY}">{_FILL}</MDI></Metadata>',
        )
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{number}"><Description>{name}</Description>'
            f"<NoDataValue>{NODATA}</NoDataValue>{look}<SimpleSource>"
            f'<SourceFilename relativeToVRT="1">{file}.tif</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for number, name, file, look in (
                (1, "class", "classes", looks[0]),
                (2, "confidence, p = value / 255", "confidence", looks[1]),
            )
        )
        return (
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{place}<Metadata>{said}</Metadata>{bands}'
            "</VRTDataset>"
        )


def _mark_grey(path: Path) -> None:
    """Put the note that band 2 is grey where the COG driver wrote one of the same length."""
    found = _NOTE + _FILL.encode() + b"</Item>"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = content.find(found)
        assert place >= 0, "GDAL wrote the band's metadata in another form"
        content[place : place + len(found)] = _GREY


def overview_factors(height: int, width: int) -> list[int]:
    """Return the factors 2, 4, ... down to an overview that fits one block of the COG.

    Args:
        height: rows, pixels.
        width: columns, pixels.
    """
    factors: list[int] = []
    while max(height, width) > BLOCK * 2 ** len(factors):
        factors.append(2 ** (len(factors) + 1))
    return factors


def category_names(legend: Legend) -> str:
    """Return the text of ``NAME.tif.aux.xml``: category names and a thematic attribute table, dense from id 0.

    Source: GDAL's Persistent Auxiliary Metadata (gdal.org, GeoTIFF driver) and its class GDALRasterAttributeTable
    (types 0 integer, 2 string; usages 5 MinMax, 2 Name, 6 to 8 Red, Green, Blue).
    """
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    columns = "".join(
        f'<FieldDefn index="{n}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for n, (name, kind, usage) in enumerate(fields)
    )
    rows = "".join(
        f'<Row index="{n}">' + "".join(f"<F>{escape(str(v))}</F>" for v in (n, name, *colour)) + "</Row>"
        for n, (name, colour) in enumerate(zip(legend.names, legend.palette, strict=True))
    )
    names = "".join(f"<Category>{escape(name)}</Category>" for name in legend.names)
    return (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
        f'<GDALRasterAttributeTable tableType="thematic">{columns}{rows}</GDALRasterAttributeTable>'
        "</PAMRasterBand></PAMDataset>\n"
    )


def qgis_style(legend: Legend) -> str:
    """Return the text of ``NAME.qml``, which QGIS loads with the map of that name: band 1 in its classes' colours.

    Without it QGIS shows a raster of two bands as red and green, whatever colours and names its first band has.
    """
    entries = "".join(
        f'<paletteEntry value="{n}" color="#{r:02x}{g:02x}{b:02x}" alpha="255" label={quoteattr(name)}/>'
        for n, (name, (r, g, b)) in enumerate(zip(legend.names, legend.palette, strict=True))
    )
    return (
        '<!DOCTYPE qgis><qgis styleCategories="Symbology"><pipe>'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"><rasterTransparency/>'
        f"<colorPalette>{entries}</colorPalette></rasterrenderer></pipe></qgis>\n"
    )
