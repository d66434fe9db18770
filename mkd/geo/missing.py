"""Which pixels of a raster hold data: its no-data value, its mask and those bands that are alpha."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags


def valid_pixels(
    data: Any, place: Any, alpha: Sequence[int], bands: Sequence[int] | None
) -> NDArray[np.bool_]:
    """Return which pixels of a window hold data; a band that is asked for as data is never a mask.

    In 8 bits a pixel is missing where all bands of the file hold the no-data value, as GDAL says it: in one band alone
    the value may be a dark colour. In other types it is missing where any of the bands in use holds it.

    Args:
        data: an open rasterio data set.
        place: rasterio's window.
        alpha: bands that the file calls alpha, counted from 1.
        bands: the bands in use as data; None = all but alpha.

    Returns:
        (H, W) bool.
    """
    used = [b for b in data.indexes if b not in alpha] if bands is None else list(bands)
    masks = [b for b in alpha if b not in used]
    flags = {
        flag for band in used or [1] for flag in data.mask_flag_enums[band - 1]
    }  # a VRT has some for each band
    mask: NDArray[np.bool_] = np.ones((int(place.height), int(place.width)), np.bool_)
    if MaskFlags.nodata in flags:
        if data.dtypes[0] == "uint8":
            mask = (data.read_masks(window=place) != 0).any(axis=0)
        else:
            mask = (data.read_masks(sorted(set(used)), window=place) != 0).all(axis=0)
    elif MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        mask = data.read_masks(1, window=place) != 0
    if masks:
        mask &= (data.read(masks, window=place) != 0).all(axis=0)
    return mask
