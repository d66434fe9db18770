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

from mkd.dataset.tile_reader import TileReader
from mkd.loader.workers.messages import Done, Failed, Order, Prefetch, Setup
from mkd.loader.workers.shared_buffers import Buffers

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
        failed = Failed(str(error), ours=False)
    except Exception:
        failed = Failed(traceback.format_exc(), ours=True)
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
    setup: Setup = _heard(line)
    reader, buffers = setup.data.open(), Buffers(setup.file, setup.layout)
    while True:
        message = _heard(line)
        if isinstance(message, Prefetch):
            reader.source.prefetch(message.samples)
        else:
            line.send(_filled(message, reader, buffers))


def _heard(line: Line) -> Any:
    """Take the next message; end where there is no training process to send one."""
    try:
        return line.recv()
    except (EOFError, OSError):
        os._exit(0)


def _filled(orders: list[Order], reader: TileReader, buffers: Buffers) -> list[Done]:
    """Fill the slots of all orders together."""
    places = [
        (order, buffer, slot)
        for order in orders
        for buffer in [buffers.array(order.buffer)]
        for slot in order.slots
    ]
    slots = [buffers.layout.slot(buffer, slot) for _, buffer, slot in places]
    filled = reader.fill_all([sample for order in orders for sample in order.samples], slots)
    done = {order.number: Done(order.number, order.share, [], {}) for order in orders}
    for (order, _, slot), (size, lost) in zip(places, filled, strict=True):
        done[order.number].sizes.append(size)
        if lost is not None:
            done[order.number].lost[slot] = lost
    return list(done.values())


if __name__ == "__main__":
    main()
