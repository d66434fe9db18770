"""A run folder: resolved config, versions, journal, checkpoints, model; one folder, one config."""

import contextlib
import importlib.metadata
import itertools
import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from mkd.atomic import write_text
from mkd.config.comparison import difference
from mkd.config.load import to_yaml
from mkd.config.schema import DataConfig, KdRun, RunConfig, SupervisedRun
from mkd.dataset.index import DatasetIndex, read_index
from mkd.dataset.label_notes import label_notes
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World
from mkd.documents import mapping, parse_yaml, whole
from mkd.models.architecture import published_rates

FILLED_IN = ("aspp_rates", "mean", "std")  # keys of a network that a run writes into its config


def open_run(config: RunConfig) -> Path:
    """Make or enter the run folder of a config.

    Raises:
        ValueError: the folder belongs to a run of another config; shows the difference.
    """
    folder = Path(config.out)
    path = folder / "config.yaml"
    if path.is_file() and (changed := difference(_written(path), config)):
        only_length = not difference(_written(path), config, any_length=True)
        raise ValueError(
            f"out={folder} holds a run of another {'length' if only_length else 'config'} ({changed}); "
            + ("add extend=true to go on to the new length, " if only_length else "")
            + "give another out=, or delete it"
        )
    if not path.is_file():
        if folder.is_dir() and any(not p.name.startswith(".tmp-") for p in folder.iterdir()):
            raise ValueError(f"out={folder} is not empty and no run folder; give another out=")
        write_text(path, to_yaml(config))
    if not (folder / "versions.json").is_file():
        write_text(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    return folder


def extend_run(config: RunConfig) -> str:
    """Give the run in a config's folder the config's length, where extend=true asks for it.

    The learning rate and the share of dropped tiles follow the progress, done steps over all steps: from the last
    checkpoint on that of the new length. So the result is not that of a run begun with that length. The model of a run
    that had ended is kept under another name.

    Returns:
        What was done, one sentence; empty where the length is as before.

    Raises:
        ValueError: the run has done more steps than the new length has.
    """
    folder = Path(config.out)
    path = folder / "config.yaml"
    if not (config.extend and path.is_file()) or difference(_written(path), config, any_length=True):
        return ""
    if not (changed := difference(_written(path), config)):
        return ""
    done = _steps_done(folder)
    if config.steps is not None and config.steps < done:
        raise ValueError(f"steps={config.steps}: the run in out={folder} has done {done} steps; give more")
    kept = ""
    if (folder / "model").is_dir():
        number = next(n for n in itertools.count(1) if not (folder / f"model-{n}").exists())
        (folder / "model").rename(folder / f"model-{number}")
        kept = f"; its model so far is kept as {folder / f'model-{number}'}"
    write_text(path, to_yaml(config))
    return (
        f"{folder}: goes on from its last checkpoint to another length ({changed}); from there on the learning rate "
        f"and the share of dropped tiles follow the new length, so this is not a run that was begun with it{kept}"
    )


def _steps_done(folder: Path) -> int:
    """Return the steps that the journal has of the phase that steps= is about."""
    path, done = folder / "metrics.jsonl", 0
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a line that a kill has cut
            row = json.loads(line)
            done = max(done, int(row["step"]) if row["phase"] in ("student", "semi") else 0)
    return done


def enter_run(config: RunConfig, world: World) -> tuple[Path, str]:
    """Open the run folder of a config that is the same on all ranks, which wait for rank 0.

    Returns:
        The folder; and what is to be said of a new length, see `extend_run`.

    Raises:
        ValueError: ranks with different configs, or the folder of another run.
    """
    if changed := difference(world.broadcast(to_yaml(config)), config, there="rank 0:"):
        raise ValueError(
            f"rank {world.rank} was started with another config than rank 0 ({changed}); "
            "start all ranks by the same command"
        )
    extended: str = run_on_rank0(world, lambda: extend_run(config))
    return Path(run_on_rank0(world, lambda: str(open_run(config)))), extended


def other_config(config: RunConfig) -> str:
    """Return where the run in a config's folder is of another config; empty where it is not, or where there is none.

    Keys of the network that a run fills in itself, see `factories.settle`, count as those of the run where the config
    leaves them open: so this works for a config that no data set or model has been read for.
    """
    path = Path(config.out) / "config.yaml"
    if not path.is_file():
        return ""
    written = _written(path)
    if isinstance(config, (SupervisedRun, KdRun)):
        there = yaml.safe_load(written).get("model", {})
        open_keys = [key for key in FILLED_IN if getattr(config.model, key) is None and key in there]
        config = replace(config, model=replace(config.model, **{key: there[key] for key in open_keys}))
    return difference(written, config)


def last_step(folder: Path) -> tuple[str, int] | None:
    """Return phase and step of the last line of a run's journal that can be read; None where there is none."""
    path, found = folder / "metrics.jsonl", None
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a line that a kill has cut
            row = json.loads(line)
            found = str(row["phase"]), int(row["step"])
    return found


def is_run(config: RunConfig) -> bool:
    """Return whether the config's folder holds a run, which is then gone on with."""
    return (Path(config.out) / "config.yaml").is_file()


def _written(path: Path) -> str:
    """Return a run's config with the keys that are newer than it, as its version meant them; others are defaults.

    Raises:
        ValueError: the file is no config.
    """
    try:
        content = mapping(parse_yaml(path.read_bytes()), "it")
        model = mapping(content.get("model", {}), "model")
        if "backbone" in model and "aspp_rates" not in model:  # a semi-supervised run names no network
            model["aspp_rates"] = list(
                published_rates(str(model["backbone"]), whole(model["output_stride"], "stride", 1))
            )
        if "semi" in content:
            old = {"average": "kept", "cutmix": 0.5, "plateau": None}
            content["semi"] = old | mapping(content["semi"], "semi")
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no config of a run ({error}); put the run's own back, or give another out="
        ) from None
    return yaml.safe_dump(content)


def versions() -> dict[str, Any]:
    """Return what the numbers of a run depend on beside its config."""
    names = ("mkd", "torch", "torchvision", "timm", "numpy", "simplejpeg", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **found,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """Return the project's commit, with ``-dirty`` for changes; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def notes_of_sets(data: DataConfig, index: DatasetIndex) -> list[str]:
    """Return what the labels of a run's labelled and validation sets lack, one sentence each."""
    notes = [f"data.labelled={data.labelled}: {note}" for note in label_notes(index)]
    if data.val is not None and data.val != data.labelled:
        notes += [f"data.val={data.val}: {note}" for note in label_notes(read_index(data.val))]
    return notes
