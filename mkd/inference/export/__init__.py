"""The model for other programs: ONNX with the metadata that they read, and a STAC item."""
