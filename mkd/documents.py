"""Parses YAML and JSON that strangers may have written: no aliases, little depth, finite numbers, one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable
from reprlib import Repr
from typing import Any

import yaml

MAX_YAML = 1 << 20  # bytes of a YAML file: class files, model cards and configs have a few thousand
MAX_JSON = 1 << 28  # bytes of a JSON file: an index of a million shards has 150 million
MAX_DEPTH = 32  # lists and mappings inside each other; ours have six at most

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it is there: 20 times faster
_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


class _StrictLoader(_Loader):  # type: ignore[misc]
    """Refuses a key that stands twice, of which YAML would silently take the last, and numbers without a value."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise ValueError(f"line {key_node.start_mark.line + 1}: a list or mapping is no key")
        if key in found:
            raise ValueError(f"line {key_node.start_mark.line + 1}: the key {shown(key)} stands twice")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    return _finite(loader.construct_yaml_float(node), str(node.value))


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(data: bytes | str) -> Any:
    """Parse one YAML document, as `yaml.safe_load` does.

    Args:
        data: the file's content; bytes are UTF-8.

    Returns:
        Lists, mappings, text, numbers, None.

    Raises:
        ValueError: no YAML, more than `MAX_YAML` bytes, an alias (a few hundred bytes of them can mean gigabytes), more
            than `MAX_DEPTH` levels, a key that stands twice, or a number that is not finite; without the file's name.
    """
    if len(data) > MAX_YAML:
        raise ValueError(f"it has {len(data):,} bytes, at most {MAX_YAML:,} are allowed")
    text = data if isinstance(data, str) else _decoded(data)
    try:
        check_yaml_shape(text)
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except (ValueError, OverflowError, TypeError, AttributeError) as error:  # such as a date of month 13
        raise ValueError(_one_line(error)) from None


def check_yaml_shape(text: str) -> None:
    """Refuse aliases and deep nesting before anything is built of a YAML text.

    Raises:
        ValueError: one of them; without the file's name.
        yaml.YAMLError: no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"the alias *{event.anchor} is not allowed, write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def parse_json(data: bytes | str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse one JSON document.

    Args:
        data: the file's content; bytes are UTF-8.
        object_hook: as of `json.loads`.

    Raises:
        ValueError: no JSON, more than `MAX_JSON` bytes, very deep nesting, or NaN, Infinity or the like; without the
            file's name.
    """
    if len(data) > MAX_JSON:
        raise ValueError(f"it has {len(data):,} bytes, at most {MAX_JSON:,} are allowed")
    try:
        return json.loads(
            data, object_hook=object_hook, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(_one_line(error)) from None


def whole(value: Any, what: str, low: int = 0, high: int = 2**63 - 1) -> int:
    """Return a value that must be a whole number.

    Args:
        value: as it was parsed.
        what: its name in the message.
        low: least value.
        high: greatest value.

    Raises:
        ValueError: something else.
    """
    if type(value) is not int or not low <= value <= high:  # True is an int, too
        raise ValueError(f"{what} is {shown(value)}, a whole number in {low}..{high} is needed")
    return value


def text(value: Any, what: str) -> str:
    """Return a value that must be text that can be written down: UTF-8, without control characters.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, str) or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise ValueError(f"{what} is {shown(value)}, text in one line is needed")
    return value


def file_name(value: Any, what: str) -> str:
    """Return a value that must be the name of a file, without a folder: what strangers name stays in their folder.

    Raises:
        ValueError: something else.
    """
    if "/" in text(value, what) or value in ("", ".", ".."):
        raise ValueError(f"{what} is {shown(value)}, the name of a file without its folder is needed")
    return str(value)


def sequence(value: Any, what: str, length: int | None = None) -> list[Any]:
    """Return a value that must be a list, of this length where one is given.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise ValueError(f"{what} is {shown(value)}, a list{f' of {length}' if length else ''} is needed")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Return a value that must be a mapping of little depth.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}, a mapping is needed")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inside = [part.values() if isinstance(part, dict) else part for part in level]
        level = [one for part in inside for one in part if isinstance(one, (dict, list))]
        if not level:
            return value
    raise ValueError(f"{what} is nested more than {MAX_DEPTH} levels deep")


def shown(value: Any) -> str:
    """Return a value as Python writes it, cut short."""
    return _short.repr(value)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8 text") from None


def _finite(value: float, given: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the number {given[:60]} is not finite")
    return value


def _finite_float(given: str) -> float:
    return _finite(float(given), given)


def _refuse_constant(given: str) -> float:
    raise ValueError(f"the number {given} is not finite")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
