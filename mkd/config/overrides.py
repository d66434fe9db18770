"""Arguments KEY=VALUE of a command, each value read as the schema's type of its key says.

A text is what the shell gives, sign for sign: a path needs no quotes beyond the shell's. Only a list, a number or a
mapping has a grammar of its own.
"""

import re
import types
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from hydra.errors import HydraException

from mkd.cli.printable import printable

LONGEST = 200  # characters of a value that a message repeats
NULL = "null"  # means no value
_QUOTED = re.compile(r"""(?s)(['"])((?:(?!\1|\\).|\\.)*)\1""")
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Override:
    """One argument: a dotted key, and its value as typed."""

    key: str
    typed: str

    def __str__(self) -> str:
        """Return the argument for a message: on one line, a long value cut short."""
        return f"{self.key}={self.shown}"

    @property
    def shown(self) -> str:
        """The value for a message."""
        return printable(self.typed, LONGEST)


def split_argument(argument: str) -> Override:
    """Split KEY=VALUE at the first equals sign.

    Raises:
        ValueError: no equals sign, one of Hydra's prefixes, or a value that is not UTF-8.
    """
    key, equals, typed = argument.partition("=")
    if key.startswith(("+", "~")):
        raise ValueError(
            f"argument '{argument}': keys are neither added nor removed; write it without '{key[0]}': KEY=VALUE"
        )
    if not equals:
        raise ValueError(f"argument '{argument}' is not KEY=VALUE; write for example out=runs/first")
    try:
        typed.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key}={ascii(typed)}: the name is not UTF-8; rename the file or folder") from None
    return Override(key, typed)


def type_of_key(kind: Any, key: str) -> Any:
    """Return the type of a dotted key of a schema class; None where there is no such key."""
    for part in key.split("."):
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            return None
    return kind


def is_text(kind: Any) -> bool:
    """Whether values of a type are texts, or lists of them, which are taken as they are typed."""
    kind, _ = _required(kind)
    return kind is str or (get_origin(kind) is list and get_args(kind) == (str,))


def read_value(override: Override, kind: Any) -> Any:
    """Return the value of an argument; numbers and words stay texts, which OmegaConf converts and checks.

    Args:
        override: the argument.
        kind: type of its key: a scalar, a list or tuple of scalars, each maybe with None; else Hydra's grammar.

    Raises:
        ValueError: a value that the type does not have; one sentence with the argument.
    """
    plain, optional = _required(kind)
    if override.typed.lower() == NULL:
        if not optional:
            raise ValueError(
                f"{override}: null means no value, and {override.key} needs one"
                + ("; for a file or folder of that name give ./null" if plain is str else "")
            )
        return None
    if plain is str:
        return _text(override, optional)
    origin = get_origin(plain)
    if origin in (list, tuple) and not any(
        get_origin(part) or is_dataclass(part) for part in get_args(plain)
    ):
        return _list(override, single=origin is list, texts=get_args(plain) == (str,))
    if origin is not None or is_dataclass(plain):
        return _by_hydra(override)
    return unquoted(override.typed)


def unquoted(typed: str) -> str:
    """Return a text without the quotes that are about the whole of it; others belong to it."""
    if whole := _QUOTED.fullmatch(typed):
        return re.sub(rf"\\([\\{whole[1]}])", r"\1", whole[2])
    return typed


def _text(override: Override, optional: bool) -> str:
    found = unquoted(override.typed)
    if not found:
        null = ", or null for no value" if optional else ""
        raise ValueError(f"{override.key}= is empty; give a value{null} (is a variable of the shell unset?)")
    if optional and override.typed.lower() == "none":
        raise ValueError(
            f"{override}: for no value write {override.key}=null; for a file or folder of that name give ./none"
        )
    return found


def _list(override: Override, single: bool, texts: bool) -> list[str]:
    """Return the items of [A,B]; where ``single`` holds, a value without brackets is the only item."""
    typed = override.typed.strip()
    if single and texts and not (typed.startswith("[") and typed.endswith("]")):
        return [_text(override, optional=False)]
    if not typed.startswith("["):
        if single:
            return [typed]
        raise ValueError(f"{override}: a {_name(typed)} is not a list; write it in brackets, such as [1,2]")
    items = _items(typed[1:-1]) if typed.endswith("]") else None
    if items is None or (not all(items) and items != [""]):
        raise ValueError(
            f"{override} cannot be read as a list; write [A,B], with quotes about items with a comma"
        )
    return [] if items == [""] else [unquoted(item) for item in items]


def _items(inside: str) -> list[str] | None:
    """Cut at the commas that no quotes and no brackets enclose; None where these do not close."""
    items, depth, quote, item = list[str](), 0, "", ""
    for sign in inside:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and not item.strip():  # a quote within a name is a part of it
            quote = sign
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth = max(0, depth - 1)
        elif sign == "," and not depth:
            items.append(item.strip())
            item = ""
            continue
        item += sign
    return None if quote or depth else [*items, item.strip()]


def _by_hydra(override: Override) -> Any:
    """Read a mapping, or a list of lists, by Hydra's grammar."""
    try:
        found = OverridesParser.create().parse_override(f"key={override.typed}").value()
    except HydraException as error:
        raise ValueError(f"{override} cannot be read ({' '.join(str(error).split())})") from None
    if isinstance(found, Sweep):
        raise ValueError(f"{override}: one value is needed; a list stands in brackets, such as [1,2]")
    return found


def _required(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it had it."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [part for part in get_args(kind) if part is not type(None)]
        return others[0], len(others) < len(get_args(kind))
    return kind, False


def _name(typed: str) -> str:
    return "int" if re.fullmatch(r"[+-]?\d+", typed) else "value"


def last_of_each(overrides: Sequence[Override]) -> dict[str, Override]:
    """Return the arguments by key; of several with one key the last counts."""
    return {override.key: override for override in overrides}
