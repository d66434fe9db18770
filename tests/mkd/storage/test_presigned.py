"""Ranges by signed URLs: the object's bytes over few connections, and s3fs wherever there is no plain answer."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import fsspec
import pytest

from mkd.storage import presigned as module
from mkd.storage.folder import Folder
from mkd.storage.presigned import PresignedRanges

CONTENT = bytes(range(256)) * 40


class Server:
    """Gives each request the next of some answers, on connections that stay open unless an answer is None."""

    def __init__(self, *answers):
        self.socket, self.answers = socket.create_server(("127.0.0.1", 0)), list(answers)
        self.connections, self.requests, self.signed = 0, [], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path, expires):
        """Sign, as s3fs does: another URL each time."""
        self.signed += 1
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/{path}?signature={self.signed}"

    def _accept(self):
        with suppress(OSError):
            while True:
                line, _ = self.socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line):
        with line:
            while request := line.recv(65536):
                self.requests.append(request.decode())
                answer = self.answers.pop(0)
                if answer is None:
                    return
                line.sendall(answer)


def answer(body, status="206 Partial Content", length=None):
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), size, body)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_gives_the_ranges_asked_for(s3):
    """Any range from many threads; fewer bytes at the end of the object; none behind it and of none."""
    Folder(s3).write("a b+ä.bin", CONTENT)
    ranges, path = PresignedRanges(fsspec.filesystem("s3")), f"{s3[5:]}/a b+ä.bin"
    places = [(n * 37 % 9000, n * 37 % 9000 + 1 + n * 53) for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: ranges.read(path, *place), places))
    assert found == [CONTENT[start:stop] for start, stop in places]
    assert ranges.read(path, 10_000, 20_000) == CONTENT[10_000:]
    assert ranges.read(path, 20_000, 20_001) is None
    assert ranges.read(f"{path}.not", 0, 1) is None


def test_a_folder_reads_ranges_without_s3fs(s3, monkeypatch):
    """s3fs signs, and reads what is read whole; errors and what lies behind the end are its, too."""
    folder = Folder(s3)
    folder.write("a", CONTENT)
    asked, ordinary = [], folder._fs.cat_file
    monkeypatch.setattr(
        folder._fs, "cat_file", lambda path, **more: asked.append(more) or ordinary(path, **more)
    )
    assert (folder.read("a", 3, 9), folder.read("a", 10_239, 99_999)) == (CONTENT[3:9], CONTENT[-1:])
    assert asked == []
    assert folder.read("a") == CONTENT
    assert folder.read("a", 10_240, 10_241) == b""
    with pytest.raises(FileNotFoundError):
        folder.read("b", 0, 1)
    assert asked == [{}, {"start": 10_240, "end": 10_241}, {"start": 0, "end": 1}]


def test_a_place_without_signed_urls_is_said_once(s3, monkeypatch, caplog):
    """The bytes come all the same; after some answers that only s3fs could get, nobody else is asked."""
    server = Server(*[answer(b"", "403 Forbidden")] * 9)
    folder = Folder(s3)
    monkeypatch.setattr(folder._fs, "url", server.url)
    folder.write("a", CONTENT)
    for start in range(20):
        assert folder.read("a", start, start + 5) == CONTENT[start : start + 5]
    assert len(server.requests) == module.MAX_FALLBACKS
    assert [record.message for record in caplog.records] == [
        "reading by signed URLs fails (HTTP status 403): s3fs reads instead, slower"
    ]


def test_a_kept_connection_that_was_closed_is_made_anew():
    """One connection serves many requests; when the server has closed it, the request is sent once more."""
    server = Server(answer(b"ab"), answer(b"cd"), None, answer(b"ef"), None, None)
    ranges = PresignedRanges(server)
    assert [ranges.read("x", 0, 2) for _ in range(3)] == [b"ab", b"cd", b"ef"]
    assert (server.connections, len(server.requests), server.signed) == (2, 4, 1)
    assert server.requests[0].startswith("GET /x?signature=1 HTTP/1.1\r\n")
    assert "Range: bytes=0-1\r\n" in server.requests[0]
    assert ranges.read("x", 0, 2) is None
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"ab", "200 OK"),
        answer(b"", "503 Slow Down"),
        answer(b"abc"),
        b"HTTP/1.1 206 Partial Content\r\n\r\nab",
        b"nonsense\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_plain_is_none(bad):
    """The whole object, an error, too many bytes, an unknown length, no HTTP: s3fs is asked, with a fresh signature."""
    server = Server(bad, answer(b"cd"))
    ranges = PresignedRanges(server)
    assert ranges.read("x", 0, 2) is None
    assert ranges.read("x", 0, 2) == b"cd"
    assert (server.connections, server.signed) == (2, 2)


def test_an_answer_that_breaks_off_or_stops_is_none(monkeypatch):
    """Fewer bytes than were announced, before the connection closes or before patience ends."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    server = Server(answer(b"ab", length=4), answer(b"abcd"))
    ranges = PresignedRanges(server)
    assert ranges.read("x", 0, 4) is None
    assert ranges.read("x", 0, 4) == b"abcd"


def test_good_answers_forgive_misses(caplog):
    """Only misses in a row count: an outage now and then does not end reading by signed URLs."""
    bad = answer(b"", "500 Internal Error")
    server = Server(*[bad, bad, answer(b"a")] * 3)
    ranges = PresignedRanges(server)
    for number in range(9):
        if ranges.read("x", 0, 1) is None:
            ranges.count_fallback()
        assert len(server.requests) == number + 1
    assert caplog.text == ""


def test_urls_are_signed_anew_before_they_expire(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    server = Server(*[answer(b"a")] * 9)
    ranges = PresignedRanges(server)
    for seconds, signed in [(0, 1), (1799, 1), (1, 1), (1, 2), (1000, 2), (801, 3)]:
        now[0] += seconds
        assert ranges.read("x", 0, 1) == b"a"
        assert server.signed == signed
    ranges.read("y", 0, 1)
    assert server.signed == 4


def test_behind_a_proxy_s3fs_reads(monkeypatch):
    """It knows how to pass one; and hosts that need none are read by signed URLs."""
    server = Server(answer(b"a"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost")
    ranges = PresignedRanges(server)
    assert [ranges.read("x", 0, 1) for _ in range(3)] == [None] * 3
    assert (server.connections, server.signed) == (0, 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert PresignedRanges(server).read("x", 0, 1) == b"a"


def test_credentials_that_cannot_be_found_are_left_to_s3fs():
    class Keyless:
        def url(self, path, expires):
            raise RuntimeError("no keys")

    assert PresignedRanges(Keyless()).read("x", 0, 1) is None


def test_new_keys_go_on_by_signed_urls(monkeypatch):
    """URLs signed with keys that have expired, one a shard, are signed anew: that is no reason to give them up."""
    refused = answer(b"", "403 Forbidden")
    server = Server(*[answer(b"a")] * 6, *[refused, answer(b"b")] * 6)
    ranges = PresignedRanges(server)
    assert [ranges.read(f"x{n}", 0, 1) for n in range(6)] == [b"a"] * 6
    assert [ranges.read(f"x{n}", 0, 1) for n in range(6)] == [b"b"] * 6
    assert server.signed == 12


def test_a_fresh_url_that_is_refused_is_not_asked_again(monkeypatch):
    """Nor is one that fails for another reason than its keys."""
    server = Server(answer(b"", "403 Forbidden"), answer(b"a"), answer(b"", "503 Slow Down"))
    ranges = PresignedRanges(server)
    assert [ranges.read("x", 0, 1) for _ in range(3)] == [None, b"a", None]
    assert len(server.requests) == 3


def test_misses_are_forgotten_after_a_while(monkeypatch, caplog):
    """Three bad answers in a row, of a server under load say, do not end reading by signed URLs for good."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bad = answer(b"", "503 Slow Down")
    server = Server(bad, bad, bad, answer(b"a"), bad, bad, bad)
    ranges = PresignedRanges(server)

    def found():
        data = ranges.read("x", 0, 1)
        if data is None:
            ranges.count_fallback()
        return data

    assert [found() for _ in range(9)] == [None] * 9
    assert len(server.requests) == 3
    now[0] += module.PAUSE_SECONDS + 1
    assert [found() for _ in range(9)] == [b"a", *[None] * 8]
    assert len(server.requests) == 7
    assert len(caplog.records) == 1, "said once"
