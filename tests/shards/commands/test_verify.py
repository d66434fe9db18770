"""Verify finds each kind of damage, and only damage, on disk and on S3, with any number of workers."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.shard_record import read_record
from mkd.storage.folder import Folder
from shards.commands.verify import verify
from shards.inputs.encode import encode_png
from tests.helpers.processes.jobs import pack_into
from tests.helpers.shards import overwrite, pictures, rewrite, write_dataset


@pytest.fixture
def data(folder, tmp_path):
    """Give a packed data set of one shard: t0, t1, t2 are PNG, t3 and t4 JPEG."""
    pack_into(folder.root, folder.classfile, tmp_path / "data")
    return tmp_path / "data"


def png(values):
    """Encode values as PNG."""
    return encode_png(np.asarray(values, np.uint8))


def jpeg_of_grey():
    """Encode a grey JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def replaced(name, content):
    """Change one member."""
    return lambda member, data: (member, content) if member == name else (member, data)


def without(start):
    """Drop the members that begin so."""
    return lambda member, data: None if member.startswith(start) else (member, data)


def renamed(name, new):
    """Rename one member."""
    return lambda member, data: (new, data) if member == name else (member, data)


DAMAGE = {
    "label of other pixels": (
        replaced("t0.label.png", png(np.ones((12, 16)))),
        "its record counts other label pixels",
    ),
    "label out of range": (
        replaced("t0.label.png", png(np.full((12, 16), 3))),
        r"label ids \[3\], allowed are 0..2",
    ),
    "label of another size": (
        replaced("t0.label.png", png(np.zeros((3, 4)))),
        r"label is \[3, 4\], the image \[12, 16\]",
    ),
    "label in colours": (replaced("t0.label.png", png(np.zeros((12, 16, 3)))), "needs uint8"),
    "broken image": (replaced("t0.png", b"\x89PNG none"), "t0.png cannot be decoded"),
    "truncated JPEG": (
        lambda name, data: (name, data[:-40] if name == "t4.jpg" else data),
        "t4.jpg cannot be",
    ),
    "image of another size": (
        replaced("t0.png", png(np.zeros((5, 5, 3)))),
        r"the image is 5 x 5, its shard's record says 12 x 16",
    ),
    "grey JPEG": (replaced("t4.jpg", jpeg_of_grey()), "t4.jpg .* grey, not RGB"),
    "grey PNG": (replaced("t0.png", png(np.zeros((12, 16)))), "of mode L, not RGB"),
    "TIFF under another name": (renamed("t4.jpg", "t4.tif"), "t4.tif cannot be decoded"),
    "broken json": (replaced("t0.json", b"{"), "KEY.json cannot be read"),
    "json without an object": (replaced("t0.json", b"[1]"), r"KEY\.json is \[1\], a mapping is needed"),
    "missing json": (without("t0.json"), "needs one of jpg, png and tif, json"),
    "missing label": (without("t0.label.png"), "json says labelled True, which is not so"),
    "foreign member": (renamed("t4.json", "t4.txt"), r"t4: members .*'txt'"),
    "missing tile": (without("t0"), "holds 4 tiles .* the index says 5"),
}


def test_a_sound_data_set_has_no_problems(data):
    """Verify of what pack wrote is empty."""
    assert verify(data) == []


@pytest.mark.parametrize("case", DAMAGE)
def test_each_kind_of_damage_is_found(data, case):
    """Each damage gives a sentence that names the place, though index and record follow the shard."""
    change, words = DAMAGE[case]
    rewrite(data, change)
    problems = verify(data)
    assert any(re.search(words, problem) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(("member", "place"), [("png", 60), (None, -1), (None, 0)])
def test_a_changed_byte_is_found(data, member, place):
    """A byte in an image, in the padding at the end, in a tar header: the digest sees each of them."""
    tile = read_record(Folder(data), "toy-000000.tar").tiles[0]
    shard = data / "toy-000000.tar"
    content = shard.read_bytes()
    offset = tile.members[member].offset + place if member else place % len(content)
    overwrite(data, offset, bytes([content[offset] ^ 1]))
    problems = verify(data)
    assert any("toy-000000.tar has SHA-256" in problem for problem in problems)
    assert any("t0: its offset index says" in problem for problem in problems) == (member is not None)


def test_a_damaged_tar_ends_there(data):
    """Where the tar itself breaks off, what came before is checked, and what is missing is counted."""
    tile = read_record(Folder(data), "toy-000000.tar").tiles[2]
    overwrite(data, tile.members["png"].offset - 512, bytes(range(256)) * 2)
    problems = verify(data)
    assert any("toy-000000.tar has SHA-256" in problem for problem in problems)
    assert any("holds 2 tiles (2 labelled), the index says 5 (5)" in problem for problem in problems)


def test_records_and_index_must_agree_with_the_shard(data):
    """A record that is missing, of another shard, or with other places; an index with other sums."""
    record, index = data / "toy-000000.json", data / "index.json"
    good, good_index = record.read_text(), json.loads(index.read_text())
    content = json.loads(good)
    record.write_text(json.dumps({**content, "sha256": "0" * 64}))
    assert verify(data) == ["the record of toy-000000.tar says other things than the index: build it again"]
    content["tiles"][1][3]["png"][0] += 512
    record.write_text(json.dumps(content))
    (problem,) = verify(data)
    assert "t1: its offset index says tile t1, or other places" in problem
    record.unlink()
    (problem,) = verify(data)
    assert "toy-000000.json is missing, the offset index" in problem
    record.write_text(good)
    counts = good_index["histogram"]
    wrong = {"histogram": counts[::-1], "ignored_pixels": 1, "largest": [12, 17]}
    for key, value in wrong.items():
        index.write_text(json.dumps({**good_index, key: value}))
        (problem,) = verify(data)
        assert "the index says" in problem
        assert str(value).strip("[]") in problem


def test_a_tile_twice_and_a_foreign_shard_are_found(data):
    """A copied shard that the index lists twice has each key twice; one it does not list is told."""
    shard, record = data / "toy-000000.tar", json.loads((data / "toy-000000.json").read_text())
    (data / "toy-000001.tar").write_bytes(shard.read_bytes())
    (data / "toy-000001.json").write_text(json.dumps({**record, "file": "toy-000001.tar"}))
    assert verify(data) == ["toy-000001.tar is not in the index: remove it"]
    index = json.loads((data / "index.json").read_text())
    index["shards"].append({**index["shards"][0], "file": "toy-000001.tar"})
    index = {**index, "samples": 10, "labelled": 10, "bytes": 2 * index["bytes"]}
    (data / "index.json").write_text(json.dumps(index))
    assert verify(data) == ["toy-000001.tar: keys t0, t1, t2, t3, t4 occur a second time"]


def test_verify_on_s3_with_two_workers(s3, tmp_path):
    """Shards on S3 are checked by two processes; the problems come in the order of the shards."""
    pairs = pictures(12)
    write_dataset(s3, pairs, shard_size=3)
    assert verify(s3) == []
    place = Folder(s3)
    for number in (3, 1):
        name = f"tiny-{number:06d}.tar"
        shard = bytearray(place.read(name))
        shard[-1] ^= 1
        place.write(name, bytes(shard))
    problems = verify(s3, workers=2)
    assert [problem.split()[0] for problem in problems] == ["tiny-000001.tar", "tiny-000003.tar"]


def test_a_missing_and_a_short_shard_do_not_hide_the_others(tmp_path):
    """Each is told, and what lies in the rest is checked all the same."""
    write_dataset(tmp_path, pictures(12), shard_size=3)
    (tmp_path / "tiny-000000.tar").unlink()
    short = (tmp_path / "tiny-000001.tar").read_bytes()
    (tmp_path / "tiny-000001.tar").write_bytes(short[:2000])
    (tmp_path / "tiny-000002.tar").unlink()
    (tmp_path / "tiny-000002.tar").mkdir()
    overwrite(tmp_path, 600, b"?", shard=3)
    problems = verify(tmp_path)
    assert "shard tiny-000000.tar is missing: copy it here again" in problems[0]
    assert f"shard tiny-000001.tar has 2000 bytes, the index says {len(short)}" in problems[1]
    assert any("tiny-000001.tar cannot be read" in problem for problem in problems)
    assert any("tiny-000002.tar is missing" in problem for problem in problems)
    assert any("tiny-000003.tar has SHA-256" in problem for problem in problems)


def test_a_shard_that_the_disk_does_not_give_is_told(tmp_path, monkeypatch):
    """An error of the system is a problem of one shard."""
    write_dataset(tmp_path, pictures(6), shard_size=3)
    shard = tmp_path / "tiny-000000.tar"
    shard.rename(tmp_path / "aside")
    shard.symlink_to("/proc/self/mem")
    problems = verify(tmp_path)
    assert any("tiny-000000.tar cannot be read (Input/output error)" in problem for problem in problems)
    assert not any("tiny-000001" in problem for problem in problems)


def test_a_tile_of_another_size_is_named(tmp_path):
    """Training would stop at its batch: shard, key and both sizes; pictures of any size are no problem."""
    data = write_dataset(tmp_path / "a", pictures(6, [(8, 8)] * 4 + [(8, 9), (8, 8)]), shard_size=3)
    (problem,) = verify(data)
    assert problem.startswith(
        "tiny-000001.tar, tile0004: 1 tile of 8 x 9 pixels, 5 of the set's 6 tiles are 8 x 8"
    )
    assert verify(write_dataset(tmp_path / "b", pictures(4, [(8, 8), (8, 9), (9, 8), (9, 9)]))) == []
