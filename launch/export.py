"""Export a model: python launch/export.py model=RUN/model output=model.onnx [stac=item.json]."""

from mkd.config.load import main
from mkd.config.schema import ExportRun


def work(config: ExportRun) -> str:
    """Export and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.mapping.export import export

    return export(config)


if __name__ == "__main__":
    main(ExportRun, "export", work)
