"""Reads ranges of S3 objects by HTTP requests with signed URLs: less than half of the processor's time of s3fs."""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import threading
import time
import urllib.request
from typing import Any
from urllib.parse import SplitResult, urlsplit

URL_SECONDS = 3600  # seconds for which a URL is signed; it is signed again after half of them
MAX_URLS = 1024  # signed URLs in memory
TIMEOUT_SECONDS = 15.0  # seconds without a byte, as in s3fs
MAX_FALLBACKS = 3  # answers in a row that only s3fs could get, after which s3fs reads alone
PAUSE_SECONDS = 300.0  # seconds before signed URLs are tried again

log = logging.getLogger(__name__)


class _RejectedSignatureError(Exception):
    """A URL that was signed for an earlier request is rejected."""


class PresignedRanges:
    """Reads ranges of objects for several threads, each over its own connection, which is kept open.

    It knows one good answer and no errors: where there is none, the caller asks s3fs, whose errors say what is wrong.
    So a server that takes no signed URLs costs some requests, and a line in the log.

    Threads share the signed URLs and the counters without a lock: each change is one assignment, and a lost one costs
    a signature or a request.

    Args:
        files: the s3fs file system, which signs with the credentials that it uses itself and keeps fresh.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self._thread = threading.local()  # connection, its scheme, and whether it has given an answer
        self._urls: dict[str, tuple[SplitResult, float]] = {}  # path -> signed URL, and when to sign again
        self._fallbacks, self._reason, self._warned = 0, "", False
        self._paused_until = 0.0  # time.monotonic() until which s3fs reads alone

    def read(self, path: str, start: int, stop: int) -> bytes | None:
        """Read bytes ``start`` .. ``stop - 1`` of an object, fewer where it ends before; None: ask s3fs."""
        if time.monotonic() < self._paused_until:
            return None
        data = None
        try:
            try:
                data = self._request_with_reconnect(path, start, stop)
            except _RejectedSignatureError:  # the keys may have been replaced: sign once more
                self._forget(path)
                data = self._request_with_reconnect(path, start, stop)
        except Exception as error:  # of sockets, TLS, HTTP, and of whatever finds the credentials
            self._reason = str(error) or type(error).__name__
        if data is None:
            self._forget(path)
            return None
        self._fallbacks = 0
        return data

    def count_fallback(self) -> None:
        """Count an answer that s3fs got where `read` gave None; pause after `MAX_FALLBACKS` in a row."""
        self._fallbacks += 1
        if self._fallbacks < MAX_FALLBACKS or time.monotonic() < self._paused_until:
            return
        self._fallbacks, self._paused_until = 0, time.monotonic() + PAUSE_SECONDS
        if not self._warned:
            log.warning("reading by signed URLs fails (%s): s3fs reads instead, slower", self._reason)
        self._warned = True

    def _request_with_reconnect(self, path: str, start: int, stop: int) -> bytes | None:
        try:
            return self._request(path, start, stop)
        except ConnectionError:
            if not self._disconnect():
                raise
            return self._request(path, start, stop)  # the server had closed the old connection

    def _request(self, path: str, start: int, stop: int) -> bytes | None:
        """Send one range request; None for any answer but the range."""
        url, signed_before = self._signed_url(path)
        connection = self._connection(url)
        if connection is None:
            self._paused_until = float("inf")
            return None
        range_header = {"Range": f"bytes={start}-{stop - 1}"}
        connection.request("GET", f"{url.path}?{url.query}", headers=range_header)
        response = connection.getresponse()
        size = response.length
        if response.status != 206 or size is None or size > stop - start:
            self._reason = f"HTTP status {response.status}"
            if signed_before and response.status in (400, 403):
                raise _RejectedSignatureError
            return None
        data = response.read(size)
        response.close()
        self._thread.used = True
        return data if len(data) == size else None

    def _forget(self, path: str) -> None:
        """Drop the connection of this thread and the signed URL of an object."""
        self._disconnect()
        self._urls.pop(path, None)

    def _signed_url(self, path: str) -> tuple[SplitResult, bool]:
        """Return a signed URL, and whether it was signed for an earlier request."""
        url, until = self._urls.get(path, (None, 0.0))
        if url is not None and time.monotonic() <= until:
            return url, True
        if len(self._urls) >= MAX_URLS:
            self._urls.clear()
        url = urlsplit(self._files.url(path, expires=URL_SECONDS))
        self._urls[path] = url, time.monotonic() + URL_SECONDS / 2
        return url, False

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection | None:
        """Return this thread's connection; None behind a proxy, which s3fs knows how to pass."""
        host, connection = url.hostname or "", getattr(self._thread, "connection", None)
        if connection is not None and (connection.host, self._thread.scheme) == (host, url.scheme):
            return connection  # type: ignore[no-any-return]
        if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return None
        self._disconnect()
        if url.scheme == "https":
            trusted = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
            connection = http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT_SECONDS, context=trusted)
        else:
            connection = http.client.HTTPConnection(host, url.port, timeout=TIMEOUT_SECONDS)
        self._thread.connection, self._thread.scheme, self._thread.used = connection, url.scheme, False
        return connection

    def _disconnect(self) -> bool:
        """Close this thread's connection; say whether it had given an answer."""
        connection = getattr(self._thread, "connection", None)
        if connection is None:
            return False
        connection.close()
        used, self._thread.connection, self._thread.used = self._thread.used, None, False
        return bool(used)
