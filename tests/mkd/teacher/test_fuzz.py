"""The short form of `make fuzz-teacher`."""

from tests import fuzz_teacher


def test_malformed_messages_harm_nobody():
    """500 malformed messages: the service lives and has not grown, the student beside them sees no error."""
    said = []
    assert fuzz_teacher.fuzz(500, seed=1, show=said.append) == []
    kinds = next(line for line in said if line.startswith("kinds: ")).split(", ")
    assert len(kinds) == 19, "each kind must have been sent"
    ends = next(line for line in said if line.startswith("ends: "))
    assert "UNKNOWN" in ends, "Flight's own errors: the messages must have reached the service"
    assert "UNAUTHENTICATED" in ends
    assert int(said[-1].split()[2]) > 10, "the honest student must have worked"
