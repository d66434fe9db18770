"""The student's outgoing weights: made into a file once, in the background, for all teachers."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mkd.teacher import weights
from mkd.teacher.protocol import WeightsVersion
from mkd.teacher.weights_snapshot import WeightsSnapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packet:
    """Weights ready to be sent.

    Attributes:
        header: whose they are.
        blob: the safetensors file.
        sha256: of it, hex.
    """

    header: WeightsVersion
    blob: bytes
    sha256: str


class Publisher(threading.Thread):
    """Packs the newest weights; what is overtaken before it was packed is left out.

    Args:
        file: where a teacher that starts late finds the weights, or None; written at most every FILE_SECONDS and
            at the end, because students publish as often as every step.
        ready: called with each new packet.
        failed: called with a sentence and the error when the weights cannot be packed, after which no more are.
    """

    FILE_SECONDS = 30.0

    def __init__(
        self,
        file: Path | None,
        ready: Callable[[Packet], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        """Start to wait for weights."""
        super().__init__(name="publisher", daemon=True)
        self._file, self._ready, self._failed = file, ready, failed
        # The training thread offers and never waits but in `close`; this thread waits here for the next offer.
        self._changed = threading.Condition()
        self._next: tuple[WeightsSnapshot, WeightsVersion] | None = None
        self._closed = False
        self.start()

    def offer(self, snapshot: WeightsSnapshot, header: WeightsVersion) -> None:
        """Publish these weights, on any device."""
        with self._changed:
            self._next = snapshot, header
            self._changed.notify()

    def close(self) -> None:
        """Pack and write what was offered, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Pack until closed."""
        try:
            self._pack()
        except Exception as error:  # out of memory, say: unseen, the student would wait for ever
            self._failed("the weights for the teachers could not be packed", error)

    def _pack(self) -> None:
        written, packet, saved = -self.FILE_SECONDS, None, None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next is not None)
                taken, self._next, closed = self._next, None, self._closed
            if taken is not None:
                snapshot, header = taken
                blob = weights.to_bytes(snapshot.on_cpu().tensors(), header)
                packet = Packet(header, blob, weights.digest(blob))
                self._ready(packet)
            due = closed or time.monotonic() - written >= self.FILE_SECONDS
            if due and packet is not None and packet is not saved:
                written, saved = time.monotonic(), packet
                self._save(packet)
            if closed and taken is None:
                return

    def _save(self, packet: Packet) -> None:
        """Write the file; a full disk is logged and does not stop the training."""
        if self._file is None:
            return
        try:
            weights.write_file(self._file, packet.blob)
        except OSError as error:
            log.warning("weights for late teachers: %s", error)
