"""What a step does between two rows of the journal never makes the host wait for the device.

A FakeTensor on "cuda" has no values: whatever would read one (nonzero, item, tolist, boolean indices) raises.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from mkd.distributed.world import World
from mkd.losses.distillation import distillation_loss
from mkd.losses.ewc import ewc_penalty
from mkd.losses.ohem import ohem_cross_entropy
from mkd.losses.pseudo_label import pseudo_label_loss
from mkd.semi.ema import EMA
from mkd.semi.entropy import filter_pseudo_labels
from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.monitor import PseudoLabelMonitor

WAITS = (DataDependentOutputException, DynamicOutputShapeException)


def test_losses_ema_and_monitor_read_nothing_from_the_device():
    """All losses, the filters, the EMA and the monitor's counts, on tensors without values."""
    with FakeTensorMode():
        logits = torch.randn(2, 3, 8, 8, device="cuda", requires_grad=True)
        labels = torch.randint(0, 3, (2, 8, 8), device="cuda", dtype=torch.uint8)
        valid = labels != 255
        answer = filter_pseudo_labels(logits.detach(), 0.7, 0.5)
        net = torch.nn.BatchNorm2d(3, device="cuda")
        theta = dict(net.named_parameters())
        loss = (
            ohem_cross_entropy(logits, labels, 0.7, 16)
            + distillation_loss(logits, logits.detach(), 3.0, valid, valid.sum())
            + pseudo_label_loss(logits, answer.labels)
            + ewc_penalty(theta.items(), theta, theta)
        )
        EMA(net).update(net)
        monitor = PseudoLabelMonitor(["a", "b", "c"], [1, 1, 1], TeacherStats(), World.single())
        monitor.add(answer.labels, valid, answer.score, answer.accepted)
        monitor.add(answer.labels, valid, answer.score, answer.accepted)
    assert loss.device.type == "cuda"


@pytest.mark.parametrize("read", [torch.nonzero, torch.Tensor.item, lambda t: t[t > 0]])
def test_the_method_sees_a_wait(read):
    """The three kinds of waiting that were in the step raise on such a tensor."""
    with FakeTensorMode():
        t = torch.ones((), device="cuda") if read is torch.Tensor.item else torch.ones(4, device="cuda")
        with pytest.raises(WAITS):
            read(t)
