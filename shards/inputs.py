"""What a data set was made of: hashes of inputs, to know a data set that is already there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mkd.data.index import INDEX_NAME, read_index


def file_sha256(path: Path) -> str:
    """Hash the content of a file (hex), in constant memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(arguments: Mapping[str, Any], files: Iterable[tuple[str, Path]] = ()) -> str:
    """Hash what a command was given: its arguments, and name and content of each input file."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for name, path in files:
        digest.update(f"\n{name} {file_sha256(path)}".encode())
    return digest.hexdigest()


def is_done(folder: str | os.PathLike[str], inputs_sha256: str) -> bool:
    """Say whether a folder already holds the data set of these inputs.

    Args:
        folder: where a data set is to be written.
        inputs_sha256: `fingerprint` of the command that asks.

    Returns:
        True when it is there, False when there is none.

    Raises:
        ValueError: another data set is there, or a damaged one.
    """
    if not (Path(folder) / INDEX_NAME).exists():
        return False
    try:
        index = read_index(folder)
    except ValueError as error:
        raise ValueError(
            f"{folder} holds a damaged data set ({error}): remove it, or choose another --out"
        ) from None
    if index.provenance.get("inputs_sha256") == inputs_sha256:
        return True
    raise ValueError(
        f"{folder} already holds the data set {index.name!r} made of other inputs: "
        "choose another --out, or remove it"
    )
