"""Draw procedural orthomosaics with exact labels: python launch/landscapes.py out=FOLDER domain=target scenes=4."""

from mkd.config.load import main
from mkd.config.schema import LandscapesRun


def work(config: LandscapesRun) -> str:
    """Draw them and return what to print."""
    from mkd.synth.scene_files import draw

    return draw(config)


if __name__ == "__main__":
    main(LandscapesRun, "landscapes", work)
