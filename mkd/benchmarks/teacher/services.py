"""Teacher services in processes of their own, and a student connected to one, for the benchmark of teachers."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mkd.cli.log_lines import route_log_lines, say_on_stderr
from mkd.config.schema import TeacherConfig
from mkd.semi.entropy import PseudoLabels, TileLimit
from mkd.teacher import protocol
from mkd.teacher.auth import TOKEN_VARIABLE, read_token
from mkd.teacher.client.client_config import ClientConfig
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.remote_teacher import RemoteTeacher, new_session
from mkd.teacher.server.batcher import Batcher, QueuedRequest
from mkd.teacher.server.service import Limits, ServerConfig, TeacherServer

INSTANT_IDENTITY = protocol.identity({"backbone": "none"}, ("a", "b"))
QUEUE = 8  # requests that may wait at the instant service
PATIENCE = 60.0  # seconds without an answer after which the benchmark gives up
SHUTDOWN_S = 20.0  # seconds that a service gets to end
_say = say_on_stderr("teacher")


class InstantBatcher(Batcher):
    """Answers each request at once with the same labels, so that only the transport is measured."""

    def _label(self, jobs: list[QueuedRequest]) -> list[PseudoLabels]:
        """Return labels of class 0 for all tiles."""
        return [_answer(j.images) for j in jobs]


def _answer(images: Tensor) -> PseudoLabels:
    count, _, height, width = images.shape
    labels = torch.zeros(count, height, width, dtype=torch.uint8)
    return PseudoLabels(labels, torch.zeros(count), torch.ones(count, dtype=torch.bool), 0)


def instant_network() -> nn.Module:
    """Return the network that the instant service and its student agree on; it is never run."""
    return nn.Conv2d(3, 2, 1).eval().requires_grad_(False)


def serve_instantly(max_batch: int, max_tile: int) -> None:
    """Serve on loopback until SIGTERM."""
    # Set by the signal's handler; the main thread waits for it while the server's threads answer.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    nobody, cpu = protocol.WeightsVersion("", 0, 0), torch.device("cpu")
    batcher = InstantBatcher(
        instant_network(),
        nobody,
        device=cpu,
        autocast=contextlib.nullcontext,
        max_batch=max_batch,
        wait_s=0.0,
        depth=QUEUE,
    )
    limits = Limits(max_batch, max_tile, QUEUE)
    with route_log_lines(_say, "mkd.teacher"):
        server = TeacherServer(
            batcher, ServerConfig(INSTANT_IDENTITY, limits, os.environ[TOKEN_VARIABLE], device="none")
        )
        print(f"teacher ready endpoint=127.0.0.1:{server.port}", flush=True)
        stop.wait()
        server.drain(SHUTDOWN_S / 2)


@contextlib.contextmanager
def running_service(*command: str) -> Iterator[str]:
    """Run a service as ``python COMMAND`` until the block ends; yield its HOST:PORT.

    Its token is the environment's, of this process too; one is made where there is none.

    Raises:
        ValueError: it ended before it was ready.
    """
    os.environ.setdefault(TOKEN_VARIABLE, secrets.token_hex(32))
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = next(filter(None, (re.search(r"endpoint=(\S+)", line) for line in process.stdout)), None)
        if found is None:
            raise ValueError(
                f"'python {' '.join(command[:3])} ..' ended before it was ready; its error is above"
            )
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def connected_student(endpoint: str, network: nn.Module, mine: protocol.Identity) -> Iterator[RemoteTeacher]:
    """Connect a student with the defaults of a training run to one service until the block ends.

    Args:
        endpoint: HOST:PORT.
        network: the student's.
        mine: its identity.
    """
    keys = TeacherConfig()
    config = ClientConfig(
        (endpoint,),
        new_session(),
        depth=keys.depth,
        sync_every=keys.sync_every,
        max_age=keys.max_age,
        patience=PATIENCE,
    )
    teacher = RemoteTeacher(
        network,
        config,
        Access(mine, read_token(None)),
        max_decay=0.999,
        confidence=0.95,
        tile_limit=TileLimit(absolute=1.0),
        autocast=contextlib.nullcontext,
    )
    try:
        yield teacher
    finally:
        teacher.close()


if __name__ == "__main__":
    serve_instantly(int(sys.argv[1]), int(sys.argv[2]))
