"""Checkpoints: whole or not there, read back bit for bit, and one sentence for a damaged one."""

import errno
import os
import threading

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.training.nets import perturb, tiny_net


def state_of(step=3):
    """Make what the loop saves: weights, an optimizer with momentum, a step's own state."""
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    extra = {"ema": {"state.w": torch.rand(3), "updates": 4}, "tile_limit": {"scores": [0.1, 0.2]}}
    return {
        "step": step,
        "best": 0.5,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step_state": extra,
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "student")


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


def raised(state):
    state["step_state"]["rollbacks"] = 1


def test_going_back_to_the_good_checkpoint(checkpoints):
    """The good state comes back as the latest, changed as asked, with the best weights of its time."""
    good = state_of(3)
    checkpoints.save_best({"w": torch.ones(2)})
    checkpoints.save(good, good=True)
    checkpoints.save(state_of(6))
    checkpoints.save_best({"w": torch.zeros(2)})
    assert checkpoints.load()["step"] == 6
    assert checkpoints.go_back(raised) == 3
    found = checkpoints.load()
    assert found["step_state"].pop("rollbacks") == 1
    assert equal(found, good)
    assert torch.equal(checkpoints.load_best()["w"], torch.ones(2))
    assert checkpoints.go_back(raised) == 3  # and again


def test_going_back_to_a_time_without_best_weights(checkpoints):
    """Best weights of a later validation do not stay."""
    checkpoints.save(state_of(3), good=True)
    checkpoints.save_best({"w": torch.zeros(2)})
    checkpoints.go_back(raised)
    assert not checkpoints.best.exists()


def test_the_good_checkpoint_follows_when_kept_again(checkpoints):
    """Keeping replaces what was kept; saving alone does not touch it."""
    for step in (3, 6):
        checkpoints.save(state_of(step), good=True)
    checkpoints.save(state_of(9))
    assert checkpoints.go_back(raised) == 6
    assert {p.name for p in checkpoints.latest.parent.iterdir()} == {"latest.pt", "good.pt"}


def test_a_damaged_good_checkpoint_is_one_sentence(checkpoints):
    """It is named, and the latest stays as it was."""
    checkpoints.save(state_of(3), good=True)
    checkpoints.save(state_of(6))
    checkpoints.good.write_bytes(checkpoints.good.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"good\.pt: damaged checkpoint"):
        checkpoints.go_back(raised)
    assert checkpoints.load()["step"] == 6


def names(checkpoints):
    return {p.name for p in checkpoints.folder.iterdir()}


def test_every_so_many_steps_one_is_kept(tmp_path):
    """Checkpoints of every 4th step stay under their own name, the newest two of them, without a second copy."""
    checkpoints = Checkpoints(tmp_path, every=4, keep=2)
    for step in range(2, 14, 2):
        checkpoints.save(state_of(step))
    assert names(checkpoints) == {"latest.pt", "step-8.pt", "step-12.pt"}
    assert checkpoints.latest.samefile(tmp_path / "step-12.pt")
    checkpoints.save(state_of(14))
    assert torch.load(tmp_path / "step-12.pt")["step"] == 12


def test_kept_checkpoints_are_ordered_by_number(tmp_path):
    """step-100 is newer than step-8."""
    checkpoints = Checkpoints(tmp_path, every=4, keep=1)
    for step in (8, 100):
        checkpoints.save(state_of(step))
    assert names(checkpoints) == {"latest.pt", "step-100.pt"}


def test_a_name_that_a_kill_prevented_is_given_at_the_next_start(tmp_path):
    """The checkpoint was written and its other names were not: going on gives them."""
    Checkpoints(tmp_path).save(state_of(8))
    Checkpoints(tmp_path, every=4).keep_as(8, good=True)
    assert {p.name for p in tmp_path.iterdir()} == {"latest.pt", "step-8.pt", "good.pt"}


def test_going_back_drops_what_was_kept_since(tmp_path):
    """Kept checkpoints of the course that is given up go too; those of before stay."""
    checkpoints = Checkpoints(tmp_path, every=2)
    for step in (2, 4, 6):
        checkpoints.save(state_of(step), good=step == 4)
    assert checkpoints.go_back(raised) == 4
    assert names(checkpoints) == {"latest.pt", "good.pt", "step-2.pt", "step-4.pt"}


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


@pytest.fixture
def slow_disk(monkeypatch):
    """Let torch.save wait for `go`; gives both, and says in `begun` when it was called."""
    begun, go, save = threading.Event(), threading.Event(), torch.save

    def waiting(*args):
        begun.set()
        assert go.wait(30)
        save(*args)

    monkeypatch.setattr(torch, "save", waiting)
    return begun, go


def test_written_in_the_background(tmp_path, slow_disk):
    """Saving returns before the file is there; what is written is the state of that moment, then its other names."""
    begun, go = slow_disk
    checkpoints, state = Checkpoints(tmp_path, every=1, background=True), state_of(1)
    weight = state["model"]["0.weight"]
    before = weight.clone()
    checkpoints.save(state, good=True)
    with torch.no_grad():
        weight.zero_()
    state["step_state"]["tile_limit"]["scores"].append(0.3)
    assert begun.wait(30)
    assert not checkpoints.latest.exists()
    go.set()
    checkpoints.wait()
    found = checkpoints.load()
    assert torch.equal(found["model"]["0.weight"], before)
    assert found["step_state"]["tile_limit"]["scores"] == [0.1, 0.2]
    assert names(checkpoints) == {"latest.pt", "step-1.pt", "good.pt"}


def test_one_at_a_time_in_the_background(tmp_path, slow_disk):
    """A second save, later best weights or a way back wait for the first one; the last one wins."""
    _, go = slow_disk
    checkpoints = Checkpoints(tmp_path, background=True)
    checkpoints.save(state_of(1), good=True)
    threading.Timer(0.1, go.set).start()
    checkpoints.save_best({"w": torch.ones(2)})
    assert torch.load(checkpoints.latest)["step"] == 1
    assert not checkpoints.good_best.exists()  # the best weights are younger than the good checkpoint
    checkpoints.save(state_of(2))
    checkpoints.save(state_of(3))
    assert checkpoints.go_back(raised) == 1
    assert checkpoints.load()["step"] == 1


def test_a_write_that_fails_in_the_background_is_heard(tmp_path, monkeypatch):
    """At the next save, or at the end, the disk's error ends the run; the checkpoint before stays."""
    checkpoints = Checkpoints(tmp_path, background=True)
    checkpoints.save(state_of(1))
    checkpoints.wait()

    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    for again in (lambda: checkpoints.save(state_of(3)), checkpoints.wait):
        checkpoints.save(state_of(2))
        with pytest.raises(OSError, match="No space"):
            again()
    assert checkpoints.load()["step"] == 1


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


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_names_are_copies(tmp_path, monkeypatch, number):
    """File systems without links, or with too many: the kept checkpoint is a file of its own."""

    def refused(*args):
        raise OSError(number, "no links")

    monkeypatch.setattr(os, "link", refused)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(state_of(4), good=True)
    assert names(checkpoints) == {"latest.pt", "step-4.pt", "good.pt"}
    assert not checkpoints.latest.samefile(tmp_path / "step-4.pt")
    assert torch.load(tmp_path / "step-4.pt")["step"] == 4


def test_another_error_of_a_link_is_heard(tmp_path, monkeypatch):
    """A full disk is not copied to."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        Checkpoints(tmp_path, every=1).save(state_of(4))


def test_best_weights_in_the_background(tmp_path, monkeypatch):
    """They are those of their moment, come before the checkpoint that follows, and are its `good_best`."""
    go, write = threading.Event(), Checkpoints._write_best

    def waiting(self, state):
        assert go.wait(30)
        write(self, state)

    monkeypatch.setattr(Checkpoints, "_write_best", waiting)
    checkpoints, weights = Checkpoints(tmp_path, background=True), {"w": torch.ones(2)}
    assert not checkpoints.has_best()
    checkpoints.save_best(weights)
    weights["w"].zero_()
    assert checkpoints.has_best()  # on its way
    checkpoints.save(state_of(1), good=True)  # does not wait for the best weights
    assert names(checkpoints) == set()
    go.set()
    checkpoints.save_best({"w": torch.full((2,), 2.0)})  # waits for both; younger than the good checkpoint
    checkpoints.wait()
    assert torch.equal(checkpoints.load_best()["w"], torch.full((2,), 2.0))
    checkpoints.go_back(raised)
    assert torch.equal(checkpoints.load_best()["w"], torch.ones(2))


def test_best_weights_that_cannot_be_written_are_heard(tmp_path, monkeypatch):
    """In the background the disk's error comes at the next save of its kind or at the end; the checkpoint is there."""

    def full(self, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write_best", full)
    checkpoints = Checkpoints(tmp_path, background=True)
    for again in (lambda: checkpoints.save(state_of(3)), checkpoints.wait, lambda: checkpoints.save_best({})):
        checkpoints.save_best({"w": torch.ones(2)})
        checkpoints.save(state_of(2))
        with pytest.raises(OSError, match="No space"):
            again()
        assert checkpoints.load()["step"] == 2
