"""Keys of the commands with default and meaning, read from the schema: for --help and docs/keys.md.

The meaning of a key is the comment beside or above its field; `python -m mkd.config.keys > docs/keys.md` writes the
page. Nothing here imports torch, so that --help answers at once.
"""

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from mkd.config import schema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHARED = "base"  # name of a file that others of its folder build on: no choice by itself
COMMANDS = (  # word after python launch/, schema
    ("supervised.py", schema.SupervisedRun),
    ("kd.py", schema.KdRun),
    ("semi.py", schema.SemiRun),
    ("evaluate.py", schema.EvaluateRun),
    ("predict_map.py", schema.PredictRun),
    ("export.py", schema.ExportRun),
    ("select_tiles.py", schema.SelectTilesRun),
    ("domains.py", schema.DomainsRun),
    ("experiment.py", schema.Experiment),
    ("demo.py", schema.DemoRun),
    ("landscapes.py", schema.LandscapesRun),
    ("teacher.py serve", schema.TeacherServe),
    ("teacher.py label", schema.TeacherLabel),
    ("teacher.py status", schema.TeacherStatus),
)


@dataclass(frozen=True)
class Key:
    """One key of a command: dotted name, type as annotated, default as typed (None: required), meaning."""

    name: str
    type: str
    default: str | None
    meaning: str


def keys_of(kind: type[Any], prefix: str = "") -> Iterator[Key]:
    """Yield the keys of a schema class in their order, those of nested groups with their dotted names.

    Args:
        kind: a dataclass of `mkd.config.schema` or of a floor above.
        prefix: what stands before each name, such as "optim.".
    """
    described = _described(kind)
    for field in fields(kind):
        default = _default(field)
        if is_dataclass(default):
            yield from keys_of(type(default), f"{prefix}{field.name}.")
        else:
            annotation, meaning = described[field.name]
            text = None if default == MISSING else _typed(default)
            yield Key(f"{prefix}{field.name}", annotation, text, meaning)


def help_text(kind: type[Any], name: str) -> str:
    """Return what --help prints: the command, its choices of files, then each key with default and meaning.

    Args:
        kind: schema class of the command.
        name: of its primary config, such as "kd".
    """
    about = " ".join((kind.__doc__ or name).split())
    lines = [(f"{group}={chosen}", f"one of {choices}") for group, chosen, choices in choices(name)]
    for key in keys_of(kind):
        needs_type = key.default in (None, "null")
        meaning = f"[{key.type.removesuffix(' | None')}] {key.meaning}" if needs_type else key.meaning
        lines.append((f"{key.name}={'...' if key.default is None else key.default}", meaning))
    width = max(len(left) for left, _ in lines)
    body = "\n".join(f"  {left:<{width}}  {right}".rstrip() for left, right in lines)
    return f"{about}\n\nArguments are KEY=VALUE; KEY=... must be given.\n\n{body}"


def markdown() -> str:
    """Return the text of docs/keys.md: a table for each command; keys that training runs share come first."""
    shared = list(keys_of(schema.RunConfig)) + list(keys_of(schema.ModelConfig, "model."))
    parts = [
        "# Keys",
        "Written by `python -m mkd.config.keys > docs/keys.md` from `mkd/config/schema.py`; do not edit. "
        "`python launch/NAME.py --help` prints the same for one command.",
        "## Every training run",
        _table(list(keys_of(schema.RunConfig))),
        "## The network: supervised.py and kd.py",
        "`model=NAME` takes all of these from `configs/model/NAME.yaml`.",
        _table(list(keys_of(schema.ModelConfig, "model."))),
    ]
    for command, kind in COMMANDS:
        own = [key for key in keys_of(kind) if key not in shared or not issubclass(kind, schema.RunConfig)]
        parts += [f"## {command}", _table(own)]
    return "\n\n".join(parts) + "\n"


def _table(keys: list[Key]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        default = "required" if key.default is None else f"`{key.default}`"
        cells = (f"`{key.name}`", f"`{key.type}`", default, key.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def choices(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, default and names of the files that a primary config lets one choose from."""
    path = CONFIGS / f"{name}.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"] if path.is_file() else []
    for entry in entries:
        if isinstance(entry, dict):
            for group, chosen in entry.items():
                files = sorted(file for file in (CONFIGS / group).rglob("*.yaml") if file.stem != SHARED)
                names = [file.relative_to(CONFIGS / group).with_suffix("").as_posix() for file in files]
                yield group, "..." if chosen == MISSING else chosen, ", ".join(names)


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is NO_DEFAULT else field.default_factory()


def _typed(value: Any) -> str:
    """Write a value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_typed(part) for part in value) + "]"
    return str(value)


def _described(kind: type[Any]) -> dict[str, tuple[str, str]]:
    """Return annotation and comment of each field, those of base classes included."""
    found: dict[str, tuple[str, str]] = {}
    for owner in reversed(kind.__mro__):
        if is_dataclass(owner):
            found |= _comments(textwrap.dedent(inspect.getsource(owner)))
    return found


def _comments(source: str) -> dict[str, tuple[str, str]]:
    """Return annotation and comment of each field of one class: comments above it and on its own lines."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found, above = {}, 0
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    for node in body:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.AnnAssign):
            meaning = " ".join(comments[n] for n in range(above + 1, last + 1) if n in comments)
            found[ast.unparse(node.target)] = (ast.unparse(node.annotation).replace("'", ""), meaning)
        above = last
    return found


if __name__ == "__main__":
    print(markdown(), end="")
