"""Dropout by sample: the mask belongs to the tile, whoever computes it, in whatever company."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mkd.models.dropout import FeatureDropout, SampleDropout, dropped_features, sample_mask, seed_dropout

SHAPE = (5, 4, 3)  # channels, height, width


def ones(count, shape=SHAPE):
    return torch.ones(count, *shape)


def dropped(slots, count=None, p=0.5, seed=0, step=0, batch=12):
    """Return what one seeded layer makes of ones: its mask, scaled."""
    layer = SampleDropout(p).train()
    seed_dropout(layer, seed, step, slots, batch)
    return layer(ones(count or len(slots)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 2))
def test_masks_do_not_depend_on_ranks_and_micro_batches(seed, step, parts, groups):
    """A global batch of 12, or 12 and 12 unlabelled: its parts have the rows of the whole's masks, bit for bit."""
    whole = dropped(range(12), 12 * groups, seed=seed, step=step).unflatten(0, (groups, 12))
    size = 12 // parts
    for n in range(parts):
        slots = range(n * size, (n + 1) * size)
        part = dropped(slots, size * groups, seed=seed, step=step).unflatten(0, (groups, size))
        assert torch.equal(part, whole[:, list(slots)])


def test_masks_differ_by_seed_step_and_slot():
    """No two tiles share a mask, nor two steps of a tile, nor two runs."""
    masks = [dropped([slot], seed=seed, step=step) for seed in (0, 1) for step in (0, 1) for slot in (0, 1)]
    assert len({tuple(m.flatten().tolist()) for m in masks}) == 8


def test_layers_of_a_network_have_masks_of_their_own():
    """The second layer drops other elements than the first, and a copy of the network the same."""
    net = nn.Sequential(SampleDropout(0.5), nn.Sequential(SampleDropout(0.5))).train()
    seed_dropout(net, 0, 0, [0, 1], 2)
    first, second = net[0](ones(2)), net[1](ones(2))
    assert not torch.equal(first, second)
    assert torch.equal(copy.deepcopy(net)[1](ones(2)), second)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_dropped_and_the_rest_scaled(p):
    """Elements are 0 with chance p, otherwise x / (1 - p), so that the mean stays; gradients likewise."""
    layer = SampleDropout(p).train()
    seed_dropout(layer, 3, 7, [0, 1], 2)
    x = torch.rand(2, 16, 64, 64, generator=torch.Generator().manual_seed(0)).add(0.5).requires_grad_()
    y = layer(x)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)  # 5 sigma is 0.007
    torch.testing.assert_close(y[kept], (x / (1 - p))[kept])
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept.float() / (1 - p))


def test_without_chance_or_training_it_is_the_identity():
    """In eval mode and with p = 0 the tensor itself comes back."""
    for layer in (SampleDropout(0.5).eval(), SampleDropout(0.0).train()):
        seed_dropout(layer, 0, 0, [0], 1)
        x = ones(1)
        assert layer(x) is x


def test_unseeded_it_is_dropout_of_torch():
    """Before the first seed_dropout the layer draws from torch's own generator, as nn.Dropout does."""
    torch.manual_seed(4)
    found = SampleDropout(0.3).train()(ones(3))
    torch.manual_seed(4)
    assert torch.equal(found, F.dropout(ones(3), 0.3))


def test_torch_generators_are_left_alone():
    """Masks neither read nor move the global generator."""
    before = torch.get_rng_state()
    first = dropped([0, 1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(dropped([0, 1]), first)


def test_masks_do_not_depend_on_the_memory_layout():
    """Channels-last or not, the same elements are dropped, and the result keeps the layout."""
    layer = SampleDropout(0.5).train()
    seed_dropout(layer, 0, 0, [0, 1], 2)
    x = ones(2)
    y = layer(x.to(memory_format=torch.channels_last))
    assert torch.equal(layer(x), y)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_vectors_have_masks_too():
    """A layer after pooling sees (N,C)."""
    layer = SampleDropout(0.5).train()
    seed_dropout(layer, 0, 0, [0, 1], 2)
    rows = layer(torch.ones(2, 64))
    assert 0 < rows.count_nonzero() < 128
    assert not torch.equal(rows[0], rows[1])


def test_a_forward_pass_that_does_not_fit_its_slots_is_our_mistake():
    """Samples that are no multiple of the slots would share masks unnoticed."""
    with pytest.raises(AssertionError):
        dropped([0, 1], count=3)


def test_a_compiled_network_has_the_same_masks_in_one_graph():
    """torch.compile neither breaks at the layer nor compiles again as steps and slots change."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net = nn.Sequential(nn.Conv2d(3, 4, 1), SampleDropout(0.3)).train()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        seed_dropout(net, 0, step, [2 * step, 2 * step + 1], 8)
        assert torch.equal(compiled(x), net(x))
    assert len(graphs) == 1


def test_the_operator_keeps_its_contract():
    """Torch's own checks of a custom operator: schema, fake tensors, autograd registration."""
    torch.library.opcheck(sample_mask, (ones(2), 0.5, torch.tensor([0, 0, 0, 2, 0, 1])))


class TwoMaps(nn.Module):
    """A network that only drops features of two maps."""

    def __init__(self):
        super().__init__()
        self.features, self.other = FeatureDropout(), SampleDropout(0.5)

    def forward(self, maps):
        return self.features(maps)


def maps_of(count):
    return [torch.ones(count, 8, 4, 3), torch.ones(count, 5, 2, 2)]


def perturbed(slots, last, count, p=0.5, step=0, batch=12):
    net = TwoMaps().train()
    seed_dropout(net, 0, step, slots, batch)
    with dropped_features(net, p, last):
        return net(maps_of(count))


def test_whole_channels_of_the_last_samples_are_dropped():
    """The first samples are as they were; of the last each channel is 0 or x / (1 - p), as often as p says."""
    found = perturbed(range(40), 40, 120, p=0.25, batch=40)
    for x in found:
        assert (x[:80] == 1).all()
        per_channel = x[80:].flatten(2)
        assert (per_channel == per_channel[:, :, :1]).all(), "a channel is dropped as a whole"
        values = per_channel[:, :, 0]
        zero = values == 0
        torch.testing.assert_close(values[~zero], torch.full_like(values[~zero], 1 / 0.75))
        sigma = (0.25 * 0.75 / values.numel()) ** 0.5
        assert zero.float().mean().item() == pytest.approx(0.25, abs=4 * sigma)
    assert not torch.equal(found[0][80:, :5, 0, 0], found[1][80:, :, 0, 0]), "each map has masks of its own"


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_feature_masks_do_not_depend_on_ranks_and_micro_batches(parts):
    """The parts of a global batch of 12, 12 strong and 12 weak views lose the channels of the whole."""
    whole = [x.unflatten(0, (3, 12)) for x in perturbed(range(12), 12, 36)]
    size = 12 // parts
    for n in range(parts):
        slots = range(n * size, (n + 1) * size)
        part = perturbed(slots, size, 3 * size)
        for x, of_all in zip(part, whole, strict=True):
            assert torch.equal(x.unflatten(0, (3, size)), of_all[:, list(slots)])


def test_features_are_dropped_within_the_block_alone():
    """Outside `dropped_features`, in eval mode and with p = 0 the maps themselves come back; other masks stay."""
    net = TwoMaps().train()
    with dropped_features(net, 0.5, 2):
        assert any((x == 0).any() for x in net(maps_of(2)))
        assert all(torch.equal(x, y) for x, y in zip(net.eval()(maps_of(2)), maps_of(2), strict=True))
        net.train()
    given = maps_of(2)
    assert all(x is y for x, y in zip(net(given), given, strict=True))
    with dropped_features(net, 0.0, 2):
        assert all(x is y for x, y in zip(net(given), given, strict=True))
    alone = nn.Sequential(SampleDropout(0.5)).train()
    for each in (alone, net):
        seed_dropout(each, 1, 2, [0, 1], 2)
    assert torch.equal(alone[0](ones(2)), net.other(ones(2)))
