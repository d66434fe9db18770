"""The manifest of a build, `build.json`: written first, so that parts and a later merge agree."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from mkd.documents import parse_json
from mkd.label_coding import LabelCoding
from mkd.labels import Colour
from mkd.storage.folder import Folder
from shards.inputs.class_file import ClassFile
from shards.output.build_options import BuildOptions

BUILD_NAME = "build.json"
FORMAT = "mkd-build"
VERSION = 1


class Budget(NamedTuple):
    """Shares of the labelled and of the unlabelled tiles that may be bad, 0..1."""

    labelled: float = 0.0
    unlabelled: float = 0.001


@dataclass(frozen=True)
class BuildManifest:
    """What a build makes.

    Attributes:
        name: data set name; shards are NAME-000000.tar, ...
        classes: class names.
        palette: one (r, g, b) a class.
        provenance: what the index will tell: options, source, "inputs_sha256".
        budget: how many tiles may be bad.
        title: the command's name.
        classfile: path of the class file, and
        masks: its kind of masks; both for messages only.
        units: fingerprint of each unit of work, in order of the shards' numbers.
        place: where the inputs are, in full; copies of them elsewhere make the same build.
        labels: what the values of the labels mean, where they are no class ids.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    provenance: Mapping[str, Any]
    budget: Budget
    title: str
    classfile: str
    masks: str
    units: tuple[str, ...] = ()
    place: str = field(default="", compare=False)
    labels: LabelCoding | None = None

    def file(self, number: int) -> str:
        """Name a shard."""
        return f"{self.name}-{number:06d}.tar"


def describe_build(
    title: str, classfile: ClassFile, options: BuildOptions, provenance: Mapping[str, Any], place: str
) -> BuildManifest:
    """Describe a build of `pack` or `tile`, not yet its units.

    Args:
        title: the command's name.
        classfile: classes, colours and kind of masks.
        options: name of the data set, and how many tiles may be bad.
        provenance: what the index will tell: options, source, "inputs_sha256".
        place: where the inputs are, in full.

    Raises:
        ValueError: a budget outside 0..1.
    """
    budget = Budget(options.max_bad_labelled, options.max_bad)
    for option, share in (
        ("--max-bad-labelled", budget.labelled),
        ("--max-bad", budget.unlabelled),
    ):
        if not 0 <= share <= 1:
            raise ValueError(f"{option} {share}: give a share of the tiles, 0..1")
    return BuildManifest(
        name=options.name or classfile.name,
        classes=classfile.classes,
        palette=classfile.palette,
        provenance=provenance,
        budget=budget,
        title=title,
        classfile=classfile.path,
        masks=classfile.masks,
        place=place,
    )


def prepare_manifest(
    folder: Folder, wanted: BuildManifest, exclusive: bool, replace_other: bool = False
) -> str:
    """Write the manifest, unless the folder has this one already.

    Inputs may have been corrected since: shards whose inputs changed are made again. Other options or another source
    are another build, whose shards cost somebody hours.

    Args:
        folder: locked by this job.
        wanted: what this job builds.
        exclusive: whether no other part of the build is at work.
        replace_other: an earlier build of something else is dropped instead of refused.

    Returns:
        Name of the data set that was being built there, "" when there was none.

    Raises:
        ValueError: an earlier build of something else is there, or other parts are building it.
    """
    found = read_manifest(folder) if folder.exists(BUILD_NAME) else None
    if found == wanted:
        return wanted.name
    # While other parts are at work, nothing may change under them but the budget.
    if found is not None and not exclusive and replace(found, budget=wanted.budget) != wanted:
        raise ValueError(
            f"other parts build {found.name!r} of other inputs or options in {folder}: start all parts with the "
            "same command, or choose another --out"
        )
    # Alone, this job may go on with corrected inputs, but drops other work only when told to.
    if found is not None and not replace_other and (difference := _differing_option(found, wanted)):
        raise ValueError(
            f"{folder} holds an unfinished build of something else ({difference}): give the same command to go on "
            "with it, --replace to drop its shards, or choose another --out"
        )
    write_manifest(folder, wanted)
    return found.name if found is not None else ""


def _differing_option(found: BuildManifest, wanted: BuildManifest) -> str:
    """Name the first option in which two builds differ; "" = one build, whose inputs may have changed."""
    if found.units == wanted.units:
        return ""
    there, here = _options(found), _options(wanted)
    different = [key for key in here if there.get(key, here[key]) != here[key]]
    return f"{different[0]} {there[different[0]]} there, {here[different[0]]} here" if different else ""


def _options(build: BuildManifest) -> dict[str, Any]:
    options = json.loads(json.dumps(dict(build.provenance)))  # as it comes back from a file
    place = {"source": build.place} if build.place else {}
    follow = ("source", "origin", "inputs_sha256", "uncovered_pixels")  # what follows from the inputs
    return {"name": build.name, **{key: options[key] for key in options if key not in follow}, **place}


def read_manifest(folder: Folder) -> BuildManifest:
    """Read the manifest of the build in a folder.

    Raises:
        ValueError: no build there, or the file is damaged.
    """
    path = folder.url_of(BUILD_NAME)
    try:
        content = parse_json(folder.read(BUILD_NAME))
    except FileNotFoundError:
        raise ValueError(f"nothing is being built in {folder}: it has no {BUILD_NAME}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it and build again") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is damaged (it holds a {type(content).__name__}, not an object): remove it and build again"
        )
    found = (content.pop("format", None), content.pop("version", None))
    if found != (FORMAT, VERSION):
        raise ValueError(f"{path} is of format {found}, this program reads {FORMAT} {VERSION}: build again")
    try:
        return BuildManifest(
            **{
                **content,
                "classes": tuple(content["classes"]),
                "palette": tuple((r, g, b) for r, g, b in content["palette"]),
                "budget": Budget(*content["budget"]),
                "units": tuple(content["units"]),
                "labels": LabelCoding.from_json(content.get("labels"), len(content["classes"])),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): remove it and build again") from None


def write_manifest(folder: Folder, description: BuildManifest) -> None:
    """Write the manifest whole; several parts of one build may write it at the same time."""
    content = {"format": FORMAT, "version": VERSION, **asdict(description)}
    if description.labels is None:  # as earlier versions wrote it
        del content["labels"]
    else:
        content["labels"] = description.labels.to_json()
    text = json.dumps(content, indent=1) + "\n"
    if folder.local is None:
        folder.write(BUILD_NAME, text)
        return
    # A draft of this process's own: two parts must not write into one file before the rename.
    own = f".tmp-{BUILD_NAME}-{socket.gethostname()}-{os.getpid()}"
    folder.write(own, text)
    os.replace(folder.local / own, folder.local / BUILD_NAME)
