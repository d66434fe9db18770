"""The semi-supervised stage.

torchrun launch/semi.py out=RUN3 semi.start=RUN2/model data.labelled=TARGET data.unlabelled=TILES
"""

from mkd.config.load import main
from mkd.config.schema import SemiRun
from mkd.recipes.semi import semi

if __name__ == "__main__":
    main(SemiRun, "semi", lambda config: f"model: {semi(config) / 'model'}")
