"""Folders: the same on a disk, in memory and on an S3 server, and one sentence for what waiting cannot mend."""

import pickle
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import s3fs

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


def read_open(folder):
    with folder.open("a") as file:
        return file.read()


CALLS = {
    "read": lambda f: f.read("a"),
    "range": lambda f: f.read("a", 0, 1),
    "list": lambda f: f.sizes(),
    "exists": lambda f: f.exists("a"),
    "write": lambda f: f.write("a", b"2"),
    "create": lambda f: f.create("new", b"2"),
    "remove": lambda f: f.remove("a"),
    "open": read_open,
}


@pytest.mark.parametrize(
    "keys", [("testkey", "wrong"), ("nobody", "testsecret12"), ("readkey", "readsecret12"), None]
)
def test_keys_without_rights_are_named_at_once(s3, monkeypatch, keys):
    """A wrong secret, an unknown key, one that may only read, and none: each call ends with what to check."""
    Folder(s3).write("a", b"1")
    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys or (None, None), strict=True):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    folder = Folder(s3, patience=3600)
    refused = ("write", "create", "remove") if keys == ("readkey", "readsecret12") else CALLS
    for name, call in CALLS.items():
        if name not in refused:
            call(folder)
            continue
        with pytest.raises(ValueError, match="access denied .* check AWS_ACCESS_KEY_ID") as caught:
            call(folder)
        assert str(caught.value).count("\n") == 0
        assert str(caught.value).startswith(s3)


@pytest.mark.parametrize("name", ["read", "range", "list", "open"])
def test_a_missing_bucket_is_named_at_once(s3, name):
    """The sentence says that the bucket, not a file, is missing."""
    with pytest.raises(ValueError, match="s3://no-such-bucket/x.*: there is no such bucket; check its name"):
        CALLS[name](Folder("s3://no-such-bucket/x", patience=3600))


@pytest.mark.parametrize("url", ["s3://bkt.with/x", "s3://UPPER/x"])
def test_a_bucket_name_that_cannot_be_is_refused_at_once(s3, url):
    """What the server calls a bad request is not sent again for minutes."""
    with pytest.raises(ValueError, match=url) as caught:
        Folder(url, patience=3600).read("a")
    assert str(caught.value).count("\n") == 0


def test_a_server_that_does_not_answer_ends_in_one_sentence(caplog):
    """After its patience a call says what to check, and before that each try is said aloud."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        folder = Folder(f"http://127.0.0.1:{unused.getsockname()[1]}/x", patience=1)
        with pytest.raises(
            ValueError, match="no answer for 1 s .* check the network, the endpoint"
        ) as caught:
            folder.read("a")
    assert str(caught.value).count("\n") == 0
    assert "trying again in" in caplog.text


class _Busy:
    """Answers 503 to the first requests and then closes connections without an answer, as a server under load does."""

    def __init__(self, answers):
        self.socket, self.answers, self.asked = socket.create_server(("127.0.0.1", 0)), answers, 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                line, _ = self.socket.accept()
                with line:
                    line.recv(65536)
                    answer = self.answers[min(self.asked, len(self.answers) - 1)]
                    self.asked += 1
                    line.sendall(answer)


def test_errors_that_pass_are_waited_for():
    """A 503, and a connection closed in the middle of an answer, are tried again until there is an answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = _Busy([busy, head + b"he", b"", head + b"hello"])
    with server.socket:
        assert (
            Folder(f"http://127.0.0.1:{server.socket.getsockname()[1]}/x", patience=60).read("a") == b"hello"
        )
    assert server.asked == 4


def test_faults_of_a_program_are_not_waited_for():
    """A call that can never work ends at once, not after minutes of patience."""
    with pytest.raises(TypeError):
        Folder("memory://faults", patience=3600).write("a", 5)


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


FINAL = [
    ({"AWS_PROFILE": "nope"}, "access denied .*profile .nope. could not be found.* AWS_PROFILE"),
    ({"AWS_SECRET_ACCESS_KEY": None}, "access denied .Partial credentials found in env, missing: AWS_SECRET"),
    (
        {"AWS_ENDPOINT_URL": "127.0.0.1:9"},
        "invalid endpoint: 127.0.0.1:9; AWS_ENDPOINT_URL needs the form http",
    ),
]


@pytest.mark.parametrize(("environment", "words"), FINAL)
def test_a_wrong_setup_is_told_at_once(monkeypatch, environment, words):
    """A profile that is not there, half a key, an endpoint that is no URL."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    for name, value in {**keys, **environment}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=words) as caught:
        Folder("s3://bkt/x", patience=3600).read("a", 0, 1)
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).startswith("s3://bkt/x/a: ")
    s3fs.S3FileSystem.clear_instance_cache()


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
