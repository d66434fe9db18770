"""A decoding process, ``python -m mkd.data.worker SOCKET``: takes orders, fills buffers, answers; no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from mkd.data.messages import Ahead, Done, Failed, Order, Setup
from mkd.data.reader import TileReader
from mkd.data.ring import Buffers

Line = Connection  # to the training process


def main() -> None:
    """Serve until the training process hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the training process gets them too, and ends this one
    line = Line(int(sys.argv[1]))
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(line, inbox), daemon=True).start()
    try:
        _serve(line, inbox)
    except (ValueError, OSError) as error:
        failed = Failed(str(error), ours=False)
    except Exception:
        failed = Failed(traceback.format_exc(), ours=True)
    with suppress(OSError):
        line.send(failed)
    threading.Event().wait()  # until the listener ends the process: an end by itself would look like a crash


def _listen(line: Line, inbox: SimpleQueue[Any]) -> None:
    """Pass messages on; end the process, whatever it does, when the training process is gone."""
    try:
        while True:
            inbox.put(line.recv())
    except (EOFError, OSError):
        os._exit(0)


def _serve(line: Line, inbox: SimpleQueue[Any]) -> None:
    setup: Setup = inbox.get()
    reader, buffers = setup.data.open(), Buffers(setup.file, setup.layout)
    while True:
        order = inbox.get()
        if isinstance(order, Ahead):
            reader.source.prefetch(order.samples)
        else:
            line.send(_fill(order, reader, buffers))


def _fill(order: Order, reader: TileReader, buffers: Buffers) -> Done:
    done = Done(order.number, {}, {})
    buffer = buffers.array(order.buffer)
    for slot, sample in order.work:
        done.sizes[slot], lost = reader.fill_or_next(sample, *buffers.layout.slot(buffer, slot))
        if lost is not None:
            done.lost[slot] = lost
    return done


if __name__ == "__main__":
    main()
