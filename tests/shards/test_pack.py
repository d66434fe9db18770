"""Packing a folder: the pixels come back, the bytes repeat, and bad input leaves nothing."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from mkd.data.index import read_index
from shards.pack import pack
from shards.reader import read_dataset
from shards.verify import verify


def run(folder, out, **options):
    """Pack the folder and keep what was said."""
    return pack(folder.root, folder.classfile, out, say=folder.said.append, **options)


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
    assert "already packed" in folder.said[-1]
    folder.mask("masks/t0.png", np.zeros((12, 16)))
    with pytest.raises(ValueError, match="made of other inputs"):
        run(folder, tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == before
    assert verify(tmp_path / "out") == []


def test_a_data_set_is_not_written_among_other_files(folder, tmp_path):
    """A folder with the user's own files is refused; drafts and shards of an interrupted run are replaced."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds other files \(holiday.jpg\)"):
        run(folder, out)
    (out / "holiday.jpg").rename(tmp_path / "holiday.jpg")
    (out / ".tmp-toy-000000.tar").write_bytes(b"half")
    (out / "toy-000007.tar").write_bytes(b"old")
    run(folder, out)
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "toy-000000.tar"]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"split": "train"}, ["t0", "t3"]),
        ({"part": "1:3"}, ["t1", "t2"]),
        ({"part": "-2:"}, ["t3", "t4"]),
        ({"split": "train", "part": "1:"}, ["t3"]),
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
    assert "1 mask without a single labelled pixel: stored as unlabelled" in folder.said


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
    Image.fromarray(np.dstack([pixels] * 3 + [pixels // 2])).save(folder.root / "images/t2.png")
    run(folder, tmp_path / "out")
    samples = list(read_dataset(tmp_path / "out"))
    assert np.array_equal(samples[1].image, np.dstack([pixels] * 3))
    assert np.array_equal(samples[2].image, np.dstack([pixels] * 3))
    assert any("2 images not 8-bit RGB" in line for line in folder.said)


def test_keys_of_nested_folders(folder, tmp_path):
    """Folders below the fixed part of the pattern are part of the key; dots become underscores."""
    folder.image("nested/a/v1.0/x.y.png")
    folder.describe(layout={"images": "nested/**/*.png", "masks": None})
    run(folder, tmp_path / "out")
    (sample,) = read_dataset(tmp_path / "out")
    assert (sample.key, sample.meta["source"]) == ("a__v1_0__x_y", "a/v1.0/x.y")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def sixteen_bits(path):
    """Write a PNG that says 16 bits a channel in its header."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


BROKEN = {
    "missing folder": (lambda f: shutil.rmtree(f.root), "no folder at .*set"),
    "no image": (lambda f: shutil.rmtree(f.root / "images"), "no image in .*set matches 'images"),
    "missing mask": (
        lambda f: (f.root / "masks/t3.png").unlink(),
        "lacks 1 mask: masks/t3.png of images/t3.jpg",
    ),
    "mask of another size": (
        lambda f: f.mask("masks/t3.png", np.zeros((16, 12))),
        "t3.png is 16 x 12 .*image 12 x 16",
    ),
    "truncated JPEG": (lambda f: truncate(f.root / "images/t4.jpg"), r"t4.jpg cannot be decoded .*truncated"),
    "truncated PNG": (lambda f: truncate(f.root / "images/t1.png"), r"t1.png cannot be decoded"),
    "truncated mask": (lambda f: truncate(f.root / "masks/t1.png"), r"masks/t1.png cannot be decoded"),
    "text for a picture": (
        lambda f: (f.root / "images/t1.png").write_text("hello"),
        r"t1.png cannot be decoded: it is no picture, or empty \(5 bytes\)",
    ),
    "double key": (lambda f: f.image("images/t1.jpg"), "t1.jpg and images/t1.png would share the key 't1'"),
    "16 bits": (lambda f: sixteen_bits(f.root / "images/t1.png"), "16 bits a channel"),
    "mask in colours": (lambda f: f.mask("masks/t1.png", np.zeros((12, 16, 3))), "mode RGB, but masks: ids"),
    "unknown class file": (lambda f: f.classfile.unlink(), "no class file at"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing(folder, tmp_path, case):
    """Each kind of bad input names the file; no shard and no index is left."""
    spoil, words = BROKEN[case]
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        run(folder, tmp_path / "out", shard_size=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_unknown_ids_are_listed_over_all_masks(folder, tmp_path):
    """All unknown values of all masks are listed with pixels and files, not just the first."""
    for number, value in ((0, 7), (3, 7), (4, 9)):
        ids = folder.ids(number)
        ids[0, :2] = value
        folder.mask(f"masks/t{number}.png", ids)
    with pytest.raises(ValueError, match="2 values") as caught:
        run(folder, tmp_path / "out", shard_size=1)
    text = str(caught.value)
    assert "7: 4 pixels in masks/t0.png, masks/t3.png" in text
    assert "9: 2 pixels in masks/t4.png" in text
    assert "toy.yaml" in text
    assert not list((tmp_path / "out").iterdir())


def test_unknown_colours_are_listed_with_counts(folder, tmp_path):
    """A colour that is in no list is named with its pixels and file."""
    for number in range(5):
        colours = np.zeros((12, 16, 3), np.uint8)
        colours[...] = folder.content["palette"][0]
        colours[2, 3:6] = (1, 2, 3) if number == 2 else folder.content["palette"][1]
        folder.mask(f"masks/t{number}.png", colours)
    folder.describe(masks="rgb")
    with pytest.raises(ValueError, match=r"1 colour which .*\(1, 2, 3\): 3 pixels in masks/t2.png"):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "val"}, "no split 'val' .* it has train"),
        ({"part": "3"}, "not of the form A:B"),
        ({"part": "9:"}, "slice '9:' of 5 images is empty"),
        ({"keys": "none.txt"}, "no list of images at none.txt"),
        ({"split": "train", "keys": "none.txt"}, "choose one of them"),
        ({"shard_size": 0}, "shard size 0"),
        ({"name": "../up"}, "data set name '../up'"),
    ],
)
def test_parts_that_do_not_exist_are_named(folder, tmp_path, options, words):
    """A wrong split, slice, list, size or name says what is allowed."""
    with pytest.raises(ValueError, match=words):
        run(folder, tmp_path / "out", **options)


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
