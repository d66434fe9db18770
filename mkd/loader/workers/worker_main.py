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


def main() -> None:
    """Answer requests until the training process closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training process gets them too, and ends this one
    # Messages in the socket are small and few (`MAX_IN_FLIGHT`), so that neither side waits to send.
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_exit_on_hang_up, args=(connection.fileno(),), daemon=True).start()
    try:
        _serve(connection)
    except (ValueError, OSError) as error:
        failure = WorkerFailure(str(error), is_bug=False)
    except Exception:
        failure = WorkerFailure(traceback.format_exc(), is_bug=True)
    with suppress(OSError):
        connection.send(failure)
    # Wait for the training process to read the failure and close the connection: the other thread then exits. An exit
    # here would look like a crash.
    threading.Event().wait()


def _exit_on_hang_up(file: int) -> None:
    """Exit, whatever the main thread is doing, when the training process is gone."""
    hang_up = select.poll()
    hang_up.register(file, 0)  # no events but hang-ups: the main thread reads the messages
    hang_up.poll()
    os._exit(0)


def _serve(connection: Connection[Any, Any]) -> None:
    setup: WorkerSetup = _receive(connection)
    decoder, buffers = setup.spec.open_decoder(), MappedBuffers(setup.file, setup.layout)
    while True:
        message = _receive(connection)
        if isinstance(message, PrefetchRequest):
            decoder.source.prefetch(message.samples)
        else:
            connection.send(_decode(message, decoder, buffers))


def _receive(connection: Connection[Any, Any]) -> Any:
    """Wait for the next message; exit when the training process is gone."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        os._exit(0)


def _decode(
    requests: list[DecodeRequest], decoder: TileDecoder, buffers: MappedBuffers
) -> list[DecodeResult]:
    """Decode the tiles of all requests together.

    The training process reads a buffer only after the answer about its last slot: until then this process alone writes
    to these slots, and other processes to the other ones.
    """
    places = [
        (request, buffer, slot)
        for request in requests
        for buffer in [buffers.array(request.buffer)]
        for slot in request.slots
    ]
    outs = [buffers.layout.slot(buffer, slot) for _, buffer, slot in places]
    decoded = decoder.decode_all([sample for request in requests for sample in request.samples], outs)
    results = {request.batch: DecodeResult(request.batch, request.part, [], {}) for request in requests}
    for (request, _, slot), (size, bad) in zip(places, decoded, strict=True):
        results[request.batch].sizes.append(size)
        if bad is not None:
            results[request.batch].bad[slot] = bad
    return list(results.values())


if __name__ == "__main__":
    main()
