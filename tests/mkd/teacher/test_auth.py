"""Tokens and addresses."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from mkd.teacher.auth import (
    TOKEN_VARIABLE,
    is_loopback,
    make_token,
    read_token,
    run_token,
)

TOKEN = "0123456789abcdef"


def test_a_token_from_file_or_environment(tmp_path, monkeypatch):
    """The file comes first; without both there is none."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "x" * 16)
    assert read_token(None) == "x" * 16
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    assert read_token(str(path)) == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_read_is_refused(tmp_path, mode):
    """The message says chmod 600."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(ValueError, match="chmod 600"):
        read_token(str(path))


@pytest.mark.parametrize(
    "token", ["", "short", "with space 0123456789", "\u00e4" * 20, "tab\t0123456789abcdef"]
)
def test_a_weak_token_is_refused(monkeypatch, token):
    """Too short, or characters that a header cannot carry."""
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(ValueError, match="16 or more ASCII"):
        read_token(None)


def test_a_missing_file_is_named(tmp_path):
    """The path is in the message."""
    with pytest.raises(ValueError, match="nowhere"):
        read_token(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("node7", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(host, inside):
    """Beyond it a service without TLS warns; names but localhost may be anything."""
    assert is_loopback(host) == inside


def test_a_runs_token_is_made_once(tmp_path):
    """RUN.token, 0600, a token that does; one that is there is used as it is, also by who starts at the same time."""
    path = run_token(tmp_path / "runs" / "ssl")
    assert path == run_token(f"{tmp_path}/runs/ssl/") == tmp_path / "runs" / "ssl.token"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_token(path), range(8)))
    assert sorted(made) == [False] * 7 + [True]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = read_token(str(path))
    assert len(token) == 64
    assert not make_token(path)
    assert read_token(str(path)) == token
    assert [p.name for p in path.parent.iterdir()] == ["ssl.token"], "nothing is left beside it"


def test_a_token_that_cannot_be_written_is_one_sentence(tmp_path):
    """A folder that is a file: the path and what to do."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(ValueError, match="ssl.token: no token can be written .*give token_file="):
        make_token(tmp_path / "runs" / "ssl.token")
