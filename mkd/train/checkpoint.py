"""Checkpoints of a phase: `latest.pt` to go on from, `best.safetensors` for selection, `good*` to go back to."""

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mkd.atomic import written_aside


class Checkpoints:
    """The checkpoint folder of one phase.

    Args:
        folder: made at the first save.
    """

    def __init__(self, folder: Path) -> None:
        """Name the files; nothing is read yet."""
        self.latest, self.best = folder / "latest.pt", folder / "best.safetensors"
        self.good, self.good_best = folder / "good.pt", folder / "good_best.safetensors"

    def save(self, state: dict[str, Any]) -> None:
        """Replace the latest checkpoint, whole or not at all."""
        with written_aside(self.latest) as aside:
            try:
                torch.save(state, aside)
            except RuntimeError:  # torch's writer gives no reason; the state itself can always be saved
                raise OSError(errno.ENOSPC, "the disk is full or failing") from None

    def load(self) -> dict[str, Any] | None:
        """Return the latest checkpoint on the CPU, or None when there is none.

        Raises:
            ValueError: the file is damaged.
        """
        return _load(self.latest) if self.latest.is_file() else None

    def keep_good(self) -> None:
        """Keep the latest checkpoint, and the best weights of its time, as those to go back to."""
        for path, kept in ((self.best, self.good_best), (self.latest, self.good)):
            if path.is_file():
                _link(path, kept)

    def go_back(self, change: Callable[[dict[str, Any]], None]) -> int:
        """Make the good checkpoint, changed by ``change``, the latest one again; return its step.

        Raises:
            ValueError: the file is damaged.
        """
        state = _load(self.good)
        change(state)
        if self.good_best.is_file():
            _link(self.good_best, self.best)
        else:
            self.best.unlink(missing_ok=True)
        self.save(state)
        return int(state["step"])

    def save_best(self, state: dict[str, Tensor]) -> None:
        """Replace the best weights."""
        with written_aside(self.best) as aside:
            aside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}))

    def load_best(self) -> dict[str, Tensor]:
        """Return the best weights on the CPU.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return load_file(self.best)
        except SafetensorError as error:
            raise ValueError(
                f"{self.best}: damaged weights ({error}); delete {self.best.parent} to train the phase again"
            ) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load itself checks no sums
            if parts.testzip() is not None:
                raise ValueError
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # an unpickler that reads garbage raises anything
        raise ValueError(f"{path}: damaged checkpoint; delete it to start the phase again") from None
    return state


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; files here are replaced, never written into, so no copy is needed."""
    with written_aside(name) as aside:
        aside.unlink(missing_ok=True)
        os.link(path, aside)
