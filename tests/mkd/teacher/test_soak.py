"""The short form of `make soak-teacher`."""

from tests import soak_teacher


def test_two_ranks_and_two_teachers_each_of_them_killed():
    """Two gloo ranks train on two services, each is killed -9 and restarted: each tile of the plan is used once."""
    said = []
    wrong, logs = soak_teacher.soak(1, seed=3, show=said.append)
    assert wrong == [], (wrong, logs)
    assert " trained, " in said[-1]
    assert any("cannot be reached" in log for log in logs), "the kill must have been noticed"
