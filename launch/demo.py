"""The main job from nothing: python launch/demo.py out=runs/demo."""

from mkd.config.load import main
from mkd.config.schema import DemoRun
from mkd.recipes.demo import demo

if __name__ == "__main__":
    main(DemoRun, "demo", demo)
