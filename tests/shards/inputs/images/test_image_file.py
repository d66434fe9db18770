"""Image files at their ends: good ones pass unchanged, doubtful ones are decoded, bad ones are told."""

import io

import numpy as np
import pytest
from PIL import Image

from mkd.geo.raster import decode_tiff, encode_tiff
from shards.inputs.images.image_file import image_member

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(kind, pixels=PIXELS, mode=None, **options):
    """Encode a picture."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = {
    "jpeg": (encoded("JPEG"), "jpg"),
    "progressive jpeg": (encoded("JPEG", progressive=True), "jpg"),
    "4:4:4 jpeg with a comment": (encoded("JPEG", subsampling=0, comment=b"\xff\xd9" * 5), "jpg"),
    "jpeg with bytes behind its end": (encoded("JPEG") + b"\0\0made by a camera", "jpg"),
    "png": (encoded("PNG"), "png"),
    "interlaced-free png with text": (encoded("PNG", dpi=(72, 72)), "png"),
}


@pytest.mark.parametrize("check", ["ends", "decode"])
@pytest.mark.parametrize("name", GOOD)
def test_good_files_pass_byte_for_byte(name, check):
    """Both checks take them as they are."""
    data, extension = GOOD[name]
    assert image_member(data, "x", check)[:4] == (data, extension, (20, 30), False)


@pytest.mark.parametrize("check", ["ends", "decode"])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "L"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("BMP", None),
        ("TIFF", None),
        ("TIFF", "L"),
    ],
)
def test_others_become_png(kind, mode, check):
    """8-bit pictures of another mode or format are stored as RGB PNG with the pixels that Pillow gives."""
    data = encoded(kind, mode=mode)
    member = image_member(data, "x", check)
    assert member[1:] == ("png", (20, 30), True, 3, "uint8", mode == "RGBA")
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(member.data))), wanted)


def cuts(data):
    """Give the file cut at several places."""
    return [data[:length] for length in (0, 1, 3, 10, len(data) // 2, len(data) - 10, len(data) - 1)]


@pytest.mark.parametrize("check", ["ends", "decode"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_files_are_told(kind, check):
    """Wherever a file is cut, it does not pass."""
    for data in cuts(encoded(kind, np.tile(PIXELS, (8, 8, 1)))):
        with pytest.raises(ValueError, match=r"x (cannot be decoded|ends without)"):
            image_member(data, "x", check)


def test_a_jpeg_in_inks_is_refused():
    """CMYK has no plain way to RGB."""
    with pytest.raises(ValueError, match="x is a picture of mode CMYK: convert it to 8-bit RGB first"):
        image_member(encoded("JPEG", mode="CMYK"), "x")


@pytest.mark.parametrize(
    ("bands", "dtype"), [(3, "uint16"), (4, "uint8"), (5, "uint16"), (3, "int16"), (4, "float32")]
)
def test_a_tiff_keeps_bands_and_bits(bands, dtype):
    """What no PNG can hold stays whole, in a new TIFF."""
    pixels = np.random.default_rng(1).integers(0, 250, (20, 30, bands)).astype(dtype)
    data = encode_tiff(pixels)
    member = image_member(data, "x")
    assert member[1:] == ("tif", (20, 30), True, bands, dtype, False)
    assert np.array_equal(decode_tiff(member.data), pixels)
    with pytest.raises(ValueError, match=r"x cannot be decoded \(.*copy it again"):
        image_member(data[: len(data) // 2], "x")


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint16"), (2, "uint16"), (3, "float64"), (3, "int32")])
def test_a_tiff_of_another_kind_is_told(bands, dtype):
    """Too few bands of 16 bits, or numbers of another type: what was found and what is needed."""
    data = encode_tiff(np.zeros((20, 30, bands), dtype))
    with pytest.raises(
        ValueError, match=rf"x has {bands} bands? of {dtype}: images need 3 or more bands of uint8"
    ):
        image_member(data, "x")
