"""The proxy in front of a service: who is let in, what is logged, what is left behind."""

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from mkd.teacher.client.flight_client import Access, FlightClient, Refused
from mkd.teacher.server import auth_proxy
from mkd.teacher.server.listener import listen, tls_context
from tests.helpers.teacher.services import IDENTITY, TOKEN, ask, remote, service, until
from tests.helpers.teacher.stranger import answer, connect, header_block, opening
from tests.helpers.training.nets import tiny_net


def test_only_this_user_reaches_what_is_behind():
    """The folder of the service's own socket has mode 0700, and goes with the service; so does its thread."""
    with service() as server:
        folder = Path(server._folder.name)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [p.name for p in folder.iterdir()] == ["grpc"]
        FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).hello()
        assert [p.name for p in folder.iterdir()] == ["grpc"], "no name of a connection stays"
    assert not folder.exists()
    assert "auth proxy" not in [t.name for t in threading.enumerate()]


def test_a_call_that_is_refused_names_its_client():
    """The log says whose message it was, though the service sees a connection of the proxy."""
    said = []
    with service(said=said) as server:
        caller = FlightClient(server.endpoint, Access({"classes": "\x1b[31mred\n"}, TOKEN))
        with pytest.raises(Refused) as caught:
            caller.hello()
    assert said[0].startswith("refused action from 127.0.0.1: another network")
    assert r"\x1b[31mred" in said[0]
    assert all(text.isprintable() for text in (said[0], str(caught.value)))


def test_refused_connections_are_counted_and_said_once():
    """By kind: no token, no HTTP/2, cut off; a port that is only looked at is nothing."""
    said = []
    with service(said=said) as server:
        for _ in range(3):
            assert b"grpc-status" not in answer(connect(server.endpoint, b"GET / HTTP/1.1\r\n\r\n"))
            one = connect(server.endpoint, opening(header_block()))
            assert len(answer(one)) > 20
            connect(server.endpoint, b"PRI *").close()
            connect(server.endpoint).close()
        until(lambda: server.status()["refused"] == {"token": 3, "connections": 6})
    assert len(said) == 2


def test_a_connection_that_says_nothing_ends(monkeypatch):
    """After its time, and it is counted."""
    monkeypatch.setattr(auth_proxy, "OPENING_SECONDS", 0.2)
    said = []
    with service(said=said) as server:
        assert answer(connect(server.endpoint))[9:] == b""
        until(lambda: server.status()["refused"] == {"connections": 1})
    assert "no token within 0 s" in said[0]


def test_the_address_with_most_loses_one(monkeypatch):
    """A crowd that opens connections and says nothing pushes out its own, and a student gets in."""
    monkeypatch.setattr(auth_proxy, "MOST_OPENING", 4)
    with service() as server:
        crowd = [connect(server.endpoint) for _ in range(12)]
        student = remote(tiny_net(), server.endpoint)
        assert ask(student).score.shape == (4,)
        assert server.status()["refused"]["connections"] >= 8
        student.close()
        for one in crowd:
            one.close()


@pytest.mark.parametrize("name", ["plain", "with space", "per%20cent", "umlaut-\u00e4", "x" * 80])
def test_any_folder_for_temporary_files(tmp_path, monkeypatch, name):
    """Also one whose path will not do for a unix socket: then it is /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / name
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with service() as server:
            FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).hello()
            assert Path(server._folder.name).parent == (folder if name == "plain" else Path("/tmp"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "::1", "0.0.0.0"])
def test_where_a_service_listens(host):
    """Names and addresses of either kind; a port that is taken is refused, not shared."""
    if ":" in host and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    with listen(host, 0) as one:
        port = one.getsockname()[1]
        with socket.create_connection((host.strip("[]").replace("0.0.0.0", "127.0.0.1"), port), timeout=5):
            pass
        with pytest.raises(OSError, match="in use"):
            listen(host, port)


@pytest.mark.parametrize("pair", [(b"", b""), (b"-----BEGIN CERTIFICATE-----\nx\n", b"-----BEGIN x")])
def test_a_certificate_that_is_none(pair):
    """One sentence that names both keys."""
    with pytest.raises(ValueError, match="tls_cert= and tls_key= cannot be used together"):
        tls_context(*pair)
