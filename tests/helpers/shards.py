"""Tiny data sets on disk, and ways to damage them."""

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mkd.dataset.shard_record import Member, TileRecord, read_record, write_record
from mkd.geo.grid import Window
from mkd.storage.folder import Folder
from shards.inputs.encode import encode_png, encode_tile
from shards.output.dataset_writer import DatasetWriter
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import read_tiles

CLASSES = ("field", "road", "water")
PALETTE = ((0, 128, 0), (128, 128, 128), (0, 0, 255))


def pictures(count, size=(8, 8), seed=0):
    """Make pairs of image uint8 (H,W,3) and ids uint8 (H,W), some 255; `size` may be a list of sizes."""
    rng = np.random.default_rng(seed)
    sizes = size if isinstance(size, list) else [size] * count
    values = np.array([0, 1, 2, 255], np.uint8)
    return [(rng.integers(0, 256, (h, w, 3), np.uint8), values[rng.integers(0, 4, (h, w))]) for h, w in sizes]


def write_dataset(folder, pairs, shard_size=4, labelled=True):
    """Pack pairs as PNG tiles with keys tile0000, tile0001, ...; return the folder as text."""
    with DatasetWriter(folder, "tiny", CLASSES, PALETTE, shard_size) as writer:
        for n, (image, ids) in enumerate(pairs):
            meta = {
                "source": f"s{n}",
                "window": None,
                "size": list(ids.shape),
                "crs": None,
                "transform": None,
            }
            label = ids if labelled else None
            writer.add(encode_tile(f"tile{n:04d}", encode_png(image), "png", label, meta))
        writer.finish({"command": "test"})
    return str(folder)


class Sample(NamedTuple):
    """A decoded tile: image (H,W,C), ids uint8 (H,W) or None, and its KEY.json."""

    key: str
    image: np.ndarray
    label: np.ndarray | None
    meta: dict[str, Any]


def read_dataset(folder):
    """Yield the tiles of a data set decoded by the shard CLI's own reader."""
    for tile in read_tiles(folder):
        image = image_pixels(tile.image, tile.extension, tile.key)
        label = None if tile.label is None else label_pixels(tile.label, tile.key)
        yield Sample(tile.key, image, label, dict(tile.meta))


def jpeg(image):
    """Encode uint8 (H,W,3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


def rewrite(folder, change, shard=0):
    """Pass each member (name, bytes) of a shard through `change`, which gives a new pair, or None to drop it.

    Index and record are written again, so that they agree with the changed shard.
    """
    index = json.loads((Path(folder) / "index.json").read_text())
    path = Path(folder) / index["shards"][shard]["file"]
    with tarfile.open(path) as tar:
        before = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in filter(None, (change(name, data) for name, data in before)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    _reindex(folder, index, shard)
    return path


def overwrite(folder, offset, data, shard=0):
    """Write bytes into a shard at an offset, as a bad disk would; the index goes on trusting its size."""
    index = json.loads((Path(folder) / "index.json").read_text())
    path = Path(folder) / index["shards"][shard]["file"]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def _reindex(folder, index, shard):
    entry = index["shards"][shard]
    content = (Path(folder) / entry["file"]).read_bytes()
    index["bytes"] += len(content) - entry["bytes"]
    entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    (Path(folder) / "index.json").write_text(json.dumps(index))
    _record(folder, entry, content)


def _record(folder, entry, content):
    """Write the record of a tar as it is now; sizes of tiles are taken over."""
    before = read_record(Folder(folder), entry["file"])
    sizes = {tile.key: tile.size for tile in before.tiles}
    members = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for m in tar:
            key, _, extension = m.name.partition(".")
            data = content[m.offset_data : m.offset_data + m.size]
            members.setdefault(key, {})[extension] = Member(m.offset_data, m.size, zlib.crc32(data))
    tiles = tuple(TileRecord(key, sizes.get(key, (0, 0)), found) for key, found in members.items())
    labelled = sum("label.png" in found for found in members.values())
    info = replace(
        before.info, bytes=entry["bytes"], sha256=entry["sha256"], samples=len(tiles), labelled=labelled
    )
    write_record(Folder(folder), replace(before, info=info, tiles=tiles))


def whole_windows(height, width, size, stride):
    """List the square windows that fit whole on a grid of this stride, row by row."""
    rows, columns = range(0, height - size + 1, stride), range(0, width - size + 1, stride)
    return [Window(row, column, size, size) for row in rows for column in columns]
