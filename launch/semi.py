"""The semi-supervised stage.

torchrun launch/semi.py out=RUN3 semi.start=RUN2/model data.labelled=TARGET data.unlabelled=TILES
"""

from mkd.config.load import main
from mkd.config.schema import SemiRun


def work(config: SemiRun) -> str:
    """Train, and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.semi import semi

    return f"model: {semi(config) / 'model'}"


if __name__ == "__main__":
    main(SemiRun, "semi", work)
