"""Bad input of a pack: what is told, what is listed, and what may be left out."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.index import read_index
from shards.commands.verify import verify
from tests.helpers.processes.jobs import pack_into


def run(folder, out, **options):
    """Pack the folder."""
    return pack_into(folder.root, folder.classfile, out, **options)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def sixteen_bits(path):
    """Write a PNG that says 16 bits a channel in its header."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


MISSING = {
    "missing folder": (lambda f: shutil.rmtree(f.root), "no folder at .*set"),
    "no image": (lambda f: shutil.rmtree(f.root / "images"), "no image in .*set matches 'images"),
    "missing mask": (
        lambda f: (f.root / "masks/t3.png").unlink(),
        "lacks 1 mask: masks/t3.png of images/t3.jpg",
    ),
    "double key": (lambda f: f.image("images/t1.jpg"), "t1.jpg and images/t1.png would share the key 't1'"),
    "unknown class file": (lambda f: f.classfile.unlink(), "no class file at"),
}


@pytest.mark.parametrize("case", MISSING)
def test_input_that_cannot_be_listed_leaves_nothing(folder, tmp_path, case):
    """Before anything is written, one sentence names what is missing."""
    spoil, words = MISSING[case]
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        run(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


BAD = {
    "mask of another size": (
        lambda f: f.mask("masks/t3.png", np.zeros((16, 12))),
        "masks/t3.png is 16 x 12 .*image images/t3.jpg 12 x 16",
    ),
    "truncated JPEG": (lambda f: truncate(f.root / "images/t4.jpg"), "t4.jpg cannot be decoded .*truncated"),
    "truncated PNG": (lambda f: truncate(f.root / "images/t1.png"), "t1.png cannot be decoded"),
    "truncated mask": (lambda f: truncate(f.root / "masks/t1.png"), "masks/t1.png cannot be decoded"),
    "text for a picture": (
        lambda f: (f.root / "images/t1.png").write_text("hello"),
        r"t1.png cannot be decoded: it is no picture, or empty \(5 bytes\)",
    ),
    "16 bits": (lambda f: sixteen_bits(f.root / "images/t1.png"), "16 bits a channel"),
    "mask in colours": (lambda f: f.mask("masks/t1.png", np.zeros((12, 16, 3))), "mode RGB, but masks: ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tiles_are_listed_and_stop_the_build_over_the_budget(folder, tmp_path, case):
    """One sentence names the file and the list; good shards stay, there is no index; a budget lets it pass."""
    spoil, words = BAD[case]
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        run(folder, tmp_path / "out", shard_size=1)
    text = str(caught.value)
    assert "\n" not in text
    assert "1 of 5 labelled tiles are bad, allowed is a share of 0 (--max-bad-labelled)" in text
    assert str(tmp_path / "out/quarantine.jsonl") in text
    (bad,) = map(json.loads, (tmp_path / "out/quarantine.jsonl").read_text().splitlines())
    assert re.search(words, bad["reason"])
    assert bad["labelled"] is True
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4
    assert not (tmp_path / "out/index.json").exists()
    report = run(folder, tmp_path / "out", shard_size=1, max_bad_labelled=0.2)
    assert report["samples"] == 4
    assert "5 of 5 shards stood already" in folder.messages
    assert read_index(tmp_path / "out").provenance["quarantined"] == {"labelled": 1, "unlabelled": 0}
    assert any("1 bad tile left out, within what is allowed" in line for line in folder.messages)
    assert verify(tmp_path / "out") == []


def test_a_bad_tile_mended_costs_one_shard(folder, tmp_path):
    """After the file is mended, only its shard is made again, and the list of bad tiles is gone."""
    good = (folder.root / "images/t4.jpg").read_bytes()
    truncate(folder.root / "images/t4.jpg")
    with pytest.raises(ValueError, match="t4.jpg cannot be decoded"):
        run(folder, tmp_path / "out", shard_size=2)
    (folder.root / "images/t4.jpg").write_bytes(good)
    assert run(folder, tmp_path / "out", shard_size=2)["samples"] == 5
    assert "2 of 3 shards stood already" in folder.messages
    assert not (tmp_path / "out/quarantine.jsonl").exists()


def test_what_the_ends_do_not_show_is_found_by_decoding(folder, tmp_path):
    """A PNG damaged in its middle passes the check of ends and not that of decoding; other data sets both."""
    path = folder.root / "images/t1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert run(folder, tmp_path / "ends")["samples"] == 5
    with pytest.raises(ValueError, match=r"t1.png cannot be decoded"):
        run(folder, tmp_path / "decode", check="decode")
    with pytest.raises(ValueError, match="made of other inputs"):
        run(folder, tmp_path / "ends", check="decode")


def test_unlabelled_tiles_have_a_budget_of_their_own(folder, tmp_path):
    """One of five is more than the default 0.1 %."""
    folder.describe(layout={"images": "images/*.*", "masks": None})
    truncate(folder.root / "images/t4.jpg")
    with pytest.raises(ValueError, match=r"1 of 5 unlabelled tiles are bad, .* share of 0.001 \(--max-bad\)"):
        run(folder, tmp_path / "out")
    assert run(folder, tmp_path / "out", max_bad=0.2)["samples"] == 4


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
    assert "3 of 5 labelled tiles are bad" in text
    assert not (tmp_path / "out/index.json").exists()


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
        ({"image_slice": "3"}, "not of the form A:B"),
        ({"image_slice": "9:"}, "slice '9:' of 5 images is empty"),
        ({"keys": "none.txt"}, "no list of images at none.txt"),
        ({"split": "train", "keys": "none.txt"}, "choose one of them"),
        ({"shard_size": 0}, "shard size 0"),
        ({"name": "../up"}, "data set name '../up'"),
        ({"check": "none"}, "--check 'none': allowed are ends and decode"),
        ({"workers": 0}, "--workers 0"),
        ({"part": "3/2"}, "--part 3/2: give I/N with I from 1 to N"),
        ({"max_bad": 2}, "--max-bad 2: give a share"),
    ],
)
def test_parts_that_do_not_exist_are_named(folder, tmp_path, options, words):
    """A wrong split, slice, list, size or name says what is allowed."""
    with pytest.raises(ValueError, match=words):
        run(folder, tmp_path / "out", **options)


def test_a_file_that_the_system_cannot_read_is_listed(folder, tmp_path):
    """A bad block of the disk is one bad tile, named; the same command reads it again when the disk is well."""
    picture = (folder.root / "images/t3.jpg").read_bytes()
    (folder.root / "images/t3.jpg").unlink()
    (folder.root / "images/t3.jpg").symlink_to("/proc/self/mem")
    with pytest.raises(
        ValueError, match=r"1 of 5 labelled .*images/t3.jpg: cannot be read \(Input/output error\)"
    ):
        run(folder, tmp_path / "out")
    kept = run(folder, tmp_path / "few", max_bad_labelled=0.2)
    assert kept["samples"] == 4
    told = (tmp_path / "out/toy-000000.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match="cannot be read"):
        run(folder, tmp_path / "out")
    assert (tmp_path / "out/toy-000000.json").stat().st_mtime_ns != told, "it tried again"
    (folder.root / "images/t3.jpg").unlink()
    (folder.root / "images/t3.jpg").write_bytes(picture)
    assert run(folder, tmp_path / "out")["samples"] == 5
    assert verify(tmp_path / "out") == []


def test_a_picture_is_no_list_of_images(folder, tmp_path):
    """The sentence says what a list is."""
    with pytest.raises(
        ValueError, match=r"t3.jpg is no list of images: byte 0 is not UTF-8 text; give a text"
    ):
        run(folder, tmp_path / "out", keys=folder.root / "images/t3.jpg")
