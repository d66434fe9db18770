"""Near-duplicates: the same picture is found however it is encoded, others are not, at a bounded cost."""

import io

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.index import read_index
from mkd.storage.folder import Folder
from shards.__main__ import main
from shards.commands.split import split
from shards.commands.verify import compare_ground
from shards.inputs.encode import encode_png, encode_tile
from shards.output.dataset_writer import DatasetWriter
from shards.splitting import near_duplicates
from shards.splitting.assignment import SplitOptions
from shards.splitting.image_hash import image_hash
from shards.splitting.near_duplicates import LIMIT, find_near_duplicates, near_pairs


def scene(seed, size=96):
    """Draw a smooth random picture (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(20, 220, (7, 7, 3), np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def jpeg(pixels, quality):
    """Encode as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write(folder, tiles, crs=None):
    """Write images without a place: {name: PNG or JPEG}."""
    with DatasetWriter(folder, "toy", ("a",), ((0, 0, 0),), 5) as writer:
        for name, data in tiles.items():
            meta = {"source": name, "window": None, "size": [96, 96], "crs": None, "transform": None}
            extension = "png" if data.startswith(b"\x89PNG") else "jpg"
            writer.add(encode_tile(name, data, extension, None, meta))
        writer.finish({"command": "test"})
    return folder


def shards_of(**folders):
    """Open some parts."""
    return {part: (Folder(folder), read_index(folder).shards) for part, folder in folders.items()}


def test_copies_in_another_dress_are_found_and_others_are_not(tmp_path):
    """A copy, a JPEG, a darker one and noise are found; 40 other pictures, a mirrored one and calm water are not."""
    train = {f"t{n}": encode_png(scene(n)) for n in range(40)} | {
        "calm": encode_png(np.full((96, 96, 3), 9, np.uint8))
    }
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    test = {
        "copy": encode_png(scene(0)),
        "jpeg": jpeg(scene(1), 40),
        "dark": encode_png((scene(2) * 0.6).astype(np.uint8)),
        "noisy": encode_png((scene(3) + noise).clip(0, 255).astype(np.uint8)),
        "mirrored": encode_png(np.ascontiguousarray(scene(4)[:, ::-1])),
        "other": encode_png(scene(1000)),
        "calm2": encode_png(np.full((96, 96, 3), 9, np.uint8)),
    }
    shards = shards_of(test=write(tmp_path / "test", test), train=write(tmp_path / "train", train))
    found = find_near_duplicates(shards)
    assert {(one.key, other.key) for _, one, other in found.pairs} == {
        ("copy", "t0"),
        ("jpeg", "t1"),
        ("dark", "t2"),
        ("noisy", "t3"),
    }
    assert found.counts == {("test", "train"): 4}
    assert found.flat == 2
    assert found.pairs[0][0] == 0


def test_near_pairs_equal_all_pairs_up_to_seven_bits():
    """Up to 7 bits each pair of different parts is found, none above the limit, none within a part."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (300, 16), np.uint8)
    bits = np.unpackbits(base, axis=1)
    for row in range(0, 300, 2):  # the next one differs in 0 to 14 bits
        bits[row + 1] = bits[row]
        bits[row + 1, rng.choice(128, row // 2 % 15, replace=False)] ^= 1
    hashes, parts = np.packbits(bits, axis=1), rng.integers(0, 3, 300)
    one, other, distance = near_pairs(hashes, parts)
    slow = {
        (min((parts[a], a), (parts[b], b))[1], max((parts[a], a), (parts[b], b))[1], int(d))
        for a in range(300)
        for b in range(a)
        if parts[a] != parts[b] and (d := (bits[a] != bits[b]).sum()) <= LIMIT
    }
    found = set(zip(one.tolist(), other.tolist(), distance.tolist(), strict=True))
    assert {pair for pair in slow if pair[2] <= 7} <= found <= slow
    assert (parts[one] < parts[other]).all()


def test_the_cost_grows_with_the_tiles_not_with_their_square(monkeypatch):
    """Where all hashes share a piece each is compared with 64 others an order, not with all."""
    hashes = np.random.default_rng(0).integers(0, 256, (5000, 16), np.uint8)
    hashes[:, :2] = 0
    compared, real = [], near_duplicates.np.where
    monkeypatch.setattr(near_duplicates.np, "where", lambda *a: compared.append(len(a[0])) or real(*a))
    near_pairs(hashes, np.arange(5000) % 2)
    assert 0 < sum(compared) / 2 < 8 * 64 * 5000


@pytest.mark.parametrize("kind", ["twins", "strangers"])
def test_a_split_of_images_without_place_compares_pictures(tmp_path, messages, kind):
    """Twins in train and test are counted and drawn beside the parts; without twins no picture is made."""
    tiles = {f"s{n}": encode_png(scene(n // 2 if kind == "twins" else n)) for n in range(24)}
    source = write(tmp_path / "all", tiles)
    report = split(source, tmp_path / "out", SplitOptions(by="source", fractions=(0.5, 0, 0.5)))
    picture = tmp_path / "out" / "near_duplicates.png"
    assert report["touching"] is None
    assert any("touching a training tile: unknown for 12 tiles" in line for line in messages)
    assert picture.exists() is (kind == "twins")
    assert (report["near_duplicates"] > 0) is (kind == "twins")
    if kind == "twins":
        with Image.open(picture) as drawn:
            assert drawn.width > 500
        assert any("near-duplicates across parts" in line for line in messages)
        keys = [{m["source"] for m in metas(report[part])} for part in ("train", "test")]
        numbers = [{int(key[1:]) // 2 for key in part} for part in keys]
        assert report["near_duplicates"] == sum(int(key[1:]) // 2 in numbers[0] for key in keys[1])
        problems = compare_ground(report["test"], [report["train"]])
        assert len(problems) == 1
        assert "look like tiles of" in problems[0]
    else:
        assert compare_ground(report["test"], [report["train"]]) == []


def metas(folder):
    """Read the records of a data set's tiles."""
    from shards.reading.shard_reader import read_metas

    return [meta for _, meta, _ in read_metas(Folder(folder), read_index(folder).shards)]


def test_a_flat_picture_has_no_hash_and_16_bits_have_the_same_as_8():
    """Brightness scale does not matter; a constant picture is not compared."""
    grey = scene(0).mean(axis=2)
    assert image_hash(np.full((50, 40), 7.0)) is None
    assert (image_hash(grey) == image_hash(grey * 100)).all()
    assert image_hash(grey[:5, :5]) is not None


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures_above_max_pixels_are_not_decoded(tmp_path, kind):
    """split --max-pixels and verify --against: a tile's header is read first, of a JPEG too."""
    tiles = {f"t{n}": encode_png(scene(n)) if kind == "png" else jpeg(scene(n), 90) for n in range(6)}
    write(tmp_path / "set", tiles)
    words = ["split", "--source", f"{tmp_path}/set", "--out", f"{tmp_path}/parts", "--by", "source"]
    words += ["--fractions", "0.5,0,0.5", "--workers", "1", "--max-pixels"]
    assert main([*words, "9000"]) == 2
    assert main([*words, "9216"]) == 0
