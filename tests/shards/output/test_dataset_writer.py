"""The writer: records that are right, an index last, nothing left on failure, errors that name the place."""

import hashlib
import subprocess
import sys
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest

from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record
from mkd.storage.folder import Folder
from shards.inputs.encode import encode_png, encode_tile, tile_key
from shards.output.dataset_writer import DatasetWriter
from shards.output.tar_format import header
from shards.reading.shard_reader import read_groups, read_metas
from tests.helpers.shards import read_dataset

CLASSES, PALETTE = ("a", "b"), ((0, 0, 0), (1, 1, 1))


def tile(key, label=True):
    """Make a 4 x 6 tile."""
    ids = np.array([[0, 1, 1, 255, 0, 0]] * 4, np.uint8)
    meta = {"source": key, "window": None, "size": [4, 6], "crs": None, "transform": None}
    return encode_tile(key, encode_png(np.zeros((4, 6, 3), np.uint8)), "png", ids if label else None, meta)


def writer(folder, **options):
    """Open a writer of shards of two tiles."""
    return DatasetWriter(folder, "toy", CLASSES, PALETTE, **{"shard_size": 2, **options})


def names(folder):
    """List a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_there_is_no_index_before_finish(tmp_path):
    """A shard and its record appear when it is full; counts are sums over the tiles."""
    with writer(tmp_path) as out:
        for number in range(3):
            out.add(tile(f"t{number}", label=number < 2))
        assert [name for name in names(tmp_path) if name[0] != "."] == ["toy-000000.json", "toy-000000.tar"]
        shards = out.commit()
        index = out.finish({"command": "test"})
    assert names(tmp_path) == [
        "index.json",
        *(f"toy-00000{n}.{end}" for n in (0, 1) for end in ("json", "tar")),
    ]
    assert read_index(tmp_path) == index
    assert index.shards == shards
    assert (index.samples, index.labelled, index.histogram, index.ignored_pixels) == (3, 2, (24, 16), 8)
    assert [(shard.samples, shard.labelled) for shard in shards] == [(2, 2), (1, 0)]
    assert (index.largest, index.bands, index.dtype) == ((4, 6), 3, "uint8")


def test_records_say_where_the_members_lie(tmp_path):
    """Offsets, sizes and checksums are those that tarfile and zlib find; hash and size are the file's."""
    with writer(tmp_path, shard_size=3) as out:
        for number in range(3):
            out.add(tile(f"{'long' * 30}{number}" if number == 1 else f"t{number}", label=number < 2))
        (info,) = out.finish({}).shards
    record = read_record(Folder(tmp_path), info.file)
    content = (tmp_path / info.file).read_bytes()
    assert record.info == info
    assert (info.bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with tarfile.open(tmp_path / info.file) as tar:
        found = {m.name: (m.offset_data, m.size, zlib.crc32(tar.extractfile(m).read())) for m in tar}
    said = {f"{t.key}.{name}": tuple(member) for t in record.tiles for name, member in t.members.items()}
    assert said == found
    assert {entry.size for entry in record.tiles} == {(4, 6)}
    assert (record.histogram, record.ignored_pixels) == ((24, 16), 8)


@pytest.mark.parametrize("name", ["a.jpg", "x" * 99, "x" * 100, "x" * 101, "Straße.png", "a/b.json"])
@pytest.mark.parametrize("size", [0, 511, 512, 100_000, 8**11 - 1, 8**11])
def test_headers_are_those_of_tarfile(name, size):
    """The quick way to a header gives the bytes of the slow one."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    assert header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def add_twice(folder, committed):
    """Write three tiles, maybe commit, then one whose key is there already."""
    with writer(folder) as out:
        for number in range(3):
            out.add(tile(f"t{number}"))
        if committed:
            out.commit()
        out.add(tile("t0"))


@pytest.mark.parametrize("committed", [False, True])
def test_an_error_removes_all_shards(tmp_path, committed):
    """A key that is there already is refused, before or after commit; the folder is empty again."""
    with pytest.raises(ValueError, match="key t0 occurs twice"):
        add_twice(tmp_path, committed)
    assert not list(tmp_path.iterdir())


def test_images_of_another_kind_are_refused(tmp_path):
    """One data set holds images of one number of bands and one type."""
    with writer(tmp_path) as out:
        out.add(tile("t0"))
        with pytest.raises(ValueError, match="tile t1 has 4 bands of uint16"):
            out.add(replace(tile("t1"), bands=4, dtype="uint16"))
        out.add(tile("t2"))
        out.add(replace(tile("t3"), bands=1))
        with pytest.raises(ValueError, match=r"toy-000001.tar has images of 1 bands .* toy-000000.tar of 3"):
            out.add(replace(tile("t4"), bands=1))


FULL = """
import sys
from shards.inputs.encode import encode_tile
from shards.output.tar_format import header
from shards.output.dataset_writer import DatasetWriter
try:
    with DatasetWriter(sys.argv[1], "toy", ("a", "b"), ((0, 0, 0), (1, 1, 1)), 40) as out:
        for number in range(100):
            image = number.to_bytes(2, "big") * 50_000
            out.add(encode_tile(str(number), image, "png", None, {"size": [1, 1]}))
        out.finish({})
except OSError as error:
    print(error)
"""


def test_a_full_disk_names_the_file_and_leaves_nothing(small_disk):
    """The error has the path, which the system does not tell, and nothing is left."""
    command = [sys.executable, "-c", FULL, str(small_disk / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    shard = small_disk / "out/toy-000001.tar"
    assert done.stdout == f"{shard}: cannot be written (No space left on device); fix that and start again\n"
    assert not list((small_disk / "out").iterdir())


def test_long_and_foreign_keys_survive(tmp_path):
    """Keys above the 100 characters of old tars, and not of ASCII, come back."""
    keys = ["x" * 150, "Straße_一", tile_key("a.b/c d")]
    with writer(tmp_path) as out:
        for key in keys:
            out.add(tile(key))
        out.finish({})
    assert [sample.key for sample in read_dataset(tmp_path)] == keys
    assert keys[2] == "a_b__c d"


def test_metas_are_read_without_images(tmp_path):
    """Metas come with whether there is a label, in order, and images stay unread."""
    with writer(tmp_path) as out:
        for number in range(3):
            out.add(tile(f"t{number}", label=number == 1))
        out.finish({})
    place, shards = Folder(tmp_path), read_index(tmp_path).shards
    assert [(key, meta["source"], label) for key, meta, label in read_metas(place, shards)] == [
        ("t0", "t0", False),
        ("t1", "t1", True),
        ("t2", "t2", False),
    ]
    assert all(group["png"] == b"" for _, group in read_groups(place, shards[0], wanted="json"))


def test_a_shard_cut_short_or_gone_is_told(tmp_path):
    """A truncated tar is an error with its path, not a shorter data set; nor is one that is not there."""
    with writer(tmp_path) as out:
        out.add(tile("t"))
        (info,) = out.finish({}).shards
    shard = tmp_path / info.file
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"toy-000000.tar, t: its 'label.png' is cut short, 0 bytes of"):
        list(read_groups(Folder(tmp_path), info))
    shard.unlink()
    with pytest.raises(ValueError, match=r"toy-000000.tar cannot be read \(No such file"):
        list(read_groups(Folder(tmp_path), info))


def test_members_come_from_where_the_record_says(tmp_path):
    """A header that a bad disk wiped out ends no shard early; a changed byte and a foreign record are told."""
    with writer(tmp_path, shard_size=4) as out:
        for number in range(4):
            out.add(tile(f"t{number}"))
        (info,) = out.finish({}).shards
    folder, record = Folder(tmp_path), read_record(Folder(tmp_path), info.file)
    whole, content = list(read_groups(folder, info)), bytearray(folder.read(info.file))
    place = record.tiles[2].members["png"].offset
    content[place - 512 : place] = bytes(512)
    folder.write(info.file, bytes(content))
    assert list(read_groups(folder, info)) == whole
    content[place] ^= 1
    folder.write(info.file, bytes(content))
    with pytest.raises(
        ValueError, match=r"toy-000000.tar, t2: its 'png' has changed, CRC-32 .* run 'python -m shards verify"
    ):
        list(read_groups(folder, info))
    with pytest.raises(ValueError, match="has a record of another build"):
        list(read_groups(folder, replace(info, sha256="0" * 64)))
