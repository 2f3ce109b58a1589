"""The training loss, and the sums that evaluation is made of."""

import torch
import torch.nn.functional as F


def normalize(images_BCHW: torch.Tensor, mean_C: torch.Tensor, std_C: torch.Tensor) -> torch.Tensor:
    """uint8 pixels on their device as float: 0..1, minus the mean, over the deviation. Shapes and layout stay."""
    scale_C = 1.0 / (255.0 * std_C)
    return torch.addcmul(-(mean_C / std_C).view(1, -1, 1, 1), images_BCHW.float(), scale_C.view(1, -1, 1, 1))


def cross_entropy(logits_BK: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Mean cross-entropy in nats, computed in float32 whatever the logits' precision."""
    return F.cross_entropy(logits_BK.float(), labels_B, label_smoothing=label_smoothing)


def evaluation_sums(logits_BK: torch.Tensor, labels_B: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    """Sum of cross-entropies in nats, number correct and number of samples, float64 [3]; padding counts nothing."""
    losses_B = F.cross_entropy(logits_BK.float(), labels_B, reduction="none")
    correct_B = logits_BK.argmax(1) == labels_B
    columns = (losses_B.double() * mask_B, (correct_B & mask_B).double(), mask_B.double())
    return torch.stack([column.sum() for column in columns])
