"""mkd: multi-stage knowledge distillation and semi-supervised learning for aerial land-cover maps."""

__version__ = "0.1.0"
