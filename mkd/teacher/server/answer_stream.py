"""The answering half of one request stream: in order, bounded, and never in the batcher's way."""

import math
import queue
import threading
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mkd.semi.entropy import PseudoLabels
from mkd.teacher import protocol
from mkd.teacher.server.batcher import QueuedRequest, kept_share
from mkd.teacher.server.memory_budget import MemoryBudget

Item = tuple[QueuedRequest | protocol.Reply, int]  # and its bytes in the memory budget


class AnswerStream:
    """Writes the answers of one stream in the order of its requests, from a thread of its own.

    Args:
        writer: Flight's; only this thread writes.
        height: H of the tiles.
        width: W of the tiles.
        most: requests of the stream that may lack an answer; the reader waits at more.
        memory: the budget that all streams share; the reader waits there too.
        client: the name of the connection that the stream belongs to.
    """

    def __init__(
        self, writer: Any, height: int, width: int, most: int, memory: MemoryBudget, client: str
    ) -> None:
        """Send the schema."""
        self._writer, self._schema = writer, protocol.answer_schema(height, width)
        self._memory, self.client = memory, client
        # The stream's reader puts and waits while it is full; the writing thread gets and waits while it is empty.
        self._items: queue.Queue[Item | None] = queue.Queue(most)
        self._asked = self._left = 0  # requests; each is counted by one thread only
        self.broken = threading.Event()
        writer.begin(self._schema)
        self._thread = threading.Thread(target=self._write, name="answers", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Requests that were read and neither answered nor given up."""
        return self._asked - self._left

    def add(self, job: QueuedRequest) -> bool:
        """Expect the answer of a request next; return False when nobody listens."""
        size = job.images.nbytes
        while not self._memory.enter(size, lambda: self.pending == 0, timeout=0.2):
            if self.broken.is_set():
                return False
        self._asked += 1
        if self._put((job, size)):
            return True
        self._asked -= 1
        self._memory.leave(size)
        return False

    def notify(self, notice: protocol.Reply, seconds: float) -> None:
        """Send a notice to all of the stream next, unless the wait for its turn is too long."""
        self._put((notice, 0), seconds)

    def finish(self) -> None:
        """Write what is expected and end."""
        self._put(None)
        self._thread.join()
        self._forget()  # what was added while the thread gave up

    def _put(self, item: Item | None, seconds: float = math.inf) -> bool:
        until = time.monotonic() + seconds
        while not self.broken.is_set() and time.monotonic() < until:
            try:
                self._items.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _write(self) -> None:
        """Write until told to end; once nobody listens, or memory fails, let the batcher skip what is left.

        The student learns of it by hellos that tell how many requests are pending: Flight lets nobody end the
        other half of the call from here.
        """
        item: Item | None = None
        try:
            while (item := self._items.get()) is not None:
                note, table = self._message(item[0])
                if table is None:
                    self._writer.write_metadata(note)
                else:
                    self._writer.write_with_metadata(table, note)
                self._leave(item)
        except Exception:
            self.broken.set()
            self._leave(item)
            self._forget()
        finally:
            self.broken.set()

    def _message(self, item: QueuedRequest | protocol.Reply) -> tuple[pa.Buffer, pa.RecordBatch | None]:
        """Return a notice, or a request's answer once it is there: what is known of it, and its labels."""
        if isinstance(item, protocol.Reply):
            return pa.py_buffer(protocol.pack(item)), None
        item.done.wait()
        assert item.reply is not None
        reply, table = item.reply, None
        try:
            table = None if item.labels is None else self._table(item.labels)
        except Exception as error:  # out of memory, say: the student is told
            reply = replace(reply, status=protocol.FAILED, reason=f"{type(error).__name__}: {error}"[:300])
        return pa.py_buffer(protocol.pack(reply)), table

    def _table(self, found: PseudoLabels) -> pa.RecordBatch:
        columns = [
            protocol.tensor_column(found.labels, self._schema.field("labels").type),
            pa.array(found.score.numpy()),
            pa.array(kept_share(found.labels).numpy()),
            pa.array(found.accepted.numpy()),
        ]
        return pa.record_batch(columns, schema=self._schema)

    def _leave(self, item: Item | None) -> None:
        """Let go of a request, answered or not."""
        if item is not None and isinstance(item[0], QueuedRequest):
            item[0].gone = True
            self._left += 1
            self._memory.leave(item[1])

    def _forget(self) -> None:
        while not self._items.empty():
            self._leave(self._items.get_nowait())
