"""The keys of a network."""

from dataclasses import dataclass

from mkd.config.schemas.field_marks import resumable


@dataclass
class ModelConfig:
    """A segmentation network on a timm backbone; see `mkd.models.architecture.Architecture`."""

    # one of mkd.models.backbone.NAMES; with model.decoder=fpn or dpt any fitting network of timm
    backbone: str = "hrnet_w48"
    decoder: str = "deeplab"  # deeplab | fpn: laterals of all levels | dpt: the same for vision transformers
    psa: str = "none"  # none | paper | published: polarized self-attention before the ASPP
    output_stride: int = 16  # of the deep features: 8 | 16 | 32; an HRNet works at 4 and ignores it
    neck_kernel: int = 3  # of an HRNet's second convolution before the attention: 1 | 3
    aspp_stride: int = 4  # of the map that an HRNet's ASPP works on: 4 | 8
    aspp_channels: int = 256  # of each branch of the ASPP and of its result
    # dilations of its branches; none: the source model's, else the published ones, smaller where data.crop is small
    aspp_rates: tuple[int, int, int] | None = None
    low_channels: int = 48  # of the shallow features in the deeplab decoder
    lateral_channels: int = 96  # of each level in fpn and dpt
    decoder_channels: int = 256  # of the two 3x3 convolutions of the decoder
    dropout: tuple[float, float] = (0.5, 0.1)  # chances after the first and the second of these
    separable: bool = False  # depthwise-separable 3x3 convolutions in ASPP and deeplab decoder
    # of the ImageNet weights' images, RGB in [0, 1]; none: timm's, of other bands the data set's
    mean: list[float] | None = None
    std: list[float] | None = None  # of the same images, one number a band
    pretrained: str | None = None  # a timm tag, a local .safetensors file, "bundled", or none
    # keep only the inputs of the backbone's blocks and compute the rest again in the backward pass: the same numbers in
    # less memory
    checkpointing: bool = resumable(False)


@dataclass
class StartedModelConfig:
    """What is left to choose of a network that is given as a model folder."""

    checkpointing: bool = resumable(False)  # as in supervised.py and kd.py
