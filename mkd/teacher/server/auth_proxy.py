"""The door of a service: passes a connection on to gRPC only once its first call has shown the token.

gRPC reads a call's first message, and inflates it, before it lets anybody look at the token. So gRPC listens on a
socket in a folder that only this user can open, and this proxy on the network. What strangers can make it hold is
bounded: `MOST_OPENING` connections of `MOST_BEFORE_TOKEN` bytes, each for `OPENING_SECONDS`.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkd.teacher.server.call_guard import RejectionLog
from mkd.teacher.server.http2_opening import Http2Opening, OpeningError
from mkd.teacher.server.relay import Entrance, Relay

MOST_OPENING = 128  # connections that have not shown the token yet; one more takes the place of the oldest
OPENING_SECONDS = 20.0  # seconds in which a connection must show it; as long as a student waits for a hello
SEND_BUFFER = 1 << 20  # bytes towards the service; the system may allow less
FAREWELL_SECONDS = 1.0  # seconds in which a refused client may read why

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """Where a proxy listens and what is behind it.

    Attributes:
        listener: socket to accept from.
        backend: the service's unix socket, in a folder that only this user can open.
        token: the shared token.
        tls: for the side of the network, or None.
    """

    listener: socket.socket
    backend: Path
    token: str
    tls: ssl.SSLContext | None


class AuthProxy:
    """Passes on connections that show the token; a thread of its own runs its event loop.

    Args:
        door: where it listens and what is behind it.
        rejections: counts refused connections.
    """

    def __init__(self, door: Door, rejections: RejectionLog) -> None:
        """Start to accept."""
        self._door, self._rejections = door, rejections
        self._opening: dict[asyncio.Task[None], str] = {}  # and the address of each, in the order of arrival
        self._relays: set[Relay] = set()
        door.listener.setblocking(False)
        # Its thread alone touches what is above; who stops it hands it a call and waits for its end.
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._accepting = self._loop.create_task(self._accept())
        self._thread = threading.Thread(target=self._loop.run_forever, name="auth proxy", daemon=True)
        self._thread.start()

    def stop_accepting(self) -> None:
        """Take no more connections; those that have shown the token go on."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._stop_accepting(), self._loop).result()

    async def _stop_accepting(self) -> None:
        tasks = [self._accepting, *self._opening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._door.listener.close()

    def close(self) -> None:
        """End all connections, and the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._stop_accepting()
        for relay in self._relays:
            relay.abort()
        while self._relays:  # each goes when its sockets are closed, in the next turns of the loop
            await asyncio.sleep(0)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Count what the event loop has to say of a connection; its own way is a traceback for each."""
        error = context.get("exception")
        self._reject("", f"{context['message']} ({type(error).__name__})")

    def _reject(self, host: str, text: str) -> None:
        self._rejections.add("connections", f"{host}:", text)

    async def _accept(self) -> None:
        while True:
            try:
                client, address = await self._loop.sock_accept(self._door.listener)
            except OSError as error:  # no more open files, say
                self._reject("", f"none can be accepted ({error})")
                await asyncio.sleep(1.0)
                continue
            if len(self._opening) >= MOST_OPENING:
                self._evict()
            host = address[0].removeprefix("::ffff:")  # how an IPv4 address looks on a socket for both kinds
            task = self._loop.create_task(self._open(client, host, address[1]))
            self._opening[task] = host
            task.add_done_callback(lambda ended: self._opening.pop(ended, None))

    def _evict(self) -> None:
        """Give up the oldest opening connection of the address that has most, so that others get in."""
        host = Counter(self._opening.values()).most_common(1)[0][0]
        task = next(t for t, h in self._opening.items() if h == host)
        del self._opening[task]
        task.cancel()
        self._reject(host, f"{MOST_OPENING} have not shown the token yet, most of them from here")

    async def _open(self, client: socket.socket, host: str, port: int) -> None:
        """Wait for the token, then pass the connection on; one that is refused is told so and closed."""
        entrance = Entrance(Http2Opening(self._door.token), self._loop.create_future())
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await asyncio.wait_for(self._authenticate(client, entrance), OPENING_SECONDS)
            await self._pass_on(entrance, host, port)
        except asyncio.TimeoutError:
            self._reject(host, f"no token within {OPENING_SECONDS:.0f} s")
        except OpeningError as error:
            self._rejections.add("token" if error.answer else "connections", f"{host}:", str(error))
            if error.answer:
                entrance.write_last(error.answer)
                await asyncio.sleep(FAREWELL_SECONDS)
        except ssl.SSLError as error:
            self._reject(host, f"no TLS as expected ({error.reason}); is it on one side only?")
        except OSError as error:
            if entrance.opening.started:  # else somebody looked whether the port is open
                self._reject(host, f"one ended before it was passed on ({error})")
        finally:
            if not entrance.passed_on:
                entrance.abort()
                client.close()

    async def _authenticate(self, client: socket.socket, entrance: Entrance) -> None:
        await self._loop.connect_accepted_socket(lambda: entrance, client, ssl=self._door.tls)
        await entrance.authenticated

    async def _pass_on(self, entrance: Entrance, host: str, port: int) -> None:
        """Relay between a client and the service from now on.

        The service's library takes the path of our socket for its peer: that is where the client's address goes.
        """
        near, far = Relay(self._relays), Relay(self._relays)
        near.other, far.other = far, near
        path = self._door.backend.with_name(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        inner = socket.socket(socket.AF_UNIX)
        try:
            inner.setblocking(False)
            # What the event loop reads at once is then written at once; measured, the relay costs half.
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            inner.bind(str(path))
            await self._loop.sock_connect(inner, str(self._door.backend))
            entrance.hand_over(near)
            await self._loop.create_unix_connection(lambda: far, sock=inner)
        except BaseException:
            near.abort()
            inner.close()
            raise
        finally:
            path.unlink(missing_ok=True)
        far.write(bytes(entrance.opening.passed))
        near.resume()
