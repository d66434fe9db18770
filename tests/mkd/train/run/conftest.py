"""Checkpoints of a phase in a folder of the test's own."""

import pytest

from mkd.train.run.checkpoint import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "student")
