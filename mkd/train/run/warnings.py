"""What spoils a training run without ending it, in one sentence each."""

from collections.abc import Sequence

from mkd.metrics.confusion import ConfusionMatrix

EWC_RATIOS = 0.01, 1.0  # |grad w_ewc L_EWC| / |grad L_sup| between which the term acts and the student learns


def one_class_alone(matrix: ConfusionMatrix, classes: Sequence[str]) -> str:
    """Return what to say of a validation in which every pixel has the same class; nothing of others."""
    predicted = matrix.predicted()
    if len(predicted) != 1 or matrix.num_classes == 1:
        return ""
    return (
        f"every validation pixel is predicted as {classes[predicted[0]]!r}; if the next validations say so too, the "
        "network does not learn: see 'Nothing is learned' in docs/training.md"
    )


def ewc_fault(ratio: float | None, progress: float) -> str:
    """Return what to say when L_EWC drowns L_sup, or does next to nothing in the second half; nothing else.

    Args:
        ratio: of the norms of the gradients of w_ewc L_EWC and L_sup; None where it was not measured.
        progress: share of the training done, in [0,1].
    """
    low, high = EWC_RATIOS
    if ratio is None or low <= ratio <= high or (ratio < low and progress <= 0.5):
        return ""
    return (
        f"the gradient of w_ewc L_EWC is {ratio:.3g} times that of L_sup; 0.05 to 0.5 is a term that acts and lets the "
        f"student learn: {'lower' if ratio > high else 'raise'} kd.ewc_weight, in a new run folder"
    )
