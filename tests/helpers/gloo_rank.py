"""One gloo rank that reads its part of a stream: python -m tests.helpers.gloo_rank RANK RANKS STEPS FOLDER OUT."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from mkd.dist.world import World
from tests.helpers.runs import feed_of


def main():
    """Read, agree with the other ranks after each step that all got a batch, and write the views to OUT/RANK.pt."""
    rank, ranks, steps = map(int, sys.argv[1:4])
    folder, out = sys.argv[4], Path(sys.argv[5])
    dist.init_process_group(
        "gloo", f"file://{out}/meeting", timedelta(seconds=90), world_size=ranks, rank=rank
    )
    feed = feed_of(folder, folder, batch=ranks, world=World(rank, ranks, torch.device("cpu")), workers=1)
    seen = []
    for views in feed(0, steps):
        tiles = torch.tensor(len(views.images))
        dist.all_reduce(tiles)  # a rank without a batch would leave the others waiting here
        assert tiles == ranks
        seen.append((views.images, views.labels, views.weak, views.inside))
    torch.save(seen, out / f"{rank}.aside")
    (out / f"{rank}.aside").rename(out / f"{rank}.pt")  # before the exit, at which gloo may die
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
