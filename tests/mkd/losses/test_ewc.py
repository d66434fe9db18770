"""EWC: the Fisher against gradients on paper, the penalty against a loop, the cap against SGD itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mkd.losses.ewc import ewc_penalty, fisher_diagonal, stable_fisher, total_of
from tests.helpers import references
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.shares import on_ranks

LR, MOMENTUM = 0.1, 0.9


def linear_net(classes=3, seed=0):
    """A 1x1 classifier: softmax regression on each pixel's channels, with a gradient known on paper."""
    torch.manual_seed(seed)
    return nn.Conv2d(3, classes, 1)


def samples(count=5, classes=3, seed=0, ignored=0.3):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 4, 4, generator=g)
    labels = torch.randint(0, classes, (count, 4, 4), generator=g)
    return images, labels.masked_fill(torch.rand(labels.shape, generator=g) < ignored, 255)


def batches(images, labels, size):
    return list(zip(images.split(size), labels.split(size), strict=True))


def slow_fisher(net, images, labels):
    """Mean over samples of (sum over pixels of (1[c = y] - p_c) x_k)^2 for weight (c,k); bias: x = 1."""
    weight, bias = net.weight.detach().double().numpy()[:, :, 0, 0], net.bias.detach().double().numpy()
    total, counted = np.zeros((len(bias), 4)), 0
    for image, label in zip(images[:, None].double().numpy(), labels[:, None].numpy(), strict=True):
        gradient, valid = np.zeros((len(bias), 4)), 0
        for x, y in references.pixels(image, label):
            if y != 255:
                p = references.softmax((weight @ x + bias).tolist())
                for c in range(len(bias)):
                    gradient[c] += ((c == y) - p[c]) * np.array([*x, 1.0])
                valid += 1
        total += gradient**2
        counted += valid > 0
    return {"weight": total[:, :3, None, None] / counted, "bias": total[:, 3] / counted}


def assert_same(found, expected, rtol=1e-4):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=1e-9, err_msg=name)


def test_fisher_equals_the_gradient_on_paper():
    """F is the mean over samples of the squared gradient of log p(y|x), summed over valid pixels."""
    net, (images, labels) = linear_net(), samples()
    assert_same(
        fisher_diagonal(net, batches(images, labels, 2), normalise=False), slow_fisher(net, images, labels)
    )


@pytest.mark.parametrize("size", [1, 3, 5])
def test_fisher_does_not_depend_on_the_batches(size):
    """Samples are squared one by one, however the loader groups them."""
    images, labels = samples()
    found = fisher_diagonal(tiny_net(), batches(images, labels, size), normalise=False)
    assert_same(found, fisher_diagonal(tiny_net(), batches(images, labels, 2), normalise=False), rtol=1e-6)


def test_fisher_is_not_the_square_of_a_batch_mean():
    """Two samples with opposite gradients have a mean gradient of 0, but a Fisher far from 0."""
    net = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    images, labels = torch.ones(2, 3, 1, 1), torch.tensor([[[0]], [[1]]])
    nn.functional.cross_entropy(net(images), labels).backward()
    assert not net.weight.grad.any()
    fisher = fisher_diagonal(net, [(images, labels)], normalise=False)
    assert_same(fisher, {"weight": np.full((2, 3, 1, 1), 0.25), "bias": np.full(2, 0.25)})


def test_samples_without_a_valid_pixel_do_not_count():
    """An all-ignored tile is left out of the mean instead of lowering it."""
    images, labels = samples(3, ignored=0)
    more = torch.cat([images, images]), torch.cat([labels, torch.full_like(labels, 255)])
    expected = fisher_diagonal(tiny_net(), [(images, labels)], normalise=False)
    assert_same(fisher_diagonal(tiny_net(), [more], normalise=False), expected)


@pytest.mark.parametrize("count", [0, 2])
def test_no_valid_pixel_at_all_is_refused(count):
    """Without a single labelled pixel there is no Fisher, and the sentence says what is needed."""
    images, labels = samples(3)
    data = [(images[:count], torch.full_like(labels[:count], 255))]
    with pytest.raises(ValueError, match="at least one labelled tile with a valid pixel"):
        fisher_diagonal(tiny_net(), data)


def fisher_of_ranks(parts, **options):
    """Give each rank a network of its own and its part of the samples; return the Fisher of each."""
    ranks = [(tiny_net(), part) for part in parts]
    return on_ranks(ranks, lambda rank, total: fisher_diagonal(*rank, total=total, **options))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any), st.booleans())
def test_fisher_of_ranks_is_that_of_one(seed, sizes, normalise):
    """However the samples are split, ranks without any included, each rank has the Fisher of all samples."""
    images, labels = samples(sum(sizes), seed=seed)
    labels[:, 0, 0] = 1
    parts = [[pair] for pair in zip(images.split(sizes), labels.split(sizes), strict=True)]
    alone = fisher_diagonal(tiny_net(), [(images, labels)], normalise=normalise)
    for found in fisher_of_ranks(parts, normalise=normalise):
        assert_same(found, alone, rtol=1e-5)


def test_a_rank_without_a_valid_pixel_does_not_refuse():
    """It is refused only where no rank has one, and then on every rank."""
    images, labels = samples(2, ignored=0)
    nothing = [(images, torch.full_like(labels, 255))]
    first, second = fisher_of_ranks([[(images, labels)], nothing])
    assert_same(second, first, rtol=0)
    with pytest.raises(ValueError, match="at least one labelled tile with a valid pixel"):
        fisher_of_ranks([nothing, nothing])


def test_normalised_fisher_has_mean_one_per_tensor():
    """Each tensor is divided by its mean; one that never gets a gradient stays 0 instead of NaN."""
    net, (images, labels) = linear_net(), samples()
    images[:, 1] = 0  # channel 1 never varies
    plain = fisher_diagonal(net, [(images, labels)], normalise=False)
    normal = fisher_diagonal(net, [(images, labels)])
    assert_same(normal, {n: f.double().numpy() / f.double().numpy().mean() for n, f in plain.items()})
    assert all(f.mean().item() == pytest.approx(1, rel=1e-5) for f in normal.values())
    dead = fisher_diagonal(net, [(torch.zeros_like(images), labels)])
    assert not dead["weight"].any()
    assert dead["bias"].mean().item() == pytest.approx(1, rel=1e-5)


def test_fisher_covers_what_is_trained():
    """Frozen parameters have no entry; the others keep their names and shapes in float32."""
    net = tiny_net()
    net[0].requires_grad_(False)
    fisher = fisher_diagonal(net, [samples()])
    assert {n: f.shape for n, f in fisher.items()} == {
        n: p.shape for n, p in net.named_parameters() if not n.startswith("0.")
    }
    assert all(f.dtype == torch.float32 and (f >= 0).all() for f in fisher.values())


def test_fisher_is_that_of_the_network_in_eval_mode():
    """Dropout and batch statistics play no part, whichever mode the network comes in."""
    found = fisher_diagonal(tiny_net().train(), [samples()], normalise=False)
    assert_same(found, fisher_diagonal(tiny_net().eval(), [samples()], normalise=False), rtol=1e-6)


def test_the_model_keeps_its_tensors():
    """Weights, gradients and BatchNorm statistics stay untouched."""
    net = tiny_net().train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    fisher_diagonal(net, [samples()])
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_every_module_gets_its_own_mode_back():
    """A BatchNorm that is frozen (eval) inside a training network is still frozen afterwards."""
    net = tiny_net().train()
    net[1].eval()
    modes = {n: m.training for n, m in net.named_modules()}
    fisher_diagonal(net, [samples()])
    assert {n: m.training for n, m in net.named_modules()} == modes


def test_the_mode_comes_back_after_an_error():
    """A loader that fails half-way does not leave the network in eval mode."""

    def failing():
        yield samples()
        raise OSError("the disk is gone")

    net = tiny_net().train()
    with pytest.raises(OSError, match="gone"):
        fisher_diagonal(net, failing())
    assert net.training


def random_terms(seed, shapes=((2, 3), (4,))):
    g = torch.Generator().manual_seed(seed)
    theta, anchor = ({f"p{i}": torch.randn(s, generator=g) for i, s in enumerate(shapes)} for _ in range(2))
    return theta, anchor, {n: torch.rand(t.shape, generator=g) for n, t in theta.items()}


def test_penalty_equals_the_loop_and_its_gradient():
    """L_EWC = lambda/2 sum F (theta - theta*)^2, with gradient lambda F (theta - theta*)."""
    theta, anchor, fisher = random_terms(0)
    for t in theta.values():
        t.requires_grad_()
    loss = ewc_penalty(theta.items(), anchor, fisher, strength=3.0)
    loss.backward()
    slow = 0.0
    for n, t in theta.items():
        for f, a, b in zip(
            fisher[n].flatten().tolist(), t.flatten().tolist(), anchor[n].flatten().tolist(), strict=True
        ):
            slow += 1.5 * f * (a - b) ** 2
        np.testing.assert_allclose(t.grad, 3.0 * fisher[n] * (t.detach() - anchor[n]), rtol=1e-5, err_msg=n)
    assert loss.item() == pytest.approx(slow, rel=1e-5)


def test_penalty_skips_names_without_a_fisher():
    """A new classifier has no entry and is free to move; with no shared name the penalty is 0."""
    theta, anchor, fisher = random_terms(0)
    shared = ewc_penalty([("p0", theta["p0"])], anchor, fisher)
    only = ewc_penalty([*theta.items(), ("classifier", torch.full((3,), 99.0))], anchor, {"p0": fisher["p0"]})
    assert torch.equal(only, shared)
    assert ewc_penalty(theta.items(), {}, {}).item() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 100))
def test_penalty_is_a_bowl_around_the_anchor(seed, strength):
    """It is 0 at the anchor, never negative, and twice as far away costs four times as much."""
    theta, anchor, fisher = random_terms(seed)
    twice = {n: anchor[n] + 2 * (t - anchor[n]) for n, t in theta.items()}
    near, far = (ewc_penalty(t.items(), anchor, fisher, strength).item() for t in (theta, twice))
    assert ewc_penalty(anchor.items(), anchor, fisher, strength).item() == 0
    assert near >= 0
    assert far == pytest.approx(4 * near, rel=1e-3)


def descend(fisher, weight, steps=400):
    """Run torch's SGD on the penalty alone from distance 1; return the largest distance at the end."""
    theta = torch.ones_like(fisher, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=LR, momentum=MOMENTUM)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight * ewc_penalty([("p", theta)], {"p": torch.zeros_like(theta)}, {"p": fisher})).backward()
        optimizer.step()
    return theta.detach().abs().nan_to_num(math.inf).max().item()


@pytest.mark.parametrize("weight", [0.5, 1.0, 20.0])
def test_the_cap_keeps_sgd_from_diverging(weight):
    """With a long-tailed Fisher heavy-ball SGD blows up; with the capped one it comes home to the anchor."""
    fisher = torch.tensor([0.5, 1.0, 30.0, 1e4], dtype=torch.float64) / weight
    assert descend(fisher, weight) > 1e6
    capped, share = stable_fisher({"p": fisher}, {"p": LR}, MOMENTUM, weight)
    assert descend(capped["p"], weight) < 1e-3
    assert share == 0.5
    assert torch.equal(capped["p"][:2], fisher[:2])


def test_the_cap_counts_over_all_tensors():
    """Each tensor is capped by its own learning rate, what is safe stays, and the share is over entries."""
    fisher = {"slow": torch.tensor([10.0, 1.0]), "fast": torch.tensor([10.0, 1.0])}
    capped, share = stable_fisher(fisher, {"slow": 0.1, "fast": 1.0}, 0.5, 1.0)
    assert capped["slow"].tolist() == [10.0, 1.0]
    assert capped["fast"].tolist() == [1.5, 1.0]
    assert share == 0.25
    assert stable_fisher({}, {}, 0.9, 1.0) == ({}, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1e-4, 1), st.floats(0, 0.99), st.floats(1e-3, 1e3))
def test_the_cap_is_stable_by_eigenvalues(value, lr, momentum, weight):
    """One heavy-ball step on a capped entry shrinks both its modes, whatever F, lr, momentum and weight."""
    capped, _ = stable_fisher({"p": torch.tensor([value], dtype=torch.float64)}, {"p": lr}, momentum, weight)
    curvature = weight * capped["p"].item()
    modes = np.linalg.eigvals([[1 + momentum - lr * curvature, -momentum], [1, 0]])
    assert np.abs(modes).max() < 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 99))
def test_totals_of_both_devices_agree(sides, seed):
    """The sum as a GPU takes it, by the norm, is that of a CPU and of numpy."""
    draw = torch.Generator().manual_seed(seed)
    tensors = [torch.rand(side, side, generator=draw) for side in sides]
    wanted = sum(float(t.double().sum()) for t in tensors)
    for together in (True, False):
        assert float(total_of(tensors, together)) == pytest.approx(wanted, rel=1e-5)
