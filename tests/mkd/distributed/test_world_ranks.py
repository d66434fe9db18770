"""What ranks tell each other, on real gloo processes."""

import os
import time
from pathlib import Path

import pytest
import torch

from mkd.distributed.world import World
from tests.helpers.processes.ranks import run_ranks, start_ranks
from tests.helpers.training.runs import CPU

HERE = "tests.mkd.distributed.test_world_ranks"


def talk(world):
    """Use every method once."""
    r, n = world.rank, world.ranks
    given = torch.full((2, 3), float(r))
    answer = world.all_reduce_max(10 + r)
    found = {
        "place": [r, n, world.local_rank, int(world.is_main)],
        "total": world.all_reduce_sum(given),
        "kept": given,
        "gather": world.gather(torch.tensor([[r, 1], [r, 2]], dtype=torch.uint8).bool()),
        "bf16": world.gather(torch.tensor([r + 0.5], dtype=torch.bfloat16)),
        "broadcast": world.broadcast({"from": r, "list": [1, None, "é"]}),
        "nothing": world.broadcast(None),
        "agreed": answer(),
        "threads": torch.get_num_threads(),
    }
    # rank r sends r + s rows of (10 r + s) to rank s
    out = [torch.full((r + s, 2), 10 * r + s, dtype=torch.int16) for s in range(n)]
    found["exchange"] = world.exchange(out, [s + r for s in range(n)])
    world.check_equal([torch.arange(5.0), torch.zeros(3, dtype=torch.uint8)], "numbers")
    world.barrier()
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_word_arrives(tmp_path, ranks):
    """Sums, rows, values, unequal parts and flags are those of the ranks that sent them."""
    results = run_ranks(f"{HERE}:talk", ranks, tmp_path)
    every = range(ranks)
    for r, found in enumerate(results):
        assert found["place"] == [r, ranks, r, int(r == 0)]
        assert torch.equal(found["total"], torch.full((2, 3), float(sum(every))))
        assert torch.equal(found["kept"], torch.full((2, 3), float(r)))
        assert found["gather"].tolist() == [[bool(s), True] for s in every for _ in (1, 2)]
        assert found["bf16"].tolist() == [s + 0.5 for s in every]
        assert found["broadcast"] == {"from": 0, "list": [1, None, "é"]}
        assert found["nothing"] is None
        assert found["agreed"] == 10 + ranks - 1
        assert found["threads"] == max(1, len(os.sched_getaffinity(0)) // ranks)
        for s, rows in enumerate(found["exchange"]):
            assert rows.dtype == torch.int16
            assert rows.tolist() == [[10 * s + r] * 2] * (s + r)


def test_one_rank_talks_to_itself():
    """Without a process group every method answers at once, with what it was given."""
    t = torch.rand(2, 3, requires_grad=True)
    assert CPU.all_reduce_sum(t) is t
    assert CPU.gather(t) is t
    assert CPU.exchange([t], [2])[0] is t
    assert CPU.broadcast("x") == "x"
    assert CPU.all_reduce_max(3)() == 3
    CPU.check_equal([t], "weights")
    CPU.barrier()
    CPU.close()
    assert World(0, 1, torch.device("cpu"), 0) == CPU


def disagree(world):
    """Give rank 1 a weight that differs in its last bit."""
    weights = [torch.ones(3), torch.full((4,), 2.0)]
    if world.rank == 1:
        weights[1][2] = torch.nextafter(weights[1][2], torch.tensor(9.0))
    try:
        world.check_equal(weights, "weights")
    except ValueError as error:
        return str(error)
    return "equal"


def test_one_bit_is_seen_and_the_rank_named(tmp_path):
    """All ranks raise the same sentence, which names who differs."""
    said = run_ranks(f"{HERE}:disagree", 3, tmp_path)
    assert len(set(said)) == 1
    assert "weights of rank 1 differ from those of rank 0" in said[0]


def mourn(world, victim, out):
    """Lose one rank inside a collective call and note when the others saw it."""
    world.all_reduce_sum(torch.ones(3))
    if world.rank == int(victim):
        Path(out, "died").write_text(str(time.time()))
        os._exit(2)
    world.all_reduce_sum(torch.ones(3))


@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_dead_rank_ends_the_others_at_once(tmp_path, victim):
    """Who waits for a rank that died gets an error from the closed connection, not a timeout."""
    processes = start_ranks(f"{HERE}:mourn", 3, tmp_path, victim, str(tmp_path))
    try:
        for process in processes:  # a collective call waits ten minutes
            process.join(60)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes[int(victim)] == 2
    assert not {0, None} & set(codes)
    others = [tmp_path / f"{rank}.txt" for rank in range(3) if str(rank) != victim]
    assert all("Connection" in path.read_text() for path in others)
