"""Temperature scaling: one number that makes a network's probabilities as sure as it is right."""

import math

import torch
from torch import Tensor

from mkd.labels import IGNORE

LOWEST, HIGHEST = 0.1, 10.0  # temperatures that are looked for
POINTS = 49  # of 1/T, each 1.1 times the one before
CHUNK = 1 << 18  # pixels at once
TINY = torch.finfo(torch.float32).tiny  # a probability that underflowed to 0 has a logarithm, too


def at_temperature(probabilities: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """Return probabilities at another temperature; the largest stays the largest.

    ::

        q_c = p_c^(1/T) / sum_k p_k^(1/T)

    Of p = softmax(z) that is softmax(z / T). It is made of p, since p may be a mean over windows and views: scaling
    each of them would change which class has the largest mean.

    Args:
        probabilities: float, sums of 1 over `dim`, or of 0, where there is none.
        temperature: T > 0; 1 returns what was given.
        dim: of the classes.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 9.
    """
    if temperature == 1.0:
        return probabilities
    return (probabilities.clamp_min(TINY).log() / temperature).softmax(dim)


class TemperatureFit:
    """Finds the temperature of the lowest negative log-likelihood of labelled pixels, in one pass over them.

    ::

        NLL(b) = -1/N sum_i log q_i,y(i),   q_i = p_i at T = 1/b
        N dNLL/db = sum_i sum_c q_ic (log p_ic - log p_i,y(i))

    NLL is convex in b, so the sums of its slope at some b enclose the one root; between its two neighbours the slope is
    taken for a line over log b, which misses T by less than 0.5 %. Sums add up over ranks.

    Args:
        device: where the sums live; None is the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Start with no pixel."""
        low, high = -math.log(HIGHEST), -math.log(LOWEST)
        self.inverse = torch.linspace(low, high, POINTS, dtype=torch.float64).exp()
        self.sums = torch.zeros(POINTS + 1, dtype=torch.float64, device=device)  # slopes, pixels

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add pixels.

        Args:
            probabilities: float (B,C,H,W), sums of 1 over C.
            labels: integer (B,H,W), 255 = ignored.
        """
        known = labels != IGNORE
        logs = probabilities.movedim(1, -1)[known].float().clamp_min(TINY).log()
        truths = labels[known].long()
        for start in range(0, len(truths), CHUNK):
            part, truth = logs[start : start + CHUNK], truths[start : start + CHUNK]
            # 0 for the true class, so that the slope keeps its sign where q is all but 1 there.
            beside = part - part.gather(1, truth[:, None])
            for n, inverse in enumerate(self.inverse.tolist()):
                q = (inverse * part).softmax(dim=1)
                self.sums[n] += (q * beside).sum(dim=1).double().sum()
        self.sums[-1] += known.sum()

    @property
    def pixels(self) -> int:
        """Return the number of labelled pixels."""
        return int(self.sums[-1])

    def temperature(self) -> float:
        """Return the best temperature.

        Raises:
            ValueError: no labelled pixel, or none between the lowest and the highest does: a sentence without subject.
        """
        slopes = self.sums[:-1].cpu()
        if not self.pixels:
            raise ValueError("has no labelled pixel to fit a temperature to")
        if slopes[0] >= 0 or slopes[-1] <= 0:
            what = "right almost nowhere" if slopes[0] >= 0 else "right almost everywhere"
            raise ValueError(
                f"has no temperature between {LOWEST:g} and {HIGHEST:g}: the model is {what} on it; give a larger "
                "validation set, of labels that it was not trained on"
            )
        above = int((slopes > 0).nonzero()[0])  # the first slope that rises, after one that falls
        low, high = (float(s) for s in slopes[above - 1 : above + 1])
        share = -low / (high - low)
        first, second = (float(b) for b in self.inverse[above - 1 : above + 1].log())
        return math.exp(-(first + share * (second - first)))
