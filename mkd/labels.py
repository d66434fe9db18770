"""Values of label maps and colours of classes that every package shares."""

IGNORE = 255  # label of a pixel that no loss, metric or count sees
NODATA = 255  # value of both bands of a land-cover map where the raster holds no data

Colour = tuple[int, int, int]  # (r, g, b), each 0..255
