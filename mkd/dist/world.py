"""This process among others: rank, number of ranks, device."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """A handful of integers and a device.

    Attributes:
        rank: 0 <= rank < ranks.
        ranks: processes of the job.
        device: where this process computes.
    """

    rank: int
    ranks: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes files."""
        return self.rank == 0


def find_world(device: str | None) -> World:
    """Return this process's place, from torchrun's environment, and its device.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N``; None is the first GPU when there is one, else the CPU.

    Raises:
        ValueError: more than one rank (not supported yet), or a GPU asked for and not there.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise ValueError(
            f"started with {ranks} ranks; this version trains on one: use --nproc-per-node 1 --nnodes 1"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device}, but no CUDA GPU is visible; use device=cpu or leave it out")
    try:
        return World(0, ranks, torch.device(device))
    except RuntimeError:
        raise ValueError(f"device={device} is not known; choose cpu, cuda or cuda:N") from None
