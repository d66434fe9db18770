"""Land-cover map of a GeoTIFF: python launch/predict_map.py model=RUN/model input=scene.tif output=map.tif."""

from mkd.config.load import main
from mkd.config.schema import PredictRun


def work(config: PredictRun) -> str:
    """Write the map, and return what to print; torch is imported after the config has been checked."""
    from mkd.recipes.mapping.predict_map import predict

    return predict(config)


if __name__ == "__main__":
    main(PredictRun, "predict_map", work)
