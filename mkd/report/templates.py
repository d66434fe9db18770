"""The pages' templates, which lie beside this file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render_template(name: str, values: Mapping[str, Any]) -> str:
    """Fill a template; names and texts from files are escaped, a name without a value is an error.

    Args:
        name: file of this folder, such as "page.jinja".
        values: what the template shows.

    Returns:
        A complete HTML document.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)
