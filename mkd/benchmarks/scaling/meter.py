"""Clock and counters for one rank of a training run: what a step waits for, and what it sends.

The run itself is the ordinary one; a `StepMeter` replaces some functions of this process by timed ones.
"""

import contextlib
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from mkd.benchmarks.scaling.cost_model import sent_bytes

# Whose collective call it is, by the module that made it; all others are sums of losses and counts.
OWNERS = {
    "mkd.distributed.sync_batchnorm": "batchnorm",
    "mkd.distributed.engine": "batchnorm",  # the mean of statistics that are not synchronised
    "mkd.train.pseudo.feed": "exchange",
    "mkd.train.pseudo.exchange": "exchange",
    "mkd.teacher.local": "exchange",
    "mkd.teacher.client.remote_teacher": "exchange",
}
SUMS, GRADIENTS, COMPUTE = "sums", "gradients", "compute"
BACKWARD = "scaling: backward"  # name of the backward pass in a trace


class StepMeter:
    """Tells the time of this thread apart by what it does, and counts what is sent, step by step.

    Args:
        clock: seconds.

    Attributes:
        steps: of each ended step ``seconds`` by name (what has no name is `COMPUTE`), ``sent``, the bytes that an
            ideal algorithm sends from this rank, and the number of collective ``calls``, by whose they are.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the clock."""
        self.steps: list[dict[str, dict[str, float]]] = []
        self._clock, self._name, self._since = clock, COMPUTE, clock()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sent: defaultdict[str, float] = defaultdict(float)
        self._calls: defaultdict[str, float] = defaultdict(float)
        self._last_bucket = 0.0

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Give the time of a block to a name, but for blocks inside it."""
        before = self._turn(name)
        try:
            yield
        finally:
            self._turn(before)

    def timed(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function whose time goes to a name."""

        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return work(*args, **kwargs)

        return run

    def timed_stream(self, work: Callable[..., Any], name: str) -> Callable[..., Iterator[Any]]:
        """Return a function that makes iterators, the time of whose every item goes to a name."""

        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with contextlib.closing(work(*args, **kwargs)) as source:
                while True:
                    with self.span(name):
                        item = next(source, None)
                    if item is None:
                        return
                    yield item

        return run

    def end_step(self) -> None:
        """Close a step."""
        self._turn(self._name)
        self.steps.append(
            {"seconds": dict(self._seconds), "sent": dict(self._sent), "calls": dict(self._calls)}
        )
        for each in (self._seconds, self._sent, self._calls):
            each.clear()

    def backward(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a backward pass whose end, from the last bucket's start on, goes to the gradients' all-reduce."""

        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> None:
            self._last_bucket = 0.0
            with record_function(BACKWARD), self.span("backward"):
                work(*args, **kwargs)
            if self._last_bucket:
                late = self._since - self._last_bucket
                self._seconds["backward"] -= late
                self._seconds["all_reduce"] += late

        return run

    def watch_collectives(self) -> None:
        """Count and time the collective calls of this process from now on, those of gradients apart."""
        dist.all_reduce = self._counted(dist.all_reduce, lambda ranks, t, *_: sent_bytes(t.nbytes, ranks))
        dist.all_gather = self._counted(dist.all_gather, lambda ranks, _, t, *__: (ranks - 1) * t.nbytes)
        dist.all_to_all_single = self._counted(dist.all_to_all_single, _sent_to_others)
        make = DistributedDataParallel.__init__

        @functools.wraps(make)
        def init(ddp: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
            make(ddp, *args, **kwargs)
            ddp.register_comm_hook(None, self._gradients)

        setattr(DistributedDataParallel, "__init__", init)  # noqa: B010 - mypy refuses the assignment

    def _gradients(
        self,
        _: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """Do as DistributedDataParallel does, and note what is sent and when."""
        mine: Tensor = bucket.buffer()
        ranks = dist.get_world_size()
        self._sent[GRADIENTS] += sent_bytes(mine.nbytes, ranks)
        self._calls[GRADIENTS] += 1
        self._last_bucket = self._clock()
        work = dist.distributed_c10d.all_reduce(mine.div_(ranks), async_op=True)
        assert work is not None
        future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return future

    def _counted(self, work: Callable[..., Any], size: Callable[..., float]) -> Callable[..., Any]:
        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            owner = _owner(sys._getframe(1))
            self._sent[owner] += size(dist.get_world_size(), *args)
            self._calls[owner] += 1
            with self.span(owner):
                return work(*args, **kwargs)

        return run

    def _turn(self, name: str) -> str:
        """Give the time since the last turn to whom it belongs; return who that was."""
        now, before = self._clock(), self._name
        self._seconds[before] += now - self._since
        self._name, self._since = name, now
        return before


def _sent_to_others(
    ranks: int, received: Tensor, sent: Tensor, coming: list[int], going: list[int], *_: Any
) -> float:
    return float(sum(going) - going[dist.get_rank()]) * sent.element_size()


def _owner(frame: Any) -> str:
    """Return the name of the part of the program that a collective call is for."""
    while frame is not None and frame.f_globals["__name__"] == "mkd.distributed.world":
        frame = frame.f_back
    return OWNERS.get(frame.f_globals["__name__"], SUMS) if frame is not None else SUMS
