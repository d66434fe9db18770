"""One distillation stage.

Stage 1: torchrun launch/kd.py out=RUN1 data.labelled=INTERMEDIATE
Stage 2: torchrun launch/kd.py out=RUN2 data.labelled=TARGET kd.source=RUN1/model kd.source_data=INTERMEDIATE
"""

from mkd.config.load import main
from mkd.config.schema import KdRun
from mkd.recipes.distill import kd

if __name__ == "__main__":
    main(KdRun, "kd", lambda config: f"model: {kd(config) / 'model'}")
