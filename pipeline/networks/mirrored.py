"""A classifier that looks at each image twice: as it is, and in a mirror."""

import torch


class Mirrored(torch.nn.Module):
    """Gives the mean of the logits [B, K] that `model` has for images [B, C, H, W] and for their mirror images, whose
    left and right are exchanged; so it says the same of both, at twice the work."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return (self.model(images_BCHW) + self.model(images_BCHW.flip(-1))) / 2
