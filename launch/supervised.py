"""Baseline without distillation.

python launch/supervised.py out=RUN data.labelled=DATASET [data.val=DATASET] [model=lite0] [student_init=imagenet]
"""

from mkd.config.load import main
from mkd.config.schema import SupervisedRun


def work(config: SupervisedRun) -> str:
    """Train, and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.supervised import supervised

    return f"model: {supervised(config) / 'model'}"


if __name__ == "__main__":
    main(SupervisedRun, "supervised", work)
