"""Data sets written plainly, with tarfile alone: members may be any bytes, which no builder would pack."""

import hashlib
import io
import tarfile
import zlib

import numpy as np
from PIL import Image

from mkd.dataset.index import DatasetIndex, ShardInfo, write_index
from mkd.dataset.shard_record import Member, ShardRecord, TileRecord, write_record
from mkd.storage.folder import Folder

CLASSES = ("field", "road", "water")
PALETTE = ((0, 128, 0), (128, 128, 128), (0, 0, 255))


def encoded(array, kind="PNG", **options):
    """Encode uint8 (H,W) or (H,W,3) as a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(image, ids=None, jpeg=False):
    """Return a tile's members by extension."""
    picture = {"jpg": encoded(image, "JPEG", quality=90)} if jpeg else {"png": encoded(image)}
    label = {} if ids is None else {"label.png": encoded(ids)}
    return {**picture, **label, "json": b'{"source": "s"}'}


def write_plain(folder, tiles, size, counts, largest=None, **kinds):
    """Write a data set of shards with these counts of tiles.

    Args:
        folder: made when missing.
        tiles: members of each tile by extension.
        size: (H, W) of all tiles, or a list of them, as the records say.
        counts: tiles of each shard; their sum is the number of tiles.
        largest: of the index; by default the largest of ``size``.
        kinds: `bands` and `dtype`, if not 3 and uint8.
    """
    place = Folder(folder)
    sizes = size if isinstance(size, list) else [size] * len(tiles)
    rest = iter(zip(tiles, sizes, strict=True))
    shards = [
        _write_shard(place, n, [next(rest) for _ in range(c)], sum(counts[:n]), kinds)
        for n, c in enumerate(counts)
    ]
    labelled = sum(shard.labelled for shard in shards)
    ends = largest or (max(h for h, _ in sizes), max(w for _, w in sizes))
    sums = {"samples": len(tiles), "labelled": labelled, "bytes": sum(shard.bytes for shard in shards)}
    about = {
        "classes": CLASSES,
        "palette": PALETTE,
        "histogram": (0, 0, 0),
        "ignored_pixels": 0,
        "provenance": {},
    }
    write_index(
        place, DatasetIndex(name="plain", shards=tuple(shards), largest=ends, **sums, **about, **kinds)
    )
    return str(folder)


def _write_shard(place, number, tiles, first, kinds):
    buffer, entries = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for n, (members, size) in enumerate(tiles):
            key, where = f"tile{first + n:04d}", {}
            for kind, data in members.items():
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                where[kind] = Member(tar.offset + 512, len(data), zlib.crc32(data))
                tar.addfile(info, io.BytesIO(data))
            entries.append(TileRecord(key, size, where))
    content, file = buffer.getvalue(), f"plain-{number:06d}.tar"
    labelled = sum("label.png" in members for members, _ in tiles)
    info = ShardInfo(file, len(tiles), labelled, len(content), hashlib.sha256(content).hexdigest())
    place.write(file, content)
    write_record(place, ShardRecord(info, tuple(entries), **kinds))
    return info


def smooth(count, size, seed=0):
    """Make pairs of image uint8 (H,W,3), smooth as a photograph is, and ids uint8 (H,W)."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        noise = rng.normal(0, 6, image.shape)
        ids = np.kron(rng.integers(0, 3, (size // 8, size // 8)), np.ones((8, 8))).astype(np.uint8)
        pairs.append(((image + noise).clip(0, 255).astype(np.uint8), ids))
    return pairs
