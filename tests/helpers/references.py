"""Each formula once more, pixel by pixel in plain Python floats: slow, and nothing of torch in it."""

import math

import numpy as np


def softmax(z):
    """Softmax of a list of logits."""
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def pixels(*maps):
    """Yield the classes of every pixel, one list a map: (B,C,H,W) gives C floats, (B,H,W) gives one value."""
    arrays = [np.asarray(m) for m in maps]
    batch, height, width = arrays[0].shape[0], *arrays[0].shape[-2:]
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                yield [a[b, :, i, j].tolist() if a.ndim == 4 else a[b, i, j].item() for a in arrays]


def pixel_losses(logits, labels, ignore=255):
    """List (-log p_y, p_y) of the valid pixels, row by row."""
    found = []
    for z, y in pixels(logits, labels):
        if y != ignore:
            top = max(z)
            loss = top - z[y] + math.log(sum(math.exp(v - top) for v in z))
            found.append((loss, math.exp(-loss)))
    return found


def cross_entropy(logits, labels, ignore=255):
    """Mean over valid pixels; 0 when there is none."""
    losses = [loss for loss, _ in pixel_losses(logits, labels, ignore)]
    return sum(losses) / len(losses) if losses else 0.0


def ohem(logits, labels, threshold, min_kept, ignore=255):
    """Mean over the valid pixels that are among the min_kept hardest or below the threshold."""
    hardest_first = sorted(pixel_losses(logits, labels, ignore), key=lambda pixel: pixel[1])
    kept = [loss for n, (loss, p) in enumerate(hardest_first) if n < min_kept or p < threshold]
    return sum(kept) / len(kept) if kept else 0.0


def distillation(student, teacher, temperature, valid):
    """T^2 * mean over valid pixels of sum_c p_T log(p_T / p_S)."""
    total, count = 0.0, 0
    for z_s, z_t, ok in pixels(student, teacher, valid):
        if ok:
            p_s = softmax([v / temperature for v in z_s])
            p_t = softmax([v / temperature for v in z_t])
            total += sum(t * math.log(t / s) for t, s in zip(p_t, p_s, strict=True) if t > 0)
            count += 1
    return temperature**2 * total / count if count else 0.0


def entropy(z):
    """Entropy of one pixel's logits as a share of log C."""
    return sum(-p * math.log(p) for p in softmax(z) if p > 0) / math.log(len(z))


def confusion(predictions, labels, num_classes, ignore=255):
    """Count pixels by [true class][predicted class]."""
    counts = [[0] * num_classes for _ in range(num_classes)]
    for guess, truth in pixels(predictions, labels):
        if truth != ignore:
            counts[truth][guess] += 1
    return counts


def iou(predictions, labels, num_classes, ignore=255):
    """IoU of each class from sets of pixels; NaN for a class that no label names."""
    truth, guess = [set() for _ in range(num_classes)], [set() for _ in range(num_classes)]
    for n, (g, t) in enumerate(pixels(predictions, labels)):
        if t != ignore:
            truth[t].add(n)
            guess[g].add(n)
    return [len(t & g) / len(t | g) if t else math.nan for t, g in zip(truth, guess, strict=True)]


def numeric_gradient(function, x, step=1e-5):
    """Central differences of a function of one float64 array."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for where in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[where] += sign * step
            ends.append(function(moved))
        gradient[where] = (ends[0] - ends[1]) / (2 * step)
    return gradient
