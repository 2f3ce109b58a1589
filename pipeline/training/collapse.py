"""Says when a network has learnt nothing, and what that mostly comes from: the complaint that newcomers make most."""

import math
from collections.abc import Callable, Sequence

FIRST_EPOCH = 2
"""In the first epoch, a part of it warm-up, every network looks collapsed."""

LOSS_TOLERANCE = 0.01
"""How near to ln(classes) an epoch's mean loss counts as guessing."""


class CollapseGuard:
    """Looks at each epoch's figures and says each symptom once."""

    def __init__(
        self,
        classes: Sequence[str],
        class_counts: Sequence[int],
        lr: float,
        *,
        loss_in_nats: bool,
        say: Callable[[str], None],
    ):
        """`loss_in_nats`: the loss is plain cross-entropy, so that guessing gives ln(classes)."""
        self._classes, self._class_counts, self._lr, self._say = classes, class_counts, lr, say
        self._loss_in_nats = loss_in_nats
        self._said: set[str] = set()

    def end_epoch(self, epoch: int, train_loss: float, predicted_K: Sequence[int]) -> None:
        """`epoch` counts from 1; `predicted_K` are the validation images by the class they were given, which may be
        none: of a multi-label set, whose images are given no one class, nothing is said. There neither one answer to
        all nor a loss like guessing's is a symptom by itself, while classes are rare; mAP beside it tells."""
        num_classes, num_predicted = len(self._classes), sum(predicted_K)
        if num_classes < 2 or epoch < FIRST_EPOCH:
            return
        if num_predicted > 1 and max(predicted_K) == num_predicted:
            name = self._classes[list(predicted_K).index(num_predicted)]
            self._tell("one class", f"after epoch {epoch} all {num_predicted} validation images are called {name!r}")
        if self._loss_in_nats and abs(train_loss / math.log(num_classes) - 1.0) < LOSS_TOLERANCE:
            self._tell(
                "guessing",
                f"epoch {epoch} ended with a mean loss of {train_loss:.4f}, which is ln({num_classes}): guessing",
            )

    def _tell(self, symptom: str, what: str) -> None:
        if symptom in self._said:
            return
        self._said.add(symptom)
        share = max(self._class_counts) / max(1, sum(self._class_counts))
        causes = [
            f"optimizer.lr={self._lr:g} is too high for this network (try a tenth), or far too low",
            "labels that do not belong to their images: look at some with `convoy browse`",
        ]
        if share > max(0.5, 1.5 / len(self._classes)):
            causes.insert(0, f"{share:.0%} of the training images are of one class")
        self._say(f"collapse? {what}. Likely causes: {'; '.join(causes)}.")
