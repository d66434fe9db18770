"""The student's side of the teacher service: the same interface as the local teacher, on several endpoints."""

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from mkd.semi.ema import EMA
from mkd.semi.entropy import PseudoLabels, TileLimit, filter_pseudo_labels
from mkd.teacher import protocol
from mkd.teacher.api import TeacherStats
from mkd.teacher.client.client_config import ClientConfig
from mkd.teacher.client.dispatcher import Dispatcher
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.publisher import Publisher
from mkd.teacher.client.request import PendingRequest
from mkd.teacher.local import Autocast, average_network, logits_of
from mkd.teacher.weights_snapshot import WeightsSnapshot


@dataclass(frozen=True)
class _Average:
    """Averaged weights as they were after some updates."""

    weights: WeightsSnapshot
    updates: int

    @classmethod
    def of(cls, ema: EMA) -> "_Average":
        return cls(WeightsSnapshot.of(ema.state), ema.updates)

    @classmethod
    def load(cls, saved: dict[str, Any]) -> "_Average":
        return cls(WeightsSnapshot.of(saved["state"]), saved["updates"])

    def state_dict(self) -> dict[str, Any]:
        # Copies: torch.save refuses tensors of several dtypes in one buffer.
        return {
            "state": {name: t.clone() for name, t in self.weights.tensors().items()},
            "updates": self.updates,
        }


class RemoteTeacher:
    """Pseudo-labels from teacher services; the float32 average stays here and is published.

    Args:
        student: the network at the start of the stage.
        config: how to work with the teachers.
        access: how to reach them.
        max_decay: upper bound of the EMA's a.
        confidence: pixel threshold in [0,1].
        tile_limit: the tile filter's tau; its memory is the student's.
        views: symmetries of a weak view whose predictions are averaged, see `mkd.teacher.local.logits_of`.
        autocast: precision of the forward pass where this process must answer itself.
        gather: (B,) of this rank -> (ranks*B,) of all, in rank order; what the tile filter learns from.
        stop: whether the run has been asked to stop; ends a wait for teachers.

    Raises:
        ValueError: a teacher refuses this student, or depth, sync_every and max_age contradict each other.
    """

    def __init__(
        self,
        student: nn.Module,
        config: ClientConfig,
        access: Access,
        *,
        max_decay: float,
        confidence: float,
        tile_limit: TileLimit,
        autocast: Autocast,
        views: str = "none",
        gather: Callable[[Tensor], Tensor] = lambda score: score,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Copy the student's state and say hello to each endpoint once."""
        assert "." not in config.session
        self.ema, self._student = EMA(student, max_decay), student
        self.confidence, self.tile_limit, self.autocast = confidence, tile_limit, autocast
        self.config, self.stats, self._gather, self._views = config, TeacherStats(), gather, views
        self.depth, self._lead = _depth(config)
        self._requests: dict[int, PendingRequest] = {}
        self._loads, self._number, self._offered = 0, 0, False
        self._published: _Average | None = None
        self._dispatcher = Dispatcher(config, replace(access, job=config.session), self.stats, stop)
        self._set_versions()
        self._publisher = _publisher(config, self._dispatcher)

    @cached_property
    def model(self) -> nn.Module:
        """The network with the averaged weights, in this process."""
        return average_network(self._student, self.ema)

    @property
    def session(self) -> str:
        """Whose weights must answer: this start of the job, since its last return to a checkpoint."""
        return f"{self.config.session}.{self._loads}"

    @property
    def version(self) -> int:
        """Number of the newest version of the weights."""
        return self.ema.updates // self.config.sync_every

    def submit(self, ticket: int, images: Tensor, progress: float) -> None:
        """Ask for the labels of weak views uint8 (B,3,H,W); returns at once."""
        assert ticket not in self._requests
        if not self._offered:
            self._offer()
        limit = self.tile_limit.limit(progress)
        self._number += 1  # tickets may come again after a return to a checkpoint; late answers must not
        oldest = self._oldest(self._lead)
        ask = protocol.Request(self._number, self.confidence, limit, self.session, oldest, self._views)
        self._requests[ticket] = request = PendingRequest(ask, images)
        self._dispatcher.submit(request)

    def _oldest(self, lead: int) -> int:
        """Return the oldest version that is young enough ``lead`` versions from now."""
        age = self.config.max_age
        return 0 if age is None else max(0, self.version + lead - age)

    def _set_versions(self) -> None:
        """Set how old an answer may be now, and how new: the rank that publishes may be a step ahead."""
        self._dispatcher.set_versions(self._oldest(0), self.version + 1)

    def collect(self, ticket: int) -> PseudoLabels:
        """Return the pseudo-labels of a submitted batch on its device; waits for a teacher.

        Raises:
            TeachersGone: no teacher answered for ``patience`` seconds and there is no fallback.
            WaitStopped: the run is to stop.
            ValueError: no teacher takes batches of this size.
            RuntimeError: the weights could not be packed, or a thread of this side has died.
        """
        request, began = self._requests[ticket], time.monotonic()
        answered = self._dispatcher.wait(request)
        self.stats.wait_s += time.monotonic() - began
        del self._requests[ticket]
        answer = self._remote(request) if answered else self._local(request)
        self.tile_limit.observe(self._gather(answer.score))
        return answer

    def _remote(self, request: PendingRequest) -> PseudoLabels:
        """Count a teacher's answer and bring it to the device of the images."""
        answer, reply, device = request.labels, request.reply, request.images.device
        assert answer is not None
        assert reply is not None
        self.stats.tiles += len(request.images)
        self.stats.kept += request.kept
        self.stats.ages[max(0, self.version - reply.version)] += 1
        self.stats.age_steps[max(0, self.ema.updates - reply.updates)] += 1
        labels, score, accepted = (t.to(device) for t in (answer.labels, answer.score, answer.accepted))
        return PseudoLabels(labels, score, accepted, answer.version)

    def _local(self, request: PendingRequest) -> PseudoLabels:
        """Answer with the average in this process."""
        self.stats.local += 1
        logits = logits_of(self.model, request.images, self.autocast, self._views)
        return filter_pseudo_labels(logits, request.ask.confidence, request.ask.limit, self.ema.updates)

    def follow(self, student: nn.Module) -> None:
        """Update the EMA; every ``sync_every`` steps it is published, at ``max_age`` 0 before this returns."""
        self.ema.update(student)
        self._set_versions()
        if self.ema.updates % self.config.sync_every == 0:
            self._published = None
            self._offer()

    def _offer(self) -> None:
        """Publish the average of the present version, from one rank only; all keep it until the next version."""
        first, self._offered = not self._offered, True
        keep = self.config.sync_every > 1
        if self._publisher is None and not keep:
            return
        average = self._published or _Average.of(self.ema)
        self._published = average if keep else None
        if self._publisher is None:
            return
        header = protocol.WeightsVersion(self.session, self.version, average.updates)
        self._publisher.offer(average.weights, header)
        if first or self.config.max_age == 0:
            began = time.monotonic()
            self._dispatcher.wait_for(header)
            self.stats.wait_s += time.monotonic() - began

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the tile filter's memory; the same keys as the local teacher's.

        Between two versions also what was published last: a resumed run is answered by that.
        """
        state = {"ema": self.ema.state_dict(), "tile_limit": self.tile_limit.state_dict()}
        between = self.ema.updates % self.config.sync_every
        return {**state, "published": self._published.state_dict()} if between and self._published else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: teachers get its weights, whatever version they have."""
        self._dispatcher.forget()
        self._requests.clear()
        self.ema.load_state_dict(state["ema"])
        self.tile_limit.load_state_dict(state["tile_limit"])
        between = self.ema.updates % self.config.sync_every and "published" in state
        self._published = _Average.load(state["published"]) if between else None
        self._loads, self._offered = self._loads + 1, False
        self._set_versions()

    def close(self) -> None:
        """Write the weights file and disconnect."""
        if self._publisher is not None:
            self._publisher.close()
        self._dispatcher.close()


def _publisher(config: ClientConfig, dispatcher: Dispatcher) -> Publisher | None:
    return Publisher(config.weights_file, dispatcher.publish, dispatcher.fail) if config.rank == 0 else None


def new_session() -> str:
    """Return a name for one start of a student job; rank 0 makes it for all ranks."""
    return f"{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _depth(config: ClientConfig) -> tuple[int, int]:
    """Return how far to work ahead, in batches and in versions that pass meanwhile."""
    depth = 0 if config.max_age == 0 else config.depth
    lead = math.ceil(depth / config.sync_every)
    if config.max_age is not None and lead > config.max_age:
        raise ValueError(
            f"teacher.depth={depth} works {lead} versions ahead, but teacher.max_age={config.max_age} refuses "
            f"answers so old; set teacher.max_age={lead} or more, or teacher.depth={config.max_age * config.sync_every}"
        )
    return depth, lead
