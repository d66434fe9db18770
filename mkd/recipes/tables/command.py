"""launch/experiment.py: print a plan, or train a table and write its page and figures."""

import contextlib
import re
import sys
from datetime import date
from pathlib import Path

from mkd.config.schema import Experiment
from mkd.recipes.reports import experiment_report, table_panels
from mkd.recipes.tables.drawn_sets import draw_table_sets
from mkd.recipes.tables.experiment import experiment
from mkd.recipes.tables.run_list import page_folder
from mkd.recipes.tables.run_plan import plan_runs, plan_text, sbatch_lines
from mkd.recipes.tables.table_pictures import sample_pictures, table_pictures
from mkd.report.content import Report
from mkd.report.page import write_report
from mkd.report.terminal_table import show


def table_or_plan(config: Experiment, command: str) -> str:
    """Return the plan of an experiment as text, or train and evaluate its runs, show the table and write the page.

    Args:
        config: the experiment.
        command: what was typed.

    Returns:
        What the command prints at its end.
    """
    if config.plan:
        return plan_text(config, plan_runs(config))
    if config.slurm:
        if config.drawn:  # the jobs find their data there; stdout is the script alone
            with contextlib.redirect_stdout(sys.stderr):
                draw_table_sets(Path(config.data))
        return sbatch_lines(config, plan_runs(config), re.sub(r" slurm=\S+", "", command))
    page = page_folder(config) / "report.html"
    if config.samples:
        if config.drawn:
            draw_table_sets(Path(config.data))
        figures = sample_pictures(config)
        write_report(
            page, Report(config.title, figures=figures, command=command, created=date.today().isoformat())
        )
    else:
        found = experiment(config)
        show(found)
        shown = table_panels(config)
        figures = table_pictures(config, found, shown) if config.page else []
        experiment_report(config, found, page, None, None, command, shown=shown, figures=figures)
    return f"report: {page}"
