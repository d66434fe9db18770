"""Command line and YAML -> schema object; every mistake names the key and the fix."""

import contextlib
import difflib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mkd.cli.arguments import encoding_fault
from mkd.cli.exit import crash, end_torchrun_silently, fail, first_rank, interrupt, leave, several_ranks
from mkd.cli.printable import printable
from mkd.config import schema
from mkd.config.cross_checks import check
from mkd.config.keys import CONFIGS, choices, help_text
from mkd.config.overrides import (
    LONGEST,
    Override,
    is_text,
    last_of_each,
    read_value,
    split_argument,
    type_of_key,
    unquoted,
)
from mkd.config.paper_tables import spell_out
from mkd.config.run_config import from_yaml, set_value, to_yaml
from mkd.documents import check_yaml_shape, parse_yaml

T = TypeVar("T")
_LONGEST = 500  # characters of another library's words in a message


def load(kind: type[T], name: str, argv: Sequence[str]) -> T:
    """Compose ``configs/NAME.yaml`` with overrides and return a checked schema object.

    Args:
        kind: a dataclass of `mkd.config.schema`.
        name: primary config, e.g. ``kd``.
        argv: arguments KEY=VALUE, e.g. ``["out=runs/x", "optim.lr=0.01"]``; see `mkd.config.overrides`.

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
    given = last_of_each([split_argument(argument) for argument in argv])
    groups = {group: chosen for group, chosen, _ in choices(name)}
    if kind is schema.Experiment:
        given = spell_out(given, next(files for group, _, files in choices(name) if group == "experiment"))
    chosen = {key: override for key, override in given.items() if key in groups}
    values = {key: override for key, override in given.items() if key not in groups}
    for key, override in values.items():
        wanted = type_of_key(kind, key)
        if wanted is None or (is_dataclass(wanted) and not override.typed.startswith("{")):
            raise ValueError(_unknown(key, kind, groups))
    composed = _compose(kind, name, chosen)
    texts = {}  # set at the very end: OmegaConf would take ${ in a path for a reference
    for key, override in values.items():
        wanted = type_of_key(kind, key)
        if not is_text(wanted) or override.typed.startswith(("[", "{")):
            _check_shape(key, override.typed)
        value = read_value(override, wanted)
        if is_text(wanted):
            texts[key] = value
        if value is not None and is_text(wanted):
            value = ["-"] if isinstance(value, list) else "-"
        try:
            OmegaConf.update(composed, key, value, merge=True)
        except OmegaConfBaseException as error:
            raise ValueError(_explain(error, override)) from None
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        config = None if missing else OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # such as a reference ${x} to a key that there is not
        key = error.full_key or ""
        raise ValueError(_explain(error, values[key]) if key in values else f"{key}: {error.msg}") from None
    if missing:
        raise ValueError(f"missing value: give {', '.join(f'{k}=...' for k in missing)}")
    assert isinstance(config, kind)
    for key, value in texts.items():
        set_value(config, tuple(key.split(".")), value)
    _check_lengths(config)
    _check_finite(config)
    _choose_start(config, given)
    return config


def _choose_start(config: Any, given: Mapping[str, Override]) -> None:
    """Start from random weights where pretrained ones are declined and no other start is named."""
    declined = "model.pretrained" in given and "student_init" not in given
    if isinstance(config, schema.SupervisedRun) and declined and config.model.pretrained is None:
        config.student_init = "random"


def _check_lengths(config: Any, prefix: str = "") -> None:
    """Refuse a tuple of another length than its default, which OmegaConf lets pass."""
    for f in fields(config):
        value, default = getattr(config, f.name), f.default
        if is_dataclass(value):
            _check_lengths(value, f"{prefix}{f.name}.")
        elif isinstance(default, tuple) and len(value) != len(default):
            raise ValueError(f"{prefix}{f.name}={list(value)}: {len(default)} values are needed")


def _check_shape(key: str, value: str) -> None:
    """Refuse a value with YAML aliases, a few of which mean gigabytes, or with brackets in hundreds of brackets."""
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


def _compose(kind: type[Any], name: str, chosen: Mapping[str, Override]) -> DictConfig:
    """Compose with Hydra where ``configs/NAME.yaml`` has choices; elsewhere return the schema's defaults."""
    if not (CONFIGS / f"{name}.yaml").is_file():
        defaults: DictConfig = OmegaConf.structured(kind)
        return defaults
    own = None
    for group, default, files in choices(name):
        typed = chosen[group].typed if group in chosen else default
        if group == "experiment" and typed.endswith((".yaml", ".yml")):
            own = Path(unquoted(typed))
        elif typed not in files.split(", "):
            path = ", or the path of a YAML file of your own" if group == "experiment" else ""
            fault = (
                f"missing value: give {group}=..." if group not in chosen else f"{chosen[group]} is not there"
            )
            raise ValueError(f"{fault}; choose one of {files}{path}")
    if own is not None:
        return _from_file(kind, own)
    ConfigStore.instance().store(name=f"schema_{name}", node=kind)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=[f"{override.key}={override.typed}" for override in chosen.values()])


def _from_file(kind: type[Any], path: Path) -> DictConfig:
    """Return the schema's defaults with the keys of a YAML file on top; its name is that of the file."""
    if not path.is_file():
        raise ValueError(f"experiment={path}: no such file; give the path of a YAML file")
    try:
        content = parse_yaml(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"experiment={path} cannot be used: {error}") from None
    if not isinstance(content, dict) or "defaults" in content:
        raise ValueError(
            f"experiment={path}: give keys such as those of configs/experiment/demo.yaml, without 'defaults'"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), {"name": path.stem, **content})
    except OmegaConfBaseException as error:
        text = " ".join(str(error).split()).split(" full_key:")[0]
        raise ValueError(f"experiment={path} cannot be used: {text}") from None
    assert isinstance(merged, DictConfig)
    return merged


def _unknown(key: str, kind: type[Any], groups: Mapping[str, str]) -> str:
    """Return the sentence that refuses a key, with the nearest ones that there are."""
    known = [*_keys(OmegaConf.structured(kind)), *groups]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"
    return f"unknown key '{printable(key, LONGEST)}'; {hint}"


def _explain(error: OmegaConfBaseException, override: Override) -> str:
    """Turn an error of OmegaConf into one sentence with the argument."""
    text = " ".join(str(error).split()).split(" full_key:")[0]
    text = text.replace("$VALUE_TYPE", "str").replace("$VALUE", override.shown)
    return f"{override}: {printable(text, _LONGEST)}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all leaves of a structured config."""
    keys: list[str] = []
    for key in node:
        full = f"{prefix}{key}"
        child = None if OmegaConf.is_missing(node, key) else node[key]
        keys += _keys(child, f"{full}.") if isinstance(child, DictConfig) and len(child) else [full]
    return keys


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
    config = None
    try:
        config = load(kind, name, words)
        said = work(config)
        if said is not None and first_rank():
            print(said, flush=True)
    except (ValueError, OSError) as error:
        fail(name, str(error), 2)
    except KeyboardInterrupt:
        interrupt(name, _after_interrupt(config))
    except Exception as error:
        if not several_ranks():
            raise
        crash(name, error)
    except SystemExit as end:  # a run that stopped as it was asked to
        if end.code == 130:
            end_torchrun_silently()
        if not several_ranks():
            raise
        leave(end.code if isinstance(end.code, int) else 1)
    if several_ranks():
        leave(0)  # gloo sometimes aborts at the interpreter's exit


def _after_interrupt(config: object) -> str:
    """Return what Ctrl-C leaves, and what the same command does with it."""
    again = "stopped; run the same command again"
    match config:
        case schema.RunConfig():
            if any(Path(config.out).glob("checkpoints/*/latest.pt")):
                return f"{again} to go on from the last checkpoint"
            return f"{again} to start at step 0: it had saved no checkpoint"
        case schema.PredictRun():
            return f"{again} to make what is missing: finished maps are kept"
        case schema.Experiment() | schema.DemoRun():
            return f"{again} to go on: ended runs are not repeated"
        case schema.TeacherLabel():
            return f"{again} to go on: finished shards are kept"
    return "stopped"


__all__ = ["CONFIGS", "from_yaml", "load", "main", "schema", "to_yaml"]
