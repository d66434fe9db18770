"""Mask values that a class file does not know, gathered over all masks into one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from shards.inputs.encode import UnknownCounts
from shards.progress import list_first, pluralize

_MAX_LISTED = 10  # a message is to be read
_SEVERAL = 3  # unknown values that no longer look like classes that somebody forgot


@dataclass
class UnknownValues:
    """Pixels and files of each unknown value (a whole number, a word, or a colour)."""

    pixels: Counter[Any] = field(default_factory=Counter)
    files: dict[Any, list[str]] = field(default_factory=dict)

    def add(self, unknown: UnknownCounts, file: str) -> None:
        """Note the unknown values of one mask, or of one window of a label raster."""
        self.pixels.update(unknown)
        for value in unknown:
            files = self.files.setdefault(value, [])
            if file not in files[-1:]:
                files.append(file)

    def message(self, classfile: str, masks: str, classes: int, found: Container[int]) -> str:
        """Describe values, their pixels and files, likely cause and remedy; "" when there are none.

        Args:
            classfile: path of the class file.
            masks: its kind of masks.
            classes: number of classes.
            found: class ids that the masks hold besides.
        """
        if not self.pixels:
            return ""
        rgb = masks == "rgb"
        listed = [
            f"{value}: {pluralize(pixels, 'pixel')} in {list_first(self.files[value], 2)}"
            for value, pixels in self.pixels.most_common(_MAX_LISTED)
        ]
        if len(self.pixels) > _MAX_LISTED:
            listed.append(f"and {len(self.pixels) - _MAX_LISTED:,} more")
        noun, key, ignored = (
            ("colour", "ignore_colours", "[r, g, b]") if rgb else ("value", "ids", "VALUE: 255")
        )
        hint = self._colour_hint() if rgb else self._value_hint(classes, found)
        return (
            f"masks hold {pluralize(len(self.pixels), noun)} which {classfile} does not know "
            f"({'; '.join(listed)}): add them there, or ignore them ({key}: {ignored}), or correct the masks{hint}"
        )

    def _colour_hint(self) -> str:
        cause = "; so many look like soft (anti-aliased) edges:" if len(self.pixels) > _SEVERAL else ";"
        return f"{cause} unknown_colours: nearest there takes each for the nearest colour, ignore leaves them out"

    def _value_hint(self, classes: int, found: Container[int]) -> str:
        """Guess why the values are there."""
        values = sorted(value for value in self.pixels if isinstance(value, int))
        if values == [classes] and 0 not in found:
            ids = ", ".join(f"{index + 1}: {index}" for index in range(min(classes, 3)))
            return (
                f"; none holds class 0, and {classes} is the number of classes: are the ids counted from 1? then write "
                f"ids: {{{ids}{', ...' if classes > 3 else ''}}}"
            )
        if values == [255] and not any(index in found for index in range(1, classes)):
            return "; masks hold 0 and 255: for two classes write ids: {0: 0, 255: 1}"
        if len(values) >= _SEVERAL and max(16, 2 * classes) < values[-1] <= 255 and values[0] >= 0:
            return (
                "; this looks like a grey-scale mask: threshold: 128 there makes two classes of it, ranges such as "
                'ids: {"0-99": 0, "100-255": 1} as many as you need'
            )
        return ""


def list_unknown(unknown: UnknownCounts) -> str:
    """Write unknown values and their pixels, the most frequent ones only."""
    ranked = sorted(unknown.items(), key=lambda entry: -entry[1])
    return list_first((f"{value} ({pluralize(pixels, 'pixel')})" for value, pixels in ranked), _MAX_LISTED)
