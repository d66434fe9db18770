"""The main job from nothing: python launch/demo.py out=runs/demo."""

from mkd.config.load import main
from mkd.config.schema import DemoRun


def work(config: DemoRun) -> None:
    """Run the demo; torch is imported after the config has been checked."""
    from mkd.recipes.tables.demo import demo

    demo(config)


if __name__ == "__main__":
    main(DemoRun, "demo", work)
