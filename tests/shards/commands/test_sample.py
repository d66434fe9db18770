"""The picture of some tiles: what is in it, where, and that only the chosen tiles are read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mkd.geo.raster import encode_tiff
from mkd.storage.folder import Folder
from shards.commands.sample import sample
from shards.inputs.encode import encode_png, encode_tile
from shards.output.dataset_writer import DatasetWriter
from shards.reading import contact_sheet
from tests.helpers.shards import CLASSES, PALETTE, overwrite, pictures, write_dataset

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]


def coloured(folder, labelled=True, size=(40, 60)):
    """Write a data set of five tiles, each of one colour; labels are class n % 3, right half ignored."""
    with DatasetWriter(folder, "plain", CLASSES, PALETTE, 2) as writer:
        for number, colour in enumerate(COLOURS):
            image = np.full((*size, 3), colour, np.uint8)
            ids = np.full(size, number % 3, np.uint8)
            ids[:, size[1] // 2 :] = 255
            meta = {"source": "s", "window": None, "size": list(size), "crs": None, "transform": None}
            writer.add(encode_tile(f"t{number}", encode_png(image), "png", ids if labelled else None, meta))
        writer.finish({})
    return folder


def drawn(data, out, **options):
    """Draw and read the picture back."""
    sample(data, out, **options)
    return np.asarray(Image.open(out))


def cards(picture, number, labelled):
    """Cut the tiles' boxes out of the picture, in order: the layout, written down once more."""
    width = 2 * contact_sheet.BOX + contact_sheet.SEAM if labelled else contact_sheet.BOX
    columns = (picture.shape[1] - 2 * contact_sheet.PAD + contact_sheet.GAP) // (width + contact_sheet.GAP)
    for place in range(number):
        top = (
            contact_sheet.PAD
            + contact_sheet.HEADER
            + place // columns * (contact_sheet.BOX + contact_sheet.CAPTION + contact_sheet.GAP)
        )
        left = contact_sheet.PAD + place % columns * (width + contact_sheet.GAP)
        yield picture[top : top + contact_sheet.BOX, left : left + width]


def test_each_tile_and_its_label_are_in_the_picture(tmp_path):
    """Five tiles in order; beside each its label in class colours over grey, ignored pixels without colour."""
    picture = drawn(coloured(tmp_path / "data"), tmp_path / "grid.png")
    middle = contact_sheet.BOX // 2
    for number, card in enumerate(cards(picture, 5, labelled=True)):
        assert tuple(card[middle, middle]) == COLOURS[number]
        label = card[:, contact_sheet.BOX + contact_sheet.SEAM :].astype(int)
        colour, ignored = label[middle, contact_sheet.BOX // 4], label[middle, contact_sheet.BOX * 3 // 4]
        grey = np.asarray(Image.fromarray(card[:, : contact_sheet.BOX]).convert("L"))[middle, middle]
        expected = 0.4 * grey + 0.6 * np.array(PALETTE[number % 3])
        assert np.abs(colour - expected).max() <= 1
        assert len(set(ignored)) == 1, "no colour where there is no label"
        assert tuple(card[4, middle]) == contact_sheet.EMPTY, "a wide tile leaves paper above and below"


def test_unlabelled_tiles_stand_alone(tmp_path):
    """Without labels there is one box a tile, and no legend."""
    with_labels = drawn(coloured(tmp_path / "a"), tmp_path / "a.png")
    picture = drawn(coloured(tmp_path / "b", labelled=False), tmp_path / "b.png")
    assert [tuple(card[128, 128]) for card in cards(picture, 5, labelled=False)] == COLOURS
    assert (with_labels == PALETTE[2]).all(-1).any(), "the legend shows a class's full colour"
    assert picture.shape[1] < with_labels.shape[1]


def test_the_seed_chooses_and_the_number_is_kept(tmp_path):
    """One seed gives one picture, another another; more tiles than there are means all of them."""
    data = write_dataset(tmp_path / "data", pictures(20))
    first = drawn(data, tmp_path / "1.png", number=3)
    assert np.array_equal(first, drawn(data, tmp_path / "2.png", number=3))
    assert not np.array_equal(first, drawn(data, tmp_path / "3.png", number=3, seed=1))
    small = coloured(tmp_path / "small")
    assert np.array_equal(
        drawn(small, tmp_path / "4.png", number=5), drawn(small, tmp_path / "5.png", number=99)
    )
    with pytest.raises(ValueError, match="--n is 0"):
        sample(data, tmp_path / "6.png", number=0)


def test_deep_images_are_stretched(tmp_path):
    """16 bits in a narrow range come out from black to white, and the fourth band is not shown."""
    ramp = np.linspace(1000, 1400, 64).astype(np.uint16)
    image = np.repeat(np.tile(ramp, (64, 1))[..., None], 4, -1)
    with DatasetWriter(tmp_path / "data", "deep", CLASSES, PALETTE) as writer:
        meta = {"source": "s", "window": None, "size": [64, 64], "crs": None, "transform": None}
        writer.add(encode_tile("t", encode_tiff(image), "tif", None, meta, bands=4, dtype="uint16"))
        writer.finish({})
    (card,) = cards(drawn(tmp_path / "data", tmp_path / "grid.png"), 1, labelled=False)
    assert card[128, 2].max() < 10
    assert card[128, -3].min() > 245


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (2, "uint16"), (5, "uint16"), (4, "float32")])
def test_any_bands_are_drawn(tmp_path, bands, dtype):
    """A ramp in the first bands is drawn from black to white whatever its type and unit; one or two bands are grey."""
    ramp = np.tile(np.linspace(0, 1, 256), (256, 1))
    top = {"uint8": 255, "uint16": 4000, "float32": 0.03}[dtype]
    image = np.stack([ramp * top] * bands, 2).astype(dtype)
    image[..., 3:] = image[..., :1].max() - image[..., :1]  # which are not shown
    meta = {"source": "s", "window": None, "size": [256, 256], "crs": None, "transform": None}
    with DatasetWriter(tmp_path / "set", "ramp", CLASSES, PALETTE, 2) as writer:
        writer.add(encode_tile("t0", encode_tiff(image), "tif", None, meta, bands=bands, dtype=dtype))
        writer.finish({})
    (card,) = cards(drawn(tmp_path / "set", tmp_path / "s.png"), 1, labelled=False)
    row = card[128].astype(int)
    assert row[4].max() < 12
    assert row[-5].min() > 243
    assert np.abs(np.diff(row, axis=1)).max() <= 1  # grey


def test_only_the_chosen_tiles_are_read(s3, tmp_path, monkeypatch):
    """From S3 come index, records and byte ranges, never a whole shard; the picture may go to S3 as well."""
    write_dataset(s3, pictures(40), shard_size=20)
    reads = []
    read = Folder.read

    def noted(self, name, start=0, stop=None):
        reads.append((name, start, stop))
        return read(self, name, start, stop)

    monkeypatch.setattr(Folder, "read", noted)
    sample(s3, f"{s3}/pictures/grid.png", number=2)
    ranges = [(start, stop) for name, start, stop in reads if name.endswith(".tar")]
    assert len(ranges) == 2 * 3, "image, label and json of two tiles"
    assert all(stop is not None and stop - start < 1000 for start, stop in ranges)
    monkeypatch.undo()
    assert read(Folder(f"{s3}/pictures"), "grid.png").startswith(b"\x89PNG")


def test_what_is_damaged_is_not_drawn(tmp_path):
    """A changed byte, and a record that does not belong to the index, are told: the picture is there to be trusted."""
    data = write_dataset(tmp_path / "data", pictures(4))
    record = tmp_path / "data/tiny-000000.json"
    place = json.loads(record.read_text())["tiles"][0][3]["png"][0]
    overwrite(data, place + 60, b"?")
    with pytest.raises(ValueError, match=r"tiny-000000.tar, tile0000: its 'png' has changed"):
        drawn(data, tmp_path / "a.png", number=4)
    other = write_dataset(tmp_path / "other", pictures(2))
    record.write_bytes((Path(other) / record.name).read_bytes())
    with pytest.raises(ValueError, match="has a record of another build"):
        drawn(data, tmp_path / "a.png", number=4)
