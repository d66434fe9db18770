"""From a model to what a GIS opens: maps, polygons, areas, previews, ONNX."""
