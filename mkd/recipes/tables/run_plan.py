"""What an experiment has still to train: its runs with their states and hours, as text and as lines of sbatch."""

import re
import shlex
from dataclasses import dataclass

from mkd.config.schema import Experiment
from mkd.recipes.run_folder import last_step, other_config
from mkd.recipes.tables.run_checks import check_order
from mkd.recipes.tables.run_list import goes_on_from, needed_runs, overrides_of, parse_run, run_folder

LAST_PHASES = ("student", "semi")  # that steps= is about


@dataclass(frozen=True)
class PlannedRun:
    """One run for one seed.

    Attributes:
        name: of the run.
        seed: of the run.
        script: "supervised", "kd" or "semi".
        overrides: what one types behind it.
        state: "ended", "broken off at step N of PHASE", "not begun", or that its folder holds another run.
        hours: that the whole run takes, as the experiment states; None where it does not.
        left: of these, what is left; None where `hours` is.
        after: runs of this seed that it goes on from.
    """

    name: str
    seed: int
    script: str
    overrides: list[str]
    state: str
    hours: float | None
    left: float | None
    after: list[str]

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state == "ended"


def plan_runs(config: Experiment) -> list[PlannedRun]:
    """Return the runs that a table needs, seed by seed, in the order of training; no data set is looked at.

    Raises:
        ValueError: a row, a difference or an override that names what is not there, or a wrong order.
    """
    check_order(config)
    return [_planned(config, name, seed) for seed in config.seeds for name in needed_runs(config)]


def plan_text(config: Experiment, planned: list[PlannedRun]) -> str:
    """Return the plan for people: two lines a run, then what is left."""
    lines = [f"{config.name}: {len(planned)} runs in {config.out}"]
    if config.hardware:
        lines.append(f"hours are of: {config.hardware}")
    for run in planned:
        hours = (
            "hours not stated" if run.hours is None else f"{_shown(run.left)} of {_shown(run.hours)} h left"
        )
        lines.append(f"{run.name}, seed {run.seed}: {run.state}; {hours}")
        lines.append(f"    python launch/{run.script}.py {shlex.join(run.overrides)}")
    left = [run for run in planned if not run.ended]
    stated = [run.left for run in left if run.left is not None]
    unknown = len(left) - len(stated)
    more = f" without {unknown} run(s) whose hours are not stated" if unknown else ""
    lines.append(f"left: {len(left)} of {len(planned)} runs, {_shown(sum(stated))} h one after another{more}")
    return "\n".join(lines)


def sbatch_lines(config: Experiment, planned: list[PlannedRun], command: str) -> str:
    """Return a shell script that submits each run that has not ended, each after those that it goes on from.

    Args:
        config: the experiment.
        planned: what `plan_runs` returned.
        command: what evaluates the ended runs and writes the table.

    Raises:
        ValueError: a folder holds a run of another config, which a job would refuse.
    """
    if strange := [run for run in planned if run.state.startswith("another")]:
        folder = run_folder(config, strange[0].name, strange[0].seed)
        raise ValueError(f"{folder}: {strange[0].state}; give another out=, or delete it")
    lines = [
        "# Nodes and GPUs as your cluster has it, such as export SBATCH_GPUS_PER_NODE=1. Then all of these lines:"
    ]
    jobs: dict[tuple[str, int], str] = {}
    for run in planned:
        if not run.ended:
            job = jobs[run.name, run.seed] = f"ID{len(jobs) + 1}"
            lines.append(
                f"{job}=$({_sbatch(run, [jobs[n, run.seed] for n in run.after if (n, run.seed) in jobs])})"
            )
    if not jobs:
        lines = ["# Every run has ended."]
    return "\n".join(
        [*lines, f"# When all have ended, this evaluates them and writes the table:\n# {command}"]
    )


def _planned(config: Experiment, name: str, seed: int) -> PlannedRun:
    step, run = config.runs[name], parse_run(config, name, seed)
    folder, done = run_folder(config, name, seed), 0.0
    if changed := other_config(run):
        state = f"another run lies in its folder ({changed})"
    elif (folder / "model" / "model.yaml").is_file():
        state, done = "ended", 1.0
    elif (at := last_step(folder)) is not None:
        state = f"broken off at step {at[1]} of phase {at[0]}"
        # A stage's earlier phases are short beside its last one.
        done = at[1] / run.steps if run.steps and at[0] in LAST_PHASES else 0.0
    else:
        state = "not begun" if not (folder / "config.yaml").is_file() else "broken off at step 0"
    return PlannedRun(
        name=name,
        seed=seed,
        script=step.script,
        overrides=overrides_of(config, name, seed),
        state=state,
        hours=step.hours,
        left=None if step.hours is None else step.hours * (1 - min(done, 1.0)),
        after=goes_on_from(config, name),
    )


def _shown(hours: float | None) -> str:
    """Write hours with the digits that an estimate has."""
    assert hours is not None
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _sbatch(run: PlannedRun, after: list[str]) -> str:
    """Return one line of sbatch; the batch scripts take the run folder, and the start of SSL, from the environment."""
    values = dict(override.split("=", 1) for override in run.overrides)
    environment = {"RUN": values.pop("out")}
    if run.script == "semi":
        # With no teacher of its own the job's config is that of the run started here.
        environment |= {"START": values.pop("semi.start"), "TEACHERS_PER_NODE": "0"}
    elif run.script != "kd":
        environment["SCRIPT"] = run.script
    words = [f"--dependency=afterok:{':'.join(f'${job}' for job in after)}"] if after else []
    batch = "slurm/ssl.sbatch" if run.script == "semi" else "slurm/kd.sbatch"
    variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
    given = shlex.join(f"{key}={value}" for key, value in values.items())
    return " ".join([variables, f"sbatch --parsable --job-name={_job_name(run)}", *words, batch, given])


def _job_name(run: PlannedRun) -> str:
    return re.sub(r"[^\w-]", "_", f"{run.name}-{run.seed}")
