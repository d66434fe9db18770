"""A config as YAML text, as it lies in a run folder; texts are kept sign for sign."""

from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf

from mkd.documents import parse_yaml

T = TypeVar("T")
_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false")  # that some reader of YAML takes for a boolean


class _Dumper(yaml.SafeDumper):
    """Writes texts that look like numbers or booleans with quotes, whatever rules the reader has."""


def _quoted_where_needed(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_otherwise = text.lower() in _WORDS
    with suppress(ValueError):
        float(text)
        looks_otherwise = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "'" if looks_otherwise else None)


_Dumper.add_representer(str, _quoted_where_needed)


def to_yaml(config: Any) -> str:
    """Return a config, a dataclass, as YAML text with every key."""
    text: str = yaml.dump(
        asdict(config), Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text


def from_yaml(kind: type[T], text: str) -> T:
    """Return the schema object that `to_yaml` wrote."""
    texts: dict[tuple[str, ...], str] = {}
    content = _without_references(parse_yaml(text), (), texts)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(content)))
    assert isinstance(config, kind)
    for path, value in texts.items():
        set_value(config, path, value)
    return config


def set_value(config: Any, path: tuple[str, ...], value: Any) -> None:
    """Set a field of a config, or an entry of a dict, that lies some names below it."""
    place = config
    for part in path[:-1]:
        place = place[part] if isinstance(place, dict) else getattr(place, part)
    if isinstance(place, dict):
        place[path[-1]] = value
    else:
        setattr(place, path[-1], value)


def _without_references(content: Any, path: tuple[str, ...], texts: dict[tuple[str, ...], str]) -> Any:
    """Put a stand-in for each text that OmegaConf would take for a reference or for missing, and note the text."""
    if isinstance(content, dict):
        return {key: _without_references(value, (*path, key), texts) for key, value in content.items()}
    if isinstance(content, str) and ("${" in content or content == "???"):
        texts[path] = content
        return "-"
    return content
