"""A request as the student keeps it, from its submission to its answer."""

from dataclasses import dataclass

from torch import Tensor

from mkd.semi.entropy import PseudoLabels
from mkd.teacher import protocol


@dataclass(eq=False)
class PendingRequest:
    """A batch on its way to its labels; only the dispatcher changes it, under its lock.

    Attributes:
        ask: what is asked.
        images: uint8 (B,3,H,W) on the student's device.
        labels: the answer, on the CPU, once it came.
        reply: beside the answer.
        kept: sum over the tiles of the share of pixels with a label.
        not_before: not to be asked again before this time, monotonic seconds.
        done: nobody waits for it any more; a teacher may still work at it. Senders read it to leave such ones out.
    """

    ask: protocol.Request
    images: Tensor
    labels: PseudoLabels | None = None
    reply: protocol.Reply | None = None
    kept: float = 0.0
    not_before: float = 0.0
    done: bool = False
