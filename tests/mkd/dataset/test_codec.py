"""Members become the pixels that went in, where they are wanted; anything else is one sentence."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as by_torchvision

from mkd.dataset.codec import decode_image, decode_label
from tests.helpers.plain import encoded, smooth

IMAGE, IDS = smooth(1, 48)[0]


def decoded(data, kind, shape=(48, 48, 3)):
    out = np.full(shape, 7, np.uint8)
    decode_image(data, kind, out)
    return out


def test_png_is_exact():
    """Image and label come back as they went in."""
    np.testing.assert_array_equal(decoded(encoded(IMAGE), "png"), IMAGE)
    out = np.empty((48, 48), np.uint8)
    decode_label(encoded(IDS), out)
    np.testing.assert_array_equal(out, IDS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_is_torchvisions(options):
    """JPEG gives the very pixels that torchvision's decoder gives, so results stay what they were."""
    data = encoded(IMAGE, "JPEG", **options)
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    expected = by_torchvision(tensor, mode=ImageReadMode.RGB).movedim(0, -1).numpy()
    np.testing.assert_array_equal(decoded(data, "jpg"), expected)
    assert np.abs(expected.astype(int) - IMAGE).mean() < 12


@pytest.mark.parametrize(("kind", "name"), [("jpg", "JPEG"), ("png", "PNG")])
def test_grey_becomes_three_equal_bands(kind, name):
    """A grey picture is the same in each band."""
    out = decoded(encoded(IDS * 100, name), kind)
    assert (out == out[..., :1]).all()
    assert np.abs(out[..., 0].astype(int) - IDS * 100).mean() < 12


@pytest.mark.parametrize(("kind", "name"), [("jpg", "JPEG"), ("png", "PNG")])
@pytest.mark.parametrize("damage", ["half", "empty", "text", "other kind", "larger", "smaller"])
def test_what_is_no_such_picture_is_refused(kind, name, damage):
    """Damage and a wrong size are errors of one line; nothing is written beside the given place."""
    whole = encoded(IMAGE, name)
    other = encoded(IMAGE, "BMP")
    bad = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"<html>", "other kind": other}
    bad |= {"larger": encoded(np.tile(IMAGE, (2, 2, 1)), name), "smaller": encoded(IMAGE[:40], name)}
    around = np.full((3, 48, 48, 3), 7, np.uint8)
    with pytest.raises(ValueError, match=r"\w") as error:
        decode_image(bad[damage], kind, around[1])
    assert "\n" not in str(error.value)
    assert (around[[0, 2]] == 7).all()


@pytest.mark.parametrize("mode", ["P", "RGB", "I;16", "1"])
def test_a_label_of_another_mode_is_refused(mode):
    """Only 8-bit grey holds ids: a palette's colours or 16 bits would be read as other classes."""
    picture = Image.fromarray(IDS).convert(mode) if mode != "I;16" else Image.fromarray(IDS.astype(np.uint16))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with pytest.raises(ValueError, match=f"not of mode {mode}"):
        decode_label(buffer.getvalue(), np.empty((48, 48), np.uint8))


def test_a_label_of_another_size_is_refused():
    """A label is as large as its record says."""
    with pytest.raises(ValueError, match="it is 40 x 48, where its record says 48 x 48"):
        decode_label(encoded(IDS[:40]), np.empty((48, 48), np.uint8))
