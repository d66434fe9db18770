"""A decoding process: decodes tiles into shared buffers; no torch.

Started as ``python -m mkd.loader.workers.worker_main SOCKET``.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from mkd.dataset.tile_decoder import TileDecoder
from mkd.loader.workers.messages import (
    DecodeRequest,
    DecodeResult,
    PrefetchRequest,
    WorkerFailure,
    WorkerSetup,
)
from mkd.loader.workers.shared_buffers import MappedBuffers

Line = Connection  # to the training process; what waits in it is small, so that neither side waits to send


def main() -> None:
    """Serve until the training process hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training process gets them too, and ends this one
    line = Line(int(sys.argv[1]))
    threading.Thread(target=_watch, args=(line.fileno(),), daemon=True).start()
    try:
        _serve(line)
    except (ValueError, OSError) as error:
        failed = WorkerFailure(str(error), is_bug=False)
    except Exception:
        failed = WorkerFailure(traceback.format_exc(), is_bug=True)
    with suppress(OSError):
        line.send(failed)
    threading.Event().wait()  # until the watch ends the process: an end by itself would look like a crash


def _watch(file: int) -> None:
    """End the process, whatever it does, when the training process is gone."""
    end = select.poll()
    end.register(file, 0)  # of hang-ups alone: messages wake nobody here
    end.poll()
    os._exit(0)


def _serve(line: Line) -> None:
    setup: WorkerSetup = _heard(line)
    reader, buffers = setup.spec.open_decoder(), MappedBuffers(setup.file, setup.layout)
    while True:
        message = _heard(line)
        if isinstance(message, PrefetchRequest):
            reader.source.prefetch(message.samples)
        else:
            line.send(_filled(message, reader, buffers))


def _heard(line: Line) -> Any:
    """Take the next message; end where there is no training process to send one."""
    try:
        return line.recv()
    except (EOFError, OSError):
        os._exit(0)


def _filled(orders: list[DecodeRequest], reader: TileDecoder, buffers: MappedBuffers) -> list[DecodeResult]:
    """Fill the slots of all orders together."""
    places = [
        (order, buffer, slot)
        for order in orders
        for buffer in [buffers.array(order.buffer)]
        for slot in order.slots
    ]
    slots = [buffers.layout.slot(buffer, slot) for _, buffer, slot in places]
    filled = reader.decode_all([sample for order in orders for sample in order.samples], slots)
    done = {order.batch: DecodeResult(order.batch, order.part, [], {}) for order in orders}
    for (order, _, slot), (size, lost) in zip(places, filled, strict=True):
        done[order.batch].sizes.append(size)
        if lost is not None:
            done[order.batch].bad[slot] = lost
    return list(done.values())


if __name__ == "__main__":
    main()
