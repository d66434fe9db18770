"""The runs of an experiment: which of them a table needs, their folders, their overrides filled in."""

import difflib
import re
from pathlib import Path
from typing import Any

from mkd.config.load import parse
from mkd.config.schema import Experiment, KdRun, RunConfig, SemiRun, SupervisedRun

KINDS: dict[str, Any] = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}


def test_set(config: Experiment, seed: int) -> str:
    """Return the data set that the runs of one seed are evaluated on."""
    return fill(config, config.test, seed)


def run_folder(config: Experiment, run: str, seed: int) -> Path:
    """Return the folder of one run for one seed."""
    return Path(config.out) / run / f"seed{seed}"


def page_folder(config: Experiment) -> Path:
    """Return the folder of an experiment's results and report."""
    return Path(config.out) / (config.page or "")


def measured_runs(config: Experiment) -> list[str]:
    """Return the runs that rows and controls name, in the order of the runs.

    Raises:
        ValueError: a row names a run that is not there, or a difference or a paper's value one that is not measured.
    """
    lines = config.rows | config.controls
    for title, run in lines.items():
        if run not in config.runs:
            raise ValueError(f"rows: '{title}' names the run '{run}'; the runs are {', '.join(config.runs)}")
    measured = {run: None for run in config.runs if run in lines.values()}
    for title, pair in config.differences.items():
        if len(pair) != 2 or not set(pair) <= set(measured):
            raise ValueError(
                f"differences: '{title}' is {list(pair)}; give two runs of rows and controls: {', '.join(measured)}"
            )
    for key, titles, known in (("paper", config.paper, lines), ("curve", config.curve, config.rows)):
        if strange := [title for title in titles if title not in known]:
            raise ValueError(f"{key}: '{strange[0]}' is no row; the rows are {', '.join(known)}")
    return list(measured)


def needed_runs(config: Experiment) -> list[str]:
    """Return the runs that a table needs, in the order of training: the measured ones, and all they go on from."""
    asked, needed = measured_runs(config), set[str]()
    while asked:
        name = asked.pop()
        if name not in needed:
            needed.add(name)
            asked += [other for other in goes_on_from(config, name) if other in config.runs]
    return [name for name in config.runs if name in needed]


def goes_on_from(config: Experiment, name: str) -> list[str]:
    """Return the runs whose folders the overrides of a run name, as {run:NAME}; some may not be there."""
    found = [other for text in _texts(config, name) for other in re.findall(r"\{run:([^{}]*)\}", text)]
    return list(dict.fromkeys(found))


def overrides_of(config: Experiment, name: str, seed: int) -> list[str]:
    """Return what one types behind the script of a run for one seed."""
    filled = [fill(config, text, seed) for text in _texts(config, name)]
    return [f"out={run_folder(config, name, seed)}", f"seed={seed}", *filled]


def parse_run(config: Experiment, name: str, seed: int) -> RunConfig:
    """Return the config of a run for one seed; no path in it is looked at.

    Raises:
        ValueError: another script than there are, or an override that its schema refuses.
    """
    script = config.runs[name].script
    if script not in KINDS:
        raise ValueError(f"runs.{name}.script={script} is not allowed; choose supervised, kd or semi")
    try:
        run: RunConfig = parse(KINDS[script], script, overrides_of(config, name, seed))
    except ValueError as error:
        raise ValueError(f"run '{name}', seed {seed}: {error}") from None
    return run


def fill(config: Experiment, text: str, seed: int) -> str:
    """Put folders and seed in the places of an override that are for them; what is put in stays as it is.

    Raises:
        ValueError: a place for something else, or a run that there is not.
    """
    given = {"data": config.data, "out": config.out, "seed": str(seed)}
    given |= {f"run:{name}": str(run_folder(config, name, seed)) for name in config.runs}

    def put(found: re.Match[str]) -> str:
        asked = found[1]
        if asked in given and found[0].endswith("}"):
            return given[asked]
        near = difflib.get_close_matches(asked, given, n=1, cutoff=0.6)
        meant = f"did you mean {{{near[0]}}}? " if near else ""
        raise ValueError(
            f"override '{text}': {{{asked}}} is not known; {meant}only {{data}}, {{out}}, {{seed}} and {{run:NAME}} "
            f"are filled in, NAME being one of {', '.join(config.runs)}"
        )

    return re.sub(r"\{([^{}]*)\}?", put, text)


def _texts(config: Experiment, name: str) -> list[str]:
    """Return a run's overrides as written; of several of one key the last counts, so only that is returned."""
    step = config.runs[name]
    return list(
        {t.partition("=")[0]: t for t in [*config.common.get(step.script, []), *step.overrides]}.values()
    )
