"""Parameter groups, the poly schedule, and SGD against plain Python floats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.train.optim import make_optimizer, set_poly_lr
from tests.helpers.training.nets import tiny_net

HEAD = {"4.weight", "4.bias"}


def optimizer_of(
    name="sgd", model=None, head=HEAD, lr=0.1, head_factor=10.0, momentum=0.9, weight_decay=1e-3
):
    factors = {"lr": lr, "head_factor": head_factor}
    return make_optimizer(
        name, model or tiny_net(), head, **factors, momentum=momentum, weight_decay=weight_decay
    )


def names(optimizer, model):
    """Map each group's learning rate to the names of its parameters."""
    of = {id(p): n for n, p in model.named_parameters()}
    return {group["lr"]: {of[id(p)] for p in group["params"]} for group in optimizer.param_groups}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_trained_parameter_is_in_one_group(name):
    """The head learns head_factor times as fast, the rest at lr, and a frozen parameter not at all."""
    model = tiny_net()
    model[0].weight.requires_grad_(False)
    optimizer = optimizer_of(name, model)
    assert names(optimizer, model) == {0.1: {"0.bias", "1.weight", "1.bias"}, 1.0: HEAD}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5


@pytest.mark.parametrize("head", [set(), {n for n, _ in tiny_net().named_parameters()}])
def test_a_network_all_head_or_no_head(head):
    """When all parameters are on one side there is one group and no empty one."""
    (group,) = optimizer_of(head=head).param_groups
    assert group["lr"] == pytest.approx(1.0 if head else 0.1)
    assert len(group["params"]) == 6


def test_kind_and_constants_arrive():
    """`sgd` gives SGD with momentum and weight decay, `adamw` AdamW with beta1 = momentum."""
    sgd, adamw = optimizer_of(), optimizer_of("adamw", momentum=0.8, weight_decay=0.05)
    assert type(sgd) is torch.optim.SGD
    assert type(adamw) is torch.optim.AdamW
    assert all(
        (g["momentum"], g["weight_decay"], g["nesterov"]) == (0.9, 1e-3, False) for g in sgd.param_groups
    )
    assert all((g["betas"], g["weight_decay"]) == ((0.8, 0.999), 0.05) for g in adamw.param_groups)


def test_sgd_follows_its_formula():
    """v <- m v + (g + w theta), theta <- theta - lr v, under the poly schedule."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = optimizer_of(model=model, head=set())
    theta, v = model.weight.item(), 0.0
    for step in range(6):
        set_poly_lr(optimizer, 0.1, step, 6, 0.9)
        optimizer.zero_grad()
        (0.5 * model.weight**2).sum().backward()
        optimizer.step()
        v = 0.9 * v + theta + 1e-3 * theta
        theta -= 0.1 * (1 - step / 6) ** 0.9 * v
        assert model.weight.item() == pytest.approx(theta, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.5), (25, 0.5 * 0.75**0.9), (50, 0.5 * 0.5**0.9), (100, 0.0)]
)
def test_poly_values(step, expected):
    """lr (1 - step/total)^power at the start, on the way and at the end; each group by its factor."""
    optimizer = optimizer_of()
    assert set_poly_lr(optimizer, 0.5, step, 100, 0.9) == pytest.approx(expected)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([expected, 10 * expected])


def test_poly_needs_no_history():
    """The rate at a step does not depend on earlier steps: a resume needs no scheduler state."""
    ran, fresh = optimizer_of(), optimizer_of()
    for step in range(7):
        set_poly_lr(ran, 0.1, step, 10, 0.9)
    set_poly_lr(fresh, 0.1, 6, 10, 0.9)
    assert [g["lr"] for g in ran.param_groups] == [g["lr"] for g in fresh.param_groups]


def test_groups_survive_a_checkpoint():
    """The groups' factors are part of the optimizer's state, so the schedule goes on after a resume."""
    saved, other = optimizer_of(), optimizer_of(head_factor=1.0)
    other.load_state_dict(saved.state_dict())
    set_poly_lr(other, 0.1, 0, 10, 0.9)
    assert [g["lr"] for g in other.param_groups] == pytest.approx([0.1, 1.0])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.floats(0.1, 3), st.floats(1e-6, 10))
def test_poly_falls_from_lr_to_zero(total, power, lr):
    """The rate starts at lr, never rises, and stays above 0 until the last step."""
    optimizer = optimizer_of()
    rates = [set_poly_lr(optimizer, lr, step, total, power) for step in range(total)]
    assert rates[0] == lr
    assert all(a >= b for a, b in zip(rates, rates[1:], strict=False))
    assert min(rates) > 0
