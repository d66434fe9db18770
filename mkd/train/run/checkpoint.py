"""Checkpoints of a phase: `latest.pt` to resume from, `best.safetensors`, `step-N.pt` kept, `good*` to go back to."""

import errno
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as all_done
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mkd.atomic import written_aside

log = logging.getLogger(__name__)

FORMAT = 2  # of latest.pt
LINKLESS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)  # file systems without hard links


class Checkpoints:
    """The checkpoint folder of one phase; all ranks read it and one writes.

    Args:
        folder: made at the first save.
        writes: whether this rank writes; elsewhere saving does nothing.
        every: steps between two checkpoints that are kept under their own name; None keeps the latest alone.
        keep: how many of those are kept, the newest.
        background: write in a thread from a copy on the CPU, while training goes on; at most one checkpoint at a time,
            and best weights before it.
        lock_lost: returns a sentence that names who has taken the run folder from this process, or None.
        run: identity of the run, which its files carry; those of another run are refused. None checks nothing.
        accept_foreign: go on from a checkpoint of another run or phase all the same.
    """

    def __init__(
        self,
        folder: Path,
        writes: bool = True,
        every: int | None = None,
        keep: int = 3,
        background: bool = False,
        lock_lost: Callable[[], str | None] = lambda: None,
        run: str | None = None,
        accept_foreign: bool = False,
    ) -> None:
        """Set the names of the files; nothing is read yet."""
        self.folder, self.writes, self.every, self.keep = folder, writes, every, keep
        self.lock_lost, self.run, self.accept_foreign = lock_lost, run, accept_foreign
        self.latest, self.best = folder / "latest.pt", folder / "best.safetensors"
        self.good, self.good_best = folder / "good.pt", folder / "good_best.safetensors"
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background and writes else None
        self._writing: dict[str, Future[None]] = {}  # in the order in which the thread does it

    def save(self, state: dict[str, Any], good: bool = False) -> None:
        """Replace the latest checkpoint, whole or not at all.

        Args:
            state: has ``step``; tensors, numbers, text, lists and dicts.
            good: also keep it as the one to go back to.

        Raises:
            OSError: this one, or the one before it in the background, cannot be written.
        """
        if not self.writes:
            return
        # One checkpoint at a time: training waits here for the thread that still writes the one before.
        if "latest" in self._writing:
            self.wait()
        self._write_or_submit("latest", lambda state: self._write(state, good), state)

    def wait(self) -> None:
        """Return when what is being written in the background is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        # Training waits for the thread; its errors are raised here, in the training thread.
        writing, self._writing = list(self._writing.values()), {}
        all_done(writing)
        for each in writing:
            each.result()

    def load(self) -> dict[str, Any] | None:
        """Return the latest checkpoint on the CPU, or None when there is none.

        Raises:
            ValueError: the file is damaged, of another version of this program, or of another run.
            OSError: it cannot be read, or there is not memory enough.
        """
        return self._load(self.latest) if self.latest.is_file() else None

    def keep_as(self, step: int, good: bool) -> None:
        """Give the latest checkpoint, of ``step``, its other names: `step-N.pt` and `good.pt`, as far as due."""
        if not self.writes:
            return
        if self.every is not None and step > 0 and step % self.every == 0:
            _link(self.latest, self.folder / f"step-{step}.pt")
            for old in self._kept()[: -self.keep]:
                old.unlink()
        if good:
            for path, kept in ((self.best, self.good_best), (self.latest, self.good)):
                if path.is_file():
                    _link(path, kept)

    def go_back(self, change: Callable[[dict[str, Any]], None]) -> int:
        """Make the good checkpoint, changed by ``change``, the latest one again; return its step.

        Raises:
            ValueError: the file is damaged, or another process has taken the folder.
        """
        self.wait()  # for the thread: it may still write what is replaced here
        if (new_owner := self.lock_lost()) is not None:
            raise ValueError(new_owner)
        state = self._load(self.good)
        change(state)
        step = int(state["step"])
        if self.good_best.is_file():
            _link(self.good_best, self.best)
        else:
            self.best.unlink(missing_ok=True)
        for later in self._kept():
            if _step_of(later) > step:
                later.unlink()
        self._write(state, good=False)
        return step

    def save_best(self, state: dict[str, Tensor]) -> None:
        """Replace the best weights; the good checkpoint's are those of its own time, whenever they are written.

        Raises:
            OSError: these, or what came before in the background, cannot be written.
        """
        if not self.writes:
            return
        self.wait()  # for the thread: a checkpoint before these weights must not link them as its own
        self._write_or_submit("best", self._write_best, state)

    def has_best(self) -> bool:
        """Whether there are best weights, those included that are being written."""
        return "best" in self._writing or self.best.exists()

    def load_best(self) -> dict[str, Tensor]:
        """Return the best weights on the CPU.

        Raises:
            ValueError: the file is damaged, or of another run.
        """
        try:
            with safe_open(self.best, "pt") as file:
                owner = dict(file.metadata() or {}).get("run")
            self._check_owner(self.best, owner, None)
            return load_file(self.best)
        except SafetensorError as error:
            raise ValueError(
                f"{self.best}: damaged weights ({error}); delete {self.best.parent} to train the phase again"
            ) from None

    def _write_or_submit(
        self, name: str, write: Callable[[dict[str, Any]], None], state: dict[str, Any]
    ) -> None:
        if self._thread is None:
            write(state)
        else:  # the thread gets a copy, since training changes the tensors meanwhile; `wait` waits for it
            self._writing[name] = self._thread.submit(write, copied(state))

    def _write_best(self, state: dict[str, Tensor]) -> None:
        owner = None if self.run is None else {"run": self.run}
        with written_aside(self.best) as aside:
            aside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}, owner))

    def _write(self, state: dict[str, Any], good: bool) -> None:
        with written_aside(self.latest) as aside:
            try:
                torch.save({"format": FORMAT, "run": self.run, "phase": self.folder.name, **state}, aside)
            except RuntimeError:  # torch's writer gives no reason; the state itself can always be saved
                raise OSError(errno.ENOSPC, "the disk is full or failing") from None
        self.keep_as(int(state["step"]), good)

    def _load(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint of this run."""
        state = _load(path)
        self._check_owner(path, state.pop("run", None), state.pop("phase", None))
        return state

    def _check_owner(self, path: Path, run: Any, phase: Any) -> None:
        """Refuse a file that carries the name of another run or phase; older versions wrote none.

        Raises:
            ValueError: it does, and that is not accepted.
        """
        other_run = None not in (self.run, run) and run != self.run
        if not other_run and phase in (None, self.folder.name):
            return
        whose = f"of another run ({run}, this one is {self.run})" if other_run else f"of the phase {phase!r}"
        if not self.accept_foreign:
            raise ValueError(
                f"{path} is {whose}; put the run's own back, delete {path.parent} to train the phase again, or go on "
                "with accept=[checkpoint]"
            )
        log.warning(
            "accept=[checkpoint]: %s is %s: the run goes on from what it has not trained itself", path, whose
        )

    def _kept(self) -> list[Path]:
        """Return the checkpoints kept under their own name, the oldest first."""
        return sorted(self.folder.glob("step-*.pt"), key=_step_of)


def _step_of(path: Path) -> int:
    """Return N of step-N.pt."""
    return int(path.stem.removeprefix("step-"))


def _load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; a damaged file and one that cannot be read are told apart."""
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load itself checks no sums
            if parts.testzip() is not None:
                raise ValueError
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "out of memory"
        raise OSError(
            f"{path}: cannot be read ({reason}), which says nothing of the file; start again"
        ) from None
    except Exception as error:  # an unpickler that reads garbage raises anything
        if "can't allocate memory" in str(error):  # torch's own words
            raise OSError(f"{path}: cannot be read (out of memory), which says nothing of the file") from None
        raise ValueError(f"{path}: damaged checkpoint; delete it to start the phase again") from None
    if state.pop("format", 1) != FORMAT:
        raise ValueError(
            f"{path}: checkpoint of another version of this program; go on with that version, or give another out="
        )
    return state


def copied(value: Any) -> Any:
    """Return a state's copy on the CPU, which training cannot change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, (list, tuple)) else value


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; files here are replaced, never written into, so a copy is for want of links only."""
    with written_aside(name) as aside:
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError as error:
            if error.errno not in LINKLESS:
                raise
            shutil.copyfile(path, aside)
