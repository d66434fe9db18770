"""Weights that students publish: received whole or not at all, from one student job at a time."""

import math
import threading
import time
from typing import Any

from mkd.teacher import protocol, weights
from mkd.teacher.server.batcher import Batcher

SILENT = 20.0  # seconds without a word of a student job after which another one may have the teacher
MOST_UPLOADS = 2  # weights on their way at once; each needs its memory


class WeightsIntake:
    """Checks uploads and hands them to the batcher; remembers which student job has the teacher.

    Args:
        batcher: takes the weights.

    Attributes:
        uploads: one for each upload that may be under way; a call takes it without waiting, or is told to come again.
    """

    def __init__(self, batcher: Batcher) -> None:
        """Belong to no job."""
        self._batcher, self._layout = batcher, weights.layout(batcher.model)
        self._most = weights.most_bytes(self._layout)
        self.uploads = threading.BoundedSemaphore(MOST_UPLOADS)
        # Calls wait for each other here while one hands its weights over, never while one receives them.
        self._lock = threading.Lock()
        self._owner: str | None = None  # the student job that published last, and when it was heard last
        self._heard = 0.0

    def receive(self, content: dict[str, Any], reader: Any) -> None:
        """Take published weights.

        Args:
            content: the announcement.
            reader: Flight's, of the call.

        Raises:
            ProtocolError: they are not what was announced, or this teacher's network cannot take them.
            Busy: another job has the teacher, or too many uploads are under way.
        """
        parcel = protocol.read_weights_header(content, self._most)
        if not self.uploads.acquire(blocking=False):
            raise protocol.Busy(f"{MOST_UPLOADS} uploads of weights are under way; more are not taken")
        try:
            state = self._read(parcel, reader)
            self._take_over(parcel, state)
        finally:
            self.uploads.release()

    def _read(self, parcel: protocol.WeightsHeader, reader: Any) -> dict[str, Any]:
        """Return the tensors of an upload; its announced size bounds what is kept."""
        if not reader.schema.equals(protocol.WEIGHTS_SCHEMA):
            raise protocol.ProtocolError("weights come as one column of uint8")
        blob = bytearray()
        for chunk in reader:
            batch = protocol.whole(chunk.data, parcel.bytes - len(blob))
            if batch.column(0).null_count:
                raise protocol.ProtocolError("weights with missing values")
            blob += batch.column(0).to_numpy().data
        if len(blob) != parcel.bytes or weights.digest(blob) != parcel.sha256:
            raise protocol.ProtocolError(
                f"weights of {len(blob)} bytes that are not the {parcel.bytes} announced"
            )
        state, header = weights.from_bytes(bytes(blob), self._layout)
        if header != parcel.header:
            raise protocol.ProtocolError("weights whose header is not the announced one")
        return state

    def _take_over(self, parcel: protocol.WeightsHeader, state: dict[str, Any]) -> None:
        """Hand weights to the batcher, unless another student job has this teacher.

        It keeps it while it is heard: two jobs that take it from each other would both have labels of wrong weights.
        """
        header = parcel.header
        with self._lock:
            silent = time.monotonic() - self._heard
            if self._owner not in (None, header.owner) and silent < SILENT:
                raise protocol.Busy(
                    f"this teacher follows another student job (session {self._owner}, heard {silent:.0f} s ago, not "
                    f"{header.owner}); give each job teachers of its own, or end one of them"
                )
            if not self._batcher.newest().covers(header):
                self._batcher.offer(state, header)
            self._owner, self._heard = header.owner, time.monotonic()

    def hear(self, job: Any, leaves: bool) -> None:
        """Note a sign of life of a student job, or that it leaves: then another one may have the teacher at once."""
        with self._lock:
            if job == self._owner:
                self._heard = -math.inf if leaves else time.monotonic()
