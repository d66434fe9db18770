"""Our shards are WebDataset shards: the library reads the same keys, pixels, labels and metadata as our loader."""

import io
import tarfile
from collections import Counter

import fsspec
import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader

from mkd.loader.loader import TileSet, in_order
from mkd.storage.folder import Folder
from shards.inputs.encode import encode_png, encode_tile, tile_key
from shards.output.dataset_writer import DatasetWriter
from tests.helpers.plain import encoded, smooth
from tests.helpers.shards import CLASSES, PALETTE

# File names as users have them: dots, folders, letters beyond ASCII, more than the 100 bytes of a plain tar header.
NAMES = ["a.b", "north/t.01", "Straße_ö", "long_" + 120 * "x", *(f"t{n:03d}" for n in range(7))]
SHARDS, IN_A_SHARD = 4, 3


@pytest.fixture(params=["local", "s3"])
def url(request, tmp_path, monkeypatch):
    """Write a data set of JPEG and PNG tiles as `shards pack` does; give its path or URL."""
    place = f"{tmp_path}/set"
    if request.param == "s3":
        place = request.getfixturevalue("s3")
        # webdataset opens no s3:// URLs by itself. This line is all that a user adds.
        monkeypatch.setitem(wds.gopen_schemes, "s3", open_s3)
    with DatasetWriter(place, "tiny", CLASSES, PALETTE, IN_A_SHARD) as writer:
        for number, (name, (image, ids)) in enumerate(zip(NAMES, smooth(len(NAMES), 32), strict=True)):
            meta = {"source": name, "window": None, "size": [32, 32], "crs": None, "transform": None}
            picture = encoded(image, "JPEG", quality=90) if number % 2 else encode_png(image)
            kind = "jpg" if number % 2 else "png"
            writer.add(encode_tile(tile_key(name), picture, kind, ids, meta))
        writer.finish({"command": "test"})
    return place


def open_s3(url, mode="rb", bufsize=8192, **options):
    return fsspec.open(url, mode).open()


def shard_urls(url):
    """Return the URLs of all shards in webdataset's own notation, which it expands."""
    return f"{url}/tiny-{{000000..{SHARDS - 1:06d}}}.tar"


def label_ids(data):
    """Decode a label: "rgb8" would repeat its one band three times."""
    return np.asarray(Image.open(io.BytesIO(data)))


def samples_of(urls):
    """Build the pipeline of webdataset's guide: open, decode images as uint8 RGB, and read in order."""
    dataset = wds.WebDataset(urls, shardshuffle=False, workersplitter=wds.split_by_worker)
    return dataset.decode(wds.handle_extension("label.png", label_ids), "rgb8")


def loaded(url):
    """Return image (H,W,3), label (H,W) and KEY.json of each tile by key, as our loader gives them."""
    tiles, found = TileSet(url, labelled=True), {}
    for batch in in_order(tiles, 4):
        for image, label, (_, number) in zip(batch.images, batch.labels, batch.ids, strict=True):
            meta = tiles.meta(number)
            found[meta.pop("key")] = image.movedim(0, -1).numpy().copy(), label.numpy().copy(), meta
    return found


def assert_same(samples, expected):
    """Check that each tile comes exactly once, with the pixels, label and metadata of our loader."""
    assert Counter(sample["__key__"] for sample in samples) == Counter(expected.keys())
    for sample in samples:
        image, label, meta = expected[sample["__key__"]]
        np.testing.assert_array_equal(sample["jpg"] if "jpg" in sample else sample["png"], image)
        np.testing.assert_array_equal(sample["label.png"], label)
        assert sample["json"] == meta


def test_webdataset_reads_what_our_loader_reads(url):
    """One process, from a disk and from S3: every key once, in the order of the index."""
    expected = loaded(url)
    samples = list(samples_of(shard_urls(url)))
    assert [sample["__key__"] for sample in samples] == list(expected) == [tile_key(name) for name in NAMES]
    assert_same(samples, expected)


def test_two_workers_share_the_shards(url):
    """A torch DataLoader with two processes: webdataset splits by shard, and every key still comes once."""
    loader = DataLoader(samples_of(shard_urls(url)), batch_size=None, num_workers=2, timeout=100)
    assert_same(list(loader), loaded(url))


def test_a_list_of_paths_is_read_too(url):
    """A user may name some shards: only their tiles come."""
    urls = wds.shardlists.expand_urls(shard_urls(url))[1:3]
    keys = [sample["__key__"] for sample in samples_of(urls)]
    assert keys == [tile_key(name) for name in NAMES[IN_A_SHARD : 3 * IN_A_SHARD]]


def test_members_are_named_as_webdataset_groups_them(url):
    """KEY.EXTENSION: the key ends at the first dot and holds no folder; the members of a tile are neighbours."""
    folder, groups = Folder(url), []
    for file in sorted(name for name in folder.sizes() if name.endswith(".tar")):
        with tarfile.open(fileobj=io.BytesIO(folder.read(file))) as tar:
            for member in tar:
                assert member.isreg()
                key, extension = wds.tariterators.base_plus_ext(member.name)
                assert (key + "." + extension, "/" in key, "." in key) == (member.name, False, False)
                assert extension in ("jpg", "png", "label.png", "json")
                if not groups or groups[-1] != key:
                    groups.append(key)
    assert groups == [tile_key(name) for name in NAMES]
