"""Patterns of file names: stars, and the placeholders that they fill."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """Turn a pattern with stars into a regular expression with one group a star.

    Args:
        pattern: relative path; `*` matches within a folder, `**/` any number of folders.

    Returns:
        An expression to be used with `fullmatch` on relative POSIX paths.

    Raises:
        ValueError: `?` or brackets, which are not supported.
    """
    if re.search(r"[?\[\]]", pattern):
        raise ValueError(f"pattern {pattern!r} has '?' or brackets: use only * and **/")
    parts = {"**/": r"((?:[^/]+/)*)", "*": r"([^/]*)"}
    pieces = re.split(r"(\*\*/|\*)", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))


def star_fields(pattern: str, path: str) -> dict[str, str]:
    """Return what each star of a pattern matched in a path, by its number from 1, in any Unicode form."""
    match = glob_to_regex(pattern).fullmatch(path)
    if match is None:
        forms = (unicodedata.normalize("NFC", text) for text in (pattern, path))
        match = glob_to_regex(next(forms)).fullmatch(next(forms))
    return {} if match is None else {str(number): text for number, text in enumerate(match.groups(), 1)}


def fill_pattern(pattern: str, fields: Mapping[str, str], where: str) -> str:
    """Fill placeholders such as {stem} or {1}.

    Args:
        pattern: with placeholders.
        fields: what each of them stands for.
        where: what to call the pattern in an error.

    Raises:
        ValueError: a placeholder that is not known.
    """

    def fill(place: re.Match[str]) -> str:
        if place[1] not in fields:
            raise ValueError(f"{where} has {{{place[1]}}}, known are {', '.join(sorted(fields))}")
        return fields[place[1]]

    return re.sub(r"\{([^{}]*)\}", fill, pattern)
