"""What spoils a training run, in one sentence each."""

from collections.abc import Sequence

from mkd.dataset.index import DatasetIndex
from mkd.dataset.label_notes import present_classes
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


def one_class_labels(key: str, path: str, index: DatasetIndex) -> str:
    """Return what is wrong with labels that hold one class only; nothing of others, and of a set without labels.

    Args:
        key: config key of the data set.
        path: its folder.
        index: of it.
    """
    present = present_classes(index)
    if len(present) != 1:
        return ""
    return (
        f"{key}={path} has pixels of one class only, {present[0]!r} (of {index.num_classes} classes): a network that "
        "always says so is right everywhere, and its mIoU says nothing; correct the class file (masks of 0 and 255 "
        "need ids: {0: 0, 255: 1}) and pack the set again, or give data.one_class=true to go on all the same"
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
