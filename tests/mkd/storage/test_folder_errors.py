"""Errors of storage: some are tried again, the others end at once in a sentence that says what to check."""

import socket
import threading
from contextlib import suppress

import pytest
import s3fs

from mkd.storage.folder import Folder


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
