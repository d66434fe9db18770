"""Masks as class ids: thresholds, ranges, soft and lossy masks, numbers of every type."""

import io

import numpy as np
import pytest
from PIL import Image

from mkd.geo.raster import encode_tiff
from shards.inputs.class_file import content_fields, read_classfile
from shards.inputs.mask_file import ids_from_values, read_mask


def described(folder, classes=3, **changes):
    """Read the toy class file with changes, cut to some classes."""
    folder.describe(
        classes=folder.content["classes"][:classes], palette=folder.content["palette"][:classes], **changes
    )
    return read_classfile(folder.classfile)


def encoded(pixels, kind, **options):
    """Encode a mask."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_threshold_parts_grey_values(folder):
    """Values below it are class 0, from it on class 1; NaN is no data."""
    classfile = described(folder, 2, threshold=128)
    found = ids_from_values(np.array([[0, 127, 128, 255]], np.uint8), classfile)
    assert (found.ids.tolist(), found.unknown) == ([[0, 0, 1, 1]], {})
    assert ids_from_values(np.array([[np.nan, 127.5, 200]]), classfile).ids.tolist() == [[255, 0, 1]]


def test_ranges_map_all_values_inside(folder):
    """Ranges and single values stand beside each other; what is in neither is unknown."""
    classfile = described(folder, ids={"1-100": 0, "-5--1": 255, 101: 1, "200-300": 2})
    found = ids_from_values(np.array([[1, 100, 101, 102, 300, -5, -6]], np.int32), classfile)
    assert found.ids.tolist() == [[0, 0, 1, 255, 2, 255, 255]]
    assert found.unknown == {102: 1, -6: 1}


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_any_whole_number_may_be_a_key(folder, dtype):
    """-9999 is ignored when ids say so, whatever the type; floats with whole values are taken, NaN is no data."""
    classfile = described(folder, ids={-9999: 255, 0: 0, 1: 1, 2: 2})
    values = np.array([[-9999, 0, 1, 2]], dtype)
    assert ids_from_values(values, classfile).ids.tolist() == [[255, 0, 1, 2]]
    if dtype.startswith("float"):
        found = ids_from_values(np.array([[np.nan, 0.5, 1, np.inf]], dtype), classfile)
        assert (found.ids.tolist(), found.unknown) == ([[255, 255, 1, 255]], {"no whole number": 2})


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float32", "float64"])
def test_masks_of_wide_types_are_read(folder, dtype):
    """TIFF masks of signed, floating or long numbers are read as they are."""
    values = np.array([[0, 1], [2, 99]], dtype)
    import rasterio

    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", height=2, width=2, count=1, dtype=dtype) as data:
            data.write(values[None])
        content = bytes(file.getbuffer())
    found = read_mask(content, "m.tif", described(folder, ids={0: 0, 1: 1, 2: 2, 99: 255}))
    assert found.ids.tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize(("kind", "word"), [("JPEG", "JPEG"), ("WEBP", "WebP"), ("TIFF", "JPEG in a TIFF")])
def test_a_lossy_mask_is_refused_by_content(folder, kind, word):
    """Its name does not matter; with lossy_masks: nearest each value becomes the nearest known one."""
    drawn = np.zeros((61, 67), np.uint8)
    drawn[9:33, 5:50] = 255
    colours = np.stack([drawn, 0 * drawn, 0 * drawn], -1)
    data = encoded(colours, kind, **({"compression": "jpeg"} if kind == "TIFF" else {}))
    rgb = {"masks": "rgb", "ids": None}
    folder.content["palette"] = [[0, 0, 0], [255, 0, 0]]
    with pytest.raises(
        ValueError, match=rf"mask m.png is stored as {word}, .* lossy_masks: nearest in .*toy.yaml"
    ):
        read_mask(data, "m.png", described(folder, 2, **rgb))
    found = read_mask(data, "m.png", described(folder, 2, **rgb, lossy_masks="nearest"))
    assert found.coding == word
    assert found.unknown == {}
    assert found.assigned > 0
    assert (found.ids != (drawn == 255)).mean() < 0.01


def test_values_of_a_lossy_mask_go_to_the_nearest(folder):
    """Nearest known value, of two as near the smaller one's; ranges count with both ends."""
    classfile = described(folder, ids={0: 0, 100: 1, "200-255": 2}, lossy_masks="nearest")
    found = ids_from_values(np.array([[0, 49, 50, 51, 149, 151, 220]], np.uint8), classfile, lossy=True)
    assert found.ids.tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert found.assigned == 5


def test_soft_edges_go_to_the_nearest_colour_or_are_ignored(folder):
    """unknown_colours decides over colours in neither list, and their pixels are counted."""
    folder.content["palette"] = [[0, 0, 0], [255, 0, 0]]
    row = np.array([[[0, 0, 0], [100, 0, 0], [200, 0, 0], [255, 255, 250], [255, 255, 255]]], np.uint8)
    more = {"masks": "rgb", "ids": None, "ignore_colours": [[255, 255, 255]]}
    nearest = ids_from_values(row, described(folder, 2, **more, unknown_colours="nearest"))
    assert (nearest.ids.tolist(), nearest.assigned, nearest.unknown) == ([[0, 0, 1, 255, 255]], 3, {})
    ignored = ids_from_values(row, described(folder, 2, **more, unknown_colours="ignore"))
    assert (ignored.ids.tolist(), ignored.assigned) == ([[0, 255, 255, 255, 255]], 3)
    assert len(ids_from_values(row, described(folder, 2, **more)).unknown) == 3


def test_a_mask_is_turned_by_its_own_orientation(folder):
    """EXIF orientation counts in masks as in images."""
    drawn, exif = np.array([[0, 1, 2], [2, 2, 1]], np.uint8), Image.Exif()
    exif[0x0112] = 6
    assert read_mask(encoded(drawn, "PNG", exif=exif), "m", described(folder)).ids.tolist() == [
        [2, 0],
        [2, 1],
        [1, 2],
    ]


def test_older_data_sets_stay_known(folder):
    """A class file without the newer keys identifies the same data set as before them."""
    assert set(content_fields(described(folder))) == {
        "name", "classes", "palette", "masks", "ids", "ignore_colours", "images", "mask",
    }  # fmt: skip
    assert "threshold" in content_fields(described(folder, 2, threshold=0))


def test_a_mask_of_several_bands_is_no_mask_of_ids(folder):
    """The error names the bands."""
    data = encode_tiff(np.zeros((4, 5, 2), np.int16))
    with pytest.raises(ValueError, match=r"mask m has 2 bands, but masks: ids needs one"):
        read_mask(data, "m", described(folder))
