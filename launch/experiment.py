"""A table of runs: python launch/experiment.py experiment=real/table2 out=RUNS data=FOLDER 'seeds=[0,1,2]'."""

from mkd.config.load import main
from mkd.config.schema import Experiment


def work(config: Experiment) -> None:
    """Run what has not been run and show the table; torch is imported after the config has been checked."""
    from mkd.recipes.experiment import experiment
    from mkd.report.terminal_table import show

    show(experiment(config))


if __name__ == "__main__":
    main(Experiment, "experiment", work)
