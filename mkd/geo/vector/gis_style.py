"""Colours and forms of a layer, stored in its GeoPackage where QGIS looks for them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from mkd.geo.class_map import Legend

# Of the GeoPackages that are written: every QGIS of use reads it without a warning; GDAL's own choice is newer.
GPKG_OPTIONS = {"VERSION": "1.2"}
_TABLE = (
    "CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), "
    "f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), "
    "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
    "update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))"
)


def store_style(path: Path, layer: str, legend: Legend, attribute: str, values: Sequence[int | str]) -> None:
    """Store the class colours as a layer's default style (table layer_styles).

    Text values are also what its form offers, as a list to choose from.

    Args:
        path: a GeoPackage.
        layer: in it.
        legend: names and colours.
        attribute: the field that tells the class.
        values: its value for each class, by id.
    """
    kind = "string" if isinstance(values[0], str) else "long"
    categories = "".join(
        f'<category value={quoteattr(str(value))} symbol="{n}" label={quoteattr(name)} render="true" type="{kind}"/>'
        for n, (name, value) in enumerate(zip(legend.names, values, strict=True))
    )
    symbols = "".join(
        f'<symbol type="fill" name="{n}"><layer class="SimpleFill"><Option type="Map">'
        f'<Option name="color" type="QString" value="{r},{g},{b},255"/>'
        '<Option name="outline_color" type="QString" value="60,60,60,255"/>'
        '<Option name="outline_width" type="QString" value="0.1"/></Option></layer></symbol>'
        for n, (r, g, b) in enumerate(legend.palette)
    )
    style = (
        '<!DOCTYPE qgis><qgis styleCategories="Symbology|Forms|Fields">'
        f'<renderer-v2 type="categorizedSymbol" attr="{attribute}">'
        f"<categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2>"
        f"{_choices(attribute, values) if kind == 'string' else ''}</qgis>"
    )
    with sqlite3.connect(path) as db:
        db.execute(_TABLE)
        db.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', 'classes', ?, '', 1, ?, '')",
            (layer, style, escape(", ".join(legend.names))),
        )
        db.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier) VALUES "
            "('layer_styles', 'attributes', 'layer_styles')"
        )
    db.close()


def _choices(attribute: str, values: Sequence[int | str]) -> str:
    """Return the widget that offers the values as a list."""
    options = "".join(
        f'<Option type="Map"><Option name={quoteattr(str(v))} type="QString" value={quoteattr(str(v))}/></Option>'
        for v in values
    )
    return (
        f'<fieldConfiguration><field name="{attribute}"><editWidget type="ValueMap"><config><Option type="Map">'
        f'<Option name="map" type="List">{options}</Option></Option></config></editWidget></field>'
        "</fieldConfiguration>"
    )
