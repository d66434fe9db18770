"""Ranges of S3 objects by HTTP requests with signed URLs: less than half of the processor's time of s3fs."""

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

VALID = 3600  # seconds for which a URL is signed; it is signed anew after half of them
KEPT = 1024  # signed URLs that are remembered
TIMEOUT = 15.0  # seconds without a byte, as in s3fs
MISSES = 3  # answers in a row that only s3fs could get, after which it gets all
REST = 300.0  # seconds for which it does, before signed URLs are tried again

log = logging.getLogger(__name__)


class _OldSignatureError(Exception):
    """A URL that was signed some time ago is not taken."""


class PresignedRanges:
    """Reads ranges of objects for several threads, each with a connection that is kept.

    It knows one good answer and no errors: where there is none, the caller asks s3fs, whose errors say what is wrong.
    So a place that takes no signed URLs costs some requests, and a line in the log.

    Args:
        files: the s3fs file system, which signs with the credentials that it uses itself and keeps fresh.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self._thread = threading.local()
        self._urls: dict[str, tuple[SplitResult, float]] = {}
        self._misses, self._reason, self._said = 0, "", False
        self._resting = 0.0  # until when s3fs reads alone

    def read(self, path: str, start: int, stop: int) -> bytes | None:
        """Read bytes ``start`` .. ``stop - 1`` of an object, fewer where it ends before; None: ask s3fs."""
        if time.monotonic() < self._resting:
            return None
        data = None
        try:
            try:
                data = self._tried(path, start, stop)
            except _OldSignatureError:  # maybe the keys are new ones
                self._forget(path)
                data = self._tried(path, start, stop)
        except Exception as error:  # of sockets, TLS, HTTP, and of whatever finds the credentials
            self._reason = str(error) or type(error).__name__
        if data is None:
            self._forget(path)
            return None
        self._misses = 0
        return data

    def missed(self) -> None:
        """Take note that s3fs got an answer where `read` gave None."""
        self._misses += 1
        if self._misses < MISSES or time.monotonic() < self._resting:
            return
        self._misses, self._resting = 0, time.monotonic() + REST
        if not self._said:
            log.warning("reading by signed URLs fails (%s): s3fs reads instead, slower", self._reason)
        self._said = True

    def _tried(self, path: str, start: int, stop: int) -> bytes | None:
        try:
            return self._asked(path, start, stop)
        except ConnectionError:
            if not self._hang_up():
                raise
            return self._asked(path, start, stop)  # the server had closed the old connection

    def _forget(self, path: str) -> None:
        self._hang_up()
        self._urls.pop(path, None)

    def _asked(self, path: str, start: int, stop: int) -> bytes | None:
        url, kept = self._url(path)
        line = self._line(url)
        if line is None:
            self._resting = float("inf")
            return None
        line.request("GET", f"{url.path}?{url.query}", headers={"Range": f"bytes={start}-{stop - 1}"})
        answer = line.getresponse()
        size = answer.length
        if answer.status != 206 or size is None or size > stop - start:
            self._reason = f"HTTP status {answer.status}"
            if kept and answer.status in (400, 403):
                raise _OldSignatureError
            return None
        data = answer.read(size)
        answer.close()
        self._thread.used = True
        return data if len(data) == size else None

    def _url(self, path: str) -> tuple[SplitResult, bool]:
        """Return a signed URL, and whether it was signed for an earlier request."""
        url, until = self._urls.get(path, (None, 0.0))
        if url is not None and time.monotonic() <= until:
            return url, True
        if len(self._urls) >= KEPT:
            self._urls.clear()
        url = urlsplit(self._files.url(path, expires=VALID))
        self._urls[path] = url, time.monotonic() + VALID / 2
        return url, False

    def _line(self, url: SplitResult) -> http.client.HTTPConnection | None:
        """Return this thread's connection; None where a proxy is in between, which s3fs knows how to pass."""
        host, line = url.hostname or "", getattr(self._thread, "line", None)
        if line is not None and (line.host, self._thread.scheme) == (host, url.scheme):
            return line  # type: ignore[no-any-return]
        if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return None
        self._hang_up()
        if url.scheme == "https":
            trusted = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
            line = http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT, context=trusted)
        else:
            line = http.client.HTTPConnection(host, url.port, timeout=TIMEOUT)
        self._thread.line, self._thread.scheme, self._thread.used = line, url.scheme, False
        return line

    def _hang_up(self) -> bool:
        """Close this thread's connection; say whether it had been of use."""
        line = getattr(self._thread, "line", None)
        if line is None:
            return False
        line.close()
        used, self._thread.line, self._thread.used = self._thread.used, None, False
        return bool(used)
