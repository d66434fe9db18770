"""Batches hold the tiles as packed, in the plan's order, from any step on; damage names shard and key."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mkd.data.loader import Batch, TileSet, collate, in_order, stream
from mkd.data.plan import Plan
from tests.helpers.shards import jpeg, overwrite, pictures, rewrite, write_dataset


@pytest.fixture
def packed(tmp_path):
    """Ten labelled 8 x 8 tiles in three shards, and the pixels that went in."""
    pairs = pictures(10)
    return write_dataset(tmp_path / "set", pairs), pairs


def assert_tiles(batch, pairs):
    """Check that a batch holds the tiles that its ids name."""
    for image, label, (_, n) in zip(batch.images, batch.labels, batch.ids, strict=True):
        np.testing.assert_array_equal(image.movedim(0, -1), pairs[n][0], err_msg=f"image {n}")
        np.testing.assert_array_equal(label, pairs[n][1], err_msg=f"label {n}")


def assert_same(one, other):
    assert [b.ids for b in one] == [b.ids for b in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def read_all(folder, labelled=True, start=0, stop=3, workers=0):
    tiles = TileSet(folder, labelled)
    return list(stream(tiles, Plan(len(tiles), 4, seed=1), start, stop, workers, pin=False))


@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_are_the_tiles_as_packed(packed, ranks):
    """Each step's batch holds the plan's tiles, pixel for pixel, labels with their 255s."""
    folder, pairs = packed
    for rank in range(ranks):
        tiles, plan = TileSet(folder, True), Plan(10, 4, 7, rank, ranks)
        batches = list(stream(tiles, plan, 0, 6, 0, pin=False))
        assert [b.ids for b in batches] == list(plan.steps(0, 6))
        for batch in batches:
            assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.uint8)
            assert_tiles(batch, pairs)


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_goes_on_at_any_step(packed, start):
    """A stream entered at step k gives what the whole stream gives from there."""
    assert_same(read_all(packed[0], start=start, stop=6), read_all(packed[0], stop=6)[start:])


def test_workers_change_nothing(packed):
    """Two decoding processes give the same batches in the same order as none."""
    tiles, plan = TileSet(packed[0], True), Plan(10, 4, seed=1)
    tiles[0, 0]  # a shard that is open here is not shared with the workers' positions
    assert_same(list(stream(tiles, plan, 1, 6, 2, pin=False)), read_all(packed[0], start=1, stop=6))


@pytest.mark.parametrize(("batch", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (100, [10])])
def test_in_order_gives_each_tile_once(packed, batch, sizes):
    """Evaluation reads all tiles once in the order of the shards; only the last batch may be smaller."""
    folder, pairs = packed
    batches = list(in_order(TileSet(folder, True), batch))
    assert [len(b.ids) for b in batches] == sizes
    assert [n for b in batches for _, n in b.ids] == list(range(10))
    for each in batches:
        assert_tiles(each, pairs)


def test_tiles_of_two_sizes_are_one_sentence(tmp_path):
    """Tiles of two sizes in a batch are refused with both sizes: padding would tie a view to its batch mates."""
    tiles = TileSet(write_dataset(tmp_path / "set", pictures(2, [(4, 6), (7, 3)])), True)
    with pytest.raises(ValueError, match=r"tiles of 4 x 6 and 7 x 3 pixels in one batch"):
        list(in_order(tiles, 2))
    assert [tuple(b.images.shape) for b in in_order(tiles, 1)] == [(1, 3, 4, 6), (1, 3, 7, 3)]


def test_unlabelled_tiles_have_label_zero(tmp_path):
    """Without labels the map is 0 everywhere, whether labels lie in the shard or not."""
    for labelled in (True, False):
        folder = write_dataset(tmp_path / f"set{labelled}", pictures(2, [(4, 4), (4, 4)]), labelled=labelled)
        (batch,) = in_order(TileSet(folder, labelled=False), 2)
        assert (batch.labels == 0).all()


def test_jpeg_and_grey_images_become_rgb(packed):
    """A JPEG comes within its compression's error, a grey PNG in three equal channels."""
    folder, _ = packed
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    grey = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(grey, "PNG")
    swap = {"tile0000.png": ("tile0000.jpg", jpeg(flat)), "tile0001.png": ("tile0001.png", grey.getvalue())}
    rewrite(folder, lambda name, data: swap.get(name, (name, data)))
    tiles = TileSet(folder, True)
    assert np.abs(tiles[0, 0][0].movedim(0, -1).numpy().astype(int) - flat).max() <= 4
    np.testing.assert_array_equal(tiles[0, 1][0], np.broadcast_to(np.arange(64).reshape(8, 8), (3, 8, 8)))


def test_meta_names_the_tile(packed):
    """A sample's KEY.json comes with its key, also in a later shard."""
    assert TileSet(packed[0], True).meta(9) == {
        "key": "tile0009",
        "source": "s9",
        "window": None,
        "size": [8, 8],
        "crs": None,
        "transform": None,
        "labelled": True,
    }


def test_only_needed_shards_are_opened(packed, tmp_path):
    """Reading from the first shard works while the others are gone: nothing is opened ahead of its use."""
    tiles = TileSet(packed[0], True)
    assert len(tiles) == 10
    for shard in tiles.index.shards[1:]:
        (tmp_path / "set" / shard.file).unlink()
    assert_tiles(collate([tiles[0, n] for n in range(4)]), packed[1])


def test_a_used_set_can_be_sent_to_a_process(packed):
    """Pickling leaves open files behind and the copy reads on."""
    tiles = TileSet(packed[0], True)
    tiles[0, 9]
    copy = pickle.loads(pickle.dumps(tiles))
    for handle in tiles._files.values():  # as in another process, where these numbers mean nothing
        os.close(handle)
    assert_tiles(collate([copy[0, 9], copy[0, 0]]), packed[1])


def test_batch_moves_as_one():
    """`to` keeps contents and ids."""
    batch = Batch(
        torch.ones(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2, dtype=torch.uint8), [(0, 5)]
    )
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.images, batch.images)
    assert moved.ids == [(0, 5)]


def test_unlabelled_data_is_refused_where_labels_are_needed(tmp_path):
    """A set without labels is refused before anything is read, with the count of tiles that lack one."""
    folder = write_dataset(tmp_path / "set", pictures(3), labelled=False)
    with pytest.raises(ValueError, match=rf"{folder}: 3 of 3 tiles have no label; give a data set"):
        TileSet(folder, labelled=True)


def test_a_folder_without_an_index_is_refused(tmp_path):
    """No index, no data set: the sentence names the folder."""
    with pytest.raises(ValueError, match=str(tmp_path)):
        TileSet(str(tmp_path), labelled=True)


def halved(name, data):
    return name, data[: len(data) // 2]


DAMAGE = {  # what happens to tile0002's member, and what the sentence must say besides shard and key
    "truncated PNG": ("tile0002.png", halved, "cannot be decoded"),
    "truncated JPEG": (
        "tile0002.png",
        lambda n, d: ("tile0002.jpg", jpeg(pictures(1, (64, 64))[0][0])[:900]),
        "decoded",
    ),
    "no picture": ("tile0002.png", lambda n, d: (n, b"<html>not found</html>"), "cannot be decoded"),
    "empty picture": ("tile0002.png", lambda n, d: (n, b""), "cannot be decoded"),
    "truncated label": ("tile0002.label.png", halved, "cannot be decoded"),
    "no label": ("tile0002.label.png", lambda n, d: None, r"\['json', 'png'\].*label"),
    "no image": ("tile0002.png", lambda n, d: None, r"\['json', 'label.png'\].*image"),
    "other label": (
        "tile0002.label.png",
        lambda n, d: (n, other_size()),
        r"image \(8, 8\) and label \(5, 8\) differ",
    ),
}


def other_size():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_tile_is_one_sentence(packed, kind):
    """A tile that cannot be used stops the run with one line that names shard, key and what is wrong."""
    member, change, words = DAMAGE[kind]
    shard = rewrite(packed[0], lambda n, d: change(n, d) if n == member else (n, d))
    with pytest.raises(ValueError, match=f"{shard}:tile0002: .*{words}") as error:
        read_all(packed[0])
    assert "\n" not in str(error.value)


def test_a_worker_says_the_same_sentence(packed, monkeypatch):
    """From a decoding process comes the same line, without the process's traceback."""
    # After an error torch waits this long (5 s) for the worker's end; the sentence is out by then.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    rewrite(packed[0], lambda n, d: halved(n, d) if n == "tile0002.png" else (n, d))
    sentences = []
    for workers in (0, 1):
        with pytest.raises(ValueError, match="tile0002") as error:
            read_all(packed[0], workers=workers)
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize("offset", [0, 1024], ids=["first header", "later header"])
def test_a_damaged_tar_is_one_sentence(packed, offset):
    """A tar whose headers are gone stops the run with one line that names the shard."""
    shard = overwrite(packed[0], offset, b"\xff" * 512)
    with pytest.raises(ValueError, match=f"{shard}: .*again") as error:
        read_all(packed[0])
    assert "\n" not in str(error.value)


def test_a_truncated_tar_is_refused_at_once(packed):
    """A shard that is shorter than the index says stops before any tile is read, naming it and both sizes."""
    shard = overwrite(packed[0], 0, b"")
    size = shard.stat().st_size
    with open(shard, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(ValueError, match=f"{shard} has 2000 bytes, the index says {size}"):
        TileSet(packed[0], labelled=True)


def test_a_shard_of_another_length_is_refused(packed):
    """A tar with fewer tiles than the index says is not read as if the index were right."""
    shard = rewrite(packed[0], lambda n, d: None if n.startswith("tile0003") else (n, d))
    with pytest.raises(ValueError, match=f"{shard}: holds 3 samples, the index says 4"):
        read_all(packed[0])
