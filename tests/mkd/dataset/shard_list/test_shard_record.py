"""Records of shards: what is written is read, and what cannot be trusted is refused."""

import json

import pytest

from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_record import Member, ShardRecord, TileRecord, read_record, record_name, write_record
from mkd.storage.folder import Folder

FILE = "toy-000007.tar"
RECORD = ShardRecord(
    info=ShardInfo(FILE, 2, 1, 4096, "ab" * 32),
    tiles=(
        TileRecord(
            "a",
            (8, 9),
            {"jpg": Member(512, 100, 2**32 - 1), "label.png": Member(1536, 7, 0), "json": Member(2560, 2, 5)},
        ),
        TileRecord("Straße", (8, 8), {"tif": Member(3584, 4, 1)}),
    ),
    histogram=(3, 0, 4),
    ignored_pixels=5,
    bands=4,
    dtype="uint16",
    unit="f00d",
    quarantine=({"source": "x.jpg", "reason": "cut short", "labelled": True},),
    left_out={"blank": 3},
)


@pytest.mark.parametrize("place", ["{}", "memory://{}"])
def test_a_record_survives_its_file(tmp_path, place):
    """Reading gives back all fields, of the same types; the file stands beside the shard under its number."""
    folder = Folder(place.format(tmp_path))
    write_record(folder, RECORD)
    assert list(folder.sizes()) == [record_name(FILE)] == ["toy-000007.json"]
    found = read_record(folder, FILE)
    assert found == RECORD
    assert [type(part) for part in (found.tiles[0], found.tiles[0].members["jpg"])] == [TileRecord, Member]


def test_a_shard_without_tiles_has_a_record(tmp_path):
    """A unit of work whose tiles are all blank is remembered."""
    empty = ShardRecord(ShardInfo(FILE, 0, 0, 0, ""), (), left_out={"blank": 9})
    write_record(Folder(tmp_path), empty)
    assert read_record(Folder(tmp_path), FILE) == empty


def test_a_missing_record_is_named(tmp_path):
    """The sentence names the file that is missing, and the shard that needs it."""
    with pytest.raises(ValueError, match=r"toy-000007\.json is missing, the offset index of toy-000007\.tar"):
        read_record(Folder(tmp_path), FILE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "has format None version None"),
        ({"format": "mkd-dataset"}, "has format 'mkd-dataset' version 1"),
        ({"version": 9}, "version 9"),
        ({"tiles": []}, "damaged .*0 tiles, but 'samples' is 2"),
        ({"tiles": [["a", 8, 9], ["b", 8, 8]]}, "damaged"),
        ({"tiles": [["a", 8, 9, {"jpg": [1, 2]}], ["b", 8, 8, {}]]}, "damaged"),
        ({"sha256": None, "samples": "many"}, "damaged"),
        ({"bands": None}, "damaged"),
        ({"tiles": 5}, "damaged"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_refused(tmp_path, content, words):
    """Each is one sentence with the file's name and what to do."""
    if isinstance(content, dict):
        content = json.dumps({**RECORD.to_json(), **content}).encode()
    (tmp_path / "toy-000007.json").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_record(Folder(tmp_path), FILE)
    assert "toy-000007.json" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_missing_field_is_named(tmp_path):
    """Without 'unit' there is no guess."""
    content = RECORD.to_json()
    del content["unit"]
    (tmp_path / "toy-000007.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged .*unit"):
        read_record(Folder(tmp_path), FILE)


def test_a_refusing_server_is_not_taken_for_a_damaged_record(s3, monkeypatch):
    """Wrong keys are said to be wrong keys, not a reason to build the data set again."""
    import s3fs

    write_record(Folder(s3), RECORD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match="access denied") as caught:
        read_record(Folder(s3), FILE)
    assert "build" not in str(caught.value)
