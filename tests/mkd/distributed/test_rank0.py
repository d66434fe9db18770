"""What one rank does for all: its value, its error, and files that must be one file."""

from pathlib import Path

import pytest

from mkd.distributed.rank0 import check_same_file, run_on_rank0
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.runs import CPU

HERE = "tests.mkd.distributed.test_rank0"


def test_one_rank_does_it_itself(tmp_path):
    """Any value, any error; the digest is SHA-256."""
    assert run_on_rank0(CPU, lambda: tmp_path) is tmp_path
    with pytest.raises(FileNotFoundError):
        run_on_rank0(CPU, (tmp_path / "none").read_bytes)
    (tmp_path / "file").write_bytes(b"abc")
    assert check_same_file(CPU, tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")


def words(world, out):
    """Return what ranks get from rank 0's work, its mistake, its file and another one."""
    mine = Path(out) / f"file-{world.rank}"
    found = [run_on_rank0(world, lambda: [world.rank, "ok"])]
    run_on_rank0(world, lambda: mine.write_text("of rank 0"))
    found.append((Path(out) / "file-0").read_text())
    for problem in (ValueError("a mistake"), OSError(28, "disk full")):

        def work(problem=problem):
            raise problem

        try:
            run_on_rank0(world, work)
        except ValueError as error:
            found.append(str(error))
    found.append(check_same_file(world, Path(out) / "file-0"))
    try:
        mine.write_text(f"of rank {world.rank}")
        check_same_file(world, mine)
    except ValueError as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_ranks_get_what_rank_0_got(tmp_path):
    """Value, error and digest are rank 0's on both ranks; a file that differs is one sentence on the other one."""
    first, second = run_ranks(f"{HERE}:words", 2, tmp_path, str(tmp_path))
    assert first == second[:5]
    assert first[:4] == [[0, "ok"], "of rank 0", "a mistake", "[Errno 28] disk full"]
    assert "file-1 is not the same file for rank 1 as for rank 0" in second[5]
