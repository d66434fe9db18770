"""L_cons: cross-entropy of the student's strong view against the teacher's hard pseudo-labels."""

import torch.nn.functional as F
from torch import Tensor

from mkd.labels import IGNORE


def pseudo_label_loss(
    logits: Tensor, pseudo_labels: Tensor, ignore_index: int = IGNORE, count: Tensor | None = None
) -> Tensor:
    """Return L_cons over the kept pixels, or these pixels' partial loss of a larger batch.

    ::

        L_cons = 1/K * sum over kept pixels of -log softmax(z_S)[y_hat],   0 when K = 0

    With the kept pixels of a whole batch as K, the partial losses of its parts add up to the batch's L_cons.

    Args:
        logits: float (B,C,H,W), the student's logits of the strong view.
        pseudo_labels: int64 or uint8 (B,H,W), class ids; ``ignore_index`` where the filters dropped the pixel.
        ignore_index: label of dropped pixels.
        count: scalar > 0, K; None is the number of kept pixels here.

    Returns:
        Scalar; exactly 0 with a zero gradient, never NaN, when nothing here is kept.

    Source: the paper's consistency loss; Sohn et al. 2020 (hard pseudo-labels above a confidence).
    """
    labels = pseudo_labels.long()
    loss = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return loss / ((labels != ignore_index).sum().clamp(min=1) if count is None else count)
