"""Tiles decoded together: each in its slot, whatever happened to the others, with the next one for a damaged one."""

import numpy as np
import pytest

from mkd.dataset import tile_decoder as module
from mkd.dataset.index import read_index
from mkd.dataset.tile_decoder import BadTile, DatasetSpec
from mkd.dataset.tile_source import DamagedTile
from mkd.loader.workers.shared_buffers import BufferLayout
from tests.helpers.plain import members_of, write_plain
from tests.helpers.shards import pictures

COUNTS = [5, 4, 3]
BAD = {1: "png", 2: "label.png", 7: None, 8: "png"}  # 7 has no label


def write(folder):
    """Write 12 tiles, four of them damaged; return the reader and the pixels."""
    pairs = pictures(sum(COUNTS))
    tiles = [members_of(image, ids) for image, ids in pairs]
    for number, kind in BAD.items():
        if kind is None:
            del tiles[number]["label.png"]
        else:
            tiles[number][kind] = b"no picture"
    write_plain(folder, tiles, (8, 8), COUNTS)
    return DatasetSpec(str(folder), read_index(folder), True).open_decoder(), pairs


@pytest.mark.parametrize("together", [1, 3, 16])
def test_each_tile_comes_to_its_slot(tmp_path, monkeypatch, together):
    """However many are read together: good ones as packed, bad ones replaced by the next good one of their shard."""
    monkeypatch.setattr(module, "READ_GROUP", together)
    reader, pairs = write(tmp_path)
    samples = [4, 1, 8, 0, 2, 7, 11, 3, 1]
    layout = BufferLayout(len(samples), 8, 8)
    buffer = np.full(layout.bytes, 99, np.uint8)
    slots = [layout.slot(buffer, slot) for slot in range(len(samples))]
    taken = {1: 3, 2: 3, 7: 5, 8: 5}
    done = reader.decode_all(samples, slots)
    for sample, (image, label), (size, lost) in zip(samples, slots, done, strict=True):
        pixels, ids = pairs[taken.get(sample, sample)]
        assert size == (8, 8)
        np.testing.assert_array_equal(image.reshape(8, 8, 3), pixels)
        np.testing.assert_array_equal(label.reshape(8, 8), ids)
        assert (lost is None) == (sample not in taken)
        if isinstance(lost, BadTile):
            assert lost.replaced_by == taken[sample]
            words = {
                1: "the image cannot",
                2: "the label cannot",
                7: "an image and its label",
                8: "the image",
            }
            assert f"tile{sample:04d}: " in lost.reason
            assert words[sample] in lost.reason


def test_a_shard_without_a_good_tile_is_the_end(tmp_path):
    """Nothing of another shard stands in: the sentence says so."""
    tiles = [{"png": b"no picture", "json": b"{}"}] * 2 + [members_of(*pictures(1)[0])]
    write_plain(tmp_path, tiles, (8, 8), [2, 1])
    reader, layout = (
        DatasetSpec(str(tmp_path), read_index(tmp_path), False).open_decoder(),
        BufferLayout(2, 8, 8),
    )
    slots = [layout.slot(np.zeros(layout.bytes, np.uint8), slot) for slot in range(2)]
    with pytest.raises(DamagedTile, match=r"tile0001: the image .*; nor can any other tile of its shard"):
        reader.decode_all([2, 1], slots)
