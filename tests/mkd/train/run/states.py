"""What tests of checkpoints share: a state as the loop saves it, and the comparison of two."""

import torch

from tests.helpers.training.nets import tiny_net


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


def raised(state):
    """Count a rollback in a state."""
    state["step_state"]["rollbacks"] = 1


def names(checkpoints):
    """Name the files of a checkpoint folder."""
    return {p.name for p in checkpoints.folder.iterdir()}
