"""The rasters of a procedural landscape while it is painted, and what every painter needs of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkd.synth.layout import FloatArray, IntArray, Layout, Parcel, Use
from mkd.synth.style import RGB, Cover, Style


@dataclass
class Canvas:
    """A landscape while it is painted; rasters of one size.

    ``sun`` unit vector (row, column) towards the sun; ``colour`` float32 (H, W, 3), sRGB 0..255; ``cover``
    uint8 (H, W), a Cover each; ``height`` float32 (H, W) above ground, pixels; ``grain`` float32 (H, W),
    relative standard deviation of the brightness; ``parcel`` int32 (H, W); ``edge`` float32 (H, W), metres to
    the nearest line; ``line`` int32 (H, W), that line's node; ``bend`` float32 (2, H, W), metres by which the
    layout is bent to the right and downwards.
    """

    layout: Layout
    style: Style
    sun: tuple[float, float]
    colour: FloatArray
    cover: npt.NDArray[np.uint8]
    height: FloatArray
    grain: FloatArray
    parcel: IntArray
    edge: FloatArray
    line: IntArray
    bend: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cover.shape[0], self.cover.shape[1]

    @property
    def uses(self) -> npt.NDArray[np.uint8]:
        """The use of each parcel, (parcels,)."""
        return np.array([parcel.use for parcel in self.layout.parcels], np.uint8)

    def of_use(self, use: Use) -> list[Parcel]:
        """Return the parcels of one use."""
        return [parcel for parcel in self.layout.parcels if parcel.use == use]

    def cover_at(self, row: float, col: float) -> int:
        """Return the cover at a point in pixels, at the nearest pixel of the picture."""
        rows, cols = self.shape
        return int(self.cover[int(np.clip(row, 0, rows - 1)), int(np.clip(col, 0, cols - 1))])

    def paint(self, where: npt.NDArray[np.bool_], colour: FloatArray, cover: Cover, grain: float) -> None:
        """Cover the K pixels of a mask (H, W) with a colour (3,) or with colours (K, 3)."""
        self.colour[where] = colour
        self.cover[where] = cover
        self.grain[where] = grain

    def frame(self, parcel: Parcel) -> tuple[float, float, float, float] | None:
        """Return a parcel's row, column and half extents on the picture, pixels; None when outside."""
        (x, y), gsd = parcel.centre, self.style.gsd
        rows, cols = self.shape
        row, col = y / gsd, x / gsd
        for _ in range(2):  # the picture is bent: follow the centre there
            right, down = self.bend[:, int(np.clip(row, 0, rows - 1)), int(np.clip(col, 0, cols - 1))]
            row, col = (y - float(down)) / gsd, (x - float(right)) / gsd
        if not (0 <= row < rows and 0 <= col < cols):
            return None
        long, broad = parcel.half_extents
        return row, col, long / gsd, broad / gsd


def jitter(rng: np.random.Generator, colours: tuple[RGB, ...], count: int, spread: float) -> FloatArray:
    """Return ``count`` colours (count, 3) drawn from a list, each a little off in brightness and hue."""
    base = np.array(colours, np.float32)[rng.integers(len(colours), size=count)]
    bright = 1 + spread * rng.standard_normal((count, 1))
    hue = 1 + 0.35 * spread * rng.standard_normal((count, 3))
    return (base * np.clip(bright, 0.6, 1.4) * hue).astype(np.float32)
