"""Checkpoints: whole or not there, read back bit for bit, and one sentence for a damaged one."""

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.training.nets import perturb, tiny_net
from tests.mkd.train.run.states import equal, names, state_of


def test_round_trip(checkpoints):
    """What is saved is read back equal: weights, momentum, averages, scores, step."""
    state = state_of()
    checkpoints.save(state)
    assert equal(checkpoints.load(), state)


def test_nothing_saved_yet(checkpoints):
    """Without a checkpoint there is none, and nothing is made by asking."""
    assert checkpoints.load() is None
    assert not checkpoints.latest.parent.exists()


def test_the_latest_replaces_the_one_before(checkpoints):
    """One file each, no leftovers."""
    for step in (1, 2):
        checkpoints.save(state_of(step))
    checkpoints.save_best(tiny_net().state_dict())
    assert checkpoints.load()["step"] == 2
    assert {p.name for p in checkpoints.latest.parent.iterdir()} == {"latest.pt", "best.safetensors"}


def test_a_save_that_fails_keeps_the_one_before(checkpoints, monkeypatch):
    """A disk that fills up while saving leaves the last checkpoint whole and nothing beside it."""
    checkpoints.save(state_of(1))

    def full(state, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(state_of(2))
    assert checkpoints.load()["step"] == 1
    assert [p.name for p in checkpoints.latest.parent.iterdir()] == ["latest.pt"]


def test_best_round_trip(checkpoints):
    """The best weights come back bit for bit, integer buffers and channels-last weights included."""
    model = tiny_net().to(memory_format=torch.channels_last)
    perturb(model, 1)
    checkpoints.save_best(model.state_dict())
    assert equal(dict(checkpoints.load_best()), dict(model.state_dict()))


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"this is not a checkpoint",
    "zeros": lambda data: bytes(len(data)),
    "head overwritten": lambda data: b"x" * 512 + data[512:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_latest_is_one_sentence(checkpoints, damage):
    """However it was damaged: the file, what to do, no traceback of a reader."""
    checkpoints.save(state_of())
    checkpoints.latest.write_bytes(DAMAGE[damage](checkpoints.latest.read_bytes()))
    with pytest.raises(ValueError, match="damaged checkpoint") as caught:
        checkpoints.load()
    assert str(checkpoints.latest) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_flipped_bit_is_seen(checkpoints):
    """A weight that a bad disk changed is not trained on: the archive's own checksums are compared."""
    checkpoints.save({"step": 1, "model": {"weight": torch.zeros(4096)}})
    content = bytearray(checkpoints.latest.read_bytes())
    content[content.index(bytes(8192)) + 4096] ^= 1
    checkpoints.latest.write_bytes(content)
    with pytest.raises(ValueError, match="damaged checkpoint"):
        checkpoints.load()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_best_is_one_sentence(checkpoints, damage):
    """The same for the best weights."""
    checkpoints.save_best(tiny_net().state_dict())
    checkpoints.best.write_bytes(DAMAGE[damage](checkpoints.best.read_bytes()))
    with pytest.raises(ValueError, match="damaged") as caught:
        checkpoints.load_best()
    assert str(checkpoints.best) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_code_is_run(checkpoints, tmp_path):
    """A checkpoint that would run code when unpickled is refused, not run."""

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    checkpoints.latest.parent.mkdir()
    torch.save({"step": Payload()}, checkpoints.latest)
    with pytest.raises(ValueError, match="damaged checkpoint"):
        checkpoints.load()
    assert not (tmp_path / "ran").exists()


def test_a_rank_that_does_not_write(tmp_path):
    """It reads what another one wrote, and changes nothing."""
    reader, writer = (Checkpoints(tmp_path / "student", writes=writes, every=1) for writes in (False, True))
    reader.save(state_of(3), good=True)
    reader.save_best({"w": torch.ones(2)})
    assert not (tmp_path / "student").exists()
    writer.save(state_of(4))
    reader.save(state_of(5))
    reader.keep_as(4, good=True)
    assert reader.load()["step"] == 4
    assert names(reader) == {"latest.pt", "step-4.pt"}


def test_another_versions_checkpoint_is_one_sentence(checkpoints):
    """A file without this version's mark is not gone on from."""
    checkpoints.folder.mkdir()
    torch.save(state_of(), checkpoints.latest)
    with pytest.raises(ValueError, match="another version of this program; go on with that version"):
        checkpoints.load()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(5, "Input/output error"), "Input/output error"), (MemoryError(), "out of memory")]
    + [(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory")],
)
def test_a_good_file_that_cannot_be_read_is_not_called_damaged(checkpoints, monkeypatch, error, reason):
    """A disk that fails for a moment, or too little memory: path and reason, and nobody is told to delete it."""
    checkpoints.save(state_of())

    def failing(*args, **more):
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(OSError, match="cannot be read") as caught:
        checkpoints.load()
    assert f"{checkpoints.latest}: cannot be read ({reason})" in str(caught.value)
    assert "delete" not in str(caught.value)
