"""What a checkpoint must hold, looked at before it is used: a damaged one is a sentence, not a run that goes wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

_KINDS = {"step": int, "best": float, "refers": dict, "model": dict, "optimizer": dict, "step_state": dict}


def checked_step(saved: dict[str, Any], path: Path, steps: int) -> int:
    """Return the step of a checkpoint that has all that a phase needs of it.

    Args:
        saved: the state.
        path: of its file, for messages.
        steps: of the phase.

    Raises:
        ValueError: a key that is missing or of a wrong kind, a step outside the phase, or a weight that is not finite.
    """
    for key, kind in _KINDS.items():
        if key not in saved:
            raise ValueError(_damaged(path, f"it lacks {key!r}"))
        if not isinstance(saved[key], kind):
            raise ValueError(_damaged(path, f"its {key!r} is a {type(saved[key]).__name__}"))
    step = int(saved["step"])
    if not 0 <= step <= steps:
        raise ValueError(_damaged(path, f"it is of step {step}, the phase has {steps}"))
    for name, tensor in saved["model"].items():
        if not isinstance(tensor, Tensor) or not bool(tensor.isfinite().all()):
            raise ValueError(_damaged(path, f"the weight {name} is not finite"))
    return step


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what torch raises of a state that does not fit into one sentence with the checkpoint's path.

    Raises:
        ValueError: the state does not fit model, optimizer or step.
    """
    try:
        yield
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(_damaged(path, f"it does not fit this run, {reason}")) from None


def _damaged(path: Path, fault: str) -> str:
    return f"{path}: damaged checkpoint ({fault}); delete {path.parent} to train the phase again"
