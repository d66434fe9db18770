"""Odd names, lists, sidecars, places and values: each is taken as it is meant, or said."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from shards.commands.pack import pack
from shards.commands.tile import tile
from shards.inputs.image_list import ImageSelection
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions
from shards.reading.band_sample import outlier_notes
from tests.helpers.shards import read_dataset

SIZE = {"driver": "GTiff", "height": 16, "width": 16}


def keys(out):
    """List the keys of a data set."""
    return sorted(sample.key for sample in read_dataset(out))


@pytest.mark.parametrize("name", ["new\nline", "a\ttab", "bell\a"])
def test_names_with_control_characters_are_refused_at_the_start(folder, tmp_path, name):
    """Neither index nor record can hold them: pack and tile say so before anything is written."""
    folder.image(f"images/{name}.png")
    folder.mask(f"masks/{name}.png", folder.ids())
    with pytest.raises(ValueError, match="a name with control characters"):
        pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    for source in (folder.root / f"images/{name}.png", folder.root / "images/*.png"):
        with pytest.raises(ValueError, match="a name with control characters"):
            tile(source, None, BuildOptions(tmp_path / "out"), tiling=TilingOptions(size=8))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "key"), [(" lead", " lead"), ("trail ", "trail "), ("  t0\t", "t0"), ("./images/t1.png", "t1")]
)
def test_blanks_of_a_list_belong_to_a_name_that_has_them(folder, tmp_path, line, key):
    """A line is a name as it stands, else without the blanks around it and without ./ in front."""
    for name in (" lead", "trail "):
        folder.image(f"images/{name}.png")
        folder.mask(f"masks/{name}.png", folder.ids())
    (tmp_path / "list.txt").write_text(f"  # a comment\n{line}\n")
    selection = ImageSelection(keys=tmp_path / "list.txt")
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"), selection)
    assert keys(tmp_path / "out") == [key]


@pytest.mark.parametrize("endless", [True, False])
def test_a_list_without_end_is_refused(folder, tmp_path, endless):
    """/dev/zero, and a file of 300 MB of nothing, are read in part only."""
    with open(tmp_path / "list.txt", "wb") as file:
        file.truncate(300_000_000)
    keys = "/dev/zero" if endless else tmp_path / "list.txt"
    with pytest.raises(ValueError, match="is no list of images: it has more than 268,435,456 bytes"):
        pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"), ImageSelection(keys=keys))


def test_masks_beside_chips_are_said(folder, tmp_path):
    """A .msk file says where there is data, and pack does not read it: it is named, and tile is advised."""
    folder.image("images/t0.png")
    (folder.root / "images/t0.png.msk").write_bytes(b"x")
    folder.describe(layout={"images": "images/*.png", "masks": "masks/{stem}.png"})
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    (said,) = [line for line in folder.messages if "in a file of its own" in line]
    assert "note: 1 mask in a file of its own, which pack does not read" in said
    assert "images/t0.png.msk" in said


def test_chips_with_control_points_alone_are_said(folder, tmp_path):
    """A chip's control points are not carried; pack says that such tiles have no place on Earth."""
    points = [GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 16), (16, 0))]
    (folder.root / "chips").mkdir()
    with rasterio.open(folder.root / "chips/a.tif", "w", count=3, dtype="uint8", **SIZE) as out:
        out.write(np.random.default_rng(0).integers(0, 255, (3, 16, 16), np.uint8))
        out.gcps = (points, rasterio.crs.CRS.from_epsg(32633))
    folder.describe(layout={"images": "chips/*.tif", "masks": None})
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    assert any(line.startswith("1 image with control points in place of a") for line in folder.messages)


@pytest.mark.parametrize("declared", [False, True])
def test_values_that_look_like_no_data_are_said(folder, tmp_path, declared):
    """-9999 in a float raster without a no-data value is named with its share; declared, it is no news."""
    pixels = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    pixels[:, :4] = -9999
    more = {"nodata": -9999} if declared else {}
    (folder.root / "chips").mkdir()
    with rasterio.open(folder.root / "chips/a.tif", "w", count=3, dtype="float32", **SIZE, **more) as out:
        out.write(pixels)
    folder.describe(layout={"images": "chips/*.tif", "masks": None})
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    said = [line for line in folder.messages if "far from all other values" in line]
    if declared:
        assert said == []
    else:
        (line,) = said
        assert line.startswith("note: 25.0% of the pixels hold -9999 in band 1, 2, 3,")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ([0, 1, 2, 3, 4, 5], None),
        ([0, 255, 0, 255], None),  # a mask, or an indicator
        ([7, 7, 7], None),
        ([500, 600, 900, 65535, 65535], 65535),
        ([-32768, 3, 40, 2000], -32768),
        ([0, 0, 300, 500, 700], None),  # dark pixels that are near the others
        ([], None),
    ],
)
def test_an_outlier_is_further_off_than_all_others_span(column, value):
    """Only a value beyond the span of all others is named; bands of one or two values have no such span."""
    notes = outlier_notes(np.array(column, np.float64)[:, None])
    assert [f"hold {value} in band 1" in note for note in notes] == ([] if value is None else [True])
