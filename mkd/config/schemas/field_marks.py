"""Marks of keys that a run in an existing folder may be given with another value."""

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")

# Marks keys that may change when a run is resumed: they change its speed, or what is kept or shown, never its numbers.
RESUMABLE = {"resumable": True}
# Marks keys of a run's length, which extend=true lets change.
LENGTH = {"length": True}


def resumable(default: T) -> T:
    """Declare a key, with its default, that may change when a run is resumed."""
    return field(default=default, metadata=RESUMABLE)
