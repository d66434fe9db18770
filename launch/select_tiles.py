"""Which tiles to label next.

python launch/select_tiles.py data=DATASET out=FOLDER [n=50] [model=RUN/model [evaluation=results.json]]
"""

from mkd.config.load import main
from mkd.config.schema import SelectTilesRun


def work(config: SelectTilesRun) -> str:
    """Choose the tiles and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.data_choice.select_tiles import select_tiles

    return "\n".join(select_tiles(config))


if __name__ == "__main__":
    main(SelectTilesRun, "select_tiles", work)
