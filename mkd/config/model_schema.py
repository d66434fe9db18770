"""The keys of a network."""

from dataclasses import dataclass


@dataclass
class ModelConfig:
    """DeepLabV3+ on a timm backbone; see `mkd.models.deeplab.Architecture`."""

    backbone: str = "hrnet_w48"  # one of mkd.models.backbone.NAMES
    psa: str = "none"  # none | paper | published: polarized self-attention before the ASPP
    output_stride: int = 16  # of the deep features: 8 | 16 | 32; an HRNet works at 4 and ignores it
    aspp_channels: int = 256  # of each branch of the ASPP and of its result
    low_channels: int = 48  # of the shallow features in the decoder
    decoder_channels: int = 256  # of the two 3x3 convolutions of the decoder
    dropout: tuple[float, float] = (0.5, 0.1)  # chances after the first and the second of these
    separable: bool = False  # depthwise-separable 3x3 convolutions in ASPP and decoder
    mean: tuple[float, float, float] = (
        0.485,
        0.456,
        0.406,
    )  # of the images of the ImageNet weights, RGB in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # of the same images
    pretrained: str | None = None  # a timm tag, a local .safetensors file, "bundled", or none
