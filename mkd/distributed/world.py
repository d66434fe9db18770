"""This process among others: rank, number of ranks, device, and the collective calls."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mkd.distributed.checksum import digest
from mkd.distributed.rendezvous import find_store

# How long a collective call waits for a rank that is alive but does not come.
TIMEOUT = timedelta(minutes=10)
_TORCHRUN = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The place of a process among the ranks, its device, and collective calls to the others.

    All ranks must call the collective methods in the same order and from one thread. With one rank each of them
    is local and needs no process group.

    Attributes:
        rank: 0 <= rank < ranks.
        ranks: processes of the job.
        device: where this process computes.
        local_rank: place among the ranks of this node.
        control: gloo group for small messages on the CPU, whatever moves the gradients.
    """

    rank: int
    ranks: int
    device: torch.device
    local_rank: int = 0
    control: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> "World":
        """Return the world of a process that runs alone."""
        return cls(0, 1, torch.device(device))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return self.rank == 0

    def all_reduce_sum(self, t: Tensor) -> Tensor:
        """Return the sum over ranks, without gradient; waits for all ranks. With one rank ``t`` itself.

        Args:
            t: any shape, equal on all ranks; a number type.
        """
        if self.ranks == 1:
            return t
        result = t.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, group=self._group(result))
        return result

    def gather(self, t: Tensor) -> Tensor:
        """Return the rows of all ranks in rank order; waits for all ranks. With one rank ``t`` itself.

        Args:
            t: (n, ...), shape and dtype equal on all ranks.

        Returns:
            (ranks * n, ...).
        """
        if self.ranks == 1:
            return t
        mine = _bytes_of(t)
        parts = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(parts, mine, group=self._group(mine))
        return torch.cat([_of_bytes(part, t) for part in parts])

    def exchange(self, out: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """Send rows to each rank and return what each rank sent here; waits for all ranks.

        Args:
            out: one tensor a rank, ``out[r]`` (n_r, ...) goes to rank r; n_r may be 0; dtype and row shape
                are those of all ranks.
            counts: rows that come from each rank.

        Returns:
            One tensor for each source rank, (counts[r], ...).
        """
        if self.ranks == 1:
            return [out[0]]
        row = out[0][:0]
        size = row.element_size() * row[:0].new_empty((1, *row.shape[1:])).numel()
        sent = torch.cat([_bytes_of(t) for t in out])
        received = sent.new_empty(size * sum(counts))
        coming, going = [size * n for n in counts], [size * len(t) for t in out]
        dist.all_to_all_single(received, sent, coming, going, group=self._group(sent))
        return [_of_bytes(part, row) for part in torch.split(received, coming)]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on all ranks; they wait for rank 0, which waits for none.

        Args:
            value: what JSON can write: str, int, float, bool, None, lists and dicts of them; looked at on rank 0 only.
        """
        if self.ranks == 1:
            return value
        text = torch.frombuffer(
            bytearray(json.dumps(value).encode() if self.is_main else b" "), dtype=torch.uint8
        )
        # First the length, so that the others can make room for the text.
        size = torch.tensor(len(text))
        dist.broadcast(size, 0, group=self.control)
        if not self.is_main:
            text = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self.control)
        return json.loads(bytes(text.tolist()))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.ranks > 1:
            dist.barrier(group=self.control)

    def check_equal(self, tensors: Iterable[Tensor], what: str) -> None:
        """Check that tensors are equal bit for bit on all ranks, by a 64-bit hash; waits for all ranks.

        Args:
            tensors: any shapes and dtypes.
            what: their name in the message.

        Raises:
            ValueError: a rank's tensors differ from rank 0's; on all ranks.
        """
        if self.ranks == 1:
            return
        hashes = self.gather(digest(tensors).reshape(1)).tolist()
        others = [str(r) for r, h in enumerate(hashes) if h != hashes[0]]
        if others:
            raise ValueError(
                f"{what} of rank {', '.join(others)} differ from those of rank 0, but must be equal on all "
                "ranks; go on from the last checkpoint, and check that all nodes run the same software"
            )

    def all_reduce_max(self, flag: int) -> Callable[[], int]:
        """Start finding the largest flag of all ranks, without waiting for them.

        Returns:
            A function that waits until all ranks have called this, and returns the flag.
        """
        if self.ranks == 1:
            return lambda: flag
        answer = torch.tensor(flag)
        work = dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.control, async_op=True)

        def wait() -> int:
            work.wait()
            return int(answer)

        return wait

    def close(self) -> None:
        """Leave the job in order, after the engine is gone; a rank that failed leaves by ``os._exit`` instead."""
        if self.ranks == 1:
            return
        # gloo aborts the process when groups die before what uses them, or at the interpreter's exit
        gc.collect()
        self.barrier()
        dist.destroy_process_group()

    def _group(self, t: Tensor) -> dist.ProcessGroup | None:
        """Return who moves a tensor: the device's group, or the control group for a CPU tensor beside a GPU."""
        return None if t.device.type == self.device.type else self.control


def find_world(device: str | None) -> World:
    """Return this process's place, from torchrun's environment, and its device; several ranks meet here.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N``; None is this rank's GPU when there is one, else the CPU.

    Raises:
        ValueError: a GPU asked for and not there, more ranks than GPUs, or half of torchrun's environment.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return World.single(_device(device, 0, 1))
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={ranks}, but {', '.join(missing)} is not set; start several ranks by torchrun, "
            "as in: torchrun --nproc-per-node 2 launch/kd.py"
        )
    rank, local, here = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    place = _device(device, local, here)
    store = find_store(rank, ranks, TIMEOUT)
    if place.type == "cuda":
        if place.index is None:
            place = torch.device("cuda", local)
        torch.cuda.set_device(place)
        dist.init_process_group("nccl", None, TIMEOUT, ranks, rank, store, device_id=place)
    else:
        if here > 1:  # torchrun gives each of several ranks one thread
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
        dist.init_process_group("gloo", None, TIMEOUT, ranks, rank, store)
    control = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(control, dist.ProcessGroup)  # every rank is in it
    return World(rank, ranks, place, local, control)


def _device(device: str | None, local: int, here: int) -> torch.device:
    """Return the device of rank ``local`` among ``here`` ranks of this node."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device} is not known; choose cpu, cuda or cuda:N") from None
    if place.type not in ("cpu", "cuda"):  # what torch also knows, such as mps and meta, is not tried here
        raise ValueError(f"device={device} is not supported; choose cpu, cuda or cuda:N")
    if place.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"device={device}, but no CUDA GPU is visible; use device=cpu or leave it out")
    gpus = torch.cuda.device_count()
    if place.index is not None and place.index >= gpus:
        raise ValueError(f"device={device}, but there are {gpus} GPUs; choose cuda:0 to cuda:{gpus - 1}")
    if here == 1:
        return place
    if place.index is not None or here > gpus:
        raise ValueError(
            f"{here} ranks on this node for device={device} of {gpus} GPUs; start at most one rank a GPU "
            f"(--nproc-per-node {gpus}) with device=cuda or without device="
        )
    return torch.device("cuda", local)


def _bytes_of(t: Tensor) -> Tensor:
    """Return a tensor's bytes as one row: any dtype travels, exactly."""
    return t.detach().contiguous().reshape(-1).view(torch.uint8)


def _of_bytes(part: Tensor, like: Tensor) -> Tensor:
    """Return bytes as rows of another tensor's shape and dtype."""
    return part.clone().view(like.dtype).reshape(-1, *like.shape[1:])
