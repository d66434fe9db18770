"""Checkpoints of one phase: `latest.pt` to go on from, `best.safetensors` for model selection."""

import errno
import zipfile
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
        if not self.latest.is_file():
            return None
        try:
            with zipfile.ZipFile(self.latest) as parts:  # torch.load itself checks no sums
                if parts.testzip() is not None:
                    raise ValueError
            state: dict[str, Any] = torch.load(self.latest, map_location="cpu", weights_only=True)
        except Exception:  # an unpickler that reads garbage raises anything
            raise ValueError(
                f"{self.latest}: damaged checkpoint; delete it to start the phase again"
            ) from None
        return state

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
