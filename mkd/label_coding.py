"""What the values or colours of stored labels mean, where these are not class ids: labels that others wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.documents import mapping, sequence, shown, whole
from mkd.labels import IGNORE

MODES = {"L": 1 << 8, "P": 1 << 8, "RGB": 1 << 24}  # Pillow's modes, and how many values each has
_UNKNOWN = 254  # a mark inside the table: class ids end at 253


@dataclass(frozen=True)
class LabelCoding:
    """How labels of an adopted data set are mapped to class ids while they are decoded.

    Attributes:
        mode: of the PNGs: "L" (grey), "P" (indices of a palette) or "RGB" (colours).
        ids: (value, class id or 255) of each known value; a colour (r, g, b) is the value 65536 r + 256 g + b.
        ignores_others: other values are 255; else a label that holds one cannot be read.
    """

    mode: str
    ids: tuple[tuple[int, int], ...]
    ignores_others: bool = False

    def to_ids(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a label to class ids.

        Args:
            pixels: (H, W) uint8; (H, W, 3) of colours.

        Returns:
            (H, W) uint8, class ids, 255 = ignored.

        Raises:
            ValueError: a value that is not known.
        """
        values: NDArray[Any] = pixels
        if self.mode == "RGB":
            wide = pixels.astype(np.uint32)
            values = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        found: NDArray[np.uint8] = _table(self)[values]
        if not self.ignores_others and (wrong := found == _UNKNOWN).any():
            value = int(values[wrong][0])
            what = f"colour {(value >> 16, value >> 8 & 255, value & 255)}" if self.mode == "RGB" else value
            raise ValueError(f"it has the value {what}, which its class file did not know")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what an index holds."""
        return {"mode": self.mode, "ids": self.ids, "ignores_others": self.ignores_others}

    @classmethod
    def from_json(cls, content: Any, classes: int) -> LabelCoding | None:
        """Read what an index holds; None stays None.

        Raises:
            KeyError: a key is missing.
            ValueError: a value of a wrong kind, or an id beyond the classes.
        """
        if content is None:
            return None
        found = mapping(content, "labels")
        if (mode := found["mode"]) not in MODES:
            raise ValueError(f"labels.mode is {shown(mode)}, allowed are {', '.join(MODES)}")
        pairs = []
        for pair in sequence(found["ids"], "labels.ids"):
            value, target = sequence(pair, "a pair of labels.ids", 2)
            known = whole(value, "a label's value", 0, MODES[mode] - 1)
            id_ = whole(target, "a class id of labels.ids", 0, IGNORE)
            if classes <= id_ < IGNORE:
                raise ValueError(f"labels.ids has the id {id_}, allowed are 0..{classes - 1} and {IGNORE}")
            pairs.append((known, id_))
        if type(found["ignores_others"]) is not bool:
            raise ValueError(f"labels.ignores_others is {shown(found['ignores_others'])}, not true or false")
        return cls(mode, tuple(pairs), found["ignores_others"])


@lru_cache(maxsize=4)
def _table(coding: LabelCoding) -> NDArray[np.uint8]:
    """Return the table from value to id, of colours 16 MiB; cached, as each tile of a data set needs the same one."""
    table = np.full(MODES[coding.mode], IGNORE if coding.ignores_others else _UNKNOWN, np.uint8)
    for value, target in coding.ids:
        table[value] = target
    table.setflags(write=False)
    return table
