"""How stored pixels become a network's input: bands, type and the range of each band; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

Numbers = tuple[float, ...]
MAX_BANDS = 1024  # of an image
DTYPES = ("uint8", "uint16", "int16", "float32")  # of the images that networks take


@dataclass(frozen=True)
class PixelScale:
    """What images a network takes, and x = (value - low) / (high - low), which it is given.

    Attributes:
        bands: of the images.
        dtype: of the images, "uint8", "uint16", "int16" or "float32".
        low: value of each band that becomes 0; None: 0.
        high: value of each band that becomes 1; None: 255.
    """

    bands: int = 3
    dtype: str = "uint8"
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        """Refuse what no images have, as a damaged file may say it.

        Raises:
            ValueError: an unknown type, or ranges that do not fit the bands.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"scale.dtype is {self.dtype!r}, use {', '.join(DTYPES)}")
        if self.low is None and self.high is None:
            return
        low, high = self.low or (), self.high or ()
        finite = all(math.isfinite(value) for value in (*low, *high))
        if len(low) != self.bands or len(high) != self.bands or not finite:
            raise ValueError(f"scale.low and scale.high must be {self.bands} finite numbers each, one a band")
        if any(top <= bottom for bottom, top in zip(low, high, strict=True)):
            raise ValueError("scale.high must be above scale.low in each band")

    @property
    def kind(self) -> tuple[int, str]:
        """Bands and type."""
        return self.bands, self.dtype

    @property
    def plain(self) -> bool:
        """Whether these are 3 bands of uint8, red, green and blue."""
        return self.kind == (3, "uint8")

    def __str__(self) -> str:
        """Return bands and type for people, such as "5 bands of uint16"."""
        return f"{self.bands} bands of {self.dtype}"


PLAIN = PixelScale()  # RGB of 8 bits
