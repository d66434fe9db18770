"""DeepSpeed's ZeRO stages 1 and 2: the optimizer's state, and gradients, split over the ranks."""

import contextlib
import logging
import os
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from mkd.distributed.ddp import Plain
from mkd.distributed.world import World


class Zero(Plain):
    """A model whose optimizer keeps 1 / ranks of momentum and master weights on each rank.

    DeepSpeed copies the parameters of each group into one flat tensor, of which a rank updates one of ``ranks`` equal
    parts; the optimizer then holds that part as its only parameter of the group. The parameters are views of the flat
    tensor, so a parameter's place in it is its storage offset. State dicts are put together from, and cut into, those
    parts here: DeepSpeed's own checkpoints need the same number of ranks.

    Args:
        world: this process's place, among several.
        model: on its device.
        optimizer: SGD or AdamW; all its parameters get a gradient in each step.
        clip: largest gradient norm over all parameters; None does not clip.
        stage: 1 splits the optimizer's state, 2 the gradients too.

    Raises:
        ValueError: deepspeed is not installed.
    """

    def __init__(
        self, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None, stage: int
    ) -> None:
        """Let DeepSpeed take the optimizer."""
        super().__init__(world, model, optimizer, clip)
        self.groups: list[list[nn.Parameter]] = [list(g["params"]) for g in optimizer.param_groups]
        ends = list(accumulate(len(params) for params in self.groups))
        # places of the parameters in torch's optimizer state dict
        self.places = [range(end - len(params), end) for end, params in zip(ends, self.groups, strict=True)]
        model.to(memory_format=torch.contiguous_format)  # flat tensors have no other
        self.deepspeed = _initialise(world, model, optimizer, clip, stage)
        # Forward passes go through the model, not DeepSpeed's wrapper of it: that takes any gradient of an output,
        # a diagnosis too, for the backward pass, and ends an autocast that is not its own.
        self.net = model

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of one micro-batch; stage 2 exchanges gradients with each: it keeps only its part."""
        self.deepspeed.set_gradient_accumulation_boundary(last)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's partial loss; DeepSpeed takes the mean over ranks, which wait."""
        self.deepspeed.backward(loss * self.world.ranks)

    def update(self) -> None:
        """Clip, step, gather the weights from all ranks, which wait for each other; then clear the gradients.

        Raises:
            ValueError: a gradient is not finite; DeepSpeed would go on without this update.
        """
        self.deepspeed.step()
        if self.deepspeed.optimizer.overflow:
            raise ValueError(
                "a gradient is not finite; the last checkpoint stays good; lower optim.lr or the loss weights, in a "
                "new run folder"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer as torch's own state dicts, whole on every rank; all ranks call this together."""
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        for params, places, group in self._groups():
            mine = self.optimizer.state.get(group["params"][0], {})
            # Each rank waits for the parts of all others.
            whole = {k: self.world.gather(v) if _is_split(v) else v for k, v in mine.items()}
            if whole:
                state |= {n: _of_parameter(whole, p) for n, p in zip(places, params, strict=True)}
            groups.append({**group, "params": list(places)})
        return {"model": self.model.state_dict(), "optimizer": {"state": state, "param_groups": groups}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of any engine, each rank its part."""
        self.model.load_state_dict(state["model"])
        self.deepspeed.optimizer.refresh_fp32_params()  # from the weights just loaded
        saved = state["optimizer"]
        for old, (params, places, group) in zip(saved["param_groups"], self._groups(), strict=True):
            group.update({k: v for k, v in old.items() if k != "params"})
            part, states = group["params"][0], [saved["state"].get(n, {}) for n in places]
            self.optimizer.state[part] = self._part_of(params, states, part)

    def _groups(self) -> Iterable[tuple[list[nn.Parameter], range, dict[str, Any]]]:
        """Return parameters, places and options of each group."""
        return zip(self.groups, self.places, self.optimizer.param_groups, strict=True)

    def _part_of(
        self, params: list[nn.Parameter], states: list[dict[str, Any]], part: Tensor
    ) -> dict[str, Any]:
        """Return this rank's part of the states of a group's parameters; zeros where a parameter has none."""
        found: dict[str, Any] = {}
        for key, value in next((s for s in states if s), {}).items():
            if not _is_split(value):
                found[key] = value.clone() if isinstance(value, Tensor) else value
                continue
            flat = part.new_zeros(len(part) * self.world.ranks)
            for p, state in zip(params, states, strict=True):
                if state:
                    flat[p.storage_offset() :][: p.numel()] = state[key].reshape(-1)
            found[key] = flat[len(part) * self.world.rank :][: len(part)].clone()
        return found


def _is_split(value: Any) -> bool:
    """Tell momentum and the like, one number a weight, from a count of steps."""
    return isinstance(value, Tensor) and value.dim() > 0


def _of_parameter(whole: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """Cut a parameter's state out of its group's."""
    cut: dict[str, Any] = {}
    for key, value in whole.items():
        if _is_split(value):
            cut[key] = value[p.storage_offset() :][: p.numel()].view(p.shape).clone()
        else:
            cut[key] = value.clone() if isinstance(value, Tensor) else value
    return cut


def _initialise(
    world: World, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None, stage: int
) -> Any:
    """Import DeepSpeed and make its engine, which takes the optimizer's parameters."""
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed
    except ImportError:
        raise ValueError(
            f"engine=zero{stage} needs deepspeed, which is not installed; pip install deepspeed, or use engine=ddp"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it calls SGD untested on every rank
    # CPU ranks speak gloo. The extension for ranks that share a memory would want a compiler and half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = {
        "train_micro_batch_size_per_gpu": 1,  # the loop counts tiles and micro-batches
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip or 0.0,
        "zero_allow_untested_optimizer": True,  # SGD
        "zero_optimization": {"stage": stage},
    }
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]
