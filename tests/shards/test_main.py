"""The command line: commands do what the functions do, errors are one sentence and an exit code."""

import json
import subprocess
import sys

import pytest

from mkd.dataset.index import read_index
from mkd.storage.folder import Folder
from shards.__main__ import main
from tests.helpers.processes.jobs import pack_into


def arguments(folder, out):
    """Give a pack command."""
    return ["pack", "--source", str(folder.root), "--classes", str(folder.classfile), "--out", str(out)]


def test_the_commands_in_a_row(folder, tmp_path, capsys):
    """pack, split, info and verify from the command line, in a process of their own for the first."""
    command = [sys.executable, "-m", "shards", *arguments(folder, tmp_path / "all"), "--slice", "1:"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("packed 4 tiles (4 labelled) in 1 shard")
    fewer = ["split", "--source", str(tmp_path / "all"), "--out", str(tmp_path / "few"), "--labelled", "1"]
    assert main([*fewer, "--seed", "2"]) == 0
    assert read_index(tmp_path / "few/labelled").samples == 1
    assert main(["info", str(tmp_path / "all"), str(tmp_path / "few/unlabelled")]) == 0
    assert "no labels" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "all"), str(tmp_path / "few/labelled")]) == 0
    assert capsys.readouterr().out.count("all well") == 2


def test_messages_are_lines_on_stdout_and_only_while_a_command_runs(folder, tmp_path, capsys):
    """Each message once, also when main runs again in the process; a call of the function prints nothing."""
    for words in ("packed 5 tiles", "already packed"):
        assert main(arguments(folder, tmp_path / "a")) == 0
        told = capsys.readouterr()
        assert told.out.startswith(words)
        assert (told.out.count("\n"), told.err) == (1, "")
    pack_into(folder.root, folder.classfile, tmp_path / "a")
    assert folder.messages[-1].startswith("already packed")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_verify_tells_by_its_exit_code(folder, tmp_path, capsys):
    """One bad data set among good ones makes 1."""
    for name in ("a", "b"):
        assert main(arguments(folder, tmp_path / name)) == 0
    shard = tmp_path / "a/toy-000000.tar"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert main(["verify", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert f"{tmp_path / 'a'}: 1 problem\n" in capsys.readouterr().out


def test_verify_goes_on_behind_what_is_no_data_set(folder, tmp_path, capsys):
    """Every data set of the line is looked at; the worst of them decides the exit code."""
    assert main(arguments(folder, tmp_path / "a")) == 0
    assert main(["verify", "nowhere", str(tmp_path / "a")]) == 2
    told = capsys.readouterr()
    assert f"{tmp_path / 'a'}: all well" in told.out
    assert told.err.startswith("mkd-shards: no data set at nowhere")


def test_a_slice_may_begin_with_a_minus(folder, tmp_path):
    """`--slice -3:` are the last three, with a space before them too."""
    assert main([*arguments(folder, tmp_path / "a"), "--slice", "-3:"]) == 0
    assert read_index(tmp_path / "a").samples == 3


def test_numbers_may_go_to_a_url(folder, tmp_path, s3):
    """`stats --json` writes where it says, and no folder named s3:."""
    assert main(arguments(folder, tmp_path / "a")) == 0
    assert main(["stats", str(tmp_path / "a"), "--json", f"{s3}/x/stats.json", "--workers", "1"]) == 0
    assert json.loads(Folder(f"{s3}/x").read("stats.json"))["tiles"] == 5


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["info", "nowhere"], "mkd-shards: no data set at nowhere: the folder does not exist"),
        (["verify", "nowhere"], "mkd-shards: no data set at nowhere"),
        (
            ["split", "--source", "nowhere", "--out", "x", "--labelled", "3"],
            "mkd-shards: no data set at nowhere",
        ),
        (
            ["tile", "--source", "x.tif", "--classes", "none.yaml", "--out", "y"],
            "mkd-shards: no class file at none.yaml",
        ),
        (["info", ""], "mkd-shards: an empty path: give a folder or a URL"),
        (["info", "s3://"], "mkd-shards: s3://: a URL needs a bucket"),
        (["stats", "nowhere", "--json", "s3://bkt"], "mkd-shards: 's3://bkt' names no file"),
        (["sample", "nowhere", "--out", "s3://bkt"], "mkd-shards: 's3://bkt' names no file"),
        (
            ["sample", "nowhere", "--out", "a.jpg"],
            "mkd-shards: --out a.jpg: give a picture's name that ends in .png, or a folder",
        ),
        (
            ["sample", "nowhere", "--out", "a.png", "--seed", "-1"],
            "mkd-shards: --seed -1: give a whole number",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command, words, capsys):
    """No traceback: one line on stderr."""
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(words)
    assert error.count("\n") == 1


def test_a_place_that_cannot_be_written_is_named(folder, tmp_path, capsys):
    """The path, the system's reason and what to do."""
    assert main(arguments(folder, "/proc/new")) == 2
    words = (
        "mkd-shards: /proc/new: No such file or directory; mend this, or give another path, and start again\n"
    )
    assert capsys.readouterr().err == words


@pytest.mark.parametrize(
    "command",
    [[], ["pack"], ["split", "--source", "a", "--out", "b", "--fractions", "a"], ["split", "--random"]],
)
def test_a_command_that_cannot_be_read_exits_with_2(command, capsys):
    """The parser names what is missing or unknown; there is no split by random tiles."""
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "mkd-shards" in capsys.readouterr().err


def test_images_alone_need_no_class_file(folder, tmp_path, capsys):
    """--unlabelled packs what a pattern matches; more beside it, or names filled in by the shell, are refused."""
    out = str(tmp_path / "out")
    assert main(["pack", "--unlabelled", f"{folder.root}/images/*.jpg", "--out", out, "--workers", "1"]) == 0
    index = read_index(out)
    assert (index.name, index.classes, index.samples, index.labelled) == ("unlabelled", (), 2, 0)
    assert main(["pack", "--out", out]) == 2
    assert "give --source and --classes, or --unlabelled 'DIR/*.jpg'" in capsys.readouterr().err
    for more in (["b.jpg"], ["--source", str(folder.root)]):
        assert main(["pack", "--unlabelled", "a*.jpg", *more, "--out", out]) == 2
    said = capsys.readouterr().err
    assert "--unlabelled takes one pattern, in single quotes" in said
    assert "--unlabelled needs no --source, --classes or --split" in said
