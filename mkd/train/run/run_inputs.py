"""What a run was begun with beside its config: data sets, models and versions, compared when it goes on."""

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
from mkd.model_folder import weights_digest

NAME = "inputs.json"  # in a run folder
_HASHED = {"data": ("data set", "its index has"), "model": ("model", "its weights have")}
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
        if line := run_on_rank0(self.world, lambda: self._compare("data", key, place, found)):
            self.say(line)

    def check_model(self, key: str, folder: str) -> None:
        """Check that the model that the run starts from is the one that it was begun with.

        A checkpoint has the student's weights, but not what else comes of that model, such as the Fisher of stage 2.

        Args:
            key: its config key.
            folder: model folder.

        Raises:
            ValueError: another one, and not accepted.
        """
        line = run_on_rank0(self.world, lambda: self._compare("model", key, folder, weights_digest(folder)))
        if line:
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
            mapping(content.get("model", {}), "model")
            if not isinstance(content["run"], str) or not isinstance(content["accepted"], list):
                raise ValueError("run or accepted is of a wrong kind")
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): delete it, and start again") from None
        return content

    def _compare(self, kind: str, key: str, place: str, found: str) -> str:
        """Compare a data set or a model with the run's own, and note it; return what is to be said."""
        content, line = self._read(), ""
        noted = content.setdefault(kind, {})
        before = noted.get(key)
        if before == found:
            return ""
        if before is not None:
            what, hashed = _HASHED[kind]
            change = f"{key}={place} is not the {what} that this run was begun with: {hashed} SHA-256 "
            change += f"{found[:12]}, then {before[:12]}"
            if kind not in self.accept:
                raise ValueError(
                    f"{change}; put that one back, give another out=, or go on with accept=[{kind}], after which "
                    "no step can be repeated"
                )
            line = f"accept=[{kind}]: {change}; {INEXACT}"
            content["accepted"].append({kind: key, "before": before, "now": found})
        noted[key] = found
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
