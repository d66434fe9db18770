"""TensorBoard's curves: readable by TensorBoard, and no reason to end a run."""

import resource
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mkd.train.run.journal import Journal


def rows(journal, phase, steps):
    for step in steps:
        journal.train(phase, step, epoch=0.0, lr=0.1, speed=1.0, values={f"loss_{n}": 1.0 for n in range(9)})


@pytest.fixture
def small_files():
    """A function that lets files grow to so many bytes only: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_the_curves_alone(tmp_path, small_files, capfd):
    """Training goes on, metrics.jsonl is whole, there is one warning in all phases and no traceback of any thread."""
    journal = Journal(tmp_path, ("a", "b"))
    journal.start("teacher", 0, 100)
    small_files(12_000)
    rows(journal, "teacher", range(1, 40))
    journal.end()
    journal.start("student", 0, 100)
    rows(journal, "student", range(1, 3))
    journal.end()
    out, err = capfd.readouterr()
    assert out.count("TensorBoard's curves cannot be written") == 1
    assert "File too large" in out
    assert "training goes on" in out
    assert err == ""
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 41
    points = EventAccumulator(str(tmp_path / "tensorboard" / "teacher")).Reload().Scalars("loss_0")
    assert 0 < len(points) < 39


@pytest.mark.parametrize("place", ["tensorboard", "tensorboard/student"])
def test_a_folder_that_cannot_be_made(tmp_path, capsys, place):
    """A file in the folder's place is a warning too."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    journal = Journal(tmp_path, ("a", "b"))
    journal.start("student", 0, 100)
    rows(journal, "student", [1, 2])
    journal.end()
    assert capsys.readouterr().out.count("curves cannot be written") == 1


def test_a_resumed_phase_hides_what_it_repeats(tmp_path):
    """Points beyond the step that a run goes on from are those of the second start."""
    for first, last in ((0, 9), (4, 6)):
        journal = Journal(tmp_path, ("a", "b"))
        journal.start("student", first, 100)
        rows(journal, "student", range(first + 1, last))
        journal.end()
    points = EventAccumulator(str(tmp_path / "tensorboard" / "student")).Reload().Scalars("lr")
    assert [point.step for point in points] == [1, 2, 3, 4, 5]


def test_names_are_no_markup(tmp_path, capsys):
    """What rich would take for colours, links and pictures is printed as it is."""
    journal = Journal(tmp_path, ("[red]", "[/]"))
    for name in ("[red]x[/red]", "[/]", "[bold", ":smile:"):
        journal.say(f"class {name}")
        assert f"class {name}\n" in capsys.readouterr().out
    journal.start("student", 0, 100)
    journal.say("[/] beside the curves")
    journal.end()
