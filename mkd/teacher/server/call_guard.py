"""What a service rejects: calls without the token, and messages that are not the protocol's."""

import contextlib
import hmac
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow.flight as fl

from mkd.cli.printable import printable
from mkd.teacher import protocol
from mkd.teacher.auth import WRONG_TOKEN

log = logging.getLogger(__name__)


class RejectionLog:
    """Logs each kind of rejection of each peer once, and counts all.

    Attributes:
        counts: rejections by kind.
    """

    MOST = 1000  # kinds and peers told apart; a scan of a whole network must not fill memory

    def __init__(self) -> None:
        """Start with nothing logged."""
        self._lock = (
            threading.Lock()
        )  # calls come on threads of the library; each waits for another's count only
        self._logged: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, peer: str, text: str) -> None:
        """Count a rejection: ``peer`` is HOST:PORT, whose port does not count; ``text`` is for people."""
        host = peer.rpartition(":")[0] or peer
        with self._lock:
            self.counts[kind] += 1
            if (kind, host) in self._logged or len(self._logged) >= self.MOST:
                return
            self._logged.add((kind, host))
        log.warning("refused %s from %s: %s (said once)", kind, host or "somewhere", printable(text, 500))


def client_of(context: Any) -> str:
    """Return HOST:PORT of who makes a call: the proxy names its end of the connection after the client."""
    peer: str = context.peer()
    return unquote(peer).rpartition("/")[2]


@contextlib.contextmanager
def guarded(rejections: RejectionLog, context: Any, kind: str) -> Iterator[None]:
    """Turn what is wrong with a message into an error of its call; each is counted.

    Args:
        rejections: counts.
        context: Flight's, of the call.
        kind: of message, for people.
    """
    try:
        yield
    except protocol.ProtocolError as error:
        rejections.add(kind, client_of(context), str(error))
        # What is refused for good carries its reason; who is told that the service is busy tries again.
        final = b"" if isinstance(error, protocol.Busy) else str(error).encode()
        raise fl.FlightServerError(str(error), extra_info=final) from None
    except Exception as error:  # its sender, whoever that is, gets no trace of the service's inside
        if not context.is_cancelled():
            rejections.add(f"damaged {kind}", client_of(context), f"{type(error).__name__}: {error}")
        raise fl.FlightServerError("the message cannot be read") from None


class TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses every call without the shared token; the proxy has seen that of a connection's first call only.

    Args:
        token: the shared token.
        rejections: counts calls without it; Flight does not say here who calls.
    """

    def __init__(self, token: str, rejections: RejectionLog) -> None:
        """Keep the header to compare with."""
        super().__init__()
        self._wanted, self._rejections = f"Bearer {token}".encode(), rejections

    def start_call(self, info: fl.CallInfo, headers: dict[str, list[str | bytes]]) -> None:
        """Let a call with the token pass."""
        given = next((v for k, v in headers.items() if k.lower() == "authorization"), [])
        one = given[0] if len(given) == 1 else b""
        if not hmac.compare_digest(one if isinstance(one, bytes) else one.encode(), self._wanted):
            self._rejections.add("token", "", WRONG_TOKEN)
            raise fl.FlightUnauthenticatedError(WRONG_TOKEN)
