"""Draw procedural orthomosaics with exact labels: python launch/landscapes.py out=FOLDER domain=target scenes=4."""

from mkd.config.load import main
from mkd.config.schema import LandscapesRun


def work(config: LandscapesRun) -> str:
    """Draw them and return what to print."""
    from mkd.synth.landscape import draw_scenes

    images, labels = draw_scenes(config.out, config.domain, config.scenes, config.size, config.first)
    return "\n".join([*images, *labels])


if __name__ == "__main__":
    main(LandscapesRun, "landscapes", work)
