"""Ranks as threads of this process, quick enough for hundreds of drawn cases; what does not meet in 100 s fails."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from mkd.distributed.world import World

CPU = torch.device("cpu")


class Meeting:
    """Where the threads put what they have to say, and read what the others said."""

    def __init__(self, ranks):
        self.barrier, self.table = threading.Barrier(ranks, timeout=100), [None] * ranks

    def swap(self, rank, what, value):
        """Give a value and get those of all ranks, which must all have come for the same."""
        self.table[rank] = what, value
        self.barrier.wait()
        table = list(self.table)
        self.barrier.wait()
        assert len({str(kind) for kind, _ in table}) == 1, table
        return [given for _, given in table]


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread; it copies what it gives away, as a network would."""

    meeting: Meeting = field(default=None, compare=False)

    def all_reduce_sum(self, t):
        return torch.stack(self._all("total", t)).sum(dim=0)

    def gather(self, t):
        return torch.cat(self._all("gather", t))

    def exchange(self, out, counts):
        given = self.meeting.swap(self.rank, "exchange", [t.clone() for t in out])
        rows = [theirs[self.rank] for theirs in given]
        assert [len(t) for t in rows] == list(counts)
        return rows

    def broadcast(self, value):
        return self.meeting.swap(self.rank, "broadcast", value)[0]

    def _all(self, what, t):
        return self.meeting.swap(self.rank, (what, t.shape, t.dtype), t.clone())


def on_threads(ranks, work):
    """Call `work(world)` on each rank; return the results in rank order, or raise what the first of them raised."""
    if ranks == 1:
        return [work(World(0, 1, CPU))]
    meeting = Meeting(ranks)

    def rank_of(rank):
        try:
            return work(ThreadWorld(rank, ranks, CPU, meeting=meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        futures = [pool.submit(rank_of, rank) for rank in range(ranks)]
    errors = [f.exception() for f in futures if f.exception() is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [f.result() for f in futures]
