"""Land-cover map of a GeoTIFF: python launch/predict_map.py model=RUN/model input=scene.tif output=map.tif."""

from mkd.config.load import main
from mkd.config.schema import PredictRun
from mkd.recipes.predict_map import predict

if __name__ == "__main__":
    main(PredictRun, "predict_map", lambda config: print(predict(config)))
