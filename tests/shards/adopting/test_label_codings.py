"""`shards adopt`: labels of colours, palettes and other ids are mapped while they are read, never copied."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds
import yaml
from PIL import Image

from mkd.dataset.index import read_index
from mkd.loader.loader import TileSet, in_order
from mkd.storage.folder import Folder
from shards.__main__ import main
from shards.commands.adopt import adopt
from shards.commands.split import split
from shards.commands.stats import stats
from shards.commands.verify import verify
from shards.output.build_options import BuildOptions
from shards.reading.tile_reader import read_samples
from shards.splitting.assignment import SplitOptions
from tests.helpers.foreign_shards import URLS
from tests.helpers.shards import PALETTE
from tests.helpers.training.runs import coloured

TILES = coloured(10)


def as_png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def of_palette(ids):
    """Draw ids as a PNG with a palette, each class by the index 10 + id, 255 as index 7."""
    picture = Image.fromarray(np.where(ids == 255, 7, ids + 10).astype(np.uint8))
    picture.putpalette([n // 3 for n in range(768)])
    assert picture.mode == "P"
    return as_png(picture)


def of_colours(ids):
    table = np.full((256, 3), 77, np.uint8)  # a colour of no class
    table[: len(PALETTE)] = PALETTE
    return as_png(Image.fromarray(table[ids]))


def of_other_ids(ids):
    return as_png(Image.fromarray(np.where(ids == 255, 0, ids + 1).astype(np.uint8)))


KINDS = {
    "palette": (of_palette, {"masks": "palette", "ids": {10: 0, 11: 1, 12: 2, 7: 255}}),
    "ignored": (of_colours, {"masks": "rgb", "ignore_colours": [[77, 77, 77]]}),
    "unknown": (of_colours, {"masks": "rgb", "unknown_colours": "ignore"}),
    "ids": (of_other_ids, {"masks": "ids", "ids": {"1-1": 0, 2: 1, 3: 2, 0: 255, -9999: 255}}),
}


def write(folder, draw, kind="jpg"):
    """Write shards by webdataset.ShardWriter as img2dataset does: keys that begin anew, and its own metadata."""
    folder.mkdir()
    with wds.ShardWriter(f"{folder}/tiles-%06d.tar", maxcount=4, verbose=0) as writer:
        for number, (image, ids) in enumerate(TILES):
            meta = {
                "url": "http://host/a.jpg",
                "caption": None,
                "status": "success",
                "width": 40,
                "height": 40,
            }
            key = f"{number % 4:09d}"
            writer.write({"__key__": key, kind: image, "seg.png": draw(ids), "json": meta, "txt": "a field"})
    return folder


def with_keys(classfile, changes):
    content = json.loads(classfile.read_text())
    classfile.write_text(yaml.safe_dump({**content, **changes}))
    return classfile


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_mapped_where_they_lie(tmp_path, classfile, kind, messages):
    """Training, sample, stats and split see the ids that were drawn; verify finds nothing; no tile is copied."""
    draw, changes = KINDS[kind]
    theirs, out = write(tmp_path / "theirs", draw), tmp_path / "out"
    report = adopt([f"{theirs}/{URLS}"], with_keys(classfile, changes), BuildOptions(out))
    assert (report["samples"], report["labelled"]) == (10, 10)
    assert {path.suffix for path in out.iterdir()} == {".json"}
    drawn = np.stack([ids for _, ids in TILES])
    for workers in (0, 1):
        batches = in_order(TileSet(out, labelled=True), 5, workers=workers)
        np.testing.assert_array_equal(np.concatenate([batch.labels.numpy() for batch in batches]), drawn)
    index = read_index(out)
    assert index.histogram == tuple((drawn == n).sum() for n in range(len(index.classes)))
    shown = read_samples(Folder(out), index, range(10))
    np.testing.assert_array_equal(np.stack([tile.label for tile in shown]), drawn)
    assert [entry["pixels"] for entry in stats(out)["classes"]] == list(index.histogram)
    assert verify(out) == []
    options = SplitOptions("source", fractions=(0.6, 0.2, 0.2), labelled=3, stratify=True)
    parts = split(out, tmp_path / "split", options)
    assert [verify(parts[part]) for part in ("train", "val", "test", "labelled")] == [[]] * 4
    train = read_index(parts["train"])
    assert train.labels is None
    assert train.samples == 6
    assert any("pixels of the labels have a colour" in line for line in messages) == (kind == "unknown")


def test_the_remedy_for_what_cannot_be_mapped(tmp_path, classfile, capsys):
    """Labels with alpha are refused; the command of the message, as it is written there, packs all tiles."""
    theirs, out = tmp_path / "theirs", tmp_path / "out"

    def with_alpha(ids):
        return as_png(Image.open(io.BytesIO(of_colours(ids))).convert("RGBA"))

    write(theirs, with_alpha)
    with_keys(classfile, {"masks": "rgb", "ignore_colours": [[77, 77, 77]]})
    assert main(["adopt", f"{theirs}/{URLS}", "--classes", str(classfile), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "unpack each shard into a folder of its own" in said
    layout = yaml.safe_load(said.partition("layout: ")[2].partition(" in the class file")[0])
    for path in sorted(theirs.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "plain" / path.stem, filter="data")
    content = yaml.safe_load(classfile.read_text())
    classfile.write_text(yaml.safe_dump({**content, "layout": layout}))
    command = ["pack", "--source", str(tmp_path / "plain"), "--classes", str(classfile)]
    assert main([*command, "--out", str(tmp_path / "packed")]) == 0
    batches = list(in_order(TileSet(tmp_path / "packed", labelled=True), 10))
    np.testing.assert_array_equal(batches[0].labels, np.stack([ids for _, ids in TILES]))


def test_a_value_that_nobody_knew_is_a_damaged_tile(tmp_path, classfile):
    """An index whose table lacks a value: the tile is refused, not read as another class."""
    theirs, out = write(tmp_path / "theirs", of_palette), tmp_path / "out"
    adopt([f"{theirs}/{URLS}"], with_keys(classfile, KINDS["palette"][1]), BuildOptions(out))
    content = json.loads((out / "index.json").read_text())
    assert content["version"] == 3
    content["labels"]["ids"] = [pair for pair in content["labels"]["ids"] if pair[0] != 11]
    (out / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it has the value 11, which its class file did not know"):
        list(in_order(TileSet(out, labelled=True), 5))
    assert "the value 11" in " ".join(verify(out))
    content["labels"]["ids"] = [[11, 3]]
    (out / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"labels.ids has the id 3, allowed are 0..2 and 255"):
        read_index(out)
