"""The training loss, and the sums that evaluation is made of."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pipeline.errors import ParamsError

FOCAL_GAMMA = 2.0
"""Source: Lin et al. 2017."""


def normalize(images_BCHW: torch.Tensor, mean_C: torch.Tensor, std_C: torch.Tensor) -> torch.Tensor:
    """uint8 or uint16 pixels on their device as float: 0..1, minus the mean, over the deviation. Shapes and layout
    stay."""
    scale_C = 1.0 / (torch.iinfo(images_BCHW.dtype).max * std_C)
    return torch.addcmul(-(mean_C / std_C).view(1, -1, 1, 1), images_BCHW.float(), scale_C.view(1, -1, 1, 1))


class Loss:
    """The training loss: a mean over the batch in float32, whatever the logits' precision.

    Every sample counts on its own, so the mean of the ranks' means is that of the whole batch.
    """

    def __init__(self, name: str, *, label_smoothing: float, balance: str, class_counts: Sequence[int]):
        """`class_counts` are those of the training split; a class without a sample counts as one."""
        self._name, self._label_smoothing = name, label_smoothing
        counts_K = torch.tensor(class_counts, dtype=torch.float64).clamp_(min=1.0)
        prior_K = (counts_K / counts_K.sum()).float()
        self._weights_K = 1.0 / (len(prior_K) * prior_K) if balance == "class_weights" else None
        self._log_prior_K = prior_K.log() if balance == "logit_adjustment" else None

    def __call__(
        self,
        logits_BK: torch.Tensor,
        labels_B: torch.Tensor,
        others_B: torch.Tensor | None = None,
        shares_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """With `others_B`, an image is to `shares_B` of its label and for the rest of the other one."""
        logits_BK = logits_BK.float()
        if self._log_prior_K is not None:
            self._log_prior_K = self._log_prior_K.to(logits_BK.device)
            logits_BK = logits_BK + self._log_prior_K
        losses_B = self._weighted(logits_BK, labels_B)
        if others_B is not None:
            losses_B = torch.lerp(self._weighted(logits_BK, others_B), losses_B, shares_B)
        return losses_B.mean()

    def _weighted(self, logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        losses_B = self._each(logits_BK, labels_B)
        if self._weights_K is not None:
            self._weights_K = self._weights_K.to(logits_BK.device)
            losses_B = losses_B * self._weights_K[labels_B]
        return losses_B

    def _each(self, logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        if self._name == "bce":
            num_classes = logits_BK.shape[1]
            targets_BK = F.one_hot(labels_B, num_classes).float()
            targets_BK = targets_BK * (1.0 - self._label_smoothing) + self._label_smoothing / num_classes
            return F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none").mean(1)
        losses_B = F.cross_entropy(logits_BK, labels_B, label_smoothing=self._label_smoothing, reduction="none")
        if self._name == "focal":
            chances_B = logits_BK.softmax(1).gather(1, labels_B[:, None])[:, 0]
            losses_B = losses_B * (1.0 - chances_B) ** FOCAL_GAMMA
        return losses_B


class MultiLabelLoss(Loss):
    """As Loss, of samples with any number of classes: labels are labels_BK, with a 1 for each class of a sample.

    Every class is a question of its own, and a sample's loss is the mean over them. Smoothing is towards 1/2;
    `class_weights` weighs the images that have a class as much, all together, as those that have not.
    """

    def __init__(
        self, name: str, *, label_smoothing: float, balance: str, class_counts: Sequence[int], num_samples: int
    ):
        """`class_counts` are those of the training split, of `num_samples`."""
        super().__init__(name, label_smoothing=label_smoothing, balance="none", class_counts=class_counts)
        counts_K = torch.tensor(class_counts, dtype=torch.float64).clamp_(min=1.0)
        others_K = (num_samples - counts_K).clamp_(min=1.0)
        self._weights_K = (others_K / counts_K).float() if balance == "class_weights" else None

    def _weighted(self, logits_BK: torch.Tensor, labels_BK: torch.Tensor) -> torch.Tensor:
        if self._weights_K is not None:
            self._weights_K = self._weights_K.to(logits_BK.device)
        hot_BK = labels_BK.float()
        targets_BK = hot_BK * (1.0 - self._label_smoothing) + 0.5 * self._label_smoothing
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK, targets_BK, pos_weight=self._weights_K, reduction="none"
        )
        if self._name == "focal":
            probabilities_BK = logits_BK.sigmoid()
            losses_BK = losses_BK * torch.lerp(probabilities_BK, 1.0 - probabilities_BK, hot_BK) ** FOCAL_GAMMA
        return losses_BK.mean(1)


def build_loss(
    name: str, *, label_smoothing: float, balance: str, class_counts: Sequence[int], num_samples: int, multi_label: bool
) -> Loss:
    """Raises ParamsError as `check` does."""
    check(name, balance, multi_label)
    settings = {"label_smoothing": label_smoothing, "balance": balance, "class_counts": class_counts}
    return MultiLabelLoss(name, **settings, num_samples=num_samples) if multi_label else Loss(name, **settings)


def check(name: str, balance: str, multi_label: bool) -> None:
    """Raises ParamsError for a loss that a multi-label set cannot have."""
    if multi_label and name == "cross_entropy":
        raise ParamsError(
            "training.loss=cross_entropy takes an image for one of its classes, and those of this multi-label set have "
            "any number of them; use training.loss: bce, or focal where most images have few of many classes (or, if "
            "data.source is another one now, run `convoy scan` and `convoy shard` first)."
        )
    if multi_label and balance == "logit_adjustment":
        raise ParamsError(
            "training.balance=logit_adjustment weighs the classes against each other, and those of this multi-label "
            "set do not exclude each other; use training.balance: class_weights or none."
        )


def evaluation_sums(logits_BK: torch.Tensor, labels_B: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    """Sum of cross-entropies in nats, number correct and number of samples, float64 [3]; padding counts nothing."""
    losses_B = F.cross_entropy(logits_BK.float(), labels_B, reduction="none")
    correct_B = logits_BK.argmax(1) == labels_B
    columns = (losses_B.double() * mask_B, (correct_B & mask_B).double(), mask_B.double())
    return torch.stack([column.sum() for column in columns])


def multi_label_sums(logits_BK: torch.Tensor, labels_BK: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    """Sum of the samples' mean binary cross-entropies in nats and number of samples, float64 [2]; padding counts
    nothing."""
    losses_BK = F.binary_cross_entropy_with_logits(logits_BK.float(), labels_BK.float(), reduction="none")
    return torch.stack([(losses_BK.double().mean(1) * mask_B).sum(), mask_B.double().sum()])
