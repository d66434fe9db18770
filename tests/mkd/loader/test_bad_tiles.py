"""Lost tiles are counted by epoch, over ranks and restarts, listed and said; over budget the run stops."""

import json
import logging

import pytest

from mkd.dataset.tile_decoder import BadTile
from mkd.loader.bad_tiles import BadTileBudget


def lost(n):
    return BadTile(f"s3://b/x.tar:tile{n}: cannot be decoded", n + 1)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("tiles", "allowed"), [(999, 0), (1000, 1), (169_000, 169)])
def test_the_budget_is_a_share_rounded_down(tiles, allowed):
    """0.1 % of an epoch may be lost, and not one tile more."""
    losses = BadTileBudget("set", False, tiles, 0.001, key="data.max_bad=0.001")
    for n in range(allowed):
        losses.add(0, n, lost(n))
    with pytest.raises(
        ValueError, match=rf"{allowed + 1} of {tiles} tiles .*{allowed} may be \(data.max_bad"
    ):
        losses.add(0, allowed, lost(allowed))


def test_each_epoch_has_the_whole_budget():
    """The same two bad tiles in each epoch are no reason to stop when two are allowed."""
    losses = BadTileBudget("set", False, 2000, 0.001)
    for epoch in range(5):
        for n in (3, 4, 3):  # a tile that comes again, as after a resume, counts once
            losses.add(epoch, n, lost(n))
    with pytest.raises(ValueError, match="3 of 2000"):
        losses.add(4, 5, lost(5))


def test_the_count_is_that_of_all_ranks_and_survives_a_restart(tmp_path):
    """Two ranks, each with its list, and a run that goes on alone, count together; another stream counts apart."""
    path, other = (tmp_path / f"quarantine-rank{rank}.jsonl" for rank in (0, 1))
    one, two = (BadTileBudget("set", False, 2000, 0.001, p) for p in (path, other))
    BadTileBudget("set", True, 2000, 0.001, path).add(0, 9, lost(9))
    BadTileBudget("other", False, 2000, 0.001, path).add(0, 9, lost(9))
    one.add(0, 3, lost(3))
    two.add(0, 4, lost(4))
    with open(path, "a") as file:
        file.write('{"set": "se\n')  # cut short by a kill
    assert [len(p.read_text().splitlines()) for p in (path, other)] == [4, 1]
    alone = tmp_path / "quarantine.jsonl"
    with pytest.raises(ValueError, match="tile5: cannot be decoded; 3 of 2000 .* listed in .*/quarantine"):
        BadTileBudget("set", False, 2000, 0.001, alone).add(0, 5, lost(5))
    assert len(alone.read_text().splitlines()) == 1
    row = {
        "set": "set",
        "labelled": False,
        "epoch": 0,
        "sample": 3,
        "reason": lost(3).reason,
        "replaced_by": 4,
    }
    assert json.loads(path.read_text().splitlines()[2]) == row


def test_each_bad_tile_is_said_once(caplog):
    """The first loss of a tile is a warning that names it and what stands in; later epochs are quiet."""
    losses = BadTileBudget("set", False, 2000, 0.001)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            losses.add(epoch, 7, lost(7))
    assert [r.getMessage() for r in caplog.records] == [f"{lost(7).reason}; sample 8 is taken in its place"]
