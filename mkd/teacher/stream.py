"""The answering half of one request stream: in order, bounded, and never in the batcher's way."""

import math
import queue
import threading
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from mkd.semi.entropy import PseudoLabels
from mkd.teacher import wire
from mkd.teacher.batcher import Job, kept_share


class AnswerStream:
    """Writes the answers of one stream in the order of its requests, from a thread of its own.

    Args:
        writer: Flight's; only this thread writes.
        height: H of the tiles.
        width: W of the tiles.
        most: requests of the stream that may lack an answer; the reader waits at more.
    """

    def __init__(self, writer: Any, height: int, width: int, most: int) -> None:
        """Send the schema."""
        self._writer, self._schema = writer, wire.answer_schema(height, width)
        self._jobs: queue.Queue[Job | wire.Reply | None] = queue.Queue(most)
        self.broken = threading.Event()
        writer.begin(self._schema)
        self._thread = threading.Thread(target=self._write, name="answers", daemon=True)
        self._thread.start()

    def add(self, job: Job | wire.Reply | None, seconds: float = math.inf) -> bool:
        """Expect the answer of a request next, or send a notice; return False when nobody listens (in time)."""
        until = time.monotonic() + seconds
        while not self.broken.is_set() and time.monotonic() < until:
            try:
                self._jobs.put(job, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def finish(self) -> None:
        """Write what is expected and end."""
        self.add(None)
        self._thread.join()

    def _write(self) -> None:
        """Write until told to end; once nobody listens, let the batcher skip what is left."""
        item: Job | wire.Reply | None = None
        try:
            while (item := self._jobs.get()) is not None:
                note, table = self._message(item)
                if table is None:
                    self._writer.write_metadata(note)
                else:
                    self._writer.write_with_metadata(table, note)
        except (fl.FlightError, pa.ArrowException, OSError):
            self._forget(item)
        finally:
            self.broken.set()

    def _message(self, item: Job | wire.Reply) -> tuple[pa.Buffer, pa.RecordBatch | None]:
        """Return a notice, or a request's answer once it stands: what is known of it, and its labels."""
        if isinstance(item, wire.Reply):
            return pa.py_buffer(wire.pack(item)), None
        item.done.wait()
        assert item.reply is not None
        reply, table = item.reply, None
        try:
            table = None if item.labels is None else self._table(item.labels)
        except (
            Exception
        ) as error:  # out of memory, say: the student must not wait for an answer that never comes
            reply = replace(reply, status=wire.FAILED, reason=f"{type(error).__name__}: {error}"[:300])
        return pa.py_buffer(wire.pack(reply)), table

    def _table(self, found: PseudoLabels) -> pa.RecordBatch:
        columns = [
            wire.tensor_column(found.labels, self._schema.field("labels").type),
            pa.array(found.score.numpy()),
            pa.array(kept_share(found.labels).numpy()),
            pa.array(found.accepted.numpy()),
        ]
        return pa.record_batch(columns, schema=self._schema)

    def _forget(self, item: Job | wire.Reply | None) -> None:
        items = [item]
        while not self._jobs.empty():
            items.append(self._jobs.get_nowait())
        for job in items:
            if isinstance(job, Job):
                job.gone = True
