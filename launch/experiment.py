"""A table of runs: python launch/experiment.py table=2 scale=demo, or experiment=real/table2 out=RUNS data=FOLDER.

The file of an experiment of your own is given by its path: experiment=mine.yaml. OUT/report.html is its page.
"""

import shlex
import sys

from mkd.config.load import main
from mkd.config.schema import Experiment


def work(config: Experiment) -> str:
    """Do what the config asks for; torch is imported after the config's checks."""
    from mkd.recipes.tables.command import table_or_plan

    return table_or_plan(config, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main(Experiment, "experiment", work)
