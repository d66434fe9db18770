"""Label rasters whose values nobody drew, that lie elsewhere, or that hold more than class ids."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from mkd.dataset.index import read_index
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.raster_files import lossy_sources, raster_files
from mkd.storage.folder import Folder as UrlFolder
from shards.inputs.raster_source import raster_coding
from tests.helpers.processes.jobs import tile_into

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.1, 0, 5e5, 0, -0.1, 5e6)}
CORNERS = ((0, 0), (0, 64), (64, 0), (64, 64))
IDS = np.kron(np.random.default_rng(0).integers(0, 3, (8, 8)), np.ones((8, 8))).astype(np.uint8)


def write(path, bands, points=None, **profile):
    """Write a GeoTIFF of (bands, 64, 64), placed by its transform or by control points."""
    size = {"count": len(bands), "height": 64, "width": 64, "dtype": str(bands.dtype)}
    place = {} if points else PLACE
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **profile) as out:
        out.write(bands)
        if points:
            points.write(out)


def image(tmp_path, points=None):
    """Write an orthomosaic of noise."""
    write(tmp_path / "a.tif", np.random.default_rng(1).integers(1, 255, (3, 64, 64), np.uint8), points)
    return tmp_path / "a.tif"


def vrt(path, source, attributes="", inside=""):
    """Write a VRT of one source."""
    path.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32633</SRS>'
        '<GeoTransform>500000,0.1,0,5000000,0,-0.1</GeoTransform><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource {attributes}><SourceFilename relativeToVRT="1">{source}</SourceFilename>'
        f"<SourceBand>1</SourceBand>{inside}</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def rects(source, target):
    """Place columns 0 .. source of a source on columns 0 .. target of a VRT."""
    return "".join(
        f'<{kind}Rect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
        for kind, side in (("Src", source), ("Dst", target))
    )


@pytest.mark.parametrize("nested", [False, True])
def test_lossy_labels_behind_a_vrt_are_refused(tmp_path, folder, nested):
    """What a JPEG makes of the ids comes through a VRT, and through a VRT of a VRT: both are refused by its name."""
    Image.fromarray(IDS).save(tmp_path / "l.jpg", quality=60)
    label = vrt(tmp_path / "l.vrt", "l.jpg")
    if nested:
        label = vrt(tmp_path / "outer.vrt", "l.vrt")
    with pytest.raises(ValueError, match=r"stored as JPEG \(l\.jpg\), which is lossy"):
        tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=label, size=32)


@pytest.mark.parametrize("how", ["JPEG", "JPEG in a TIFF", "LERC with an error above 0", "resampled", ""])
def test_lossy_labels_behind_a_vrt_at_a_url_are_refused(tmp_path, folder, how):
    """A VRT at a URL is seen through as one on a disk is; what is stored without loss passes."""
    place, name, more = UrlFolder(f"memory://{tmp_path.name}"), "l.tif", {}
    if how == "JPEG":
        name = "l.jpg"
        Image.fromarray(IDS).save(tmp_path / name, quality=60)
    else:
        if how == "JPEG in a TIFF":
            more = {"compress": "JPEG"}
        elif how.startswith("LERC"):
            more = {"compress": "LERC", "max_z_error": "3"}
        write(tmp_path / name, IDS[None], **more)
    scaled = ('resampling="bilinear"', rects(32, 64)) if how == "resampled" else ("", "")
    vrt(tmp_path / "l.vrt", name, *scaled)
    for file in (name, "l.vrt"):
        place.write(file, (tmp_path / file).read_bytes())
    assert raster_coding(place.url_of("l.vrt")) == {
        "": "",
        "resampled": "a VRT resampled by bilinear",
    }.get(how, f"{how} ({name})")
    if how == "JPEG":
        with pytest.raises(ValueError, match=r"stored as JPEG \(l\.jpg\), which is lossy"):
            tile_into(
                image(tmp_path), folder.classfile, tmp_path / "out", labels=place.url_of("l.vrt"), size=32
            )


def test_lossy_sources_that_gdal_alone_reaches_are_named(tmp_path):
    """A trusted VRT may name files of GDAL's /vsi...: GDAL tells of their coding."""
    Image.fromarray(IDS).save(tmp_path / "l.jpg", quality=60)
    write(tmp_path / "l.tif", IDS[None], compress="DEFLATE")
    for name, found in (("l.jpg", "JPEG (l.jpg)"), ("l.tif", "")):
        label = vrt(tmp_path / "l.vrt", f"/vsisubfile/0,{tmp_path / name}")
        label.write_text(label.read_text().replace('relativeToVRT="1"', 'relativeToVRT="0"'))
        assert lossy_sources(raster_files(label)) == found


@pytest.mark.parametrize(
    ("attributes", "inside", "found"),
    [
        ('resampling="bilinear"', rects(32, 64), "a VRT resampled by bilinear"),
        ('resampling="cubic"', rects(32, 64), "a VRT resampled by cubic"),
        ('resampling="near"', rects(32, 64), ""),
        ('resampling="mode"', rects(32, 64), ""),
        ("", rects(32, 64), ""),
        ('resampling="bilinear"', rects(64, 64), ""),  # gdalbuildvrt -r bilinear of the same grid
        ('resampling="bilinear"', "", ""),
    ],
)
def test_labels_that_a_vrt_resamples_are_refused(tmp_path, folder, attributes, inside, found):
    """Between class 0 and class 2 lies no class 1: a VRT that interpolates is lossy, one that takes values is not."""
    write(tmp_path / "l.tif", IDS[None])
    label = vrt(tmp_path / "l.vrt", "l.tif", attributes, inside)
    assert lossy_sources(raster_files(label)) == found
    if not found:
        tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=label, size=32)
        return
    with pytest.raises(ValueError, match=found):
        tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=label, size=32)


@pytest.mark.parametrize("error", [0, 3])
def test_labels_in_lerc_are_lossy_with_an_error_above_0(tmp_path, folder, error):
    """LERC keeps values, unless it was told that they may be off."""
    write(tmp_path / "l.tif", IDS[None], compress="LERC", max_z_error=str(error))
    if error:
        with pytest.raises(ValueError, match="LERC with an error above 0"):
            tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=tmp_path / "l.tif", size=32)
        return
    tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=tmp_path / "l.tif", size=32)
    assert read_index(tmp_path / "out").histogram == tuple(np.bincount(IDS.ravel(), minlength=3))


@pytest.mark.parametrize(("bands", "alpha", "said"), [(1, False, False), (3, False, True), (2, True, False)])
def test_bands_of_a_label_that_are_not_read_are_said(tmp_path, folder, bands, alpha, said):
    """Class ids come from band 1; other bands are named as not read, unless the file calls them alpha."""
    layers = np.stack([IDS] + [np.full_like(IDS, 255)] * (bands - 1))
    write(tmp_path / "l.tif", layers, **({"alpha": "YES"} if alpha else {"photometric": "MINISBLACK"}))
    if bands == 3:
        with rasterio.open(tmp_path / "l.tif", "r+") as data:
            data.colorinterp = [rasterio.enums.ColorInterp.gray] + [rasterio.enums.ColorInterp.undefined] * 2
    tile_into(image(tmp_path), folder.classfile, tmp_path / "out", labels=tmp_path / "l.tif", size=32)
    notes = [line for line in folder.messages if "of several bands, of which band 1" in line]
    assert len(notes) == said
    assert read_index(tmp_path / "out").histogram == tuple(np.bincount(IDS.ravel(), minlength=3))


@pytest.mark.parametrize(("shift", "refused"), [(0.0, False), (0.05, False), (0.4, True), (100.0, True)])
def test_labels_are_compared_by_control_points_too(tmp_path, folder, shift, refused):
    """Image and label that have only control points are compared by what fits these, to 0.1 pixels."""
    points = [
        ControlPoints(
            tuple((row, col, 5e5 + 0.1 * (col + by), 5e6 - 0.1 * row, 0.0) for row, col in CORNERS),
            "EPSG:32633",
        )
        for by in (0.0, shift)
    ]
    write(tmp_path / "l.tif", IDS[None], points[1])
    source = image(tmp_path, points[0])
    if not refused:
        tile_into(source, folder.classfile, tmp_path / "out", labels=tmp_path / "l.tif", size=32)
        return
    with pytest.raises(ValueError, match=f"control points, by up to {shift:g} pixels"):
        tile_into(source, folder.classfile, tmp_path / "out", labels=tmp_path / "l.tif", size=32)


def test_control_points_are_fitted_by_an_affine_map():
    """The fit gives back the map that made the points; two points, or three on a line, give none."""
    a, b, c, d, e, f = 0.3, -0.1, 5e5, 0.2, -0.4, 5e6
    grid = [(row, col) for row in (0, 10, 50) for col in (0, 20, 40)]
    made = tuple((r, q, a * q + b * r + c, d * q + e * r + f, 0.0) for r, q in grid)
    assert np.allclose(ControlPoints(made).fit(), (a, b, c, d, e, f), rtol=0, atol=1e-7)
    assert ControlPoints(made[:2]).fit() is None
    assert ControlPoints(made[:3]).fit() is None
