"""Baseline without distillation.

python launch/supervised.py out=RUN data.labelled=DATASET [data.val=DATASET] [model=lite0] [student_init=imagenet]
"""

from mkd.config.load import main
from mkd.config.schema import SupervisedRun
from mkd.recipes.run import supervised

if __name__ == "__main__":
    main(SupervisedRun, "supervised", lambda config: f"model: {supervised(config) / 'model'}")
