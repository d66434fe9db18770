"""Folders: the same on a disk, in memory and on an S3 server."""

import pickle
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mkd.storage.folder import Folder, split_url


@pytest.fixture(params=["local", "file", "memory", "s3"])
def folder(request, tmp_path):
    """Give an empty folder of each kind."""
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3"), patience=5)
    return Folder(
        {"local": f"{tmp_path}/d", "file": f"file://{tmp_path}/d", "memory": f"memory://{tmp_path}"}[
            request.param
        ]
    )


def test_what_is_written_is_read(folder):
    """Whole, from a place on, and ranges: what lies behind the end of a file is left out, as on a disk."""
    folder.write("a.bin", bytes(range(100)))
    folder.write("sub/b.txt", "Straße")
    assert folder.read("a.bin") == bytes(range(100))
    assert folder.read("sub/b.txt").decode() == "Straße"
    for start, stop in [(0, 1), (10, 20), (99, 100), (90, 200), (100, 110), (300, 310), (50, 50)]:
        assert folder.read("a.bin", start, stop) == bytes(range(100))[start:stop]
    assert folder.read("a.bin", 60) == bytes(range(60, 100))
    with folder.open("a.bin") as file:
        assert (file.read(3), file.read()) == (b"\0\1\2", bytes(range(3, 100)))


def test_files_are_found_and_removed(folder):
    """Listings tell files of this folder from folders in it; a missing folder is an empty one."""
    assert (folder.sizes(), folder.listing(), folder.exists("a")) == ({}, [], False)
    folder.write("a", b"123")
    folder.write("sub/b", b"1")
    assert folder.sizes() == {"a": 3}
    assert sorted((info.name, info.is_folder) for info in folder.listing()) == [("a", False), ("sub", True)]
    assert [(info.name, info.size) for info in folder.listing("sub")] == [("b", 1)]
    assert [folder.exists(name) for name in ("a", "sub", "sub/b", "b")] == [True, False, True, False]
    assert folder.child("sub").sizes() == {"b": 1}
    for _ in range(2):
        folder.remove("a")
    assert folder.sizes() == {}


def test_a_file_that_is_written_anew_gets_another_mark(folder):
    """The mark of a listing changes with the content."""
    folder.write("a", b"1")
    first = folder.listing()[0].version
    assert [info.version for info in folder.listing()] == [first]
    time.sleep(0.02)
    folder.write("a", b"2")
    assert folder.listing()[0].version != first


def test_a_write_that_fails_leaves_what_was_there(folder):
    """An error while writing leaves the old file, or none, and no draft."""
    folder.write("old", b"old")
    for name in ("old", "new"):
        with suppress(RuntimeError), folder.writing(name) as file:
            file.write(b"half")
            raise RuntimeError
    assert folder.sizes() == {"old": 3}
    assert folder.read("old") == b"old"


def test_of_two_creators_one_wins(folder):
    """A file is created by one of several that try at the same time, and its content is the winner's."""
    folder.write("other", b"")
    won = []
    tries = [
        threading.Thread(target=lambda n=n: won.append(n) if folder.create("a", b"%d" % n) else None)
        for n in range(4)
    ]
    if folder.url.startswith("memory"):
        tries = tries[:1]  # one process's own memory: nobody else to lose against
    for thread in tries:
        thread.start()
    for thread in tries:
        thread.join()
    assert len(won) == 1
    assert folder.read("a") == b"%d" % won[0]
    assert folder.create("a", b"late") is False
    assert folder.read("a") == b"%d" % won[0]


def test_a_missing_file_is_an_error_at_once(folder):
    """A file that is not there is not waited for."""
    folder.write("a", b"1")
    for call in (
        lambda: folder.read("b"),
        lambda: folder.read("b", 3, 9),
        lambda: folder.open("b").__enter__(),
    ):
        with pytest.raises(FileNotFoundError):
            call()


def test_a_folder_travels_as_its_arguments(folder):
    """What another process unpickles reads the same files with the same patience."""
    folder.write("a", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert (copy.url, copy.patience, copy.read("a")) == (folder.url, folder.patience, b"1")


def test_an_unknown_kind_of_url_is_refused():
    """The sentence names the kind."""
    with pytest.raises(ValueError, match="nix://x: files of kind 'nix' cannot be reached"):
        Folder("nix://x")


@pytest.mark.parametrize("url", ["", "s3://", "s3:///x", "file://", "memory://", "S3://"])
def test_a_path_or_url_that_names_nothing_is_refused(url):
    """An unset shell variable is not the root of the disk, nor a URL without a bucket a local folder."""
    with pytest.raises(ValueError, match="an empty path|needs a bucket"):
        Folder(url)


def test_the_kind_of_a_url_may_be_in_capitals(tmp_path):
    """S3:// is s3://; the root of the disk, said as such, is the root."""
    assert Folder("S3://bkt/set/").url == "s3://bkt/set"
    assert (Folder("/").url, Folder("//").url, Folder("file:///").local) == ("/", "/", Path("/"))
    assert Folder(f"FILE://{tmp_path}/").url == f"file://{tmp_path}"


@pytest.mark.parametrize(
    ("path", "url", "name"),
    [
        ("a", ".", "a"),
        ("/a", "/", "a"),
        ("b/c/a", "b/c", "a"),
        ("s3://bkt/a", "s3://bkt", "a"),
        ("s3://bkt/b/a", "s3://bkt/b", "a"),
        ("file:///a", "file:///", "a"),
    ],
)
def test_a_file_is_found_in_its_folder(path, url, name):
    folder, file = split_url(path)
    assert (folder.url, file) == (url, name)


@pytest.mark.parametrize("path", ["", "a/", "s3://bkt", "s3://bkt/", "s3://"])
def test_a_place_without_a_file_is_refused(path):
    with pytest.raises(ValueError, match="names no file"):
        split_url(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """The system's error alone does not say which file it was."""
    (tmp_path / "a").symlink_to("/proc/self/mem")
    for call in (lambda f: f.read("a"), lambda f: f.read("a", 0, 9)):
        with pytest.raises(OSError, match="Input/output error") as caught:
            call(Folder(tmp_path))
        assert caught.value.filename == f"{tmp_path}/a"


def test_little_of_a_large_file_is_copied_on_its_way(s3, monkeypatch):
    """s3fs copies each part that it sends, and would send a whole shard at a time."""
    folder, sent = Folder(s3), []
    ordinary = folder._fs._call_s3

    async def noted(method, *more, **options):
        sent.append(len(options.get("Body", b"")))
        return await ordinary(method, *more, **options)

    monkeypatch.setattr(folder._fs, "_call_s3", noted)
    with folder.writing("a", large=True) as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
    assert max(sent) <= 16 << 20
    assert folder.sizes() == {"a": 40 << 20}
