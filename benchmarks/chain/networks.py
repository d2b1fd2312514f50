"""The networks of the chain: own ones, torchvision's, segmentation-models-pytorch's, transformers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.chain import own_networks as own

IMAGE = (3, 64, 64)


@dataclass(frozen=True)
class Network:
    """One network of the chain.

    - `shapes`: of its inputs, without the batch; `task`: what it is for.
    - `other_size`: of images that its bundle takes as well, if it takes any size.
    - `settings`: of `WeightEnabling`, beyond the defaults.
    """

    name: str
    source: str
    task: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    other_size: tuple[int, int] | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class Head(nn.Module):
    """torchvision's RetinaNet as far as it is a network: backbone, pyramid, the head of all scales."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.models.detection.retinanet import RetinaNetHead

        self.backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5
        )
        self.head = RetinaNetHead(self.backbone.out_channels, 3, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return scores and boxes for the places of all scales."""
        return self.head(list(self.backbone(x).values()))


def _torchvision(name: str, **more: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import segmentation

        made: nn.Module = getattr(segmentation, name)(
            weights=None, weights_backbone=None, num_classes=5, **more
        )
        return made

    return build


def _pyramid(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models.detection import backbone_utils

        if name.startswith("mobilenet"):
            return backbone_utils.mobilenet_backbone(backbone_name=name, weights=None, fpn=True)
        return backbone_utils.resnet_fpn_backbone(backbone_name=name, weights=None)

    return build


def _ssdlite() -> nn.Module:
    from torchvision.models import detection

    made = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    return made.backbone


def _smp(name: str, encoder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        made: nn.Module = getattr(smp, name)(encoder, encoder_weights=None, classes=3)
        return made

    return build


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 128, "image_size": 32, "patch_size": 8, "num_labels": 5}
    return ViTForImageClassification(ViTConfig(**sizes))


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes: dict[str, Any] = {"depths": [1] * 4, "hidden_sizes": [16, 32, 48, 64], "num_labels": 5}
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=32))


def _convnext() -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    sizes: dict[str, Any] = {"depths": [1] * 4, "hidden_sizes": [16, 32, 48, 64], "num_labels": 5}
    return ConvNextV2ForImageClassification(ConvNextV2Config(**sizes))


SMP, HF, TV = "segmentation-models-pytorch", "transformers", "torchvision"
NETWORKS: tuple[Network, ...] = (
    Network("U-Net", "own", "segmentation", own.UNet, ((1, 32, 32),), (24, 40)),
    Network("U-Net 3-D", "own", "segmentation of volumes", lambda: own.UNet(3, 8), ((1, 8, 16, 16),)),
    Network("ESPCN", "own", "super-resolution", own.SuperResolution, ((1, 24, 24),), (16, 32)),
    Network("space to depth", "own", "denoising", own.SpaceToDepth, ((3, 24, 24),), (16, 32)),
    Network("DS-CNN", "own", "keyword spotting", own.DSCNN, ((1, 40, 32),)),
    Network("TCN", "own", "a label for each step", own.TCN, ((8, 40),)),
    Network("video 3-D", "own", "actions", own.Video, ((3, 6, 16, 16),)),
    Network("siamese", "own", "likeness of images", own.Siamese, ((3, 32, 32), (3, 32, 32)), (24, 40)),
    Network("conv + LSTM", "own", "a label for each step", own.ConvLSTM, ((8, 40),)),
    Network("two inputs", "own", "a class and a number", own.TwoInputs, ((3, 32, 32), (8,))),
    Network("autoencoder 1-D", "own", "waveforms", own.Autoencoder, ((1, 256),)),
    Network("heatmaps", "own", "pose", own.Heatmaps, ((3, 32, 32),), (24, 40)),
    Network("generator", "own", "images of vectors", own.Generator, ((16,),)),
    Network("shared head", "own", "detection", own.SharedHead, ((3, 64, 64),), (48, 96)),
    *(
        Network(name, TV, task, build, (IMAGE,), (96, 64))
        for name, task, build in (
            ("LRASPP MobileNet-V3", "segmentation", _torchvision("lraspp_mobilenet_v3_large")),
            ("DeepLabV3 MobileNet-V3", "segmentation", _torchvision("deeplabv3_mobilenet_v3_large")),
            ("FCN ResNet-50", "segmentation", _torchvision("fcn_resnet50")),
            ("ResNet-18 FPN", "backbone of detectors", _pyramid("resnet18")),
            ("MobileNet-V3 FPN", "backbone of detectors", _pyramid("mobilenet_v3_large")),
            ("SSDLite backbone", "backbone of detectors", _ssdlite),
            ("RetinaNet ResNet-18", "detection", Head),
        )
    ),
    *(
        Network(f"{name} {words}", SMP, "segmentation", _smp(kind, encoder), (IMAGE,), (96, 64))
        for name, kind, encoder, words in (
            ("Unet", "Unet", "resnet18", "ResNet-18"),
            ("Unet++", "UnetPlusPlus", "resnet18", "ResNet-18"),
            ("FPN", "FPN", "mobilenet_v2", "MobileNet-V2"),
            ("MAnet", "MAnet", "resnet18", "ResNet-18"),
            ("Linknet", "Linknet", "resnet18", "ResNet-18"),
            ("PSPNet", "PSPNet", "resnet18", "ResNet-18"),
            ("DeepLabV3+", "DeepLabV3Plus", "mobilenet_v2", "MobileNet-V2"),
        )
    ),
    Network("ViT", HF, "classification", _vit, ((3, 32, 32),), None, (("attention", True),)),
    Network("SegFormer", HF, "segmentation", _segformer, (IMAGE,), (96, 64), (("attention", True),)),
    Network("ConvNeXt-V2", HF, "classification", _convnext, (IMAGE,), (96, 64)),
)  # fmt: skip
"""All of them, the small ones first."""

QUICK = (
    "U-Net",
    "U-Net 3-D",
    "TCN",
    "siamese",
    "conv + LSTM",
    "two inputs",
    "shared head",
    "SegFormer",
)
"""Those that every run of the tests takes through the chain."""


def by_name(name: str) -> Network:
    """Return the network of a name."""
    return next(each for each in NETWORKS if each.name == name)
