"""One rank of the benchmark of scaling: the ordinary semi-supervised run, its steps timed and its bytes counted.

torchrun .. -m mkd.benchmarks.scaling.rank OUT SEMI_OVERRIDES..
"""

import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from mkd.atomic import write_text
from mkd.benchmarks.scaling.roofline import ring_bytes
from mkd.config.load import load
from mkd.config.schema import SemiRun
from mkd.recipes.semi import semi
from mkd.train.steps.semi import SemiStep

WARM_UP = 3  # steps that do not count: DistributedDataParallel forms its buckets after the first
# What a collective call is for, by the module that makes it; all others add up losses and counts.
PURPOSES = {
    allreduce_hook.__module__: "gradients",
    "mkd.distributed.sync_batchnorm": "batchnorm",
    "mkd.distributed.engine": "batchnorm",  # the mean of statistics that are not synchronised
    "mkd.train.pseudo.feed": "pseudo_labels",
    "mkd.train.pseudo.exchange": "pseudo_labels",
    "mkd.teacher.local": "pseudo_labels",
}


class StepRecorder:
    """Records the seconds of each step and the bytes that this rank sends in it.

    Attributes:
        steps: of each ended step its ``seconds`` and, by purpose, the bytes ``sent`` by an ideal algorithm.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the first step."""
        self.steps: list[dict[str, Any]] = []
        self._clock, self._began = clock, clock()
        self._sent: defaultdict[str, float] = defaultdict(float)

    def end_step(self) -> None:
        """Close a step and start the next one."""
        before, self._began = self._began, self._clock()
        self.steps.append({"seconds": self._began - before, "sent": dict(self._sent)})
        self._sent.clear()

    def watch_collectives(self) -> None:
        """Count what the collective calls of this process send from now on."""
        dist.all_reduce = self._counted(dist.all_reduce, lambda ranks, t, *_: ring_bytes(t.nbytes, ranks))
        dist.all_gather = self._counted(dist.all_gather, lambda ranks, _, t, *__: (ranks - 1) * t.nbytes)
        dist.all_to_all_single = self._counted(dist.all_to_all_single, _sent_to_others)
        construct = DistributedDataParallel.__init__

        def init(ddp: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
            construct(ddp, *args, **kwargs)
            # The default all-reduce runs in C++, where nothing counts; this hook is the same one in Python.
            ddp.register_comm_hook(None, allreduce_hook)

        setattr(DistributedDataParallel, "__init__", init)  # noqa: B010 - mypy refuses the assignment

    def _counted(self, call: Callable[..., Any], size: Callable[..., float]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_globals["__name__"] == "mkd.distributed.world" and frame.f_back is not None:
                frame = frame.f_back
            purpose = PURPOSES.get(frame.f_globals["__name__"], "losses")
            self._sent[purpose] += size(dist.get_world_size(), *args)
            return call(*args, **kwargs)

        return run


def _sent_to_others(
    _: int, received: Tensor, sent: Tensor, coming: list[int], going: list[int], *__: Any
) -> float:
    return (sum(going) - going[dist.get_rank()]) * sent.element_size()


def train(out: Path, overrides: list[str]) -> None:
    """Train, and write the steps after the warm-up to ``out/rank-R.json``."""
    # As many cores as ranks, so that a rank alone computes with no more than each of several.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["WORLD_SIZE"])])
    recorder, updated = StepRecorder(), SemiStep.after_update

    def end_step(step: SemiStep) -> None:
        updated(step)
        recorder.end_step()

    setattr(SemiStep, "after_update", end_step)  # noqa: B010 - mypy refuses the assignment
    recorder.watch_collectives()
    semi(load(SemiRun, "semi", overrides))
    write_text(out / f"rank-{os.environ['RANK']}.json", json.dumps(recorder.steps[WARM_UP:]))


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # the result is written, and gloo sometimes aborts a process at the interpreter's exit
