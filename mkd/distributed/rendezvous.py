"""The rendezvous of restarted ranks, before there is a process group: a part of torchrun's store of their own."""

import os
import secrets
import time
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistStoreError

KEY = "mkd/round"
RETRY = timedelta(seconds=1)  # after which a rank looks whether rank 0 has opened another rendezvous


def find_store(rank: int, ranks: int, timeout: timedelta) -> Store | None:
    """Return the store of this start of the job; None where no torchrun has one, and torch is to make its own.

    torchrun keeps one store over its restarts, in which a restarted rank would find the addresses of dead ones. Rank 0
    therefore opens a rendezvous under a random name; every other rank writes a random word there and waits for rank 0
    to repeat it: one whose rank 0 is dead never does.

    Args:
        rank: 0 <= rank < ranks.
        ranks: processes of the job.
        timeout: how long they wait for each other.

    Raises:
        ValueError: a rank did not come in time.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
    return PrefixStore(rendezvous(store, rank, ranks, timeout), store)


def rendezvous(store: Store, rank: int, ranks: int, timeout: timedelta) -> str:
    """Return the name of the rendezvous that all ranks of this start are in."""
    if rank == 0:
        name = f"mkd/{secrets.token_hex(8)}"
        store.set(KEY, name)
        # Rank 0 waits for each other rank's word, and repeats it.
        for other in range(1, ranks):
            _wait(store, f"{name}/{other}", timeout, f"rank {other} did not start")
            word = store.get(f"{name}/{other}").decode()
            store.set(f"{name}/{other}/{word}", "")
        return name
    # The others wait for rank 0's answer, in the newest rendezvous: an older one's rank 0 may be dead.
    word, end = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end:
        _wait(store, KEY, timeout, "rank 0 did not start")
        name = bytes(store.get(KEY)).decode()
        store.set(f"{name}/{rank}", word)
        try:
            store.wait([f"{name}/{rank}/{word}"], RETRY)
        except DistStoreError:
            continue
        return name
    raise _late("rank 0 did not answer", timeout)


def _wait(store: Store, key: str, timeout: timedelta, what: str) -> None:
    """Wait until another rank has set a key."""
    try:
        store.wait([key], timeout)
    except DistStoreError:
        raise _late(what, timeout) from None


def _late(what: str, timeout: timedelta) -> ValueError:
    """Return the error of a rank that did not come in time."""
    minutes = timeout.total_seconds() / 60
    return ValueError(
        f"{what} within {minutes:g} minutes; look for its own message, and start all ranks at once"
    )
