"""mkd: multi-stage knowledge distillation and semi-supervised learning for aerial land-cover maps.

As a library::

    from mkd import load, predict

    model = load("runs/ssl/model")
    found = predict(model, image)  # uint8 (H, W, 3) -> found.classes, found.confidence, both (H, W)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkd.inference.library import load, predict

__version__ = "0.1.0"
__all__ = ["load", "predict"]


def __getattr__(name: str) -> Any:
    """Import torch and the networks only when one of the functions is asked for."""
    if name in __all__:
        from mkd.inference import library

        return getattr(library, name)
    raise AttributeError(f"module 'mkd' has no attribute '{name}'")
