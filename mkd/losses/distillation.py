"""L_KD: knowledge distillation on dense logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 3.0,
    valid: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Return L_KD of two maps of logits, or these pixels' partial loss of a larger batch.

    ::

        L_KD = T^2 * mean over valid pixels of KL( softmax(z_T / T) || softmax(z_S / T) )

    The reduction is: sum over classes, mean over valid pixels. T^2 keeps the gradient's scale independent of T.
    With the valid pixels of a whole batch as ``count``, the partial losses of its parts add up to the batch's loss.

    Args:
        student_logits: float (B,C,H,W), z_S; the only argument that receives a gradient.
        teacher_logits: float (B,C,H,W), z_T.
        temperature: T > 0.
        valid: bool (B,H,W), pixels that count; None is all.
        count: scalar > 0, what the sum is divided by; None is the number of valid pixels here.

    Returns:
        Scalar >= 0; exactly 0 with a zero gradient when no pixel here is valid.

    Raises:
        ValueError: when the two logits differ in shape or T is not positive.

    Source: Hinton et al. 2015; the paper's L_KD.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
            "differ; distillation needs the same classes and size: give the teacher the student's class set"
        )
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be > 0 (the paper uses 3)")
    # log softmax(z / T); only the student is differentiated
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    kl = (log_t.exp() * (log_t - log_s)).sum(dim=1)  # (B,H,W)
    # mean over the valid pixels
    if valid is None:
        valid = torch.ones_like(kl, dtype=torch.bool)
    count = valid.sum().clamp(min=1) if count is None else count
    return temperature**2 * (kl * valid).sum() / count
