"""Command line and YAML -> schema object; every mistake names the key and the fix."""

import contextlib
import difflib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mkd.cli.arguments import encoding_fault
from mkd.cli.exit import crash, fail, first_rank, leave, several_ranks
from mkd.config import schema
from mkd.config.cross_checks import check
from mkd.config.keys import CONFIGS, help_text
from mkd.documents import check_yaml_shape, parse_yaml

T = TypeVar("T")


def load(kind: type[T], name: str, argv: Sequence[str]) -> T:
    """Compose ``configs/NAME.yaml`` with overrides and return a checked schema object.

    Args:
        kind: a dataclass of `mkd.config.schema`.
        name: primary config, e.g. ``kd``.
        argv: Hydra overrides, e.g. ``["out=runs/x", "optim.lr=0.01"]``.

    Raises:
        ValueError: a typo, a wrong type, a missing value or path, an impossible pair; names the key and the fix.
    """
    config = parse(kind, name, argv)
    check(config)
    return config


def parse(kind: type[T], name: str, argv: Sequence[str]) -> T:
    """Compose and convert like `load`, without its checks of paths, ranges and pairs."""
    if fault := encoding_fault(argv):
        raise ValueError(fault)
    for arg in argv:
        if "=" not in arg and not arg.startswith("~"):
            raise ValueError(f"argument '{arg}' is not KEY=VALUE; write for example out=runs/first")
        if arg.startswith("+"):
            raise ValueError(f"argument '{arg}': keys cannot be added; write it without '+'")
        _check_shape(arg)
    try:
        composed = _compose(kind, name, argv)
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ValueError(f"missing value: give {', '.join(f'{k}=...' for k in missing)}")
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(_explain(error, kind, argv)) from None
    assert isinstance(config, kind)
    _check_lengths(config)
    _check_finite(config)
    return config


def _check_lengths(config: Any, prefix: str = "") -> None:
    """Refuse a tuple of another length than its default, which OmegaConf lets pass."""
    for f in fields(config):
        value, default = getattr(config, f.name), f.default
        if is_dataclass(value):
            _check_lengths(value, f"{prefix}{f.name}.")
        elif isinstance(default, tuple) and len(value) != len(default):
            raise ValueError(f"{prefix}{f.name}={list(value)}: {len(default)} values are needed")


def _check_shape(arg: str) -> None:
    """Refuse a value with YAML aliases, a few of which mean gigabytes, or with brackets in hundreds of brackets."""
    key, _, value = arg.partition("=")
    try:
        with contextlib.suppress(yaml.YAMLError):  # whoever parses it says so
            check_yaml_shape(value)
    except ValueError as error:
        raise ValueError(f"{key}={value[:60]}: {error}") from None


def _check_finite(value: Any, key: str = "") -> None:
    """Refuse infinity and NaN in any key, at any depth: no key means anything by them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value}; a finite number is needed")
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, dict):
        parts = {str(name): part for name, part in value.items()}
    else:
        for part in value if isinstance(value, (list, tuple)) else ():
            _check_finite(part, key)
        return
    for name, part in parts.items():
        _check_finite(part, f"{key}.{name}" if key else name)


def _compose(kind: type[Any], name: str, argv: Sequence[str]) -> DictConfig:
    """Compose with Hydra where ``configs/NAME.yaml`` has choices; elsewhere put overrides on the schema.

    Without choices Hydra would take ``model=RUN/model`` for a file of ``configs/model/``.
    """
    if not (CONFIGS / f"{name}.yaml").is_file():
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(list(argv)))
        assert isinstance(merged, DictConfig)
        return merged
    ConfigStore.instance().store(name=f"schema_{name}", node=kind)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(argv))


def _explain(error: Exception, kind: type[Any], argv: Sequence[str]) -> str:
    """Turn a Hydra or OmegaConf error into one sentence with the key and the nearest allowed ones."""
    causes = [error, error.__cause__, error.__context__]
    text = " ".join(str(next(c for c in reversed(causes) if c is not None)).split())
    known = [*_keys(OmegaConf.structured(kind)), "model", "experiment", "kd", "semi"]
    for arg in argv:
        key = arg.split("=", 1)[0].lstrip("+~")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"
            return f"unknown key '{key}'; {hint}"
    key = getattr(error.__cause__ or error, "full_key", None) or ""
    given = next((a for a in reversed(argv) if key and a.startswith(f"{key}=")), "")
    value = given.partition("=")[2]
    text = text.split(" full_key:")[0].replace("$VALUE_TYPE", "str").replace("$VALUE", value)
    return f"{given or key or 'config'}: {text}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all leaves of a structured config."""
    keys: list[str] = []
    for key in node:
        full = f"{prefix}{key}"
        child = None if OmegaConf.is_missing(node, key) else node[key]
        keys += _keys(child, f"{full}.") if isinstance(child, DictConfig) and len(child) else [full]
    return keys


def to_yaml(config: Any) -> str:
    """Return a resolved config as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def from_yaml(kind: type[T], text: str) -> T:
    """Return the schema object that `to_yaml` wrote."""
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(parse_yaml(text)))
    )
    assert isinstance(config, kind)
    return config


def main(
    kind: type[T], name: str, work: Callable[[T], str | None], argv: Sequence[str] | None = None
) -> None:
    """Run one entry script; a user's mistake ends it with one sentence and status 2, --help prints the keys.

    Args:
        kind: a dataclass of `mkd.config.schema`.
        name: of the command.
        work: what it does; the text that it returns is printed, once for all ranks.
        argv: Hydra overrides; None takes the command line.
    """
    words = sys.argv[1:] if argv is None else argv
    if "--help" in words or "-h" in words:
        if first_rank():
            print(help_text(kind, name), flush=True)
        return
    try:
        said = work(load(kind, name, words))
        if said is not None and first_rank():
            print(said, flush=True)
    except (ValueError, OSError) as error:
        fail(name, str(error), 2)
    except KeyboardInterrupt:
        fail(name, "stopped; run the same command again to go on from the last checkpoint", 130)
    except Exception as error:
        if not several_ranks():
            raise
        crash(name, error)
    except SystemExit as end:  # a run that stopped as it was asked to
        if not several_ranks():
            raise
        leave(end.code if isinstance(end.code, int) else 1)
    if several_ranks():
        leave(0)  # gloo sometimes aborts at the interpreter's exit


__all__ = ["CONFIGS", "from_yaml", "load", "main", "schema", "to_yaml"]
