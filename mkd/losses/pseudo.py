"""L_cons: cross-entropy of the student's strong view against the teacher's hard pseudo-labels."""

import torch.nn.functional as F
from torch import Tensor

from mkd.losses.share import Total, alone


def pseudo_label_loss(
    logits: Tensor, pseudo_labels: Tensor, ignore_index: int = 255, total: Total = alone
) -> Tensor:
    """Return this rank's share of the mean cross-entropy over the kept pixels.

    ::

        L_cons = 1/K * sum over kept pixels of -log softmax(z_S)[y_hat],   0 when K = 0

    K counts the kept pixels of all ranks, so that the shares add up to L_cons.

    Args:
        logits: float (B,C,H,W), the student's logits of the strong view.
        pseudo_labels: int64 or uint8 (B,H,W), class ids; ``ignore_index`` where the filters dropped the pixel.
        ignore_index: label of dropped pixels.
        total: sums a count over the ranks; one rank by default.

    Returns:
        Scalar; exactly 0 with a zero gradient, never NaN, when nothing of this rank is kept.

    Source: the paper's consistency loss; Sohn et al. 2020 (hard pseudo-labels above a confidence).
    """
    labels = pseudo_labels.long()
    loss = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return loss / total((labels != ignore_index).sum()).clamp(min=1)
