"""How a student works with its teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClientConfig:
    """How a student works with its teachers.

    Attributes:
        endpoints: HOST:PORT of each teacher.
        session: one start of the student job, the same on all ranks, without dots; see `new_session`.
        rank: of this process among the job's; rank 0 brings the teachers the weights, and each rank prefers another
            endpoint where several would be done at the same time.
        depth: candidate batches asked ahead; 0 with ``max_age`` 0.
        sync_every: steps between two versions of the weights.
        max_age: versions that an answer may be old when it is used; None takes any.
        patience: seconds to wait for a teacher.
        fallback: afterwards go on with the weights of this process instead of raising TeachersGone.
        weights_file: where a late teacher finds the weights, or None; written by the rank that publishes.
    """

    endpoints: Sequence[str]
    session: str
    rank: int = 0
    depth: int = 2
    sync_every: int = 1
    max_age: int | None = None
    patience: float = 300.0
    fallback: bool = False
    weights_file: Path | None = None
