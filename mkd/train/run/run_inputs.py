"""What a run was begun with beside its config: data sets and versions, compared when it goes on and between ranks."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.dataset.index import DatasetIndex
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World
from mkd.documents import mapping, parse_json

NAME = "inputs.json"  # in a run folder
INEXACT = "the numbers are no longer, to the bit, those of a run that was never stopped"


class RunInputs:
    """The inputs of one run, in `inputs.json` of its folder; all ranks call its methods together, and rank 0 writes.

    Args:
        folder: of the run, with its config.yaml.
        world: this process's place.
        accept: changes that the user goes on with, see the key accept.
        say: prints a line of the journal.

    Attributes:
        run: identity of the run, which its checkpoints carry: it stays when the folder is moved.

    Raises:
        ValueError: `inputs.json` is damaged.
    """

    def __init__(self, folder: Path, world: World, accept: Sequence[str], say: Callable[[str], None]) -> None:
        """Read what the run was begun with, or begin it."""
        self.path, self.world, self.accept, self.say = folder / NAME, world, accept, say
        self.run = str(run_on_rank0(world, lambda: self._read()["run"]))

    def check_data(self, key: str, place: str, index: DatasetIndex) -> None:
        """Check that a data set is the one that rank 0 sees, and the one that the run was begun with.

        Args:
            key: its config key.
            place: its path or URL.
            index: as it was opened.

        Raises:
            ValueError: another one, and not accepted.
        """
        found = check_same_index(self.world, key, place, index)
        if line := run_on_rank0(self.world, lambda: self._compare_data(key, place, found)):
            self.say(line)

    def check_versions(self, now: Mapping[str, Any]) -> None:
        """Warn when the run was begun with other software, on another device, or a CPU with other threads.

        Args:
            now: as `mkd.recipes.run_folder.versions` returns them; versions.json has those of the beginning.
        """
        for line in run_on_rank0(self.world, lambda: self._compare_versions(now)):
            self.say(line)

    def _read(self) -> dict[str, Any]:
        """Return the file's content; a new run gets its identity of the config that it was begun with."""
        if not self.path.is_file():  # a new run, or one of an older version of this program
            digest = hashlib.sha256((self.path.parent / "config.yaml").read_bytes()).hexdigest()
            return {"run": digest[:16], "data": {}, "accepted": []}
        try:
            content = mapping(parse_json(self.path.read_bytes()), "it")
            mapping(content["data"], "data")
            if not isinstance(content["run"], str) or not isinstance(content["accepted"], list):
                raise ValueError("run or accepted is of a wrong kind")
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): delete it, and start again") from None
        return content

    def _compare_data(self, key: str, place: str, found: str) -> str:
        """Compare a data set with the run's own, and note it; return what is to be said."""
        content, line = self._read(), ""
        before = content["data"].get(key)
        if before == found:
            return ""
        if before is not None:
            change = f"{key}={place} is not the data set that this run was begun with: its index has SHA-256 "
            change += f"{found[:12]}, then it had {before[:12]}"
            if "data" not in self.accept:
                raise ValueError(
                    f"{change}; put that one back, give another out=, or go on with accept=[data], after which "
                    "no step can be repeated"
                )
            line = f"accept=[data]: {change}; {INEXACT}"
            content["accepted"].append({"data": key, "before": before, "now": found})
        content["data"][key] = found
        write_text(self.path, json.dumps(content, indent=1) + "\n")
        return line

    def _compare_versions(self, now: Mapping[str, Any]) -> list[str]:
        path = self.path.parent / "versions.json"
        try:
            before = mapping(parse_json(path.read_bytes()), "it")
        except (OSError, ValueError) as error:
            return [f"warning: {path} cannot be read ({error}): nobody can say whether {INEXACT}"]
        # A GPU computes alike whatever the number of threads.
        unlike = [k for k, v in now.items() if k in before and before[k] != v]
        kinds = {
            "threads": [k for k in unlike if k == "threads" and self.world.device.type == "cpu"],
            "versions": [k for k in unlike if k != "threads"],
        }
        lines = []
        for kind, keys in kinds.items():
            if keys:
                start = f"accept=[{kind}]" if kind in self.accept else "WARNING"
                changes = ", ".join(f"{k} {before[k]} then, {now[k]} now" for k in keys)
                lines.append(f"{start}: {changes}: {INEXACT}")
        return lines


def check_same_index(world: World, key: str, place: str, index: DatasetIndex) -> str:
    """Return the SHA-256 of a data set's index, the same on all ranks, which wait for rank 0's.

    Raises:
        ValueError: this rank has opened another data set than rank 0.
    """
    found = index.sha256()
    if found != (first := str(world.broadcast(found))):
        raise ValueError(
            f"{key}={place} is another data set for rank {world.rank} (its index has SHA-256 {found[:12]}) than for "
            f"rank 0 ({first[:12]}); copy the same one to all nodes, or share the storage"
        )
    return found
