"""Guards of the output folder: foreign files stop a build, its own stale files are removed."""

from __future__ import annotations

import re
from collections.abc import Collection

from mkd.dataset.index import INDEX_NAME
from mkd.storage.folder import Folder
from shards.output.build_manifest import BUILD_NAME, read_manifest
from shards.output.folder_lock import LOCK_PREFIX

QUARANTINE_NAME = "quarantine.jsonl"
_DRAFT_PREFIX = ".tmp-"


def prepare_folder(folder: Folder, name: str = "") -> None:
    """Create a folder, and refuse one with files that are not of a build.

    Args:
        folder: where something is to be built.
        name: of the shards that may lie there, left over from a stopped run; "" = the name in `build.json`.

    Raises:
        ValueError: other files are there, or a file is in the place of the folder.
        OSError: a place that cannot be written.
    """
    if folder.local is not None:
        try:
            folder.local.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(
                f"{folder} is a file, or lies below one: choose a new or an empty folder as --out"
            ) from None
    found = sorted(
        row.name for row in folder.listing() if not row.name.startswith((_DRAFT_PREFIX, LOCK_PREFIX))
    )
    notes: tuple[str, ...] = ()
    if not name and BUILD_NAME in found:
        name, notes = read_manifest(folder).name, (BUILD_NAME, QUARANTINE_NAME)
    own = _shard_file_pattern(name) if name else None
    others = [file for file in found if file not in notes and not (own and own.fullmatch(file))]
    if others:
        raise ValueError(
            f"{folder} holds other files ({', '.join(others[:3])}), which are not of this build and stay as they "
            "are: choose an empty folder"
        )


def remove_stale_files(folder: Folder, name: str, keep: Collection[str] = ()) -> None:
    """Remove drafts, shards and records of data set ``name``, except the named files; foreign files stay."""
    shard = _shard_file_pattern(name)
    for found in sorted(folder.sizes()):
        file = found.removeprefix(_DRAFT_PREFIX)
        draft = file != found and file.startswith((BUILD_NAME, INDEX_NAME, QUARANTINE_NAME))
        if draft or (shard.fullmatch(file) and found not in keep):
            folder.remove(found)


def _shard_file_pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name) + r"-\d{6,}\.(tar|json)")
