"""Files are whole or not there, whatever interrupts the writer."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import mkd.atomic
from mkd.atomic import append_line, check_writable, write_text, written_aside


def test_writes_new_folders_and_utf8(tmp_path):
    """Text arrives as UTF-8, in folders made on the way, and nothing is left beside it."""
    write_text(tmp_path / "a" / "b" / "x.txt", "Grünland\n")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "Grünland\n".encode()
    assert os.listdir(tmp_path / "a" / "b") == ["x.txt"]


def test_a_reader_never_sees_a_part(tmp_path):
    """Until the block ends the old content stands; afterwards the new one does."""
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with written_aside(path) as aside:
        aside.write_text("half of the n")
        assert path.read_text() == "old"
        assert aside.parent == path.parent  # the same file system, or a rename is no rename
        aside.write_text("new")
    assert path.read_text() == "new"


def failing_write(path, error):
    with written_aside(path) as aside:
        aside.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bad")])
def test_an_error_leaves_the_old_file(tmp_path, error):
    """When the writer fails, its error comes through, the old file stays and the part is removed."""
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(type(error)) as raised:
        failing_write(path, error)
    assert raised.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("moment", ["writing", "syncing"])
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, moment):
    """A disk that fills while writing, or only at the sync, names the file and leaves the old one."""
    path, full = tmp_path / "x.txt", OSError(errno.ENOSPC, "no space left")
    write_text(path, "old")

    def sync(handle):
        raise full

    if moment == "syncing":
        monkeypatch.setattr(mkd.atomic.os, "fsync", sync)
    with pytest.raises(OSError, match=rf"{path}: cannot be written \(no space left\)") as raised:
        write_text(path, "new") if moment == "syncing" else failing_write(path, full)
    assert "\n" not in str(raised.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_file_where_a_folder_is_needed_is_one_sentence(tmp_path):
    """A path below a file names the path that was asked for, not the one beside it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=f"^{tmp_path / 'file' / 'x.txt'}: cannot be written"):
        write_text(tmp_path / "file" / "x.txt", "new")


def test_lines_are_appended(tmp_path):
    """Each call adds one line of UTF-8; the file is made by the first."""
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "zwölf")
    assert (tmp_path / "log").read_bytes() == "one\nzwölf\n".encode()


def test_a_line_that_cannot_be_written_names_the_file(tmp_path):
    """Appending where nothing can be written says which file it is."""
    with pytest.raises(OSError, match=f"^{tmp_path}: cannot be written"):
        append_line(tmp_path, "one")


def test_the_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
    """The file is synced before it is renamed and the folder after: a power cut leaves no empty file."""
    path, calls = tmp_path / "x.txt", []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        calls.append(os.fstat(handle).st_ino)
        fsync(handle)

    def replaced(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(mkd.atomic.os, "fsync", synced)
    monkeypatch.setattr(mkd.atomic.os, "replace", replaced)
    write_text(path, "new")
    assert calls == [path.stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    """kill -9 in the middle of a write leaves the old content, and a later write works."""
    path = tmp_path / "x.txt"
    write_text(path, "old")
    script = (
        "import os, signal, sys\n"
        "from mkd.atomic import written_aside\n"
        "with written_aside(sys.argv[1]) as aside:\n"
        "    aside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_folder_is_no_place_for_a_file(tmp_path):
    """What would fail at the rename, after the work, is said before it."""
    (tmp_path / "out.gpkg").mkdir()
    with pytest.raises(OSError, match=r"out\.gpkg: cannot be written \(it is a folder\)"):
        check_writable(tmp_path / "out.gpkg")
    assert os.listdir(tmp_path) == ["out.gpkg"]
