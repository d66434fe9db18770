"""Verify finds each kind of damage, and only damage; info shows what the index says."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mkd.data.index import read_index
from shards.encode import encode_png
from shards.info import info
from shards.inputs import file_sha256
from shards.pack import pack
from shards.verify import verify


@pytest.fixture
def data(folder, tmp_path):
    """Give a packed data set of one shard."""
    pack(folder.root, folder.classfile, tmp_path / "data", say=lambda line: None)
    return tmp_path / "data"


def rewrite(data, change, honest=True):
    """Pass the members (name -> bytes) through `change`; `honest`: the digest follows in the index."""
    shard = data / "toy-000000.tar"
    with tarfile.open(shard) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    change(members)
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    index = json.loads((data / "index.json").read_text())
    index["bytes"] = index["shards"][0]["bytes"] = shard.stat().st_size
    if honest:
        index["shards"][0]["sha256"] = file_sha256(shard)
    (data / "index.json").write_text(json.dumps(index))


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
    return lambda members: members.update({name: content})


def swapped_label(members):
    """Give a tile the label of another: each is fine, the histogram is not."""
    members["t0.label.png"] = members["t1.label.png"]


DAMAGE = {
    "changed byte": (lambda members: None, "has SHA-256", False),
    "label of another tile": (swapped_label, "pixels a class are", True),
    "label out of range": (
        replaced("t0.label.png", png(np.full((12, 16), 3))),
        r"label ids \[3\], allowed are 0..2",
        True,
    ),
    "label of another size": (
        replaced("t0.label.png", png(np.zeros((3, 4)))),
        r"label is \[3, 4\], the image \[12, 16\]",
        True,
    ),
    "label in colours": (replaced("t0.label.png", png(np.zeros((12, 16, 3)))), "needs uint8", True),
    "broken image": (replaced("t0.png", b"\x89PNG none"), "t0.png cannot be decoded", True),
    "image of another size": (
        replaced("t0.png", png(np.zeros((5, 5, 3)))),
        r"image is \[5, 5\], its json",
        True,
    ),
    "grey image": (replaced("t4.jpg", jpeg_of_grey()), "of mode L, not RGB", True),
    "broken json": (replaced("t0.json", b"{"), "KEY.json cannot be read", True),
    "missing json": (lambda members: members.pop("t0.json"), "needs one jpg or png, json", True),
    "missing label": (
        lambda members: members.pop("t0.label.png"),
        "json says labelled True, which is not so",
        True,
    ),
    "foreign member": (replaced("t4.txt", b""), r"t4: members .*'txt'", True),
    "missing tile": (
        lambda members: [members.pop(n) for n in list(members) if n[:2] == "t0"],
        "holds 4 readable tiles",
        True,
    ),
}


def test_a_sound_data_set_has_no_problems(data):
    """Verify of what pack wrote is empty."""
    assert verify(data) == []


@pytest.mark.parametrize("case", DAMAGE)
def test_each_kind_of_damage_is_found(data, case):
    """Each damage gives a sentence that names the place."""
    change, words, honest = DAMAGE[case]
    if case == "changed byte":
        shard = data / "toy-000000.tar"
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1  # in the padding: only the digest can see it
        shard.write_bytes(content)
    else:
        rewrite(data, change, honest)
    problems = verify(data)
    assert any(re.search(words, problem) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


def test_a_tile_twice_and_a_foreign_shard_are_found(data):
    """A copied shard that the index lists twice has each key twice; one it does not list is told."""
    shard = data / "toy-000000.tar"
    (data / "toy-000001.tar").write_bytes(shard.read_bytes())
    assert verify(data) == ["toy-000001.tar is not in the index: remove it"]
    index = json.loads((data / "index.json").read_text())
    index["shards"].append({**index["shards"][0], "file": "toy-000001.tar"})
    index = {**index, "samples": 10, "labelled": 10, "bytes": 2 * index["bytes"]}
    (data / "index.json").write_text(json.dumps(index))
    assert sum("occurs a second time" in problem for problem in verify(data)) == 5


def test_info_shows_counts_and_shares(data):
    """The table has tiles, bytes, pixels and shares of the labelled pixels."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(info([data, data]))
    text, index = console.export_text(), read_index(data)
    assert f"{index.bytes:,}" in text
    assert f"{index.ignored_pixels:,}" in text
    share = index.histogram[1] / sum(index.histogram)
    (line,) = (line for line in text.splitlines() if "road" in line)
    assert line.count(f"{index.histogram[1]:,}  {share:7.2%}") == 2
