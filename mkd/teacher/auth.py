"""Who may ask a teacher: the shared token, and where a teacher may listen."""

import contextlib
import ipaddress
import os
import secrets
import stat
from pathlib import Path

TOKEN_VARIABLE = "MKD_TEACHER_TOKEN"
SHORTEST = 16
WRONG_TOKEN = "the token is missing or wrong; give the teacher's token_file or MKD_TEACHER_TOKEN"


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


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
