"""Where the time of the product's own steps goes: its calls are wrapped from outside, its code knows nothing of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from mkd.distributed.engine import Engine
from mkd.loader.batch import Batch
from mkd.loader.loader import stream
from mkd.losses import ewc
from mkd.teacher.local import LocalTeacher
from mkd.train import batches
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.steps import kd
from mkd.train.steps.kd import KdStep
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedStep
from mkd.train.trainer import Trainer

PARTS = (
    *("data", "copy", "augment", "pseudo-labels", "teacher", "forward", "losses", "EWC", "backward"),
    *("optimizer", "EMA", "log", "other"),
)
# Part of the time, owner and name of each call that counts for it, without the calls below inside it.
CALLS: tuple[tuple[str, Any, str], ...] = (
    ("copy", Batch, "to"),
    ("augment", batches.BatchStream, "_labelled"),
    ("augment", batches.BatchStream, "_candidates"),
    ("augment", SemiStep, "prepare"),  # strong views and CutMix
    ("pseudo-labels", PseudoFeed, "__call__"),
    ("teacher", LocalTeacher, "collect"),
    ("EMA", LocalTeacher, "follow"),
    ("losses", SupervisedStep, "__call__"),
    ("losses", KdStep, "__call__"),
    ("losses", SemiStep, "__call__"),
    ("EWC", kd, "ewc_penalty"),
    ("backward", Engine, "backward"),
    ("optimizer", Engine, "update"),
    ("log", Trainer, "log"),
)


class Stopwatch:
    """Shares the time between `start` and `stop` among parts: a call counts without the watched calls inside it.

    On a GPU it waits for the device where a part begins and where it ends, so its steps are slower than others.

    Attributes:
        seconds: by part, over all starts; ``other`` is what no part took.
    """

    def __init__(self, wait: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> None:
        """Stand still; `wait` waits for the device."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._wait, self._clock = wait, clock
        self._open: list[str] = []
        self._last = 0.0

    def start(self) -> None:
        """Run from now on."""
        self._wait()
        self._open, self._last = ["other"], self._clock()

    def stop(self) -> None:
        """Stand still; no watched call is under way."""
        assert len(self._open) == 1
        self._lap()
        self._open = []

    def watched(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with its time counted for a part; while the watch stands still, the call alone."""

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._open:
                return call(*args, **kwargs)
            self._lap()
            self._open.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self._lap()
                self._open.pop()

        return timed

    def _lap(self) -> None:
        """Count the time since the last lap for the part that is open."""
        self._wait()
        now = self._clock()
        self.seconds[self._open[-1]] += now - self._last
        self._last = now

    def watch_networks(self, trainer: Trainer) -> None:
        """Watch the forward passes of one run: of the network that the engine runs, and of a KD stage's teacher."""
        trainer.engine.net = self.watched("forward", trainer.engine.net)
        if isinstance(trainer.step, KdStep):
            teacher: nn.Module = trainer.step.teacher
            setattr(teacher, "forward", self.watched("teacher", teacher.forward))  # noqa: B010 - mypy refuses the assignment

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all `CALLS`, decoding and EWC's gradient until the block ends."""

        def watched_stream(*args: Any) -> Iterator[Batch]:
            source = stream(*args)
            pull = self.watched("data", lambda: next(source, None))
            while (batch := pull()) is not None:
                yield batch

        gradient = staticmethod(self.watched("EWC", ewc._Quadratic.backward))
        with ExitStack() as stack:
            for part, owner, name in CALLS:
                stack.enter_context(patch.object(owner, name, self.watched(part, getattr(owner, name))))
            stack.enter_context(patch.object(ewc._Quadratic, "backward", gradient))
            stack.enter_context(patch.object(batches, "stream", watched_stream))
            yield


def waiter(device: torch.device) -> Callable[[], None]:
    """Return a function that waits for a device; for a CPU it has nothing to do."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
