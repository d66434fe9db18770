"""The run's journal: metrics.jsonl, TensorBoard curves, one progress line."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mkd.atomic import append_line, write_text
from mkd.cli.duration import duration
from mkd.metrics.confusion import ConfusionMatrix
from mkd.train.run.tensorboard_file import TensorboardFile

LONG_HOURS = 0.25  # from which a phase's length is announced


class Journal:
    """Writes a run's metrics and shows its progress.

    On a terminal one rich line shows phase, epoch, step, img/s, losses and ETA; elsewhere a plain line comes with
    each validation and at least every ``PLAIN_SECONDS`` seconds.

    Args:
        folder: the run folder.
        classes: class names of validation rows.
        writes: whether this rank does; elsewhere nothing happens.
    """

    PLAIN_SECONDS = 30.0

    def __init__(self, folder: Path, classes: tuple[str, ...], writes: bool = True) -> None:
        """Set the paths; `start` opens files."""
        self.folder, self.classes, self.writes = folder, classes, writes
        self.path = folder / "metrics.jsonl"
        self.console = Console(markup=False, emoji=False)  # names of classes and folders are no markup
        self.progress: Progress | None = None
        self._open = False
        self._warned = False  # that the curves cannot be written
        self._task = TaskID(0)
        self._shown = 0.0

    def start(self, phase: str, step: int, steps: int) -> None:
        """Begin a phase at a step; rows beyond it, from a run that was killed, are removed."""
        if not self.writes:
            return
        self._drop_after(phase, step)
        self.tensorboard = TensorboardFile(self.folder / "tensorboard" / phase, step + 1, self._say_once)
        self._open = True
        self._announced = False
        self._phase, self._steps, self._first, self._began = phase, steps, step, time.monotonic()
        if step:
            self._print(f"{phase}: going on from step {step} of {steps}")
        if self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.start()
            self._task = self.progress.add_task(phase, total=steps, completed=step, text="")

    def train(
        self,
        phase: str,
        step: int,
        *,
        epoch: float,
        lr: float,
        speed: float,
        values: dict[str, float],
        groups: dict[str, dict[str, float]] | None = None,
    ) -> None:
        """Record one training row.

        Args:
            phase: of the run.
            step: steps done.
            epoch: epochs done.
            lr: base learning rate of the step.
            speed: labelled images a second.
            values: losses and figures by name; ``wait_teacher`` is shown as a share of the time.
            groups: numbers by class or the like, recorded and not shown.
        """
        if not self.writes:
            return
        self._announce(step)
        groups = groups or {}
        row = {"phase": phase, "step": step, "epoch": round(epoch, 3), "lr": lr, "img_s": round(speed, 2)}
        self._append({**row, **values, **groups})
        parts = {f"{group}/{k}": v for group, members in groups.items() for k, v in members.items()}
        for name, value in {**values, **parts, "lr": lr, "img_s": speed}.items():
            self.tensorboard.add_scalar(name, value, step)
        self.tensorboard.flush()
        shown = "  ".join(_shown(k, v) for k, v in values.items())
        text = f"epoch {epoch:.1f}  step {step}/{self._steps}  {speed:.1f} img/s  {shown}"
        if self.progress is not None:
            self.progress.update(self._task, completed=step, text=text)
        elif time.monotonic() - self._shown > self.PLAIN_SECONDS:
            self._shown = time.monotonic()
            left = (self._steps - step) * self._step_seconds(step)
            self._print(f"{phase}  {text}  ETA {duration(left)}")

    def _step_seconds(self, step: int) -> float:
        """Return the mean time of this process's steps so far."""
        return (time.monotonic() - self._began) / max(1, step - self._first)

    def _announce(self, step: int) -> None:
        """Say once, at the first row of a process, how long a long phase will take, and what shortens it."""
        if self._announced:
            return
        self._announced = True
        a_step = self._step_seconds(step)
        left = (self._steps - step) * a_step
        if left > LONG_HOURS * 3600:
            self.say(
                f"{self._phase}: {self._steps - step:,} steps of {a_step:.2f} s are left, about {duration(left)}; a "
                "smaller steps= takes less, a killed or stopped run goes on by the same command"
            )

    def validation(self, phase: str, step: int, matrix: ConfusionMatrix) -> None:
        """Record one validation row: mIoU and IoU by class name, null for an absent class."""
        if not self.writes:
            return
        iou = [None if math.isnan(v) else v for v in matrix.iou().tolist()]
        self._append(
            {
                "phase": phase,
                "step": step,
                "val_miou": matrix.miou(),
                "val_iou": dict(zip(self.classes, iou, strict=True)),
            }
        )
        self.tensorboard.add_scalar("val_miou", matrix.miou(), step)
        for name, value in zip(self.classes, iou, strict=True):
            if value is not None:
                self.tensorboard.add_scalar(f"val_iou/{name}", value, step)
        self.tensorboard.flush()
        by_class = "  ".join(
            f"{name} {'absent' if value is None else f'{value:.2f}'}"
            for name, value in zip(self.classes, iou, strict=True)
        )
        self.say(f"{phase}  step {step}/{self._steps}  validation mIoU {matrix.miou_text()}  ({by_class})")

    def picture(self, step: int, pixels: NDArray[np.uint8]) -> None:
        """Show validation tiles, uint8 (H,W,3), beside the curves."""
        if self.writes:
            self.tensorboard.add_picture("val_tiles", pixels, step)
            self.tensorboard.flush()

    def best_validation(self, phase: str) -> float | None:
        """Return the highest validation mIoU in [0,1] of a phase, from metrics.jsonl; None where it has none."""
        if not self.path.is_file():
            return None
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        found = [row["val_miou"] for row in rows if row["phase"] == phase and row.get("val_miou") is not None]
        return max(found, default=None)

    def say(self, text: str) -> None:
        """Print one line beside the progress."""
        if self.writes:
            self._print(text)

    def _print(self, text: str) -> None:
        """Print a line as it is: a bracket or a colon in the name of a folder is no markup."""
        console = self.progress.console if self.progress is not None else self.console
        console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def _say_once(self, text: str) -> None:
        """Print the warning that the curves cannot be written, once, however many phases there are."""
        if not self._warned:
            self._warned = True
            self.say(text)

    def end(self) -> None:
        """Close the phase's curves and its progress line."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
        if self._open:
            self.tensorboard.close()
            self._open = False

    def _append(self, row: dict[str, Any]) -> None:
        """Write a row; numbers that are not finite become null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        append_line(self.path, json.dumps(plain))

    def _drop_after(self, phase: str, step: int) -> None:
        """Keep the rows of other phases and those up to ``step``, of 0 none; a half-written last line goes too."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["phase"] != phase or row["step"] <= step > 0:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))


def _shown(name: str, value: float) -> str:
    """Return a figure as on the progress line."""
    return f"waiting for teacher {value:.0%}" if name == "wait_teacher" else f"{name} {value:.3f}"
