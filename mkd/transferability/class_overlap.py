"""Which classes of a target a candidate has too, by their names."""

import re
from collections.abc import Sequence

# Names of what is no class of its own: sharing them says nothing.
REST = {"background", "other", "others", "unknown", "unlabelled", "unlabeled", "void", "clutter", "ignore"}


def shared_classes(target: Sequence[str], candidate: Sequence[str]) -> list[str]:
    """Return the target's classes that have a word in common with a class of the candidate, in the target's order.

    "building" is shared with "residential building", "trees" with "tree"; "farmland" and "dry cropland" share no word,
    so the overlap is a lower bound. Classes such as background do not count.

    Args:
        target: class names.
        candidate: class names.
    """
    known = {word for name in candidate for word in _words(name)}
    return [name for name in target if _words(name) & known]


def real_classes(names: Sequence[str]) -> list[str]:
    """Return the classes but for background and its like."""
    return [name for name in names if _words(name)]


def _words(name: str) -> set[str]:
    words = re.findall(r"[^\W\d_]+", name.casefold())
    if set(words) <= REST:
        return set()
    return {word.removesuffix("s") if len(word) > 3 else word for word in words} - REST
