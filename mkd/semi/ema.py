"""EMA of the student's weights: the teacher of the semi-supervised stage."""

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a model's state, held in float32.

    ::

        theta_T <- a theta_T + (1 - a) theta_S,   a = min(1 - 1 / (t + 1), max_decay)

    with t = number of earlier updates. Floating buffers (BatchNorm statistics) are averaged like weights, integer
    buffers are copied. The average stays float32 whatever the student's dtype: in bfloat16 a step of
    (1 - 0.999) is lost.

    Args:
        model: the student at the start; its state is copied.
        max_decay: upper bound of a, in [0,1).

    Source: Jiang et al. 2026, "Semi-supervised learning strategy", W_t^(T); Tarvainen & Valpola 2017.
    The bound 1 - 1/(t+1), which the paper leaves open, makes early averages follow the student.
    """

    def __init__(self, model: nn.Module, max_decay: float = 0.999) -> None:
        """Copy the model's state."""
        if not 0 <= max_decay < 1:
            raise ValueError(f"semi.ema_decay is {max_decay}; it must lie in [0, 1), the method uses 0.999")
        self.max_decay = max_decay
        self.updates = 0
        self.state = {name: _average_copy(t) for name, t in model.state_dict().items()}

    def decay(self) -> float:
        """Return a for the next update."""
        return min(1.0 - 1.0 / (self.updates + 1), self.max_decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present state."""
        averages, states, counts, new_counts = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        for name, t in model.state_dict(keep_vars=True).items():
            average = self.state[name]
            if average.is_floating_point():
                averages.append(average)
                states.append(t.float())
            else:
                counts.append(average)
                new_counts.append(t)
        # One call for all tensors: a network has some thousand, and a kernel for each costs more than its arithmetic.
        torch._foreach_lerp_(averages, states, 1.0 - self.decay())
        torch._foreach_copy_(counts, new_counts)
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the average and the number of updates."""
        return {**{f"state.{k}": v for k, v in self.state.items()}, "updates": self.updates}

    def load_state_dict(self, saved: dict[str, Tensor | int]) -> None:
        """Restore what `state_dict` returned."""
        for name, t in self.state.items():
            value = saved[f"state.{name}"]
            assert isinstance(value, Tensor)
            t.copy_(value)
        self.updates = int(saved["updates"])


def _average_copy(t: Tensor) -> Tensor:
    copy = t.detach().clone()
    return copy.float() if copy.is_floating_point() else copy
