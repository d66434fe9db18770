"""L_sup: online hard example mining (OHEM) cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Legend: B batch, C classes, H W pixels, N valid pixels.


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.7,
    min_kept: int | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Return the mean cross-entropy over the hard pixels.

    With p_y the predicted probability of the true class, over the N valid pixels::

        keep = p_y < max(threshold, q),   q = the min_kept-th smallest p_y
        L_sup = mean of -log p_y over keep

    The pixel that is itself the min_kept-th smallest is kept too, so at least ``min(min_kept, N)`` pixels
    always count.

    Args:
        logits: float (B,C,H,W), any real values.
        labels: int64 or uint8 (B,H,W), class ids or ``ignore_index``.
        threshold: probability in [0,1] from which a pixel is easy.
        min_kept: least number of pixels kept; None is 1/16 of the batch's pixels.
        ignore_index: label of pixels that do not count.

    Returns:
        Scalar; exactly 0 with a zero gradient when no pixel is valid.

    Source: Shrivastava et al. 2016; the paper's L_sup.
    """
    labels = labels.long()
    if min_kept is None:
        min_kept = labels.numel() // 16
    valid = labels != ignore_index
    loss = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")[valid]  # (N,)
    if loss.numel() == 0:
        return logits.float().sum() * 0.0
    p_y = torch.exp(-loss.detach())
    keep = p_y < threshold
    kth = min(min_kept, p_y.numel())
    if kth > 0:
        keep |= p_y <= torch.kthvalue(p_y, kth).values
    # A sum over a mask instead of indexing keeps the shape static; nothing hard gives 0, not NaN.
    return (loss * keep).sum() / keep.sum().clamp(min=1)
