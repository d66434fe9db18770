"""How stored pixels become a network's input: bands, type and the range of each band; no torch."""

from __future__ import annotations

from dataclasses import dataclass

Numbers = tuple[float, ...]


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
