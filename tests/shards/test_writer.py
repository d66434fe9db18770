"""The writer: an index last, nothing visible on failure, errors that name the place."""

import subprocess
import sys

import numpy as np
import pytest

from mkd.data.index import read_index
from shards.encode import encode_png, legal_key, tile_from
from shards.reader import read_dataset, read_groups, read_metas
from shards.writer import ShardWriter

CLASSES, PALETTE = ("a", "b"), ((0, 0, 0), (1, 1, 1))


def tile(key, label=True):
    """Make a 4 x 6 tile."""
    ids = np.array([[0, 1, 1, 255, 0, 0]] * 4, np.uint8)
    meta = {"source": key, "window": None, "size": [4, 6], "crs": None, "transform": None}
    return tile_from(key, encode_png(np.zeros((4, 6, 3), np.uint8)), "png", ids if label else None, meta)


def writer(folder, **options):
    """Open a writer of shards of two tiles."""
    return ShardWriter(folder, "toy", CLASSES, PALETTE, **{"shard_size": 2, **options})


def test_nothing_is_visible_before_commit_and_no_index_before_finish(tmp_path):
    """Shards appear at commit, the index at finish; counts are sums over the tiles."""
    with writer(tmp_path) as out:
        for number in range(3):
            out.add(tile(f"t{number}", label=number < 2))
        assert all(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
        shards = out.commit()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-000000.tar", "toy-000001.tar"]
        index = out.finish({"command": "test"})
    assert read_index(tmp_path) == index
    assert index.shards == shards
    assert (index.samples, index.labelled, index.histogram, index.ignored_pixels) == (3, 2, (24, 16), 8)
    assert [(shard.samples, shard.labelled) for shard in shards] == [(2, 2), (1, 0)]


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


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path):
    """When a shard cannot grow, the error has the path, which the system does not tell, and nothing is left."""
    code = f"""
import resource, signal
import numpy as np
from shards.encode import tile_from
from shards.writer import ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with ShardWriter("{tmp_path}/out", "toy", ("a", "b"), ((0, 0, 0), (1, 1, 1)), 4) as out:
        for number in range(9):
            out.add(tile_from(str(number), bytes(10_000), "png", None, {{}}))
        out.finish({{}})
except OSError as error:
    print(error.strerror, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"File too large {tmp_path}/out\n"
    assert not list((tmp_path / "out").iterdir())


def test_long_and_foreign_keys_survive(tmp_path):
    """Keys above the 100 characters of old tars, and not of ASCII, come back."""
    keys = ["x" * 150, "Straße_一", legal_key("a.b/c d")]
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
    shards = [tmp_path / "toy-000000.tar", tmp_path / "toy-000001.tar"]
    assert [(key, meta["source"], label) for key, meta, label in read_metas(shards)] == [
        ("t0", "t0", False),
        ("t1", "t1", True),
        ("t2", "t2", False),
    ]
    assert all(group["png"] == b"" for _, group in read_groups(shards[0], wanted="json"))


def test_a_shard_cut_short_is_told(tmp_path):
    """A truncated tar is an error with its path, not a shorter data set."""
    with writer(tmp_path) as out:
        out.add(tile("t"))
        out.finish({})
    shard = tmp_path / "toy-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"toy-000000.tar cannot be read"):
        list(read_groups(shard))
