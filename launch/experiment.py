"""A table of runs: python launch/experiment.py experiment=real/table2 out=RUNS data=FOLDER 'seeds=[0,1,2]'.

The file of an experiment of your own is given by its path: experiment=mine.yaml. OUT/report.html is its page.
"""

import shlex
import sys

from mkd.config.load import main
from mkd.config.schema import Experiment


def work(config: Experiment) -> str:
    """Run what has not been run, show the table and write the page; torch is imported after the config's checks."""
    from pathlib import Path

    from mkd.recipes.experiment import experiment
    from mkd.recipes.reports import experiment_report
    from mkd.report.terminal_table import show

    found, page = experiment(config), Path(config.out) / "report.html"
    show(found)
    experiment_report(config, found, page, None, None, shlex.join(["python", *sys.argv]))
    return f"report: {page}"


if __name__ == "__main__":
    main(Experiment, "experiment", work)
