"""`shards adopt`: tars that webdataset's own writer made become a data set where they lie."""

import io
import tarfile

import fsspec
import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record
from mkd.loader.loader import TileSet, in_order
from mkd.storage.folder import Folder
from shards.__main__ import main
from shards.commands.adopt import adopt
from shards.commands.split import split
from shards.commands.stats import stats
from shards.commands.verify import verify
from shards.output.build_options import BuildOptions
from shards.reading.tar_stream import HashingReader, foreign_tiles
from shards.splitting.assignment import SplitOptions
from tests.helpers.foreign_shards import TILES, URLS, samples, write


def pixels_by_webdataset(paths):
    """Read image and label of each tile by webdataset itself, in order."""
    found = []
    for sample in wds.WebDataset(paths, shardshuffle=False):
        image = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        found.append((image, np.asarray(Image.open(io.BytesIO(sample["seg.png"])))))
    return found


def digests(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Write shards, and give the URL with braces and the local paths."""
    written = write(tmp_path / "theirs")
    paths = sorted(str(path) for path in written.iterdir())
    if request.param == "local":
        return f"{written}/{URLS}", paths
    url = request.getfixturevalue("s3")
    for path in paths:
        with fsspec.open(f"{url}/{path.rpartition('/')[2]}", "wb") as out, open(path, "rb") as file:
            out.write(file.read())
    return f"{url}/{URLS}", paths


def test_shards_are_read_where_they_lie(place, tmp_path, classfile, messages):
    """Pixels and labels are those that webdataset gives; nothing is copied; verify, stats and split work."""
    (url, paths), out = place, tmp_path / "out"
    report = adopt([url], classfile, BuildOptions(out))
    assert (report["samples"], report["labelled"]) == (TILES, TILES)
    assert sorted(path.suffix for path in out.iterdir()) == [".json"] * 5  # records, index and build.json
    tiles = TileSet(out, labelled=True)
    found = [
        (image.movedim(0, -1).numpy(), label.numpy())
        for batch in in_order(tiles, 3, workers=1)
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]
    for ours, theirs in zip(found, pixels_by_webdataset(paths), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert tiles.meta(4)["key"] == tiles.meta(4)["source"] == "tiles-000001__north__t004"
    assert verify(out) == []
    assert stats(out)["tiles"] == TILES
    parts = split(out, tmp_path / "split", SplitOptions("source", fractions=(0.6, 0.2, 0.2)))
    assert [verify(parts[part]) for part in ("train", "val", "test")] == [[], [], []]
    assert "note: 20 members not read, of other extensions: json, txt" in messages


def test_remote_shards_are_cached(s3, tmp_path, classfile):
    """Whole copies of adopted shards in data.cache, as of our own."""
    for path in write(tmp_path / "theirs").iterdir():
        Folder(s3).write(path.name, path.read_bytes())
    adopt([f"{s3}/{URLS}"], classfile, BuildOptions(tmp_path / "out"))
    tiles = TileSet(tmp_path / "out", True, cache=tmp_path / "cache", cache_bytes=1 << 30)
    assert sum(len(batch.ids) for batch in in_order(tiles, 4)) == TILES
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 3


def test_the_same_command_again_and_other_shards(tmp_path, classfile, messages):
    """A finished set stays; a tar that was written again is noticed by training, verify and adopt."""
    theirs, out = write(tmp_path / "theirs"), tmp_path / "out"
    url = f"{theirs}/{URLS}"
    adopt([url], classfile, BuildOptions(out))
    before = digests(out)
    assert adopt([url], classfile, BuildOptions(out))["done_before"]
    assert digests(out) == before
    write(theirs, list(samples())[:9])
    with pytest.raises(ValueError, match=r"tiles-000002.tar has \d+ bytes.*adopt the shards again"):
        TileSet(out, labelled=True)
    assert "tiles-000002.tar" in " ".join(verify(out))
    assert main(["adopt", url, "--classes", str(classfile), "--out", str(out)]) == 2
    assert digests(out) == before


def test_a_stopped_build_goes_on(tmp_path, classfile):
    """Without an index there is no data set; finished records are kept, and the result is that of one go."""
    theirs = write(tmp_path / "theirs")
    whole, out = tmp_path / "whole", tmp_path / "out"
    adopt([f"{theirs}/{URLS}"], classfile, BuildOptions(whole))
    (theirs / "tiles-000001.tar").rename(tmp_path / "aside.tar")
    (theirs / "tiles-000001.tar").write_bytes(b"no tar" * 500)
    stop = f"{theirs}/tiles-000001.tar cannot be read as a tar"
    with pytest.raises(ValueError, match=stop):
        adopt([f"{theirs}/{URLS}"], classfile, BuildOptions(out))
    with pytest.raises(ValueError, match="no data set"):
        read_index(out)
    (tmp_path / "aside.tar").rename(theirs / "tiles-000001.tar")
    adopt([f"{theirs}/{URLS}"], classfile, BuildOptions(out))
    assert read_index(out) == read_index(whole)


def test_an_array_of_jobs(tmp_path, classfile):
    """Parts, merged by `index`, give the same index."""
    theirs, whole, out = write(tmp_path / "theirs"), tmp_path / "whole", tmp_path / "out"
    command = ["adopt", f"{theirs}/{URLS}", "--classes", str(classfile), "--workers", "1", "--out"]
    assert main([*command, str(whole)]) == 0
    assert [main([*command, str(out), "--part", part]) for part in ("1/2", "2/2")] == [0, 0]
    assert main(["index", str(out)]) == 0
    assert read_index(out) == read_index(whole)


def test_tiles_are_grouped_as_webdataset_groups_them(tmp_path):
    """Dots, folders, capitals and metadata in names: the same keys and extensions."""
    names = [
        "a.b/c.jpg",
        "a.b/c.seg.png",
        "X.JPG",
        "x.y.z.Png",
        "__meta__",
        "__x__/a.jpg",
        "none",
        ".hidden",
        "d/.jpg",
    ]
    path = tmp_path / "names.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    theirs = [
        (sample["__key__"], sorted(key for key in sample if not key.startswith("__")))
        for sample in wds.WebDataset(str(path), shardshuffle=False)
    ]
    with open(path, "rb") as file:
        tiles = list(foreign_tiles(HashingReader(file), path.stat().st_size, (), 100, []))
    assert [(tile.key, sorted(tile.unwanted)) for tile in tiles] == theirs


def test_a_flipped_byte_is_noticed(tmp_path, classfile):
    """Training and verify compare each member of an adopted tar with its record."""
    theirs, out = write(tmp_path / "theirs"), tmp_path / "out"
    adopt([f"{theirs}/{URLS}"], classfile, BuildOptions(out))
    record = read_record(Folder(out), "toy-000000.tar")
    with open(theirs / "tiles-000000.tar", "r+b") as file:
        file.seek(record.tiles[2].members["jpg"].offset + 50)
        file.write(b"\0\1\2\3")
    with pytest.raises(
        ValueError, match=r"theirs/tiles-000000.tar:tiles-000000__north__t002: its 'jpg' has changed"
    ):
        list(in_order(TileSet(out, labelled=True), 4))
    problems = " ".join(verify(out))
    assert "tiles-000000__north__t002" in problems
    assert "SHA-256" in problems
