"""The run's diary: rows that survive kills, curves, and progress that is rich or plain."""

import io
import json

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mkd.metrics.confusion import ConfusionMatrix
from mkd.train.run.journal import Journal
from tests.helpers.shards import CLASSES


def write(folder, phase="student", start=0, stop=4, steps=10):
    """Write training rows of steps start + 1 .. stop."""
    journal = Journal(folder, CLASSES)
    journal.start(phase, start, steps)
    for step in range(start + 1, stop + 1):
        journal.train(
            phase,
            step,
            epoch=step / 3,
            lr=0.1 / step,
            speed=12.345,
            values={"loss": 1 / step, "loss_sup": 2.0},
        )
    journal.end()
    return journal


def matrix_of(absent=False):
    matrix = ConfusionMatrix(3)
    matrix.matrix += torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0 if absent else 8]])
    return matrix


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [(row["phase"], row["step"]) for row in read(folder)]


def test_training_rows(tmp_path):
    """A row has phase, step, epoch, learning rate, images a second and each value by name."""
    write(tmp_path, stop=2)
    assert read(tmp_path)[1] == {
        "phase": "student",
        "step": 2,
        "epoch": 0.667,
        "lr": 0.05,
        "img_s": 12.35,
        "loss": 0.5,
        "loss_sup": 2.0,
    }


def test_validation_rows(tmp_path):
    """A row has mIoU and IoU by class name; a class absent from the labels is null and not in the mean."""
    journal = Journal(tmp_path, CLASSES)
    journal.start("student", 0, 10)
    journal.validation("student", 5, matrix_of(absent=True))
    journal.end()
    (row,) = read(tmp_path)
    assert (row["phase"], row["step"]) == ("student", 5)
    assert row["val_iou"] == {"field": 6 / 8, "road": 4 / 6, "water": None}
    assert row["val_miou"] == pytest.approx((6 / 8 + 4 / 6) / 2)


def test_going_on_drops_what_was_written_after_the_checkpoint(tmp_path):
    """Rows beyond the checkpoint's step are written anew: none twice, none missing, other phases untouched."""
    write(tmp_path, "teacher", stop=6)
    write(tmp_path, "student", stop=5)
    write(tmp_path, "student", start=3, stop=7)
    assert steps(tmp_path) == [("teacher", n) for n in range(1, 7)] + [("student", n) for n in range(1, 8)]


def test_starting_anew_drops_all_rows_of_the_phase(tmp_path):
    """A kill before the first checkpoint starts the phase again, and its rows too."""
    write(tmp_path, "teacher", stop=2)
    write(tmp_path, "student", stop=2)
    write(tmp_path, "student", stop=1)
    assert steps(tmp_path) == [("teacher", 1), ("teacher", 2), ("student", 1)]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_half_written_last_line(tmp_path, cut):
    """A line that a kill cut off neither stops the resume nor stays, nor glues to the next one."""
    write(tmp_path, stop=3)
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-cut])
    write(tmp_path, start=2, stop=4)
    assert steps(tmp_path) == [("student", n) for n in range(1, 5)]


def test_lines_are_json_for_any_reader(tmp_path):
    """A value that is not a number is null, as JSON knows no NaN."""
    journal = Journal(tmp_path, CLASSES)
    journal.start("student", 0, 10)
    for step, ratio in ((1, float("nan")), (2, float("inf"))):  # a batch without labels has |grad L_sup| = 0
        journal.train("student", step, epoch=0.1, lr=0.1, speed=1.0, values={"loss": 1.0, "ewc_ratio": ratio})
    journal.end()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["ewc_ratio"] is None


def test_curves(tmp_path):
    """TensorBoard gets each value by name, a phase a run, and a resumed step's point once."""
    write(tmp_path, stop=5)
    journal = write(tmp_path, start=3, stop=6)
    journal.start("student", 6, 10)
    journal.validation("student", 6, matrix_of(absent=True))
    journal.end()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_sup", "lr", "img_s", "val_miou", "val_iou/field"} <= set(events.Tags()["scalars"])
    assert "val_iou/water" not in events.Tags()["scalars"]


def test_plain_where_there_is_no_terminal(tmp_path, capsys):
    """In a log file: one line at once, then none before PLAIN_SECONDS; no bars, no control characters."""
    write(tmp_path, stop=4)
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert "step 1/10" in text
    assert "loss 1.000" in text
    assert "ETA" in text
    assert "\x1b" not in text


def test_plain_lines_come_by_the_clock(tmp_path, capsys, monkeypatch):
    """When PLAIN_SECONDS have passed the next row is shown too."""
    monkeypatch.setattr(Journal, "PLAIN_SECONDS", -1.0)
    write(tmp_path, stop=3)
    assert capsys.readouterr().out.count("\n") == 3


def test_one_rich_line_on_a_terminal(tmp_path):
    """Epoch, step, img/s, losses by name and a remaining time, in one line that ends with the phase."""
    journal = Journal(tmp_path, CLASSES)
    screen = io.StringIO()
    journal.console = Console(file=screen, force_terminal=True, width=200)
    journal.start("student", 0, 10)
    journal.train("student", 4, epoch=1.5, lr=0.1, speed=8.0, values={"loss": 0.25, "kept_tiles": 0.5})
    journal.say("a word")
    (task,) = journal.progress.tasks
    assert task.completed == 4
    assert task.fields["text"] == "epoch 1.5  step 4/10  8.0 img/s  loss 0.250  kept_tiles 0.500"
    journal.end()
    assert journal.progress is None
    assert "a word" in screen.getvalue()
    assert "step 4/10" in screen.getvalue()


def test_waiting_is_shown_and_groups_are_not(tmp_path, capsys, monkeypatch):
    """`wait_teacher` reads as a share of the time; numbers by class are recorded in the row, but not shown."""
    monkeypatch.setattr(Journal, "PLAIN_SECONDS", -1.0)
    journal = Journal(tmp_path, CLASSES)
    journal.start("semi", 0, 10)
    values = {"loss": 0.25, "wait_teacher": 0.118}
    journal.train(
        "semi",
        4,
        epoch=1.5,
        lr=0.1,
        speed=8.0,
        values=values,
        groups={"kept": {"road": 0.5}, "ages": {"0": 3}},
    )
    journal.end()
    shown = capsys.readouterr().out
    assert "loss 0.250  waiting for teacher 12%" in shown
    assert "road" not in shown
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["wait_teacher"] == 0.118
    assert (row["kept"], row["ages"]) == ({"road": 0.5}, {"0": 3})


def test_ranks_that_do_not_write_are_silent(tmp_path, capsys):
    """No file, no line; everything may be called."""
    journal = Journal(tmp_path, CLASSES, writes=False)
    journal.start("student", 3, 10)
    journal.train("student", 4, epoch=1.5, lr=0.1, speed=8.0, values={"loss": 0.25})
    journal.validation("student", 4, matrix_of())
    journal.say("a word")
    journal.end()
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_going_on_is_said(tmp_path, capsys):
    """A resumed run says from which step."""
    Journal(tmp_path, CLASSES).start("student", 6, 10)
    assert capsys.readouterr().out == "student: going on from step 6 of 10\n"


def test_the_best_validation_of_a_phase(tmp_path):
    """The highest of its rows; none without a row, and other phases do not count."""
    journal = write(tmp_path)
    assert journal.best_validation("student") is None
    journal.start("student", 4, 10)
    for step, other in ((5, False), (6, True)):
        journal.validation("student", step, matrix_of(other))
    journal.end()
    assert journal.best_validation("student") == max(matrix_of().miou(), matrix_of(True).miou())
    assert journal.best_validation("teacher") is None
    assert Journal(tmp_path / "none", CLASSES).best_validation("student") is None


def test_a_validation_names_each_class(tmp_path, capsys):
    """One line with mIoU and the IoU of every class; one that the labels lack is absent."""
    journal = write(tmp_path)
    journal.start("student", 4, 10)
    journal.validation("student", 5, matrix_of(absent=True))
    journal.end()
    said = capsys.readouterr().out.splitlines()[-1]
    assert "validation mIoU 0.7083  (field 0.75  road 0.67  water absent)" in said


def test_a_long_phase_is_announced_once(tmp_path, capsys, monkeypatch):
    """At the first row, how many hours are left; nothing of a short one."""
    write(tmp_path / "short")
    assert "are left" not in capsys.readouterr().out
    clock = iter(range(0, 100000, 30))
    monkeypatch.setattr("mkd.train.run.journal.time.monotonic", lambda: next(clock))
    write(tmp_path / "long", steps=1000)
    said = [line for line in capsys.readouterr().out.splitlines() if "are left" in line]
    assert said == [
        "student: 999 steps of 30.00 s are left, about 8 h 20 min; a smaller steps= takes less, a killed or stopped "
        "run goes on by the same command"
    ]
