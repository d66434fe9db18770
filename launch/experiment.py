"""A table of runs: python launch/experiment.py experiment=real/table2 out=RUNS data=FOLDER 'seeds=[0,1,2]'."""

from mkd.build.experiment import experiment
from mkd.build.table import show
from mkd.config.load import main
from mkd.config.schema import Experiment

if __name__ == "__main__":
    main(Experiment, "experiment", lambda config: show(experiment(config)))
