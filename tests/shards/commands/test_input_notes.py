"""Nothing is dropped in silence: what pack and tile leave out, and what labels lack, is named."""

import unicodedata

import numpy as np
import pytest
import rasterio
from PIL import Image

from mkd.dataset.index import read_index
from shards.commands.pack import pack
from shards.commands.tile import tile
from shards.commands.verify import verify
from shards.inputs.image_list import ImageSelection
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions
from tests.helpers.shards import read_dataset

NFD, NFC = (unicodedata.normalize(form, "été") for form in ("NFD", "NFC"))
TWO = {"classes": ["field", "road"], "palette": [[0, 128, 0], [128, 128, 128]]}


def run(folder, out, selection=None, **options):
    """Pack the toy folder."""
    return pack(folder.root, folder.classfile, BuildOptions(out, **options), selection or ImageSelection())


def notes(folder, start="note: "):
    """Return the messages with this start."""
    return [text for text in folder.messages if text.startswith(start)]


def write(path, pixels, **profile):
    """Write a GeoTIFF with a place on Earth."""
    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
    size = {
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": str(bands.dtype),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", **place, **size, **profile) as data:
        data.write(bands)


def scene(path, height=40, width=64):
    """Write an orthomosaic of noise."""
    write(path, np.random.default_rng(0).integers(1, 255, (height, width, 3), np.uint8))


def cut(folder, tmp_path, source="*_image.tif", labels=None, out="out", classes=True):
    """Tile the scenes of a folder."""
    classfile = folder.classfile if classes else None
    return tile(tmp_path / source, classfile, BuildOptions(tmp_path / out), labels, TilingOptions(size=32))


def test_masks_of_0_and_255_are_told(folder, tmp_path):
    """pack and verify name the class without a pixel, the ignored share and the remedy, which works."""
    mask = np.zeros((12, 16))
    mask[3:9, 3:9] = 255
    for number in range(5):
        folder.mask(f"masks/t{number}.png", mask)
    folder.describe(**TWO)
    run(folder, tmp_path / "out")
    first, second = notes(folder)
    assert "1 of 2 classes has no pixel in the labels: road; if the masks hold 0 and 255" in first
    assert "19% of the pixels of labelled tiles are ignored (180 of 960)" in second
    folder.messages.clear()
    assert verify(tmp_path / "out") == []
    assert notes(folder) == [first, second]
    folder.messages.clear()
    folder.describe(**TWO, ids={0: 0, 255: 1})
    run(folder, tmp_path / "mended")
    assert notes(folder) == []
    assert read_index(tmp_path / "mended").histogram == (780, 180)


@pytest.mark.parametrize(
    ("values", "changes", "words"),
    [
        (
            [1, 2, 3],
            {},
            r"3: .*none holds class 0, and 3 is the number of classes: are the ids counted from 1",
        ),
        (
            [0, 255],
            {**TWO, "ids": {0: 0, 1: 1}},
            r"masks hold 0 and 255: for two classes write ids: \{0: 0, 255: 1\}",
        ),
        ([0, 60, 128, 200, 255], TWO, r"looks like a grey-scale mask: threshold: 128 .* ids: \{\"0-99\": 0"),
    ],
)
def test_a_likely_cause_of_unknown_values_is_told(folder, tmp_path, values, changes, words):
    """Ids counted from 1, masks of 0 and 255 and grey-scale masks are recognised."""
    for number in range(5):
        folder.mask(f"masks/t{number}.png", np.resize(values, (12, 16)))
    folder.describe(**changes)
    with pytest.raises(ValueError, match=words):
        run(folder, tmp_path / "out")


def test_a_message_holds_at_most_ten_values(folder, tmp_path):
    """Soft edges make hundreds of colours: ten are shown, the way out is named, and it works."""
    soft = np.zeros((12, 16, 3), np.uint8)
    soft[..., 0] = np.arange(192).reshape(12, 16)
    folder.mask("masks/t2.png", soft)
    for number in (0, 1, 3, 4):
        folder.mask(f"masks/t{number}.png", np.zeros((12, 16, 3)))
    rgb = {"masks": "rgb", "classes": ["field", "road"], "palette": [[0, 0, 0], [255, 0, 0]]}
    folder.describe(**rgb)
    with pytest.raises(ValueError, match=r"191 colours .* unknown_colours: nearest") as caught:
        run(folder, tmp_path / "out")
    assert str(caught.value).count(", 0, 0)") == 10
    assert (tmp_path / "out/quarantine.jsonl").read_text().split('"unknown"')[0].count(", 0, 0)") == 10
    folder.describe(**rgb, unknown_colours="nearest")
    run(folder, tmp_path / "near")
    assert read_index(tmp_path / "near").histogram == (5 * 192 - 64, 64)
    assert any(text.startswith("191 pixels of the masks have a value or colour") for text in folder.messages)


def test_files_left_out_by_their_spelling_are_named(folder, tmp_path):
    """Other capitals, .jpeg, and masks without an image: ten names, then a count."""
    for number in range(12):
        folder.image(f"images/n{number:02d}.JPG", format="JPEG")
        folder.mask(f"masks/n{number:02d}.png", folder.ids())
    folder.image("images/a.jpeg")
    folder.describe(layout={"images": "images/*.jpg", "masks": "masks/{stem}.png"})
    run(folder, tmp_path / "out")
    spelling, masks = notes(folder)[:2]
    assert (
        "13 files are left out, as capitals or the spelling of the ending differ from 'images/*.jpg'"
        in spelling
    )
    assert "images/a.jpeg, images/n00.JPG" in spelling
    assert "images/n08.JPG and 3 more" in spelling
    assert "15 masks without an image: masks/n00.png" in masks
    assert "and 5 more" in masks


def test_a_mask_of_another_spelling_is_pointed_out(folder, tmp_path):
    """A missing mask is named with the file that is probably meant."""
    (folder.root / "masks/t1.png").rename(folder.root / "masks/t1.PNG")
    with pytest.raises(
        ValueError, match=r"lacks 1 mask: masks/t1.png of images/t1.png \(there is masks/t1.PNG"
    ):
        run(folder, tmp_path / "out")


def test_names_are_equal_in_any_unicode_form(folder, tmp_path):
    """Images from macOS, masks and lists from elsewhere: they look equal, and are."""
    folder.image(f"images/{NFD}.png")
    folder.mask(f"masks/{NFC}.png", folder.ids())
    listed = tmp_path / "list.txt"
    listed.write_text(f"{NFC}\n")
    assert run(folder, tmp_path / "out", ImageSelection(keys=listed))["labelled"] == 1


def test_lists_of_images(folder, tmp_path):
    """A comment starts at a line's start only; a BOM, CRLF and blanks around names do not count."""
    folder.image("images/t0#2.png")
    folder.mask("masks/t0#2.png", folder.ids())
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbft0#2\r\n# t1\r\n  # t2\r\n\r\n t3.jpg \r\n")
    run(folder, tmp_path / "out", ImageSelection(keys=listed))
    assert [sample.key for sample in read_dataset(tmp_path / "out")] == ["t0#2", "t3"]
    listed.write_text("t1 # a note\n")
    with pytest.raises(
        ValueError, match=r"not there: t1 # a note; '#' starts a comment only at a line's start"
    ):
        run(folder, tmp_path / "other", ImageSelection(keys=listed))


@pytest.mark.parametrize("check", ["ends", "decode"])
def test_turned_images_are_stored_upright(folder, tmp_path, check):
    """EXIF orientation is applied, in masks as well; a mask without it is taken as drawn in the displayed view."""
    seen = np.zeros((12, 16, 3), np.uint8)
    seen[:4, :6] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(5):
        file = folder.root / f"images/t{number}.{'png' if number < 3 else 'jpg'}"
        Image.fromarray(np.ascontiguousarray(seen[::-1, ::-1])).save(file, exif=exif)
        folder.mask(f"masks/t{number}.png", seen[..., 0] // 255)
    turned = Image.fromarray(np.ascontiguousarray(seen[::-1, ::-1, 0] // 255))
    turned.save(folder.root / "masks/t4.png", exif=exif)
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"), check=check)
    for sample in read_dataset(tmp_path / "out"):
        assert ((sample.image[..., 0] > 127) == (seen[..., 0] > 127)).all()
        assert (sample.label == seen[..., 0] // 255).all()
    assert any(
        text.startswith("5 images turned by EXIF orientation: stored upright") for text in folder.messages
    )


def test_a_mask_in_the_stored_view_is_refused(folder, tmp_path):
    """A picture turned by a quarter has another size than its mask: the error says that it was turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.image("images/t0.png", exif=exif)
    with pytest.raises(
        ValueError, match=r"12 x 16 .* images/t0.png 16 x 12 \(upright, as its EXIF orientation says\)"
    ):
        run(folder, tmp_path / "out")


def test_no_data_values_that_are_classes_are_told(folder, tmp_path):
    """QGIS writes 0 as no-data value; where 0 is a class, its pixels vanish, and that is said unless ids say so."""
    scene(tmp_path / "a_image.tif")
    write(tmp_path / "a_label.tif", np.resize(np.array([0, 1, 2], np.uint8), (40, 64)), nodata=0)
    cut(folder, tmp_path, labels="{1}_label.tif")
    assert "the no-data value 0 of a_label.tif is class 'field' of " in notes(folder)[0]
    assert "1 of 3 classes has no pixel in the labels: field" in notes(folder)[1]
    folder.messages.clear()
    folder.describe(ids={0: 255, 1: 1, 2: 2})
    cut(folder, tmp_path, labels="{1}_label.tif", out="meant")
    assert not any("no-data value 0 of" in text for text in folder.messages)


def test_float_labels_are_cut(folder, tmp_path):
    """Whole values of a float raster are ids, NaN is no data, -9999 what ids say."""
    scene(tmp_path / "a_image.tif")
    label = np.resize(np.array([0, 1, 2, np.nan, -9999], np.float32), (40, 64))
    write(tmp_path / "a_label.tif", label)
    folder.describe(ids={0: 0, 1: 1, 2: 2, -9999: 255})
    cut(folder, tmp_path, labels="{1}_label.tif")
    index, kept = read_index(tmp_path / "out"), label[:32]
    assert index.histogram == tuple(int((kept == value).sum()) for value in range(3))
    assert index.ignored_pixels == int((np.isnan(kept) | (kept == -9999)).sum())


def test_lossy_labels_are_refused(folder, tmp_path):
    """A label raster compressed as JPEG is refused before anything is written."""
    scene(tmp_path / "a_image.tif")
    write(tmp_path / "a_label.tif", np.zeros((40, 64), np.uint8), compress="jpeg")
    with pytest.raises(ValueError, match="a_label.tif is stored as JPEG in a TIFF, which is lossy"):
        cut(folder, tmp_path, labels="{1}_label.tif")
    assert not (tmp_path / "out").exists()


def test_scenes_and_labels_without_tiles_are_named(folder, tmp_path):
    """Small scenes, scenes of one colour, other spellings and labels without an image are named."""
    for name, height in (("a_image.tif", 40), ("small_image.tif", 20), ("b_image.TIF", 40)):
        scene(tmp_path / name, height)
    write(tmp_path / "flat_image.tif", np.full((40, 64, 3), 7, np.uint8))
    for name, height in (("a", 40), ("small", 20), ("flat", 40), ("c", 40)):
        write(tmp_path / f"labels/{name}.tif", np.resize(np.arange(3, dtype=np.uint8), (height, 64)))
    cut(folder, tmp_path, labels="labels/{1}.tif")
    said = "\n".join(notes(folder))
    assert "1 file is left out, as capitals or the spelling of the ending differ" in said
    assert "b_image.TIF" in said
    assert "1 mask without an image: " in said
    assert "labels/c.tif" in said
    assert "1 scene is smaller than a tile of 32 x 32 pixels: none of small_image.tif (20 x 64)" in said
    assert (
        "1 scene gave no tile, as all are without enough data, of one colour or bad: flat_image.tif" in said
    )


def test_unlabelled_images_need_no_class_file(folder, tmp_path):
    """tile without labels needs no classes; with labels they are asked for."""
    scene(tmp_path / "a_image.tif")
    cut(folder, tmp_path, classes=False)
    index = read_index(tmp_path / "out")
    assert (index.name, index.classes, index.samples, index.labelled) == ("unlabelled", (), 2, 0)
    assert verify(tmp_path / "out") == []
    with pytest.raises(ValueError, match="--labels need a class file"):
        cut(folder, tmp_path, labels="{1}_label.tif", out="other", classes=False)
