"""A request as the student keeps it, and what its links ask of the desk where it waits."""

import threading
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mkd.semi.entropy import PseudoLabels
from mkd.teacher import protocol
from mkd.teacher.client.publisher import Packet


@dataclass(eq=False)
class PendingRequest:
    """A batch on its way to its labels.

    Attributes:
        ask: what is asked.
        images: uint8 (B,3,H,W) on the student's device.
        labels: the answer, on the CPU, once it came.
        reply: beside the answer.
        kept: sum over the tiles of the share of pixels with a label.
        later: not to be asked again before this time, monotonic seconds.
        done: nobody waits for it any more; a teacher may still work at it.
    """

    ask: protocol.Request
    images: Tensor
    labels: PseudoLabels | None = None
    reply: protocol.Reply | None = None
    kept: float = 0.0
    later: float = 0.0
    done: bool = False


class Desk(Protocol):
    """What a link asks of the student's side; its lock guards every link too."""

    changed: threading.Condition
    closed: bool
    packet: Packet | None
    patience: float
    newest: int

    @property
    def hungry(self) -> bool:
        """Whether requests wait for an endpoint that can serve them."""
        ...

    def assign(self) -> None:
        """Give waiting requests to endpoints (the lock is held)."""
        ...

    def again(self, requests: list[PendingRequest], pause: float) -> None:
        """Ask those anew that nobody else answers, after a pause in seconds (the lock is held)."""
        ...
