"""`shards adopt`: tars that webdataset's own writer made become a data set where they lie."""

import io
import json
import tarfile

import fsspec
import numpy as np
import pytest
import webdataset as wds
import yaml
from PIL import Image

from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record
from mkd.loader.loader import TileSet, in_order
from mkd.storage.folder import Folder
from shards.__main__ import main
from shards.commands.adopt import MemberNames, adopt
from shards.commands.split import split
from shards.commands.stats import stats
from shards.commands.verify import verify
from shards.output.build_options import BuildOptions
from shards.reading.tar_stream import HashingReader, foreign_tiles
from shards.splitting.assignment import SplitOptions
from tests.helpers.shards import CLASSES, PALETTE
from tests.helpers.training.runs import coloured

TILES, IN_A_SHARD = 10, 4
URLS = "tiles-{000000..000002}.tar"


@pytest.fixture
def classfile(tmp_path):
    """Give a class file whose masks are class ids."""
    path = tmp_path / "classes.yaml"
    content = {"name": "toy", "classes": list(CLASSES), "palette": [list(c) for c in PALETTE], "masks": "ids"}
    content |= {"layout": {"images": "*.jpg", "masks": None}, "source": "made for a test"}
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def samples(kind="jpg", label="seg.png"):
    """Make samples as users of webdataset.ShardWriter have them: metadata beside image and mask."""
    for number, (image, ids) in enumerate(coloured(TILES)):
        yield {
            "__key__": f"north/t{number:03d}",
            kind: image,
            label: ids,
            "json": {"number": number},
            "txt": "a field",
        }


def write(folder, given=None):
    """Write shards by webdataset.ShardWriter."""
    folder.mkdir(exist_ok=True)
    with wds.ShardWriter(f"{folder}/tiles-%06d.tar", maxcount=IN_A_SHARD, verbose=0) as writer:
        for sample in samples() if given is None else given:
            writer.write(sample)
    return folder


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


def test_what_is_odd_is_counted_and_named(tmp_path, classfile, messages):
    """Missing labels and images, several of each, other spellings and contents, links: counted, ten named at most."""
    image, ids = coloured(1)[0]
    png, jpg = (Image.fromarray(image), io.BytesIO()), io.BytesIO()
    png[0].save(png[1], "PNG")
    png[0].save(jpg, "JPEG")
    given = [{"__key__": f"u{n:02d}", "JPG": jpg.getvalue()} for n in range(12)]
    given += [{"__key__": "none", "cls": 3}, {"__key__": "both", "jpg": image, "png": image, "mask.png": ids}]
    given += [{"__key__": "masks", "jpeg": jpg.getvalue(), "mask.png": ids, "seg.png": ids}]
    given += [{"__key__": "content", "jpg": png[1].getvalue(), "seg.png": ids}]
    given += [{"__key__": "void", "jpg": image, "seg.png": np.full_like(ids, 255)}]
    path = tmp_path / "odd.tar"
    with wds.TarWriter(str(path), encoder=encode) as writer:
        for sample in given:
            writer.write(sample)
    with tarfile.open(path, "a") as tar:
        for name, kind in (("a_link.jpg", tarfile.SYMTYPE), ("README", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    adopt([str(path)], classfile, BuildOptions(tmp_path / "out"))
    index, text = read_index(tmp_path / "out"), "\n".join(messages)
    assert (index.samples, index.labelled) == (16, 3)
    assert "12 tiles without a label" in text
    assert "odd:u09 ..." in text
    assert "u10" not in text
    assert "1 tile without an image left out" in text
    assert "odd:both (jpg, png)" in text
    assert "odd:masks (seg.png, mask.png)" in text
    assert "2 members passed over" in text
    assert "odd:a_link.jpg, odd:README" in text
    assert "odd:content.jpg" in text
    assert "1 tile with a label that ignores every pixel" in text
    adopt([str(path)], classfile, BuildOptions(tmp_path / "few"), MemberNames(labelled_only=True))
    assert read_index(tmp_path / "few").samples == 3
    assert sum(len(batch.ids) for batch in in_order(TileSet(tmp_path / "few", labelled=True), 2)) == 3


def encode(sample):
    """Encode as webdataset does by default; bytes stay, whatever the case of their extension."""
    plain = {key: value for key, value in sample.items() if isinstance(value, bytes)}
    return {**wds.writer.make_encoder(True)({k: v for k, v in sample.items() if k not in plain}), **plain}


def test_duplicate_keys(tmp_path, classfile, messages):
    """The second tile of a key in one shard is left out; the same key in another shard is another tile."""
    given = list(samples())
    for number, sample in enumerate(given):
        sample["__key__"] = f"k{[0, 1, 0, 2][number % IN_A_SHARD]}"
    adopt([f"{write(tmp_path / 'theirs', given)}/{URLS}"], classfile, BuildOptions(tmp_path / "out"))
    assert read_index(tmp_path / "out").samples == 8
    assert any(
        "2 tiles with the key of another tile" in text and "tiles-000000:k0" in text for text in messages
    )
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"jpg": b"\xff\xd8\xff broken"}, "cannot be decoded"),
        ({"jpg": "grey"}, "cannot be read as it lies"),
        ({"seg.png": "palette"}, "mode P"),
        ({"seg.png": "small"}, "they must be equal"),
        ({"seg.png": "unknown"}, "value 7|7: "),
    ],
)
def test_bad_tiles_are_quarantined(tmp_path, classfile, change, reason):
    """Over the budget the build fails with one sentence; within it the tile is listed, and the others are read."""
    image, ids = coloured(1)[0]
    pictures = {
        "grey": (Image.fromarray(image[..., 0]), "JPEG"),
        "palette": (Image.fromarray(ids).convert("P"), "PNG"),
        "small": (Image.fromarray(ids[:8]), "PNG"),
        "unknown": (Image.fromarray(np.full_like(ids, 7)), "PNG"),
    }
    given = list(samples())
    for extension, content in change.items():
        if content in pictures:
            buffer = io.BytesIO()
            pictures[content][0].save(buffer, pictures[content][1])
            content = buffer.getvalue()
        given[5][extension] = content
    url, out = f"{write(tmp_path / 'theirs', given)}/{URLS}", tmp_path / "out"
    with pytest.raises(ValueError, match=rf"(?s)1 of 10 labelled tiles are bad.*({reason})") as caught:
        adopt([url], classfile, BuildOptions(out))
    assert "\n" not in str(caught.value)
    adopt([url], classfile, BuildOptions(out, max_bad_labelled=0.1))
    assert read_index(out).samples == TILES - 1
    listed = json.loads((out / "quarantine.jsonl").read_text())
    assert "tiles-000001:north/t005" in listed["source"]
    assert verify(out) == []


def test_labels_that_need_another_reading_are_refused(tmp_path, classfile, capsys):
    """Colours and other ids would be read wrongly: one sentence names the remedy, and the exit code is 2."""
    theirs, content = write(tmp_path / "theirs"), json.loads(classfile.read_text())
    for changes in ({"masks": "rgb"}, {"ids": {0: 1, 1: 0, 2: 2, 255: 255}}):
        classfile.write_text(yaml.safe_dump({**content, **changes}))
        out = tmp_path / f"out{len(changes)}{next(iter(changes))}"
        command = [
            "adopt",
            f"{theirs}/{URLS}",
            "--classes",
            str(classfile),
            "--out",
            str(out),
            "--workers",
            "1",
        ]
        assert main(command) == 2
        assert "run `python -m shards pack`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("tiles-{000000..000009}.tar", "7 of 10 shards not there"),
        ("https://host/x.tar", "give paths or s3:// URLs"),
        ("pipe:cat x.tar", "give paths or s3:// URLs"),
        ("tiles-{000000,000000}.tar", "named more than once"),
        ("${NO_SUCH}.tar", "cannot be expanded"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, classfile, capsys, monkeypatch, url, reason):
    monkeypatch.chdir(write(tmp_path / "theirs"))
    assert main(["adopt", url, "--classes", str(classfile), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


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
