"""Packing a folder: the pixels come back, the bytes repeat, and bad input is told."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.index import read_index
from mkd.geo.raster import encode_tiff
from shards.commands.verify import verify
from tests.helpers.processes.jobs import pack_into
from tests.helpers.shards import read_dataset


def run(folder, out, **options):
    """Pack the folder."""
    return pack_into(folder.root, folder.classfile, out, **options)


def shard_bytes(out):
    """Read all shards."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def test_tiles_come_back_pixel_by_pixel(folder, tmp_path):
    """Keys are the stems in order; images and ids equal the files'; the histogram counts each pixel once."""
    report = run(folder, tmp_path / "out", shard_size=2)
    assert (report["samples"], report["labelled"], report["done_before"]) == (5, 5, False)
    samples = list(read_dataset(tmp_path / "out"))
    assert [sample.key for sample in samples] == ["t0", "t1", "t2", "t3", "t4"]
    labels = [folder.ids(number) for number in range(5)]
    for sample, label, suffix in zip(samples, labels, ["png"] * 3 + ["jpg"] * 2, strict=True):
        path = folder.root / f"images/{sample.key}.{suffix}"
        assert np.array_equal(sample.image, np.asarray(Image.open(path)))
        assert np.array_equal(sample.label, label)
        assert sample.meta == {
            "source": sample.key,
            "window": None,
            "size": [12, 16],
            "crs": None,
            "transform": None,
            "labelled": True,
        }
    index = read_index(tmp_path / "out")
    assert index.histogram == tuple(sum(int((label == c).sum()) for label in labels) for c in range(3))
    assert index.ignored_pixels == sum(int((label == 255).sum()) for label in labels)
    assert [shard.samples for shard in index.shards] == [2, 2, 1]
    assert verify(tmp_path / "out") == []


def test_images_are_kept_byte_for_byte_in_plain_tars(folder, tmp_path):
    """Members stand in the order image, label, json, with fixed metadata; the images are the files' bytes."""
    run(folder, tmp_path / "out")
    with tarfile.open(tmp_path / "out/toy-000000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[-3:]] == ["t4.jpg", "t4.label.png", "t4.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
            (0, 0, 0, "", "", 0o644)
        }
        for name in ("t0.png", "t4.jpg"):
            assert tar.extractfile(name).read() == (folder.root / "images" / name).read_bytes()
        assert json.load(tar.extractfile("t4.json"))["labelled"] is True


def test_same_input_same_bytes(folder, tmp_path):
    """Packing a copy of the folder elsewhere gives the same shards and the same index digest."""
    run(folder, tmp_path / "a")
    shutil.copytree(folder.root, tmp_path / "elsewhere" / "set")
    folder.root = tmp_path / "elsewhere" / "set"
    run(folder, tmp_path / "b")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    assert read_index(tmp_path / "a").sha256() == read_index(tmp_path / "b").sha256()


def test_packing_again_does_nothing_unless_the_input_changed(folder, tmp_path):
    """The same inputs are known again; other inputs are refused, and the data set stays as it was."""
    run(folder, tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    assert run(folder, tmp_path / "out")["done_before"] is True
    assert "already packed" in folder.messages[-1]
    folder.mask("masks/t0.png", np.zeros((12, 16)))
    with pytest.raises(ValueError, match="made of other inputs"):
        run(folder, tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == before
    assert verify(tmp_path / "out") == []


def test_inputs_written_anew_are_compared(folder, tmp_path):
    """Files with other times but the same bytes make the same data set; other bytes of the same size do not."""
    run(folder, tmp_path / "out", shard_size=2)
    before = shard_bytes(tmp_path / "out")
    for path in (folder.root / "images").iterdir():
        os.utime(path, ns=(1, 1))
    assert run(folder, tmp_path / "out", shard_size=2)["done_before"] is True
    image = folder.root / "images/t3.jpg"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    with pytest.raises(ValueError, match=r"made of other inputs, or .* \(toy-000001.tar would differ\)"):
        run(folder, tmp_path / "out", shard_size=2)
    assert shard_bytes(tmp_path / "out") == before


def test_a_data_set_is_not_written_among_other_files(folder, tmp_path):
    """A folder with the user's own files is refused; drafts and shards of an interrupted run are replaced."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds other files \(holiday.jpg\)"):
        run(folder, out)
    (out / "holiday.jpg").rename(tmp_path / "holiday.jpg")
    run(folder, out, part="1/1")
    (out / ".tmp-toy-000000.tar").write_bytes(b"half")
    (out / "toy-000007.tar").write_bytes(b"old")
    run(folder, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "build.json",
        "index.json",
        "toy-000000.json",
        "toy-000000.tar",
    ]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"split": "train"}, ["t0", "t3"]),
        ({"image_slice": "1:3"}, ["t1", "t2"]),
        ({"image_slice": "-2:"}, ["t3", "t4"]),
        ({"split": "train", "image_slice": "1:"}, ["t3"]),
    ],
)
def test_parts_of_a_folder(folder, tmp_path, options, keys):
    """A split, a slice, or a slice of a split: always in file-name order."""
    run(folder, tmp_path / "out", **options)
    assert [sample.key for sample in read_dataset(tmp_path / "out")] == keys


def test_a_list_of_keys_and_a_split_by_pattern(folder, tmp_path):
    """A list may hold names, stems or paths; a split may be a pattern."""
    (tmp_path / "keys.txt").write_text("images/t2.png\nt4\nt1.png\n")
    run(folder, tmp_path / "a", keys=tmp_path / "keys.txt")
    assert [sample.key for sample in read_dataset(tmp_path / "a")] == ["t1", "t2", "t4"]
    folder.describe(splits={"jpeg": "images/*.jpg"})
    run(folder, tmp_path / "b", split="jpeg")
    assert [sample.key for sample in read_dataset(tmp_path / "b")] == ["t3", "t4"]


def test_unlabelled_sets_need_no_masks(folder, tmp_path):
    """With masks: null the tiles have no label, and nothing is counted."""
    folder.describe(layout={"images": "images/*.*", "masks": None})
    shutil.rmtree(folder.root / "masks")
    report = run(folder, tmp_path / "out")
    assert report["labelled"] == 0
    assert all(sample.label is None for sample in read_dataset(tmp_path / "out"))
    assert read_index(tmp_path / "out").histogram == (0, 0, 0)


def test_a_mask_without_a_labelled_pixel_is_said(folder, tmp_path):
    """A mask of 255 alone teaches nothing: the tile counts as unlabelled, and the report says so."""
    folder.mask("masks/t1.png", np.full((12, 16), 255))
    assert run(folder, tmp_path / "out")["labelled"] == 4
    assert "1 mask without a single labelled pixel: stored as unlabelled" in folder.messages


def test_masks_as_palette_and_as_colours(folder, tmp_path):
    """The same ids come out of grey values, palette indices and colours."""
    expected = [folder.ids(number) for number in range(5)]
    colours = np.zeros((256, 3), np.uint8)
    colours[:3], colours[255] = folder.content["palette"], (9, 9, 9)
    for number, ids in enumerate(expected):
        indexed = Image.fromarray(ids, mode="P")
        indexed.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        folder.mask(f"indexed/t{number}.png", indexed)
        folder.mask(f"coloured/t{number}.png", colours[ids])
    for kind, place, extra in (
        ("palette", "indexed", {}),
        ("rgb", "coloured", {"ignore_colours": [[9, 9, 9]]}),
    ):
        folder.describe(masks=kind, layout={"images": "images/*.*", "masks": place + "/{stem}.png"}, **extra)
        run(folder, tmp_path / kind)
        for sample, ids in zip(read_dataset(tmp_path / kind), expected, strict=True):
            assert np.array_equal(sample.label, ids)


def test_ids_are_mapped_to_classes(folder, tmp_path):
    """Raw values, 16-bit ones too, become classes or 255 as the class file says."""
    raw = np.array([[100, 200, 300, 0]] * 2, np.uint16)
    folder.image("images/only.png", size=(2, 4))
    Image.fromarray(raw).save(folder.root / "masks/only.png")
    (tmp_path / "keys.txt").write_text("only")
    folder.describe(ids={100: 2, 200: 0, 300: 1, 0: 255})
    run(folder, tmp_path / "out", keys=tmp_path / "keys.txt")
    (sample,) = read_dataset(tmp_path / "out")
    assert sample.label.tolist() == [[2, 0, 1, 255]] * 2


def test_other_pictures_become_png(folder, tmp_path):
    """Grey, palette and RGBA pictures go in as RGB PNG, and how many is said."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    Image.fromarray(pixels).save(folder.root / "images/t1.png")
    Image.fromarray(np.dstack([pixels] * 3 + [pixels // 2 + 1])).save(folder.root / "images/t2.png")
    run(folder, tmp_path / "out")
    samples = list(read_dataset(tmp_path / "out"))
    assert np.array_equal(samples[1].image, np.dstack([pixels] * 3))
    assert np.array_equal(samples[2].image, np.dstack([pixels] * 3))
    assert any("2 images not 8-bit RGB" in line for line in folder.messages)


def test_keys_of_nested_folders(folder, tmp_path):
    """Folders below the fixed part of the pattern are part of the key; dots become underscores."""
    folder.image("nested/a/v1.0/x.y.png")
    folder.describe(layout={"images": "nested/**/*.png", "masks": None})
    run(folder, tmp_path / "out")
    (sample,) = read_dataset(tmp_path / "out")
    assert (sample.key, sample.meta["source"]) == ("a__v1_0__x_y", "a/v1.0/x.y")


def test_names_in_a_list_must_exist_once(folder, tmp_path):
    """A list with a name that is not there, or that means two images, is refused with that name."""
    (folder.root / "splits/train.txt").write_text("t0\nt9\n")
    with pytest.raises(ValueError, match="names 1 image not there: t9"):
        run(folder, tmp_path / "out", split="train")
    folder.image("images/a/x.png")
    folder.image("images/b/x.png")
    folder.describe(layout={"images": "images/*/*.png", "masks": None})
    (folder.root / "splits/train.txt").write_text("x\n")
    with pytest.raises(ValueError, match=r"'x' names several images \(images/a/x.png, images/b/x.png\)"):
        run(folder, tmp_path / "out", split="train")


def test_tiffs_of_more_bands_and_bits_are_packed_whole(folder, tmp_path):
    """Bands and bits come back from the shards; the index says them, and so does the report."""
    pixels = np.random.default_rng(0).integers(0, 60_000, (5, 12, 16, 4)).astype(np.uint16)
    for number in range(5):
        (folder.root / f"images/t{number}.tif").write_bytes(encode_tiff(pixels[number]))
    folder.describe(layout={"images": "images/*.tif", "masks": "masks/{stem}.png"})
    run(folder, tmp_path / "out")
    index = read_index(tmp_path / "out")
    assert (index.bands, index.dtype, index.labelled) == (4, "uint16", 5)
    assert "5 TIFFs of 16 bits or more than 3 bands: all bands stored in new TIFFs" in folder.messages
    for sample, wanted in zip(read_dataset(tmp_path / "out"), pixels, strict=True):
        assert np.array_equal(sample.image, wanted)
    assert verify(tmp_path / "out") == []


def test_an_alpha_band_that_is_left_out_is_said(folder, tmp_path):
    """A PNG with alpha becomes one of three bands, aloud."""
    Image.new("RGBA", (16, 12), (1, 2, 3, 4)).save(folder.root / "images/t0.png")
    run(folder, tmp_path / "out")
    assert any(line.startswith("1 image with an alpha band, which was left out") for line in folder.messages)
