"""Source folders and class files of strangers, by the command line: one sentence, status 2, and no time or memory."""

import os
import socket
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from shards.__main__ import main
from tests.helpers.headers import png, tiff

CLASSES = {
    "name": "t",
    "classes": ["a", "b"],
    "palette": [[1, 2, 3], [4, 5, 6]],
    "masks": "ids",
    "layout": {"images": "img/**/*.png", "masks": None},
    "source": "x",
}


@pytest.fixture
def pack(tmp_path, capsys):
    """A function that packs tmp_path/img and returns exit status and stderr."""
    (tmp_path / "img").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(
        tmp_path / "img" / "ok.png"
    )

    def run(*more, **changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CLASSES, **changes}))
        begun = time.monotonic()
        typed = [
            "--source",
            tmp_path,
            "--classes",
            tmp_path / "c.yaml",
            "--out",
            tmp_path / "out",
            "--workers",
            1,
        ]
        status = main(["pack", *map(str, typed), *more])
        assert time.monotonic() - begun < 10
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.err

    return run


@pytest.mark.parametrize("check", ["ends", "decode"])
@pytest.mark.parametrize(
    ("name", "content"), [("x.png", png(60_000, 60_000)), ("y.png", png(20_000, 20_000))]
)
def test_a_bomb_in_a_source_folder(pack, tmp_path, check, name, content):
    """Its header is enough, whatever is checked."""
    (tmp_path / "img" / name).write_bytes(content)
    status, said = pack("--check", check)
    assert status == 2
    assert f"img/{name}: its header says" in said
    assert "--max-pixels" in said


@pytest.mark.parametrize(
    "content",
    [
        tiff({256: 20_000, 257: 36_000, 278: 36_000}),
        tiff({256: 64, 257: 64, 322: 40_000, 323: 40_000}),
        png(60_000, 60_000, 8, 0),
    ],
)
def test_a_bomb_for_a_mask(pack, tmp_path, content):
    """Masks are looked at like images."""
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "ok.png").write_bytes(content)
    status, said = pack(layout={"images": "img/*.png", "masks": "mask/{stem}.png"})
    assert status == 2
    assert "mask/ok.png: its header says" in said


def test_the_limit_can_be_raised(pack, capsys):
    """--max-pixels is a number of pixels, obeyed both ways."""
    status, said = pack("--max-pixels", "255")
    assert status == 2
    assert "at most 255 are allowed" in said
    assert pack("--max-pixels", "256")[0] == 0
    for wrong in ("0", "-1", "1e9", "many"):
        with pytest.raises(SystemExit):
            pack("--max-pixels", wrong)


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "loop"])
def test_what_is_no_file(pack, tmp_path, kind):
    """A FIFO, a device, a socket or a link to itself that matches is named; nothing waits for it."""
    path = tmp_path / "img" / "x.png"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(os.path.relpath(path))
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    status, said = pack()
    assert status == 2
    assert f"{path} " in said
    assert {"loop": "Too many levels"}.get(kind, f"is a {kind}, not a file") in said
    path.rename(path.with_name("x.txt"))  # what no pattern matches is nobody's business
    assert pack()[0] == 0


@pytest.mark.parametrize("link", ["img/up", "img/sub/up"])
def test_folders_in_a_circle(pack, tmp_path, link):
    """A link to a folder that it lies in is named; one to another folder is followed, as ever."""
    (tmp_path / "img" / "sub").mkdir()
    (tmp_path / link).symlink_to(tmp_path / "img")
    status, said = pack()
    assert status == 2
    assert f"{link} is a link to a folder that it lies in" in said
    (tmp_path / link).unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / link).symlink_to(tmp_path / "other")
    assert pack()[0] == 0


def test_names_that_are_not_utf8(pack, tmp_path, capsys):
    """A file's name in another encoding is a sentence, and so is a word of the command line."""
    name = os.fsdecode(os.fsencode(tmp_path / "img") + b"/\xff.png")
    os.rename(tmp_path / "img" / "ok.png", name)
    status, said = pack()
    assert status == 2
    assert r"'img/\udcff.png', a name that is not UTF-8: rename it" in said
    assert main(["info", name]) == 2
    assert "is not UTF-8: rename" in capsys.readouterr().err
    assert (
        main(
            ["tile", "--source", str(tmp_path / "img" / "*.png"), "--classes", str(tmp_path / "c.yaml")]
            + ["--out", "o"]
        )
        == 2
    )
    assert "is not UTF-8: rename" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "[/]", "[bold", ":smile:", "[link=http://x]y[/link]", "a]b[c"]
)
def test_markup_is_printed_as_it_is(pack, tmp_path, capsys, name):
    """Names of classes, sets and folders with the markup of rich are letters."""
    assert pack("--name", "m", classes=[name, "b"])[0] == 0
    strange = tmp_path / "[green]d [bold"
    (tmp_path / "out").rename(strange)
    for command in ("info", "stats", "verify"):
        assert main([command, str(strange)]) == 0
    said = capsys.readouterr().out
    assert name in said
    assert "[green]d [bold" in said
    assert main(["sample", str(strange), "--out", str(tmp_path / "s.png")]) == 0


@pytest.mark.parametrize("key", CLASSES)
@pytest.mark.parametrize("value", [1e30, 10**30, [[1e30]], {"a": {"b": []}}, [None], "", True, -1])
def test_junk_in_a_class_file(pack, key, value):
    """Any kind of value for any key is a sentence with the file's name, or fits."""
    status, said = pack(**{key: value})
    assert status in (0, 2)
    assert len(said.splitlines()) <= 1
    assert status == 0 or "c.yaml" in said or "name" in said


@pytest.mark.parametrize("text", [b"a: &a [*a]", b"[" * 9999, b"name: .inf", b"\xff", b"name: a\nname: b"])
def test_a_class_file_that_is_no_yaml(pack, tmp_path, capsys, text):
    """What the strict parser refuses is said with the file's name."""
    (tmp_path / "bad.yaml").write_bytes(text)
    assert (
        main(["pack", "--source", str(tmp_path), "--classes", str(tmp_path / "bad.yaml"), "--out", "o"]) == 2
    )
    assert "bad.yaml is not YAML: " in capsys.readouterr().err


def test_a_class_file_may_come_from_a_pipe(tmp_path, capsys):
    """A pipe that the shell makes is read to its end: --classes <(make_classes)."""
    reading, writing = os.pipe()
    os.write(writing, b"name: a\nname: b\n")
    os.close(writing)
    try:
        assert main(["pack", "--source", str(tmp_path), "--classes", f"/dev/fd/{reading}", "--out", "o"]) == 2
    finally:
        os.close(reading)
    assert "the key 'name' stands twice" in capsys.readouterr().err
