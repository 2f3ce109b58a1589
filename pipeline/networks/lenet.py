"""LeNet-5 for images of 32 x 32 pixels. Source: LeCun et al. 1998, section II.B; layers are named as there.

One thing differs: the paper's output compares F6 with fixed drawings of the ten digits (RBF units), which other classes
do not have; here it is a fully connected layer.
"""

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import nn

SIDE_PX = 32

S2_MAPS_OF_C3_MAPS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""Table I of the paper: which maps of S2 each of the sixteen maps of C3 sees."""

default_cfgs = {
    "lenet5": {"input_size": (3, SIDE_PX, SIDE_PX), "num_classes": 10, "first_conv": "c1", "classifier": "output"}
}


class SubSampling(nn.Module):
    """Sums squares of 2 x 2, times a coefficient, plus a bias, each one a map."""

    def __init__(self, num_maps: int):
        super().__init__()
        self.coefficient_C = nn.Parameter(torch.full((num_maps,), 0.25))
        self.bias_C = nn.Parameter(torch.zeros(num_maps))

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        sums_BCHW = F.avg_pool2d(maps_BCHW, 2, divisor_override=1)
        return sums_BCHW * self.coefficient_C.view(1, -1, 1, 1) + self.bias_C.view(1, -1, 1, 1)


class PartialConvolution(nn.Module):
    """5 x 5 kernels for the connections of a table, and for no other."""

    def __init__(self, inputs_of_outputs: tuple[tuple[int, ...], ...]):
        super().__init__()
        self._shape = (len(inputs_of_outputs), 1 + max(map(max, inputs_of_outputs)), 5, 5)
        self._outputs = [output for output, inputs in enumerate(inputs_of_outputs) for _ in inputs]
        self._inputs = [each for inputs in inputs_of_outputs for each in inputs]
        self.weight = nn.Parameter(torch.empty(len(self._inputs), 5, 5))
        self.bias = nn.Parameter(torch.zeros(len(inputs_of_outputs)))

    def init_weights(self) -> None:
        for kernel, output in zip(self.weight, self._outputs, strict=True):
            limit = 2.4 / (25 * self._outputs.count(output))
            nn.init.uniform_(kernel, -limit, limit)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        kernels = self.weight.new_zeros(self._shape)
        kernels[self._outputs, self._inputs] = self.weight
        return F.conv2d(maps_BCHW, kernels.to(maps_BCHW.dtype), self.bias.to(maps_BCHW.dtype))


class LeNet5(nn.Module):
    """Maps of 28, 14, 10 and 5 pixels, then 120, 84 and one unit a class."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0):
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = 84
        self.c1 = nn.Conv2d(in_chans, 6, 5)
        self.s2 = SubSampling(6)
        self.c3 = PartialConvolution(S2_MAPS_OF_C3_MAPS)
        self.s4 = SubSampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        self.feature_info = [
            {"num_chs": 6, "reduction": 1, "module": "c1"},
            {"num_chs": 16, "reduction": 2, "module": "c3"},
            {"num_chs": 120, "reduction": 4, "module": "c5"},
        ]
        for layer in (self.c1, self.c5, self.f6, self.output):
            limit = 2.4 / layer.weight[0].numel()
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.zeros_(layer.bias)
        self.c3.init_weights()

    def forward_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 84, 1, 1]: F6."""
        height, width = images_BCHW.shape[-2:]
        if (height, width) != (SIDE_PX, SIDE_PX):
            raise ValueError(f"LeNet-5 takes {SIDE_PX} x {SIDE_PX} pixels, not {width} x {height}")
        maps_BCHW = squash(self.s2(squash(self.c1(images_BCHW))))
        maps_BCHW = squash(self.s4(squash(self.c3(maps_BCHW))))
        return squash(self.f6(squash(self.c5(maps_BCHW)).flatten(1)))[:, :, None, None]

    def forward_head(self, features_BC11: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        features_BC = F.dropout(features_BC11.flatten(1), self.drop_rate, self.training)
        return features_BC if pre_logits else self.output(features_BC)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images_BCHW))

    def get_classifier(self) -> nn.Module:
        return self.output

    def group_matcher(self, coarse: bool = False) -> dict:
        """Timm's way to say which tensors lie how deep."""
        return {"stem": r"^c1", "blocks": [(r"^s2|^c3", (0,)), (r"^s4|^c5", (1,)), (r"^f6", (2,))]}


def squash(units: torch.Tensor) -> torch.Tensor:
    """The paper's appendix A: a tanh through (1, 1) and (-1, -1)."""
    return 1.7159 * torch.tanh(units * (2.0 / 3.0))


@register_model
def lenet5(pretrained: bool = False, **kwargs) -> LeNet5:
    return build_model_with_cfg(LeNet5, "lenet5", pretrained, kwargs_filter=("global_pool",), **kwargs)
