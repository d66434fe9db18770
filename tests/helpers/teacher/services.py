"""Teacher services of a tiny network: in this process, or in one of their own that a test can kill or freeze."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mkd.cli.log_lines import route_log_lines
from mkd.losses.rank_sum import one_rank
from mkd.semi.entropy import TileLimit
from mkd.teacher import protocol
from mkd.teacher.client.client_config import ClientConfig
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.remote_teacher import RemoteTeacher
from mkd.teacher.server.batcher import Batcher
from mkd.teacher.server.listener import tls_context
from mkd.teacher.server.service import Limits, ServerConfig, TeacherServer
from tests.helpers.training.nets import tiny_net

ROOT = Path(__file__).resolve().parents[3]
CLASSES = ("grass", "road", "water")
PLAN = {"backbone": "tiny", "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
IDENTITY = protocol.identity(PLAN, CLASSES)
TOKEN = "0123456789abcdef"
NOBODY = protocol.WeightsVersion("", 0, 0)


class Lines(logging.Handler):
    """Keeps the lines of a logger in a list; several may overlap in any order, as students of one test do.

    Args:
        lines: the list; None keeps nothing.
        logger: whose lines.
    """

    def __init__(self, lines, logger):
        super().__init__()
        self.lines, self.logger = lines, logging.getLogger(logger)
        self.logger.setLevel(logging.INFO)
        if lines is not None:
            self.logger.addHandler(self)

    def emit(self, record):
        self.lines.append(self.format(record))

    def end(self):
        """Keep no more."""
        self.logger.removeHandler(self)


def batcher_of(model=None, header=NOBODY, max_batch=16, wait_s=0.0, depth=8):
    """Return the thread that labels, not started."""
    model = (tiny_net() if model is None else model).eval().requires_grad_(False)
    more = {"device": torch.device("cpu"), "autocast": contextlib.nullcontext}
    return Batcher(model, header, max_batch=max_batch, wait_s=wait_s, depth=depth, **more)


@contextlib.contextmanager
def service(model=None, identity=IDENTITY, token=TOKEN, port=0, tls=None, said=None, max_tile=64, **more):
    """Serve on this machine's loopback until the block ends; what services log meanwhile goes into `said`."""
    lines, batcher = Lines(said, "mkd.teacher.server"), batcher_of(model, **more)
    limits = Limits(batcher.max_batch, max_tile, 8)
    server = TeacherServer(
        batcher, ServerConfig(identity, limits, token, port=port, tls=tls and tls_context(*tls))
    )
    server.endpoint, server.batcher = f"127.0.0.1:{server.port}", batcher
    try:
        yield server
    finally:
        server.drain(2.0)
        lines.end()


def remote(
    student,
    *endpoints,
    said=None,
    limit=None,
    identity=IDENTITY,
    token=TOKEN,
    timeout=1.0,
    tls=None,
    gather=one_rank,
    stop=lambda: False,
    bands=None,
    views="none",
    **config,
):
    """Return the student's side; what students log until it is closed goes into `said`."""
    config = ClientConfig(**({"endpoints": endpoints, "session": "job", "patience": 20.0} | config))
    lines = Lines(said, "mkd.teacher.client")
    teacher = RemoteTeacher(
        student,
        config,
        Access(identity, token, tls, timeout, bands=bands, views=views != "none"),
        max_decay=0.9,
        confidence=0.4,
        tile_limit=limit or TileLimit(absolute=1.0),
        autocast=contextlib.nullcontext,
        views=views,
        gather=gather,
        stop=stop,
    )
    close = teacher.close
    teacher.close = lambda: (close(), lines.end())
    return teacher


def weak_views(seed=0, batch=4, size=(6, 5)):
    """Return seeded uint8 images (B,3,H,W)."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.integers(0, 256, (batch, 3, *size)), dtype=torch.uint8)


def same(one, other):
    """Return whether two answers are equal to the bit."""
    pairs = [(getattr(one, k), getattr(other, k)) for k in ("labels", "score", "accepted")]
    return all(torch.equal(a, b) for a, b in pairs)


def equal_nets(one, other):
    """Return whether two networks are equal to the bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in mine.items())


def ask(teacher, number=0, **more):
    """Return the answer for one batch of `weak_views`."""
    teacher.submit(number, weak_views(number, **more), 0.0)
    return teacher.collect(number)


def until(condition, seconds=60.0):
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def free_port():
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TeacherProcess:
    """A service of `tiny_net` in a process of its own.

    Args:
        port: 0 takes a free one.
        seed: of its weights, which a student replaces.
        delay: seconds that each forward pass takes longer.
        token: on every call.
        wait: return once it is ready.
        stderr: where its log goes; inherited by default.
    """

    def __init__(self, port=0, seed=0, delay=0.0, token=TOKEN, wait=True, stderr=None):
        command = [
            sys.executable,
            "-m",
            "tests.helpers.teacher.services",
            str(port),
            str(seed),
            str(delay),
            token,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        self.endpoint = self.process.stdout.readline().strip() if wait else f"127.0.0.1:{port}"
        assert self.endpoint, "the teacher did not start"
        self.port = int(self.endpoint.rpartition(":")[2])

    def signal(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self):
        """Kill -9 it, frozen or not."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def processes(*teachers):
    """End services at the end of a block, whatever state they are in."""
    try:
        yield teachers
    finally:
        for teacher in teachers:
            teacher.kill()


def main(port, seed, delay, token):
    """Serve until killed."""
    torch.set_num_threads(1)
    model = tiny_net(seed=seed)
    model.register_forward_pre_hook(lambda *_: time.sleep(delay))
    show = partial(print, file=sys.stderr, flush=True)
    with route_log_lines(show), service(model, token=token, port=port) as server:
        print(server.endpoint, flush=True)
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
