"""The main job from nothing: python launch/demo.py out=runs/demo."""

from mkd.build.demo import demo
from mkd.config.load import main
from mkd.config.schema import DemoRun

if __name__ == "__main__":
    main(DemoRun, "demo", demo)
