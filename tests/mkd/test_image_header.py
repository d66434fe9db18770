"""Headers are read without decoding, agree with the decoders, and are not believed."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mkd.dataset.codec import decode_image, decode_label
from mkd.geo.raster import encode_tiff
from mkd.image_header import MAX_PIXELS, check_size, read_header
from tests.helpers.headers import png, tiff


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 255, (37, 53, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("data", "bands", "bits"),
    [
        (encoded(PIXELS, "PNG"), 3, 8),
        (encoded(PIXELS[..., 0], "PNG"), 1, 8),
        (encoded(PIXELS[..., 0].astype(np.uint16), "PNG"), 1, 16),
        (encoded(PIXELS, "JPEG"), 3, 8),
        (encoded(PIXELS, "JPEG", progressive=True), 3, 8),
        (encoded(PIXELS[..., 0], "JPEG"), 1, 8),
        (encoded(PIXELS, "JPEG", exif=b"Exif\0\0" + bytes(5000)), 3, 8),
        (encoded(PIXELS, "TIFF"), 3, 8),
        (encoded(PIXELS, "TIFF", compression="tiff_lzw"), 3, 8),
        (encoded(PIXELS, "TIFF", big_tiff=True), 3, 8),
        (encode_tiff(PIXELS), 3, 8),
        (encode_tiff(np.zeros((37, 53, 13), np.uint16)), 13, 16),
    ],
)
def test_headers_say_what_decoders_find(data, bands, bits):
    """Height, width, bands and bits of all kinds of files, in both byte orders of TIFF."""
    header = read_header(data)
    assert (header.height, header.width, header.bands, header.bits) == (37, 53, bands, bits)
    check_size(data, "x")


def test_other_files_have_no_header_here():
    """BMP, text and nothing at all are left to their decoders."""
    for data in (encoded(PIXELS, "BMP"), b"<html>", b"", b"II"):
        assert read_header(data) is None


BOMBS = {
    "png": png(60_000, 60_000),
    "png of 16 bits": png(9_000, 9_000, 16, 6),
    "png of no pixel": png(0, 5),
    "tiff of one strip": tiff({256: 20_000, 257: 36_000, 278: 36_000}),
    "tiff, big-endian": tiff({256: 20_000, 257: 36_000}, ">"),
    "tiff of huge tiles": tiff({256: 64, 257: 64, 322: 40_000, 323: 40_000}),
    "tiff of many bands": tiff({256: 4_000, 257: 4_000, 277: 60_000, 258: 8}),
    "jpeg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_headers(name):
    """What a header says is too much is refused with the file, the size and the limit."""
    with pytest.raises(ValueError, match=r"^x\.img: its header says .*") as caught:
        check_size(BOMBS[name], "x.img")
    assert len(str(caught.value)) < 400


def test_the_limit_is_exact():
    """So many pixels pass, one row more does not; four bytes a pixel, or fewer pixels."""
    check_size(png(10_000, 10_000), "x")
    with pytest.raises(ValueError, match=f"at most {MAX_PIXELS:,} are allowed"):
        check_size(png(10_000, 10_001), "x")
    check_size(png(10, 10), "x", 100)
    with pytest.raises(ValueError, match="raise --max-pixels"):
        check_size(png(10, 11), "x", 100)
    with pytest.raises(ValueError, match="400 MB are allowed"):
        check_size(png(10_000, 10_000, 16, 6), "x")


@pytest.mark.parametrize("cut", [9, 12, 20, 24])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_short_headers(kind, cut):
    """A file that ends within its header is a sentence."""
    data = encoded(PIXELS, kind)[:cut]
    with pytest.raises(ValueError, match=r"^x cannot be decoded \(.*header"):
        check_size(data, "x")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(60_000, 60_000), "png"),
        (png(17_000, 17_000), "png"),
        (tiff({256: 36_000, 257: 20_000}), "tif"),
        (tiff({256: 8, 257: 8, 322: 40_000, 323: 40_000}), "tif"),
        (tiff({256: 8, 257: 8, 277: 65_535}), "tif"),
        (BOMBS["jpeg"], "jpg"),
    ],
)
def test_training_compares_the_header_with_the_record(data, kind):
    """A member that is not what its record says is never decoded, in this process or in a decoding one."""
    with pytest.raises(ValueError, match=r"where|blocks"):
        decode_image(data, kind, np.empty((8, 8, 3), np.uint8))
    if kind == "png":
        with pytest.raises(ValueError, match=r"it is .* where its record says 8 x 8"):
            decode_label(data, np.empty((8, 8), np.uint8))


@given(
    st.sampled_from([encoded(PIXELS, "PNG"), encoded(PIXELS, "JPEG"), encode_tiff(PIXELS)]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    st.integers(0, 6000),
)
def test_any_damage_is_a_sentence_or_a_header(data, changes, cut):
    """Whatever bytes are changed, a header or a ValueError comes out."""
    damaged = bytearray(data[:cut])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    with contextlib.suppress(ValueError):
        check_size(bytes(damaged), "x")
