"""Work that rank 0 does for all ranks, and files that must be the same for all."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkd.distributed.world import World


def run_on_rank0(world: World, work: Callable[[], Any]) -> Any:
    """Run a function on rank 0, such as writing a file, and return its result on all ranks, when it is done.

    Args:
        world: all ranks call this together.
        work: its result is what JSON can write.

    Raises:
        ValueError: rank 0 failed with a ValueError or an OSError; its sentence, on all ranks.
    """
    if world.ranks == 1:
        return work()
    found, problem = None, None
    if world.is_main:
        try:
            found = work()
        except (ValueError, OSError) as error:
            problem = str(error)
    # The other ranks wait here until rank 0 is done or has failed.
    found, problem = world.broadcast([found, problem])
    if problem is not None:
        raise ValueError(problem)
    return found


def check_same_file(world: World, path: Path) -> str:
    """Return a file's SHA-256 (hex), the same on all ranks, which wait for rank 0's.

    Raises:
        ValueError: it is another file on this rank than on rank 0.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != world.broadcast(found):
        raise ValueError(
            f"{path} is not the same file for rank {world.rank} as for rank 0; all nodes must share the storage that "
            "out= lies on"
        )
    return found
