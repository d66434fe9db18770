"""Lossy codings are told by the content of a file, in every format."""

import io

import numpy as np
import pytest
import rasterio
from PIL import Image

from mkd.geo.coding.file_parts import tiff_tags
from mkd.geo.coding.lossy_coding import lossy_coding

SEEN = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "options", "coding"),
    [
        ("JPEG", {}, "JPEG"),
        ("PNG", {}, ""),
        ("GIF", {}, ""),
        ("WEBP", {}, "WebP"),
        ("WEBP", {"lossless": True}, ""),
        ("JPEG2000", {"irreversible": True}, "JPEG 2000"),
        ("JPEG2000", {}, ""),
        ("TIFF", {"compression": "jpeg"}, "JPEG in a TIFF"),
        ("TIFF", {"compression": "tiff_lzw"}, ""),
        ("TIFF", {}, ""),
    ],
)
def test_lossy_codings_are_told_by_content(kind, options, coding):
    """The name says nothing: JPEG, lossy WebP, wavelets and JPEG inside a TIFF are found by their content."""
    buffer = io.BytesIO()
    Image.fromarray(np.kron(SEEN, np.ones((8, 8, 1), np.uint8))).save(buffer, kind, **options)
    assert lossy_coding(io.BytesIO(buffer.getvalue())) == coding


@pytest.mark.parametrize("options", [{}, {"BIGTIFF": "YES"}, {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}])
@pytest.mark.parametrize("lossless", ["YES", "NO"])
def test_tags_of_all_kinds_of_tiff(tmp_path, options, lossless):
    """Both byte orders and BigTIFF are read; WebP inside tells by its blocks whether it is lossy."""
    profile = {"driver": "GTiff", "height": 64, "width": 48, "count": 3, "dtype": "uint8"}
    more = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "webp", "WEBP_LOSSLESS": lossless}
    with rasterio.open(tmp_path / "x.tif", "w", **profile, **more, **options) as data:
        data.write(np.random.default_rng(0).integers(0, 256, (3, 64, 48), np.uint8))
    with open(tmp_path / "x.tif", "rb") as file:
        tags = tiff_tags(file)
        assert (tags[256], tags[257], tags[258]) == (48, 64, 8)
        assert lossy_coding(file) == ("" if lossless == "YES" else "WebP in a TIFF")


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_webp_is_lossy_by_its_frames(lossless, alpha, frames):
    """Frames of an animation, and pictures with alpha, lie deeper in the file; each is looked at."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 4 if alpha else 3), np.uint8)
    first, second = map(Image.fromarray, pixels)
    more = {"save_all": True, "append_images": [second]} if frames == 2 else {}
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", lossless=lossless, quality=80, **more)
    buffer.seek(0)
    assert lossy_coding(buffer) == ("" if lossless else "WebP")
