"""What a checkpoint costs, for a small network: one line with both ways, and nothing is left behind."""

import re

from mkd.benchmarks.checkpoint_cost import main


def test_both_ways_are_timed(tmp_path, capsys):
    """Size, seconds to the disk and seconds to host memory; the checkpoint is removed."""
    main("lite0", str(tmp_path))
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"lite0: 0\.04 GB; torch\.save and fsync \d\.\d\d s; copy from cpu to host \d\.\d\d s\n", said
    )
    assert not list(tmp_path.iterdir())
