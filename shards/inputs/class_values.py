"""Values of a class file's keys: read from YAML and checked one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mkd.labels import IGNORE, Colour

_RANGE = re.compile(r"\s*(-?\d+)\s*-\s*(-?\d+)\s*")

Range = tuple[int, int, int]  # first and last mask value, class id or 255


def parse_names(values: Any, name: str) -> tuple[str, ...]:
    """Read a list of class names, all different.

    Raises:
        ValueError: no such list.
    """
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name}: classes must be a list of names, found {values!r} (quote names like 'no')")
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: a class name stands twice in {values}")
    return tuple(values)


def parse_colours(values: Any, key: str, name: str) -> tuple[Colour, ...]:
    """Read a list of colours.

    Args:
        values: [[r, g, b], ...].
        key: of the class file.
        name: the class file.

    Raises:
        ValueError: no such list, or a part outside 0..255.
    """
    try:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {key} must be a list of [r, g, b], found {values!r}") from None
    wrong = [colour for colour in colours if not all(0 <= part <= 255 for part in colour)]
    if wrong:
        raise ValueError(f"{name}: {key} has {wrong[0]}: each part must be 0..255")
    return colours


def parse_ids(values: Any, name: str) -> tuple[Mapping[int, int] | None, tuple[Range, ...]]:
    """Split `ids` into single values and ranges such as "1-100".

    Args:
        values: mask value or range to class id, as YAML has it; None = not given.
        name: the class file.

    Returns:
        Class id by single value, None where `ids` is not given; and the ranges, sorted.

    Raises:
        ValueError: no whole numbers, or a value that stands twice.
    """
    if values is None:
        return None, ()
    wrong = ValueError(
        f'{name}: ids must map mask values to class ids, both whole numbers (3: 1), or ranges of them ("1-100": 0), '
        f"found {_shorten(values)}"
    )
    if not isinstance(values, dict) or not values:
        raise wrong
    ids: dict[int, int] = {}
    ranges: list[Range] = []
    for raw, target in values.items():
        match = _RANGE.fullmatch(raw) if isinstance(raw, str) else None
        if type(target) is not int:
            raise wrong
        if match is not None and int(match[1]) <= int(match[2]):
            ranges.append((int(match[1]), int(match[2]), target))
        elif type(raw) in (int, float) and raw == raw // 1:
            ids[int(raw)] = target
        else:
            raise wrong
    ranges.sort()
    for (_, last, _), (first, end, _) in pairwise(ranges):
        if first <= last:
            raise ValueError(
                f"{name}: ids has the value {first} in two ranges, the second ends at {end}: part them"
            )
    for value in ids:
        if any(first <= value <= last for first, last, _ in ranges):
            raise ValueError(
                f"{name}: ids has the value {value} on its own and in a range: leave one of them out"
            )
    return (ids if ids or not ranges else {}), tuple(ranges)


def parse_value_names(values: Any, classes: Sequence[str], name: str) -> dict[str, int]:
    """Read `names`: what a vector layer calls a class.

    Args:
        values: value of the layer's field to class name, class id or 255, as YAML has it; None = not given.
        classes: class names, by id.
        name: the class file.

    Returns:
        Class id or 255 by the field's value, as text.

    Raises:
        ValueError: no such mapping, or a class that is not there.
    """
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{name}: names must map values of a layer's field to classes (Acker: field), found {_shorten(values)}"
        )
    known: dict[Any, int] = {**dict(zip(classes, range(len(classes)), strict=True)), IGNORE: IGNORE}
    known |= {number: number for number in range(len(classes))}
    for value, target in values.items():
        if isinstance(target, (bool, list, dict)) or target not in known:
            raise ValueError(
                f"{name}: names maps {value!r} to {target!r}: give one of {', '.join(classes)}, its id, or 255"
            )
    return {str(value): known[target] for value, target in values.items()}


def parse_threshold(value: Any, name: str) -> int | None:
    """Read the mask value from which on pixels are class 1; None where it is not given.

    Raises:
        ValueError: no whole number.
    """
    if value is not None and type(value) is not int:
        raise ValueError(
            f"{name}: threshold must be a whole number, from which on mask values are class 1, found {value!r}"
        )
    return value


def parse_choice(content: Mapping[str, Any], key: str, allowed: tuple[str, ...], name: str) -> str | None:
    """Read a key with a few allowed words; None where it is not given.

    Raises:
        ValueError: another word.
    """
    value = content.get(key)
    if value is not None and value not in allowed:
        raise ValueError(f"{name}: {key} is {value!r}, allowed are {', '.join(allowed)}, or leave it out")
    return value


def _shorten(values: object) -> str:
    text = repr(values)
    return text if len(text) <= 200 else f"{text[:200]} ..."
