"""AlexNet as torchvision has it, with what timm asks of a model. Images of at least 63 pixels a side.

Source: Krizhevsky 2014, "One weird trick": the network of 2012 for one device, without its response normalisation.
"""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn
from torchvision.models import AlexNet as TorchvisionAlexNet

default_cfgs = {
    "alexnet": {
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "first_conv": "features.0",
        "classifier": "classifier.6",
    }
}


class AlexNet(TorchvisionAlexNet):
    """Five convolutions and three fully connected layers; dropout before the first two of these."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.5):
        super().__init__(num_classes=num_classes, dropout=drop_rate)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features, self.head_hidden_size = 256, 4096
        if in_chans != 3:
            self.features[0] = nn.Conv2d(in_chans, 64, kernel_size=11, stride=4, padding=2)
        self.feature_info = [
            {"num_chs": 64, "reduction": 4, "module": "features.1"},
            {"num_chs": 192, "reduction": 8, "module": "features.4"},
            {"num_chs": 256, "reduction": 16, "module": "features.11"},
        ]

    def forward_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 256, H / 32, W / 32]."""
        return self.features(images_BCHW)

    def forward_head(self, features_BCHW: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        features_BC = self.avgpool(features_BCHW).flatten(1)
        return self.classifier[:-1](features_BC) if pre_logits else self.classifier(features_BC)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images_BCHW))

    def get_classifier(self) -> nn.Module:
        return self.classifier[-1]

    def group_matcher(self, coarse: bool = False) -> dict:
        """Timm's way to say which tensors lie how deep."""
        return {"stem": r"^features\.0", "blocks": [(r"^features\.(\d+)", None), (r"^classifier\.(1|4)", (99,))]}


@register_model
def alexnet(pretrained: bool = False, **kwargs) -> AlexNet:
    return build_model_with_cfg(AlexNet, "alexnet", pretrained, kwargs_filter=("global_pool",), **kwargs)
