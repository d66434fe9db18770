"""One distillation step: L = L_sup + w_kd L_KD + w_ewc L_EWC; each loss is a function of `mkd.losses`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.loader.batch import to_unit
from mkd.losses.distillation import distillation_loss
from mkd.losses.ewc import ewc_penalty
from mkd.train.batches import StepBatch
from mkd.train.steps.supervised import StatelessStep, SupervisedLoss


@dataclass(frozen=True)
class Consolidation:
    """EWC's constants on the training device: anchor theta*, Fisher F, weight w_ewc."""

    anchor: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    weight: float

    def in_layout_of(self, model: nn.Module) -> "Consolidation":
        """Return the constants in the memory format of a model's parameters.

        Kernels over many tensors at once want one format: else each tensor gets kernels of its own.
        """
        layouts = {n: p.stride() for n, p in model.named_parameters()}

        def moved(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                n: t if t.stride() == layouts[n] else t.new_empty_strided(t.shape, layouts[n]).copy_(t)
                for n, t in constants.items()
            }

        return Consolidation(moved(self.anchor), moved(self.fisher), self.weight)


@dataclass
class KdStep(StatelessStep):
    """The paper's KD stage objective.

    Attributes:
        model: the student.
        teacher: M_T, frozen, in eval mode.
        loss_sup: L_sup.
        temperature: T.
        weight: w_kd.
        ewc: EWC's constants; None leaves the term out.
        world: the ranks that share a batch.
        net: what forward passes go through: the student, or an engine's wrapper of it.
    """

    model: nn.Module
    teacher: nn.Module
    loss_sup: SupervisedLoss
    temperature: float
    weight: float
    ewc: Consolidation | None
    world: World = field(default_factory=World.single)

    def train(self) -> None:
        """Put the student into training mode; EWC's constants get the layout that the engine gave its weights."""
        super().train()
        if self.ewc is not None:
            self.ewc = self.ewc.in_layout_of(self.model)

    def prepare(self, batch: StepBatch, progress: float) -> StepBatch:
        """Return the batch with the number of pixels, over all ranks, that L_KD is the mean over."""
        # All ranks wait for each other's count.
        return replace(batch, pixel_count=self.world.all_reduce_sum(_valid(batch).sum()).clamp(min=1))

    def __call__(self, micro_batch: StepBatch, measure_gradients: bool) -> dict[str, Tensor]:
        """Return this rank's partial losses; with ``measure_gradients`` also of |grad L_EWC| / |grad L_sup|."""
        assert micro_batch.pixel_count is not None
        images, labels = micro_batch.images, micro_batch.labels
        if micro_batch.weak is not None:  # kd.tiles=all: L_KD on the unlabelled tiles too
            images = torch.cat([images, to_unit(micro_batch.weak)])
        # Forward passes.
        with torch.no_grad():
            z_t = self.teacher(images)
        z_s = self.net(images)
        # The named losses and their sum.
        loss_sup = self.loss_sup(z_s[: len(labels)], labels, self.world)
        loss_kd = distillation_loss(z_s, z_t, self.temperature, _valid(micro_batch), micro_batch.pixel_count)
        loss = loss_sup + self.weight * loss_kd
        losses = {"loss_sup": loss_sup.detach(), "loss_kd": loss_kd.detach()}
        if self.ewc is not None:
            # The penalty is the same on all ranks: each adds its part, so that the sum over ranks is L_EWC.
            ewc, ranks = self.ewc, self.world.ranks
            loss_ewc = ewc_penalty(self.model.named_parameters(), ewc.anchor, ewc.fisher) / ranks
            loss = loss + ewc.weight * loss_ewc
            losses["loss_ewc"] = loss_ewc.detach()
            if measure_gradients:
                ratio = ewc.weight * self._gradient_norm(loss_ewc) / self._gradient_norm(loss_sup)
                losses["ewc_ratio"] = ratio / ranks
        return {"loss": loss, **losses}

    def _gradient_norm(self, partial: Tensor) -> Tensor:
        """Return the norm of a loss's gradient over EWC's parameters and all ranks, scalar.

        Args:
            partial: this rank's part of the loss; all ranks call this together.
        """
        assert self.ewc is not None
        params = [p for n, p in self.model.named_parameters() if n in self.ewc.fisher]
        grads = torch.autograd.grad(partial, params, retain_graph=True, allow_unused=True)
        # The gradient of the whole loss is the sum over ranks, which wait for each other at each parameter.
        squares = [self.world.all_reduce_sum(g.float()).square().sum() for g in grads if g is not None]
        return torch.stack(squares).sum().sqrt()


def _valid(batch: StepBatch) -> Tensor:
    """Return the pixels that count in L_KD, bool: the labelled tiles', then with kd.tiles=all the unlabelled ones'."""
    valid = batch.labels != IGNORE
    return valid if batch.inside is None else torch.cat([valid, batch.inside])
