"""The one thread that owns a service's network: gathers requests, swaps weights between batches, labels."""

import contextlib
import logging
import math
import queue
import threading
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mkd.labels import IGNORE
from mkd.semi.entropy import PseudoLabels, filter_pseudo_labels
from mkd.teacher.local import Autocast, logits_of
from mkd.teacher.protocol import BEHIND, FAILED, OK, STOPPING, Reply, Request, WeightsVersion
from mkd.teacher.server.metrics import ServiceMetrics

log = logging.getLogger(__name__)


@dataclass(eq=False)
class QueuedRequest:
    """One request on its way to its answer.

    Attributes:
        ask: what is asked.
        images: uint8 (B,3,H,W) or float32 (B,bands,H,W) on the CPU, the bytes that arrived.
        stream: who waits; streams are only compared.
        born: when it was read, monotonic seconds.
        gone: set when nobody waits any more.
        done: set once ``reply`` is there, and ``labels`` where its status is ok; the stream's writer waits for it.
    """

    ask: Request
    images: Tensor
    stream: object
    born: float = field(default_factory=time.monotonic)
    gone: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    labels: PseudoLabels | None = None

    def finish(
        self, status: str, header: WeightsVersion, labels: PseudoLabels | None = None, reason: str = ""
    ) -> None:
        """Answer; the images are let go of."""
        self.reply = Reply(self.ask.id, status, header.session, header.version, header.updates, reason)
        # A slice would keep the bytes of all.
        self.labels, self.images = labels, torch.empty(0, *self.images.shape[1:], dtype=torch.uint8)
        self.done.set()


class Batcher(threading.Thread):
    """Labels queued requests; nobody else touches the network.

    Args:
        model: in eval mode on its device.
        header: whose weights it has.
        device: where it computes.
        autocast: precision of the forward pass.
        max_batch: tiles that requests may share a forward pass with; lowered where they fit one by one only.
        wait_s: longest time that a request waits for others to share its batch.
        depth: requests that may wait in the queue; more make readers wait.
    """

    def __init__(
        self,
        model: nn.Module,
        header: WeightsVersion,
        *,
        device: torch.device,
        autocast: Autocast,
        max_batch: int,
        wait_s: float,
        depth: int,
    ) -> None:
        """Start nothing yet."""
        super().__init__(name="batcher", daemon=True)
        self.model, self.header, self.device, self.autocast = model, header, device, autocast
        self.max_batch, self.wait_s = max_batch, wait_s
        self.gauge, self.streams = ServiceMetrics(), 0
        self.stopping = threading.Event()
        # Readers of all streams put and wait while it is full; this thread gets and waits while it is empty.
        self._queue: queue.Queue[QueuedRequest] = queue.Queue(depth)
        self._over, self._began = False, math.inf  # no more work; when the batch under way began
        self._kept: QueuedRequest | None = None  # read from the queue, of another size than the batch before
        self._lock = (
            threading.Lock()
        )  # who uploads and this thread hand weights over; neither holds it for long
        self._next: tuple[dict[str, Tensor], WeightsVersion] | None = None

    def put(self, job: QueuedRequest) -> None:
        """Queue a request; waits while the queue is full, answers at once when the service stops."""
        queued = False
        while not queued and not self.stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(job, timeout=0.2)
                queued = True
        if not queued:
            job.finish(STOPPING, self.header)
        elif self._over:  # it may have come after the last look into the queue
            self._turn_away()

    def _turn_away(self) -> None:
        """Answer what is queued without labels."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait().finish(STOPPING, self.header)

    def offer(self, state: dict[str, Tensor], header: WeightsVersion) -> None:
        """Hand over weights on the CPU; every batch begun afterwards has them or newer ones."""
        with self._lock:
            self._next = state, header

    def newest(self) -> WeightsVersion:
        """Return whose weights the next batch will have."""
        with self._lock:
            return self.header if self._next is None else self._next[1]

    def busy_s(self) -> float:
        """Return the seconds since the batch under way began, 0 between batches."""
        return max(0.0, time.monotonic() - self._began)

    def waiting(self) -> int:
        """Return the number of queued requests."""
        return self._queue.qsize() + (self._kept is not None)

    def run(self) -> None:
        """Work until stopped and nothing is queued."""
        try:
            while self._work() or not self.stopping.is_set():
                pass
        finally:
            self._over = True
            self._turn_away()

    def _work(self) -> bool:
        """Label the requests of one batch, if there are any; return whether there were."""
        job = self._take(0.05)
        self._swap()
        if job is not None:
            self._answer(self._gather(job))
        return job is not None

    def _take(self, timeout: float) -> QueuedRequest | None:
        """Return the next request, or None when none came in time."""
        if self._kept is not None:
            job, self._kept = self._kept, None
            return job
        try:
            return self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _gather(self, first: QueuedRequest) -> list[QueuedRequest]:
        """Return requests of one tile size: up to max_batch tiles, or what came while there was cause to wait."""
        jobs, tiles = [first], len(first.images)
        until = time.monotonic() + self.wait_s
        while tiles < self.max_batch:
            # Nothing more can come once each stream has a request in the batch and the queue is empty.
            all_here = len({id(j.stream) for j in jobs}) >= self.streams
            wait = 0.0 if all_here or self.stopping.is_set() else until - time.monotonic()
            job = self._take(wait)
            if job is None:
                break
            tiles += len(job.images)
            like = (job.images.shape[1:], job.images.dtype) == (first.images.shape[1:], first.images.dtype)
            if not like or tiles > self.max_batch:
                self._kept = job
                break
            jobs.append(job)
        return jobs

    def _swap(self) -> None:
        with self._lock:
            taken, self._next = self._next, None
            if taken is None:
                return
            self.header = taken[1]
        self.model.load_state_dict(taken[0])
        self.gauge.swap()

    def _answer(self, jobs: list[QueuedRequest]) -> None:
        """Label the requests that these weights may answer; the others are told whose weights are here."""
        self._swap()
        jobs = [j for j in jobs if not j.gone]
        fit = [
            j
            for j in jobs
            if j.ask.session == self.header.session and j.ask.min_version <= self.header.version
        ]
        for job in jobs:
            if job not in fit:
                job.finish(BEHIND, self.header)
        tiles = sum(len(j.images) for j in fit)
        if not fit or self._serve(fit) or len(fit) == 1:
            return
        labelled = [self._serve([job]) for job in fit]
        if all(labelled):
            self.max_batch = tiles - 1  # or the same requests would fail together again and again
            text = "requests one by one were labelled; from now on at most %d tiles share a batch"
            log.warning(text, tiles - 1)

    def _serve(self, jobs: list[QueuedRequest]) -> bool:
        """Label requests in one batch; where it fails, return False, and answer if it was for one alone."""
        tiles, self._began = [len(j.images) for j in jobs], time.monotonic()
        try:
            answers = self._label(jobs)
        except Exception as error:  # out of memory, say: the service lives
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            log.warning("a batch of %d tiles of %d requests failed (%s)", sum(tiles), len(jobs), reason)
            if len(jobs) == 1:
                jobs[0].finish(FAILED, self.header, reason=reason)
            return False
        finally:
            self._began = math.inf
        for job, count, answer in zip(jobs, tiles, answers, strict=True):
            job.finish(OK, self.header, answer)
            self.gauge.answer(count, time.monotonic() - job.born)
        return True

    @torch.no_grad()
    def _label(self, jobs: list[QueuedRequest]) -> list[PseudoLabels]:
        sizes = [len(j.images) for j in jobs]
        images = jobs[0].images if len(jobs) == 1 else torch.cat([j.images for j in jobs])
        images, updates = images.to(self.device), self.header.updates
        if len(views := {j.ask.views for j in jobs}) == 1:
            parts = torch.split(logits_of(self.model, images, self.autocast, *views), sizes)
        else:  # of students that ask for other views
            some = zip(torch.split(images, sizes), jobs, strict=True)
            parts = tuple(logits_of(self.model, x, self.autocast, j.ask.views) for x, j in some)
        found = [
            filter_pseudo_labels(z, j.ask.confidence, j.ask.limit, updates)
            for z, j in zip(parts, jobs, strict=True)
        ]
        self.gauge.batch(sum(sizes))
        return [PseudoLabels(f.labels.cpu(), f.score.cpu(), f.accepted.cpu(), f.version) for f in found]


def kept_share(labels: Tensor) -> Tensor:
    """Return each tile's share of pixels with a label, float32 (B,), of labels uint8 (B,H,W)."""
    return (labels != IGNORE).float().mean(dim=(1, 2))
