"""What QGIS makes of a map, its polygons and a GeoPackage to draw in: a script for the system's Python, which has QGIS.

`python qgis_look.py MAP POLYGONS DRAWING` prints one line of JSON.
"""

import json
import os
import sys
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def look(map_path: str, polygons: str, drawing: str) -> dict[str, Any]:
    """Open the files as QGIS does by itself, draw one polygon as a user does, and return what was seen."""
    from qgis import core

    app = core.QgsApplication([], False)
    app.initQgis()
    scene = core.QgsRasterLayer(map_path, "map", "gdal")
    shapes = core.QgsVectorLayer(f"{polygons}|layername=land_cover", "polygons", "ogr")
    labels = core.QgsVectorLayer(f"{drawing}|layername=labels", "labels", "ogr")
    outlines = core.QgsVectorLayer(f"{drawing}|layername=tiles", "tiles", "ogr")
    renderer, field = scene.renderer(), labels.fields().indexOf("class")
    choices = labels.editorWidgetSetup(field)
    labels.startEditing()
    drawn = core.QgsFeature(labels.fields())
    drawn.setGeometry(next(outlines.getFeatures()).geometry().centroid().buffer(2, 8))
    drawn["class"] = "water"
    found = {
        "map": [(c.value, c.label, c.color.name()) for c in renderer.classes()],
        "map_kind": type(renderer).__name__,
        "no_data": scene.dataProvider().sourceNoDataValue(1),
        "crs": scene.crs().authid(),
        "polygons": [
            (c.value(), c.label(), c.symbol().color().name()) for c in shapes.renderer().categories()
        ],
        "polygon_count": shapes.featureCount(),
        "choices": [list(one) for one in choices.config()["map"]],
        "choices_kind": choices.type(),
        "colours": [(c.value(), c.symbol().color().name()) for c in labels.renderer().categories()],
        "outlines": outlines.featureCount(),
        "saved": labels.addFeature(drawn) and labels.commitChanges(),
    }
    del scene, shapes, labels, outlines
    app.exitQgis()
    return found


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))
