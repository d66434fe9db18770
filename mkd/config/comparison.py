"""Compare the config of a run with one written before, key by key."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf

from mkd.config.run_config import to_yaml
from mkd.config.schemas.field_marks import LENGTH, RESUMABLE


def difference(
    written: str, config: Any, there: str = "there", now: str = "now", *, any_length: bool = False
) -> str:
    """Return where a config differs from one written by `to_yaml`, but for keys that may change at a resume.

    A key that is newer than the written config counts there with its default.

    Args:
        written: YAML text, also of an older version of this program.
        config: a dataclass of `mkd.config.schema`.
        there: word for the written config.
        now: word for ``config``.
        any_length: keys of the run's length may change too.

    Returns:
        Such as ``there seed: 0; now seed: 4``; empty where they do not differ.
    """
    # Both are read from YAML, so that a tuple here and a list there are equal.
    defaults = _leaves(OmegaConf.to_container(OmegaConf.structured(type(config))))
    old = defaults | _leaves(yaml.safe_load(written))
    new = _leaves(yaml.safe_load(to_yaml(config)))
    marks = (RESUMABLE, LENGTH) if any_length else (RESUMABLE,)
    free, found = _resumable_keys(type(config), marks=marks), []
    for key in [*old, *(k for k in new if k not in old)]:
        if key in free or (key in old and key in new and old[key] == new[key]):
            continue
        found += [
            f"{word} {_shown(key, side[key])}" for word, side in ((there, old), (now, new)) if key in side
        ]
    return "; ".join(found)


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by dotted key, in order."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _resumable_keys(
    kind: type[Any], prefix: str = "", marks: Sequence[dict[str, bool]] = (RESUMABLE,)
) -> set[str]:
    """Return the dotted keys of a schema, and of its sections, that bear one of some marks."""
    found: set[str] = set()
    for f in fields(kind):
        if is_dataclass(f.type) and isinstance(f.type, type):
            found |= _resumable_keys(f.type, f"{prefix}{f.name}.", marks)
        elif f.metadata in marks:
            found.add(f"{prefix}{f.name}")
    return found


def _shown(key: str, value: Any) -> str:
    """Return a key, as it is called in its section, and its value as on a line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return f"{key.rpartition('.')[2]}: {text.removesuffix('...' + chr(10)).strip()}"
