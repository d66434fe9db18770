"""Tiles and shards that cannot be read: one sentence, or the next tile of the shard within a budget."""

import json
import logging

import numpy as np
import pytest

from mkd.loader.bad_tiles import BadTileBudget
from mkd.loader.loader import TileSet, stream
from mkd.loader.sampler import Sampler
from tests.helpers.plain import encoded, members_of
from tests.helpers.shards import pictures
from tests.mkd.loader.tile_sets import COUNTS, pack, read_all


@pytest.fixture
def packed(tmp_path):
    """Ten labelled 8 x 8 tiles in three shards, and the pixels that went in."""
    pairs = pictures(10)
    return pack(tmp_path / "set", pairs), pairs


def half(picture):
    return picture[: len(picture) // 2]


GOOD = members_of(*pictures(1)[0])
DAMAGE = {  # other members of a tile, and what the sentence must say besides shard and key
    "truncated PNG": ({"png": half(GOOD["png"])}, "image cannot be decoded"),
    "truncated JPEG": (
        {"png": None, "jpg": encoded(pictures(1, (64, 64))[0][0], "JPEG")[:900]},
        "cannot be decoded",
    ),
    "no picture": ({"png": b"<html>not found</html>"}, "image cannot be decoded"),
    "empty picture": ({"png": b""}, "image cannot be decoded"),
    "truncated label": ({"label.png": half(GOOD["label.png"])}, "label cannot be decoded"),
    "no image": ({"png": None}, r"\['json', 'label.png'\]; an image and its label"),
    "other label": ({"label.png": encoded(np.zeros((5, 8), np.uint8))}, "label .*5 x 8.*8 x 8"),
    "other image": (
        {"png": encoded(np.zeros((9, 8, 3), np.uint8))},
        "image cannot be decoded .it is 9 x 8, where its record says 8 x 8",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_labelled_tile_is_one_sentence(tmp_path, kind, workers):
    """A labelled tile that cannot be used stops the run with one line: shard, key, what is wrong, what is allowed."""
    change, words = DAMAGE[kind]
    folder = pack(tmp_path / "set", pictures(10), change={2: change})
    with pytest.raises(ValueError, match=f"{folder}/plain-000000.tar:tile0002: .*{words}") as error:
        read_all(folder, workers=workers)
    assert "\n" not in str(error.value)
    assert "shards verify" in str(error.value)
    assert "1 of 10 tiles are lost in this epoch and 0 may be" in str(error.value)
    with pytest.raises(ValueError, match="tile0002"):
        TileSet(folder, True)[0, 2]


def test_a_larger_tile_than_the_index_says_is_refused(tmp_path):
    """Buffers are as large as the index says; a tile beyond that is damage, not a write past its slot."""
    folder = pack(tmp_path / "set", pictures(10), largest=(8, 7))
    with pytest.raises(ValueError, match="is 8 x 8, but the index says at most 8 x 7"):
        read_all(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lost_tile_is_replaced_by_the_next_of_its_shard(tmp_path, workers, caplog):
    """Within the budget: the next readable tile stands in, pairs stay the plan's, and it is listed and said."""
    pairs = pictures(10)
    change = {
        n: {"png": half(GOOD["png"])} for n in (2, 3, 8)
    }  # 2 and 3 end their shard: round to its beginning
    folder, path = pack(tmp_path / "set", pairs, change=change), tmp_path / "quarantine.jsonl"
    bad_tiles = BadTileBudget(folder, False, 10, 0.3, path)
    with caplog.at_level(logging.WARNING):
        batches = read_all(folder, labelled=False, stop=5, workers=workers, bad_tiles=bad_tiles)
    assert [b.ids for b in batches] == list(Sampler(COUNTS, 4, seed=1).steps(0, 5))
    shown = {2: 0, 3: 0, 8: 9}
    for batch in batches:
        for image, (_, n) in zip(batch.images, batch.ids, strict=True):
            np.testing.assert_array_equal(image.movedim(0, -1), pairs[shown.get(n, n)][0])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(r["epoch"], r["sample"], r["replaced_by"]) for r in rows} == {
        (epoch, n, other) for epoch in (0, 1) for n, other in shown.items()
    }
    assert sum("is taken in its place" in r.getMessage() for r in caplog.records) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_over_the_budget_the_run_stops(tmp_path, workers):
    """The loss that is one too many ends the stream, at the same step with any number of workers."""
    change = {n: {"png": b"x"} for n in (2, 5, 8)}
    folder, path = pack(tmp_path / "set", pictures(10), change=change), tmp_path / "quarantine.jsonl"
    tiles, plan = TileSet(folder, False), Sampler(COUNTS, 2, seed=1)
    lost_at = [n for n in range(5) if {2, 5, 8} & {s for _, s in plan.step(n)}]
    batches = stream(
        tiles, plan, 0, 5, workers, BadTileBudget(folder, False, 10, 0.2, path, "data.max_bad=0.2")
    )
    for _ in range(lost_at[-1]):
        next(batches)
    with pytest.raises(ValueError, match=r"3 of 10 tiles are lost .* 2 may be \(data\.max_bad=0\.2\)"):
        next(batches)
    assert len(path.read_text().splitlines()) == 3


def test_a_shard_without_a_readable_tile_ends_the_run(tmp_path):
    """There is nothing to take instead: the sentence names the tile and says so."""
    change = {n: {"png": b"x"} for n in range(4)}
    folder = pack(tmp_path / "set", pictures(10), change=change)
    with pytest.raises(ValueError, match=r"tile000\d: .*nor can any other tile of its shard"):
        read_all(folder, labelled=False, bad_tiles=BadTileBudget(folder, False, 10, 1.0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_byte_is_noticed(packed, tmp_path, workers):
    """A byte that a bad disk changed inside an image is damage, though it might still decode."""
    path = tmp_path / "set" / "plain-000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path}:tile0000"):
        read_all(packed[0], workers=workers)


def test_a_truncated_shard_is_refused_at_once(packed, tmp_path):
    """A shard that is shorter than the index says stops before any tile is read, naming it and both sizes."""
    path = tmp_path / "set" / "plain-000000.tar"
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(ValueError, match=f"{path} has 2000 bytes, the index says {size}"):
        TileSet(packed[0], labelled=True)
