"""A 64-bit hash of tensors, computed where they lie."""

from collections.abc import Iterable

import torch
from torch import Tensor

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # odd: multiplying loses nothing
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(tensors: Iterable[Tensor]) -> Tensor:
    """Return a hash of values, their order and the order of tensors.

    A change of one value always changes it, more changes all but surely:
    ``h = sum_i mix(v_i, i) mod 2^64`` over the bits v_i of a tensor, then likewise over the tensors' hashes.

    Args:
        tensors: any shapes and dtypes; each is read on its own device.

    Returns:
        () int64 on the first one's device; on the CPU without tensors.
    """
    hashes = [_mixed(_bits(t)) for t in tensors]
    return _mixed(torch.stack([h.to(hashes[0].device) for h in hashes])) if hashes else torch.tensor(0)


def _bits(t: Tensor) -> Tensor:
    """Return the bits of a tensor's values in logical order as int64."""
    flat = t.detach().contiguous().reshape(-1)
    return flat.view(_WORDS.get(flat.element_size(), torch.int64)).long()


def _mixed(words: Tensor) -> Tensor:
    """Return the sum of the words, each first mixed with its place one-to-one."""
    place = torch.arange(len(words), device=words.device)
    v = words * _ODD[0] + place * _ODD[1]
    v = (v ^ ((v >> 29) & (2**35 - 1))) * _ODD[2]
    return (v ^ ((v >> 32) & (2**32 - 1))).sum() + len(words)
