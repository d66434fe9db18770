"""One distillation stage.

Stage 1: torchrun launch/kd.py out=RUN1 data.labelled=INTERMEDIATE
Stage 2: torchrun launch/kd.py out=RUN2 data.labelled=TARGET kd.source=RUN1/model kd.source_data=INTERMEDIATE
"""

from mkd.config.load import main
from mkd.config.schema import KdRun


def work(config: KdRun) -> str:
    """Train, and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.distill import kd

    return f"model: {kd(config) / 'model'}"


if __name__ == "__main__":
    main(KdRun, "kd", work)
