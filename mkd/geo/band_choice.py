"""Which bands of a raster are data: those asked for, or all but alpha; colour tables become red, green and blue.

And which three of them are shown to people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mkd.geo.grid import Window
from mkd.pixel_scale import DTYPES as DTYPES

if TYPE_CHECKING:  # a training run chooses the bands of its pictures here, and reads no raster
    from mkd.geo.raster import RasterReader
    from mkd.geo.raster_info import RasterInfo


@dataclass(frozen=True)
class BandChoice:
    """The bands of a raster that are data.

    Attributes:
        numbers: of the bands, counted from 1; of a raster with a colour table 1, 2, 3 are red, green, blue.
        dtype: of the pixels, numpy's name.
        masks: bands that say where there is data: alpha that is not among `numbers`.
        table: (values, 4) uint8, red, green, blue and alpha of each value of band 1, or None.
    """

    numbers: tuple[int, ...]
    dtype: str
    masks: tuple[int, ...] = ()
    table: NDArray[np.uint8] | None = field(default=None, compare=False)

    @property
    def kind(self) -> tuple[int, str]:
        """Number of bands, and their type."""
        return len(self.numbers), self.dtype

    def pixels(self, reader: RasterReader, window: Window) -> NDArray[Any]:
        """Return the pixels of a window, (H, W, bands) of `dtype`."""
        if self.table is None:
            return reader.read(window, self.numbers)
        indices = reader.read(window, (1,))[..., 0]
        colours = self.table[np.where(indices < len(self.table), indices, 0)]
        return np.ascontiguousarray(colours[..., [number - 1 for number in self.numbers]])

    def valid(self, reader: RasterReader, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window hold data, (H, W) bool.

        False where the file says so by its no-data value, mask or alpha, where a colour of its table is transparent or
        not there, and where a band is no finite number.
        """
        if self.table is not None:
            indices = reader.read(window, (1,))[..., 0]
            known = indices < len(self.table)
            valid = reader.valid(window, (1,))
            valid &= known & (self.table[np.where(known, indices, 0), 3] != 0)
            return valid
        valid = reader.valid(window, self.numbers)
        if self.dtype == "float32":
            valid &= np.isfinite(self.pixels(reader, window)).all(axis=2)
        return valid


def choose_bands(path: str, info: RasterInfo, asked: Sequence[int] | None, option: str) -> BandChoice:
    """Choose the bands that are data.

    Args:
        path: of the raster, for messages.
        info: of the raster.
        asked: numbers, counted from 1: these are data, even where the file calls one alpha; None = all but alpha.
        option: what the user types to ask for bands, such as "--bands 1,2,3".

    Raises:
        ValueError: inks in place of colours, or bands that the raster does not have.
    """
    if info.inks:
        raise ValueError(
            f"{path} holds inks (CMYK), not colours: convert it to RGB first, for example "
            "with 'magick IN.tif -colorspace sRGB OUT.tif'"
        )
    table = None
    colours = [band for band in range(1, info.bands + 1) if band not in info.alpha]
    if info.colormap is not None and colours == [1]:
        table = _table(info.colormap)
    count = 3 if table is not None else info.bands
    numbers = tuple(asked) if asked else (1, 2, 3) if table is not None else tuple(colours)
    if not all(1 <= band <= count for band in numbers):
        here = "a colour table: its bands are 1, 2, 3 (red, green, blue)" if count != info.bands else ""
        raise ValueError(
            f"{path} has {here or f'bands 1..{count}'}, {option} asks for {','.join(map(str, numbers))}: choose others"
        )
    if table is not None:
        return BandChoice(numbers, "uint8", info.alpha, table)
    return BandChoice(numbers, info.dtype, tuple(b for b in info.alpha if b not in numbers))


def shown_bands(names: Sequence[str], count: int) -> tuple[int, int, int]:
    """Return the positions, from 0, of the bands that are shown as red, green and blue.

    Those that are named red, green and blue, whatever their capitals; else the first three; of one or two bands the
    first, as grey.

    Args:
        names: of the bands in their order, "" or none at all where they are not known.
        count: of the bands, >= 1.
    """
    known = [name.strip().casefold() for name in names]
    if all(known.count(colour) == 1 for colour in ("red", "green", "blue")):
        return known.index("red"), known.index("green"), known.index("blue")
    return (0, 1, 2) if count >= 3 else (0, 0, 0)


def _table(colormap: dict[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    table = np.zeros((max(colormap) + 1, 4), np.uint8)  # a value without a colour is transparent
    for value, colour in colormap.items():
        table[value] = colour if len(colour) == 4 else (*colour[:3], 255)
    return table
