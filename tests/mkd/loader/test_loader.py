"""Batches hold the tiles as packed, in the plan's order, from any step on; damage names shard and key."""

import gc
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from mkd.loader.batch import Batch
from mkd.loader.loader import TileSet, in_order, stream
from mkd.loader.sampler import Sampler
from mkd.pixel_scale import PLAIN
from tests.helpers.plain import encoded
from tests.helpers.processes.s3 import mortal_server
from tests.helpers.shards import pictures
from tests.mkd.loader.tile_sets import COUNTS, assert_tiles, pack, read_all


@pytest.fixture
def packed(tmp_path):
    """Ten labelled 8 x 8 tiles in three shards, and the pixels that went in."""
    pairs = pictures(10)
    return pack(tmp_path / "set", pairs), pairs


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_are_the_tiles_as_packed(packed, ranks, workers):
    """Each step's batch holds the plan's tiles, pixel for pixel, labels with their 255s."""
    folder, pairs = packed
    for rank in range(ranks):
        tiles, plan = TileSet(folder, True), Sampler(COUNTS, 4, 7, rank, ranks)
        batches = list(stream(tiles, plan, 0, 6, workers))
        assert [b.ids for b in batches] == list(plan.steps(0, 6))
        for batch in batches:
            assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.uint8)
            assert_tiles(batch, pairs)


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_goes_on_at_any_step(packed, start):
    """A stream entered at step k gives what the whole stream gives from there."""
    whole, rest = read_all(packed[0], stop=6), read_all(packed[0], start=start, stop=6)
    assert [b.ids for b in rest] == [b.ids for b in whole[start:]]
    for batch in rest:
        assert_tiles(batch, packed[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (100, [10])])
def test_in_order_gives_each_tile_once(packed, batch, sizes, workers):
    """Evaluation reads all tiles once in the order of the shards; only the last batch may be smaller."""
    folder, pairs = packed
    batches = list(in_order(TileSet(folder, True), batch, workers))
    assert [len(b.ids) for b in batches] == sizes
    assert [n for b in batches for _, n in b.ids] == list(range(10))
    for each in batches:
        assert_tiles(each, pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_tiles_of_several_sizes(tmp_path, workers):
    """Tiles of a batch come by size, each with its own pixels and label; one size alone has no list of sizes."""
    pairs = pictures(3, [(4, 6), (7, 3), (4, 6)])
    tiles = TileSet(pack(tmp_path / "set", pairs, counts=[3]), True)
    (mixed,) = in_order(tiles, 3, workers)
    assert mixed.sizes == [(4, 6), (7, 3), (4, 6)]
    found = {}
    for slots, images, labels in mixed.by_size(PLAIN):
        for slot, image, label in zip(slots, images, labels, strict=True):
            found[slot] = (image.permute(1, 2, 0).numpy(), label.numpy())
    assert sorted(found) == [0, 1, 2]
    for slot, (image, label) in enumerate(pairs):
        assert np.array_equal(found[slot][0], image)
        assert np.array_equal(found[slot][1], label)
    singles = list(in_order(tiles, 1, workers))
    assert [tuple(b.images.shape) for b in singles] == [(1, 3, 4, 6), (1, 3, 7, 3), (1, 3, 4, 6)]
    assert {b.sizes for b in singles} == {None}
    for batch in singles:
        assert_tiles(batch, pairs)


@pytest.mark.parametrize("workers", [0, 1])
def test_unlabelled_tiles_have_label_zero(tmp_path, workers):
    """Without labels the map is 0 everywhere, whether labels lie in the shard or not."""
    for labelled in (True, False):
        folder = pack(tmp_path / f"set{labelled}", pictures(2, (4, 4)), labelled, [2])
        (batch,) = in_order(TileSet(folder, labelled=False), 2, workers)
        assert batch.labels.shape == (2, 4, 4)
        assert (batch.labels == 0).all()


def test_jpeg_and_grey_images_become_rgb(tmp_path):
    """A JPEG comes within its compression's error, a grey PNG in three equal channels."""
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    change = {0: {"png": None, "jpg": encoded(flat, "JPEG")}, 1: {"png": encoded(grey)}}
    tiles = TileSet(pack(tmp_path / "set", pictures(10), change=change), True)
    assert np.abs(tiles[0, 0][0].movedim(0, -1).numpy().astype(int) - flat).max() <= 4
    np.testing.assert_array_equal(tiles[0, 1][0], np.broadcast_to(grey, (3, 8, 8)))


def test_one_tile_by_its_number(packed):
    """Random access gives one tile, its channels one after the other in memory, and its KEY.json with the key."""
    tiles = TileSet(packed[0], True)
    image, label, item = tiles[5, 9]
    assert (len(tiles), item, image.is_contiguous()) == (10, (5, 9), True)
    np.testing.assert_array_equal(image.movedim(0, -1), packed[1][9][0])
    np.testing.assert_array_equal(label, packed[1][9][1])
    assert tiles.meta(9) == {"source": "s", "key": "tile0009"}


@pytest.mark.parametrize("workers", [0, 2])
def test_only_needed_shards_are_opened(packed, tmp_path, workers):
    """Reading from the first shard works while the others are gone: nothing is opened ahead of its use."""
    tiles = TileSet(packed[0], True)
    for shard in tiles.index.shards[1:]:
        (tmp_path / "set" / shard.file).unlink()
        (tmp_path / "set" / shard.file.replace(".tar", ".json")).unlink()
    plan = Sampler([4], 4, 0)  # of the first shard alone
    assert_tiles(next(stream(tiles, plan, 7, 8, workers)), packed[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_moved_batch_is_independent_of_the_loader(packed, workers):
    """`to` keeps contents and ids, lays channels one after the other, and shares no memory with the buffers."""
    tiles = TileSet(packed[0], True)
    moved = []
    for batch in stream(tiles, Sampler(COUNTS, 4, 0), 0, 40, workers):
        moved.append(batch.to(torch.device("cpu")))
        assert moved[-1].images.data_ptr() != batch.images.data_ptr()
        assert moved[-1].labels.data_ptr() != batch.labels.data_ptr()
    gc.collect()
    for batch in moved:
        assert batch.images.is_contiguous()
        assert_tiles(batch, packed[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_on_the_gpu_is_right_though_its_buffer_is_filled_again(packed):
    """While the GPU is busy, a buffer may be taken as soon as `to` has returned."""
    tiles, device = TileSet(packed[0], True), torch.device("cuda")
    busy, moved = torch.rand(4096, 4096, device=device), []
    for batch in stream(tiles, Sampler(COUNTS, 4, 0), 0, 40, 2):
        busy = busy @ busy
        moved.append(batch.to(device))
    for batch in moved:
        assert_tiles(Batch(batch.images.cpu(), batch.labels.cpu(), batch.ids), packed[1])


def test_unlabelled_data_is_refused_where_labels_are_needed(tmp_path):
    """A set without labels is refused before anything is read, with the count of tiles that lack one."""
    folder = pack(tmp_path / "set", pictures(3), False, [3])
    with pytest.raises(ValueError, match=rf"{folder}: 3 of 3 tiles have no label; give a data set"):
        TileSet(folder, labelled=True)


@pytest.mark.skip
@pytest.mark.parametrize(("bands", "dtype"), [(4, "uint8"), (3, "uint16")])
def test_other_bands_and_bits_are_refused(tmp_path, bands, dtype):
    """Networks take 8-bit RGB: another data set is refused with what it holds and what to do."""
    folder = pack(tmp_path / "set", pictures(2), counts=[2], bands=bands, dtype=dtype)
    with pytest.raises(
        ValueError, match=f"its images have {bands} bands of {dtype};.*shards tile --bands 1,2,3"
    ):
        TileSet(folder, labelled=False)


def test_a_folder_without_an_index_is_refused(tmp_path):
    """No index, no data set: the sentence names the folder."""
    with pytest.raises(ValueError, match=str(tmp_path)):
        TileSet(str(tmp_path), labelled=True)


def test_a_picture_of_the_library_is_the_same(packed):
    """The slow way, Pillow over a tar opened by hand, gives the same pixels as the stream."""
    import tarfile

    with tarfile.open(f"{packed[0]}/plain-000002.tar") as tar:
        by_hand = np.asarray(Image.open(tar.extractfile("tile0009.png")))
    np.testing.assert_array_equal(TileSet(packed[0], True)[0, 9][0].movedim(0, -1), by_hand)


@pytest.mark.slow
def test_a_stream_outlives_its_server(tmp_path, monkeypatch):
    """Two processes read from a server that is killed and comes back: each batch comes once, in order, whole."""
    with mortal_server(tmp_path / "server", monkeypatch) as server:
        pairs = pictures(100)
        tiles = TileSet(pack("s3://bkt/set", pairs, counts=[40, 1, 59]), True)
        plan, seen = Sampler(tiles.shard_counts, 4, seed=3), []
        for batch in stream(tiles, plan, 0, 200, 2):  # beyond what is read ahead
            assert_tiles(batch, pairs)
            seen.append(batch.ids)
            if len(seen) == 30:
                server.kill()
                back = threading.Timer(1, server.start)
                back.start()
        back.join()
    assert seen == list(plan.steps(0, 200))
