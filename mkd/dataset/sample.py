"""One tile in memory: picture, label and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded tile of a data set.

    Args:
        key: name of the tile within its data set, without dots.
        image: (H, W, C) uint8.
        label: (H, W) uint8 class ids, 255 = ignored; None for an unlabelled tile.
        meta: the tile's KEY.json: source, window, size, crs, transform, labelled.
    """

    key: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    meta: dict[str, Any]
