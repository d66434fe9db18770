"""L_sup: online hard example mining (OHEM) cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mkd.labels import IGNORE
from mkd.losses.kth_value import kth_smallest
from mkd.losses.rank_sum import RankSum, one_rank

# Legend: B batch, C classes, H W pixels.


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float,
    min_kept: int,
    ignore_index: int = IGNORE,
    total: RankSum = one_rank,
) -> Tensor:
    """Return this rank's partial L_sup: the mean cross-entropy over the hard pixels of all ranks.

    With p_y the predicted probability of the true class, over the valid pixels of all ranks::

        keep = p_y < max(threshold, q),   q = the min_kept-th smallest p_y
        L_sup = mean of -log p_y over keep

    The pixel that is itself the min_kept-th smallest is kept too, so that as many pixels as min_kept always count,
    or all valid ones where there are fewer. A rank's partial loss is its sum over the number kept by all ranks.

    Args:
        logits: float (B,C,H,W), any real values.
        labels: int64 or uint8 (B,H,W), class ids or ``ignore_index``.
        threshold: probability in [0,1] from which a pixel is easy.
        min_kept: least number of pixels kept over all ranks.
        ignore_index: label of pixels that do not count.
        total: sums a tensor over the ranks, which all call it together; one rank by default.

    Returns:
        Scalar; exactly 0 with a zero gradient when no pixel of this rank is valid.

    Source: Shrivastava et al. 2016; the paper's L_sup.
    """
    # Cross-entropy and probability of the true class; masks instead of indices, which would wait for the device.
    labels = labels.long()
    valid = labels != ignore_index
    loss = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")  # (B,H,W)
    p_y = torch.exp(-loss.detach()).masked_fill(~valid, torch.inf)
    # The hard pixels; the ranks count together, and each waits for the others.
    keep = p_y < threshold
    if min_kept > 0:
        keep |= p_y <= kth_smallest(p_y.flatten(), min_kept, total)
    keep &= valid
    # Nothing hard gives 0, not NaN.
    return (loss * keep).sum() / total(keep.sum()).clamp(min=1)
