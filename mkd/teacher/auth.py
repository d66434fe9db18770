"""Who may ask a teacher: the shared token, and where a teacher may listen."""

import contextlib
import hmac
import ipaddress
import os
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.flight as fl

TOKEN_VARIABLE = "MKD_TEACHER_TOKEN"
SHORTEST = 16


def read_token(path: str | None) -> str | None:
    """Return the shared token of a file, else of the environment variable MKD_TEACHER_TOKEN, else None.

    Raises:
        ValueError: the file cannot be read, others may read it, or the token is too short or not plain ASCII.
    """
    token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if path is not None:
        where = f"token_file={path}"
        try:
            mode, token = stat.S_IMODE(os.stat(path).st_mode), Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where}: cannot be read ({error}); give a file with the token in it") from None
        if mode & 0o077:
            raise ValueError(f"{where}: others may read it (mode {mode:03o}); run chmod 600 {path}")
    if token is None:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{where}: a token has {SHORTEST} or more ASCII characters without spaces; "
            "make one with: openssl rand -hex 32"
        )
    return token


def run_token(run: str | Path) -> Path:
    """Return the token file that all parts of a run share, RUN.token beside its folder."""
    run = Path(run)
    return run.with_name(f"{run.name}.token")


def make_token(path: Path) -> bool:
    """Make a token file, mode 0600; return False where one is there, which stays as it is.

    Raises:
        ValueError: it cannot be written.
    """
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            # A rename would replace the token of a teacher that started at the same time.
            os.link(aside, path)
            return True
        return False
    except OSError as error:
        raise ValueError(f"{path}: no token can be written ({error.strerror}); give token_file=") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def call_headers(token: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers a client sends on every call."""
    return [] if token is None else [(b"authorization", f"Bearer {token}".encode())]


def check_listen(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a token.

    Raises:
        ValueError: the host is not this machine's loopback and there is no token.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"host={host} can be reached from other machines, but there is no token; give token_file= "
            f"or {TOKEN_VARIABLE}, or listen on host=127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Complaints:
    """Says each kind of complaint about each peer once, and counts all.

    Args:
        say: where a line for people goes.
    """

    MOST = 1000  # kinds and peers told apart; a scan of a whole network must not fill memory

    def __init__(self, say: Callable[[str], None]) -> None:
        """Nothing was said yet."""
        self._say, self._lock = say, threading.Lock()
        self._said: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()

    def __call__(self, kind: str, peer: str, text: str) -> None:
        """Complain: ``peer`` is HOST:PORT, whose port does not count; ``text`` is for people."""
        host = peer.rpartition(":")[0] or peer
        with self._lock:
            self.counts[kind] += 1
            if (kind, host) in self._said or len(self._said) >= self.MOST:
                return
            self._said.add((kind, host))
        self._say(f"refused {kind} from {host or 'somewhere'}: {' '.join(text.split())[:500]} (said once)")


class TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses every call without the shared token, before its first message is read.

    Args:
        token: the shared token.
        complain: is told of each call without it; Flight does not say here who calls.
    """

    def __init__(self, token: str, complain: Complaints) -> None:
        """Keep the header to compare with."""
        super().__init__()
        self._wanted, self._complain = f"Bearer {token}".encode(), complain

    def start_call(self, info: fl.CallInfo, headers: dict[str, list[str | bytes]]) -> None:
        """Let a call with the token pass."""
        given = next((v for k, v in headers.items() if k.lower() == "authorization"), [])
        one = given[0] if len(given) == 1 else b""
        if not hmac.compare_digest(one if isinstance(one, bytes) else one.encode(), self._wanted):
            text = "the token is missing or wrong; give the teacher's token_file or MKD_TEACHER_TOKEN"
            self._complain("token", "", text)
            raise fl.FlightUnauthenticatedError(text)
