"""The segmentation network: timm backbones, polarized self-attention, ASPP and decoder; ImageNet weights."""
