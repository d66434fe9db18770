"""Data sets of strangers: whatever stands in index and records is one sentence, and takes little memory."""

import contextlib
import io
import json
import os
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_matching_record, read_record
from mkd.loader.loader import TileSet, in_order
from mkd.storage.folder import Folder
from shards.commands.stats import stats
from shards.commands.verify import verify
from tests.helpers.headers import png
from tests.helpers.shards import pictures, rewrite, write_dataset

DEEP = json.loads("[" * 500 + "]" * 500)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("set") / "set", pictures(3, (16, 16)))


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "set")
    return tmp_path / "set"


class _OneSentence(Exception):
    """A ValueError for people was raised, as it should be."""


@contextlib.contextmanager
def one_sentence(name):
    """Pass nothing on but a short ValueError in one line that has the file's name."""
    try:
        yield
    except ValueError as error:
        short = type(error) is ValueError and "\n" not in str(error) and len(str(error)) < 600
        if not short or name not in str(error):
            raise AssertionError(f"not one sentence: {error!r}") from error
        raise _OneSentence from None


def change(path, key, value):
    """Set a (dotted) key of a JSON file; `...` drops it."""
    content = json.loads(path.read_text())
    *parents, last = key.split("/")
    place = content
    for name in parents:
        place = place[int(name) if name.isdecimal() else name]
    last = int(last) if last.isdecimal() else last
    if value is ...:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(content))


JUNK = [1e30, float("inf"), float("nan"), 10**30, -1, True, "x", None, [], {}, DEEP]
KEYS = [
    "samples",
    "labelled",
    "bytes",
    "histogram",
    "ignored_pixels",
    "shards",
    "provenance",
    "largest",
    "bands",
]
KEYS += [
    "dtype",
    "ignore_index",
    "classes",
    "palette",
    "name",
    "shards/0",
    "shards/0/file",
    "shards/0/samples",
]
KEYS += [
    "shards/0/bytes",
    "shards/0/sha256",
    "palette/0",
    "palette/0/1",
    "largest/0",
    "histogram/0",
    "classes/0",
]
FITS = {("provenance", "{}"), *((key, "'x'") for key in ("name", "classes/0", "shards/0/sha256"))}


@pytest.mark.parametrize("key", KEYS)
def test_junk_in_the_index(folder, key):
    """Every key, with every kind of junk or none: one sentence that names the file, or a value that fits."""
    whole = (folder / "index.json").read_text()
    for value in [*JUNK, ...]:
        (folder / "index.json").write_text(whole)
        change(folder / "index.json", key, value)
        if (key, repr(value)) in FITS:
            read_index(folder)
            continue
        with pytest.raises(ValueError, match=r"set/(index\.json|tiny-000000\.tar|x)") as caught:
            read_index(folder)
        assert type(caught.value) is ValueError
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b.tar", "..", "x\x1b[2J.tar", "x\ud800.tar"]
)
def test_shards_lie_in_their_folder(folder, name):
    """A name that leaves the folder, or that a terminal would obey, is refused."""
    change(folder / "index.json", "shards/0/file", name)
    with pytest.raises(ValueError, match="a shard's file is .*, "):
        read_index(folder)


def test_deep_nesting_is_refused_everywhere(folder):
    """Nesting beyond any use is refused in a harmless place too, and at any depth."""
    change(folder / "index.json", "provenance", {"a": DEEP})
    with pytest.raises(ValueError, match="provenance is nested more than"):
        read_index(folder)
    (folder / "index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_index(folder)


RECORD_KEYS = [
    "samples",
    "bytes",
    "file",
    "sha256",
    "tiles",
    "histogram",
    "ignored_pixels",
    "bands",
    "dtype",
    "unit",
]
RECORD_KEYS += ["quarantine", "left_out", "tiles/0", "tiles/0/0", "tiles/0/1", "tiles/0/3", "tiles/0/3/png"]
RECORD_KEYS += ["tiles/0/3/png/0", "tiles/0/3/png/1", "tiles/0/3/png/2", "quarantine/0", "format", "version"]


@pytest.mark.parametrize("key", RECORD_KEYS)
def test_junk_in_a_record(folder, key):
    """The same for the record beside a shard."""
    (path,) = folder.glob("tiny-000000.json")
    info, place = read_index(folder).shards[0], Folder(folder)
    change(path, "quarantine", [{}])
    whole = path.read_text()
    for value in [*JUNK, ...]:
        path.write_text(whole)
        change(path, key, value)
        with contextlib.suppress(_OneSentence), one_sentence("tiny-000000."):
            read_matching_record(place, info)


@pytest.mark.parametrize(("number", "value"), [(0, 10**12), (1, 10**12), (1, 2**62)])
def test_members_lie_in_their_shard(folder, number, value):
    """An offset or size beyond the shard's end takes no memory, but a sentence."""
    path = folder / "tiny-000000.json"
    change(path, f"tiles/0/3/png/{number}", value)
    with pytest.raises(ValueError, match=r"tiny-000000\.json is damaged \(tile .* ends at byte"):
        next(in_order(TileSet(folder, labelled=False), 1))


def replaced(folder, kind, content):
    """Replace a member of the first tile by another file, in shard, record and index alike."""
    rewrite(folder, lambda name, data: (name, content if name == f"tile0000.{kind}" else data))


def picture(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bomb_among_the_tiles(folder, workers):
    """An image whose header says 17,000 x 17,000 where its record says 16 x 16 is not decoded, in no process."""
    replaced(folder, "png", png(17_000, 17_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="where its record says 16 x 16"):
        list(in_order(TileSet(folder, labelled=False), 3, workers))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; its pixels are 870,000
    assert any("17,000 x 17,000" in line for line in verify(folder))
    with pytest.raises(ValueError, match=r"its header says"):
        stats(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_label_ids_beyond_the_classes(folder, workers):
    """A label with an id that no class has is a sentence, before any loss indexes with it; verify names it too."""
    classes = read_index(folder).num_classes
    ids = np.full((16, 16), 255, np.uint8)
    ids[3, 4] = classes
    replaced(folder, "label.png", picture(ids))
    with pytest.raises(ValueError, match=rf"it has the id {classes}, allowed are 0\.\.{classes - 1} and 255"):
        list(in_order(TileSet(folder, labelled=True), 3, workers))
    assert any(f"label ids [{classes}]" in line for line in verify(folder))


def test_verify_compares_the_record_with_the_tile(folder):
    """Size in the record, bands and type of record and index: each difference is a problem."""
    path = folder / "tiny-000000.json"
    whole = path.read_text()
    assert verify(folder) == []
    change(path, "tiles/1/1", 15)
    assert any("16 x 16, its shard's record says 15 x 16" in line for line in verify(folder))
    for key, value in (("bands", 4), ("dtype", "uint16")):
        path.write_text(whole)
        change(path, key, value)
        assert any("the record of tiny-000000.tar says" in line for line in verify(folder)), key


def test_an_index_of_giant_tiles(folder):
    """The memory of a batch follows from the index: what it says is bounded before it is believed."""
    change(folder / "index.json", "largest", [20_000, 20_000])
    with pytest.raises(ValueError, match="up to 20,000 x 20,000 pixels.*give max_pixels=400000000"):
        TileSet(folder, labelled=False)
    assert TileSet(folder, labelled=False, max_pixels=400_000_000).index.largest == (20_000, 20_000)


@pytest.mark.parametrize("name", ["index.json", "tiny-000000.json"])
def test_a_fifo_in_a_data_set(folder, name):
    """A FIFO in the place of a file is not waited for."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises((ValueError, OSError), match=rf"{name}|no data set"):
        next(in_order(TileSet(folder, labelled=False), 1))


def test_a_member_of_a_record_with_a_line_end_is_one_sentence(tmp_path):
    """The name of a member is text in one line, or the message would have several."""
    place = write_dataset(tmp_path / "set", pictures(2))
    path = tmp_path / "set/tiny-000000.json"
    content = json.loads(path.read_text())
    content["tiles"][1][3]["\n"] = 1e30
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the name of a member") as error:
        read_record(Folder(place), "tiny-000000.tar")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["index.json", "tiny-000000.json"])
def test_a_file_of_gigabytes_is_not_read_whole(folder, name):
    """Index and record of 3 GB (a sparse file, no bytes on the disk) are refused after the first 256 MB."""
    with open(folder / name, "r+b") as file:
        file.truncate(3 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"268,435,456 are allowed"):
        read_index(folder) if name == "index.json" else read_record(Folder(folder), "tiny-000000.tar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB
