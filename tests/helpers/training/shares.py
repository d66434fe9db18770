"""Losses whose global batch lies on several ranks, here threads."""

import torch

from tests.helpers.processes.threads import on_threads


def on_ranks(parts, function):
    """Call `function(part, total)` on a rank for each part; return the results in order."""
    return on_threads(len(parts), lambda world: function(parts[world.rank], world.all_reduce_sum))


def shares_and_gradients(loss, maps, sizes):
    """Split maps (arrays or tensors over the same tiles) into ranks; return the summed shares and z's gradient.

    Args:
        loss: `loss(z, *others, total)` of torch tensors, z float32.
        maps: z first; all (B,...).
        sizes: tiles of each rank; their sum is B.
    """

    def share(part, total):
        z = part[0].detach().float().requires_grad_()
        value = loss(z, *part[1:], total)
        value.backward()
        return value.detach(), z.grad

    parts = list(zip(*(torch.as_tensor(m).split(sizes) for m in maps), strict=True))
    values, gradients = zip(*on_ranks(parts, share), strict=True)
    return torch.stack(values).sum(), torch.cat(gradients)
