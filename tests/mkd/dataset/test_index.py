"""The index: what is written is what is read, and what cannot be trusted is refused."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mkd.dataset.index import DatasetIndex, ShardInfo, read_index, write_index
from mkd.storage.folder import Folder


@pytest.fixture
def index(tmp_path):
    (tmp_path / "toy-000000.tar").write_bytes(b"x" * 7)
    (tmp_path / "toy-000001.tar").write_bytes(b"y" * 5)
    return DatasetIndex(
        name="toy",
        classes=("field", "Straße"),
        palette=((0, 0, 0), (1, 2, 3)),
        samples=5,
        labelled=2,
        bytes=12,
        histogram=(30, 4),
        ignored_pixels=6,
        shards=(ShardInfo("toy-000000.tar", 3, 2, 7, "ab"), ShardInfo("toy-000001.tar", 2, 0, 5, "cd")),
        provenance={"command": "pack", "nested": {"list": [1, None]}},
        largest=(512, 640),
        bands=4,
        dtype="uint16",
    )


def test_an_index_survives_its_file(tmp_path, index):
    """Reading gives back all fields, and the file says format and version."""
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index
    content = json.loads((tmp_path / "index.json").read_text())
    assert (content["format"], content["version"], content["ignore_index"]) == ("mkd-dataset", 2, 255)
    assert index.num_classes == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.json",
        "toy-000000.tar",
        "toy-000001.tar",
    ]


def test_the_digest_is_of_the_content(tmp_path, index):
    """The digest does not depend on the file's layout, and changes with any field."""
    write_index(tmp_path, index)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert read_index(tmp_path).sha256() == index.sha256()
    assert replace(index, provenance={}).sha256() != index.sha256()
    assert replace(index, histogram=(4, 30)).sha256() != index.sha256()


def test_what_is_no_data_set_is_named(tmp_path, index):
    """A missing folder, a folder without index and a file that is no JSON are told apart."""
    with pytest.raises(ValueError, match="the folder does not exist"):
        read_index(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no index\.json"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "format 'other' version 2"),
        (
            {"version": 1},
            "version 1, this program reads 'mkd-dataset' versions 2 and 3: pack the data set again",
        ),
        ({"samples": 6}, "samples 6, but its shards sum to 5"),
        ({"labelled": 1}, "labelled 1"),
        ({"bytes": 13}, "bytes 13"),
        ({"palette": [[0, 0, 0]]}, "2 classes but 1 entries in palette"),
        ({"histogram": [1, 2, 3]}, "3 entries in histogram"),
        ({"samples": "many"}, "wrong kind"),
        ({"shards": [{"file": "a"}]}, "lacks the key 'samples'"),
        ({"shards": ["a"]}, "wrong kind"),
        ({"classes": None}, "wrong kind"),
        ({"largest": [512]}, "wrong kind"),
        ({"bands": "RGB"}, "wrong kind"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path, index, change, words):
    """Each wrong value is an error that names the file and the value."""
    (tmp_path / "index.json").write_text(json.dumps({**index.to_json(), **change}))
    with pytest.raises(ValueError, match=words) as caught:
        read_index(tmp_path)
    assert "index.json" in str(caught.value)


def test_a_missing_key_is_named(tmp_path, index):
    """Without 'histogram' there is no guess."""
    content = index.to_json()
    del content["histogram"]
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks the key 'histogram'"):
        read_index(tmp_path)


def test_shards_must_be_there_in_full_size(tmp_path, index):
    """A shard that is gone or cut short is found when the index is read."""
    write_index(tmp_path, index)
    (tmp_path / "toy-000001.tar").write_bytes(b"y" * 4)
    with pytest.raises(ValueError, match=r"toy-000001\.tar has 4 bytes, the index says 5"):
        read_index(tmp_path)
    (tmp_path / "toy-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"toy-000001\.tar is missing"):
        read_index(tmp_path)


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_an_index_may_be_remote(request, tmp_path, index, place):
    """The same index and the same sentences from a URL as from a folder."""
    url = request.getfixturevalue("s3") if place == "s3" else f"memory://{tmp_path}"
    with pytest.raises(ValueError, match=r"no index\.json"):
        read_index(url)
    write_index(url, index)
    with pytest.raises(ValueError, match=r"toy-000000\.tar is missing"):
        read_index(url)
    Folder(url).write("toy-000000.tar", b"x" * 7)
    Folder(url).write("toy-000001.tar", b"y" * 4)
    with pytest.raises(ValueError, match=r"toy-000001\.tar has 4 bytes, the index says 5"):
        read_index(url)
    Folder(url).write("toy-000001.tar", b"y" * 5)
    assert read_index(url) == index


def test_a_failed_write_keeps_the_old_index(tmp_path, index):
    """What JSON cannot hold leaves the old index as it was and no draft behind."""
    write_index(tmp_path, index)
    with pytest.raises(TypeError):
        write_index(tmp_path, replace(index, provenance={"bad": object()}))
    assert read_index(tmp_path) == index
    assert not list(tmp_path.glob(".tmp-*"))


def test_index_and_shards_import_no_torch():
    """The command line for shards starts without torch, and without rasterio until it tiles."""
    code = "import sys, shards.__main__, mkd.dataset.tile_decoder; print({'torch', 'rasterio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
