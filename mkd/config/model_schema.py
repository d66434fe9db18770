"""The keys of a network."""

from dataclasses import dataclass


@dataclass
class ModelConfig:
    """DeepLabV3+ on a timm backbone; see `mkd.models.deeplab.Architecture`."""

    backbone: str = "hrnet_w48"
    psa: str = "none"  # none | paper | published
    output_stride: int = 16
    aspp_channels: int = 256
    low_channels: int = 48
    decoder_channels: int = 256
    dropout: tuple[float, float] = (0.5, 0.1)
    separable: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pretrained: str | None = None  # a timm tag, a local .safetensors file, "bundled", or none
