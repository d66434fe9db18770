"""Shards in little memory: what went in comes out, whatever the names and digests are."""

import hashlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.dataset.index import DatasetIndex, read_index, write_index
from mkd.dataset.shard_list import ShardInfo, ShardList

NAMES = ["a-000000.tar", "a-000007.tar", "a-1000000.tar", "a-b-000001.tar", "a-7.tar", "x.tar", "-000001.tar", "",
         "a-00000٣.tar", "a-000001.tgz"]  # fmt: skip
DIGESTS = [hashlib.sha256(b"x").hexdigest(), hashlib.sha256(b"y").hexdigest().upper(), "ab", "", "z" * 64]
SHARDS = st.builds(
    ShardInfo,
    st.sampled_from(NAMES),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 2**50),
    st.sampled_from(DIGESTS),
)


@given(st.lists(SHARDS, max_size=6))
def test_what_goes_in_comes_out(shards):
    """In order, by number and by slice, after a journey to another process too."""
    held = pickle.loads(pickle.dumps(ShardList(shards)))
    assert held == shards
    assert shards == list(held)
    assert held[1:4] == shards[1:4]
    assert [held[-place - 1] for place in range(len(shards))] == shards[::-1]
    assert held.samples == [shard.samples for shard in shards]
    assert held.sums()["bytes"] == sum(shard.bytes for shard in shards)
    assert held != [*shards, ShardInfo("a", 1, 1, 1, "")]
    with pytest.raises(IndexError):
        held[len(shards)]


def test_a_shard_takes_few_bytes():
    """A million shards are some 60 MB, in each rank and each decoding process."""
    shards = (ShardInfo(f"toy-{n:06d}.tar", n, 0, n, f"{n:064x}") for n in range(1000))
    assert len(pickle.dumps(ShardList(shards))) < 70 * 1000


@pytest.mark.parametrize("provenance", [{}, {"before": {"file": "a", "samples": 1, "labelled": 1, "bytes": 7,
                                                        "sha256": ""}}])  # fmt: skip
def test_an_index_is_read_whatever_its_provenance_holds(tmp_path, provenance):
    """Also something that looks like a shard: it stays what it is."""
    shards = [ShardInfo("toy-000000.tar", 3, 2, 7, "ab"), ShardInfo("toy-000002.tar", 2, 0, 5, "cd")]
    sums = {
        "samples": 5,
        "labelled": 2,
        "bytes": 12,
        "histogram": (1,),
        "ignored_pixels": 0,
        "largest": (8, 8),
    }
    index = DatasetIndex("toy", ("a",), ((0, 0, 0),), shards=shards, provenance=provenance, **sums)
    for shard in shards:
        (tmp_path / shard.file).write_bytes(bytes(shard.bytes))
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index
    content = json.loads((tmp_path / "index.json").read_text())
    assert content["shards"][1] == {
        "file": "toy-000002.tar", "samples": 2, "labelled": 0, "bytes": 5, "sha256": "cd"
    }  # fmt: skip
    content["shards"][1]["samples"] = "many"
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index.json has a value of a wrong kind .*'many'"):
        read_index(tmp_path)
