"""A table of runs: python launch/experiment.py experiment=real/table2 out=RUNS data=FOLDER 'seeds=[0,1,2]'."""

from mkd.config.load import main
from mkd.config.schema import Experiment
from mkd.recipes.experiment import experiment
from mkd.report.terminal_table import show

if __name__ == "__main__":
    main(Experiment, "experiment", lambda config: show(experiment(config)))
