"""What `shards adopt` leaves out, counts, names or refuses."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import webdataset as wds
import yaml
from PIL import Image

from mkd.dataset.index import read_index
from mkd.loader.loader import TileSet, in_order
from shards.__main__ import main
from shards.commands.adopt import MemberNames, adopt
from shards.commands.verify import verify
from shards.inputs.tar_list import expand
from shards.output.build_options import BuildOptions
from tests.helpers.foreign_shards import IN_A_SHARD, TILES, URLS, samples, write
from tests.helpers.training.runs import coloured


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"masks": "rgb"}, "the first: .*: unknown mask values"),
        ({"masks": "palette"}, "correct `masks` there"),
        (
            {"masks": "rgb", "unknown_colours": "nearest"},
            "write unknown_colours: ignore, or unpack each shard",
        ),
    ],
)
def test_labels_that_are_not_what_the_class_file_says_are_refused(
    tmp_path, classfile, capsys, changes, reason
):
    """Grey labels under a class file of colours or palettes: one sentence names the remedy, and the exit code is 2."""
    theirs, content = write(tmp_path / "theirs"), json.loads(classfile.read_text())
    classfile.write_text(yaml.safe_dump({**content, **changes}))
    out = str(tmp_path / "out")
    command = ["adopt", f"{theirs}/{URLS}", "--classes", str(classfile), "--out", out, "--workers", "1"]
    assert main(command) == 2
    assert re.search(reason, capsys.readouterr().err)


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


def test_braces_that_mean_millions_are_refused_before_they_are_expanded(tmp_path):
    """A billion names would take all memory: they are counted first."""
    with pytest.raises(ValueError, match="names 1,000,000,000 shards, at most 1,000,000 are allowed"):
        expand([f"{tmp_path}/tiles-{{000000000..999999999}}.tar"])
