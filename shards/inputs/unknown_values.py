"""Mask values that a class file does not know, gathered over all masks into one message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shards.inputs.encode import UnknownCounts
from shards.progress import list_first, pluralize

_MAX_LISTED = 8


@dataclass
class UnknownValues:
    """Pixels and files of each unknown value (a whole number, or a colour)."""

    pixels: Counter[int | tuple[int, int, int]] = field(default_factory=Counter)
    files: dict[int | tuple[int, int, int], list[str]] = field(default_factory=dict)

    def add(self, unknown: UnknownCounts, file: str) -> None:
        """Note the unknown values of one mask, or of one window of a label raster."""
        self.pixels.update(unknown)
        for value in unknown:
            files = self.files.setdefault(value, [])
            if file not in files[-1:]:
                files.append(file)

    def message(self, classfile: str, masks: str) -> str:
        """Describe values, their pixels and files, and the remedy; "" when there are none.

        Args:
            classfile: path of the class file.
            masks: its kind of masks.
        """
        if not self.pixels:
            return ""
        rgb = masks == "rgb"
        listed = [
            f"{value}: {pluralize(pixels, 'pixel')} in {list_first(self.files[value], 2)}"
            for value, pixels in self.pixels.most_common(_MAX_LISTED)
        ]
        if len(self.pixels) > _MAX_LISTED:
            listed.append(f"and {len(self.pixels) - _MAX_LISTED} more")
        noun, key, ignored = (
            ("colour", "ignore_colours", "[r, g, b]") if rgb else ("value", "ids", "VALUE: 255")
        )
        return (
            f"masks hold {pluralize(len(self.pixels), noun)} which {classfile} does not know "
            f"({'; '.join(listed)}): add them there, or ignore them ({key}: {ignored}), or correct the masks"
        )
