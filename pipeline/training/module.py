"""The Lightning module: one optimizer step, one validation pass, and the position that both agree on.

B samples of a rank's batch, K classes, C channels, H and W pixels. The position is the number of optimizer steps done;
the learning rate, the order and every random draw are functions of it, so it is all that a resume has to know.
"""

from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch

from pipeline.loading.batches import Batch
from pipeline.loading.keyed import key_of
from pipeline.modeling import objective
from pipeline.training import finite, parts
from pipeline.training.bottleneck import Spent
from pipeline.training.collapse import CollapseGuard
from pipeline.training.ledger import Ledger
from pipeline.training.mixer import Mixer
from pipeline.training.patience import Patience
from pipeline.training.record import Record
from pipeline.training.saving import Moment, Save
from pipeline.training.stopping import StopRequestedError
from pipeline.training.trained import Trained
from pipeline.training.validation import Validation

_SEED_RANGE = 2**63


class Classifier(lightning.LightningModule):
    """Trains a network from `position` on; what it leaves goes to the ledger and to the record.

    At log points all ranks meet: losses are averaged, ledgers are flushed, and `save` is offered the state. Once
    `is_stop_asked`, they meet after that step, save, and end with StopRequestedError.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        build_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
        lr_at: Callable[[int], float],
        validation: Validation,
        mean: list[float],
        std: list[float],
        loss: objective.Loss,
        mixer: Mixer,
        num_pieces: int,
        channels_last: bool,
        steps_per_epoch: int,
        num_steps: int,
        seed: int,
        rank: int,
        ledger: Ledger,
        record: Record,
        is_stop_asked: Callable[[], bool],
        tell: Callable[[str], None],
        guard: CollapseGuard | None,
        patience: Patience,
        save: Save,
    ):
        super().__init__()
        self.trained = trained
        self.network = trained.network
        self.register_buffer("mean_C", torch.tensor(mean), persistent=False)
        self.register_buffer("std_C", torch.tensor(std), persistent=False)
        self.position = 0
        self._validation = validation
        self._num_pieces = num_pieces
        self._channels_last = channels_last
        self._build_optimizer = build_optimizer
        self._lr_at = lr_at
        self._loss, self._mixer = loss, mixer
        self._steps_per_epoch, self._num_steps = steps_per_epoch, num_steps
        self._seed = seed
        self._rank = rank
        self._ledger = ledger
        self._record = record
        self._is_stop_asked = is_stop_asked
        self._tell = tell
        self._guard = guard
        self.patience = patience
        self._save = save
        self._restored: dict[str, Any] | None = None
        self._still: list[torch.nn.Module] = []
        self._stopping = False
        self._loss_sum = torch.zeros((), dtype=torch.float64)

    # What a checkpoint holds.

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and plain values, whole on rank 0; all ranks ask together where
        each has a part."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return {
            "position": self.position,
            **self.trained.state(),
            "optimizer": parts.gathered(self.trainer.optimizers[0].state_dict(), self._rank == 0),
            "scaler": scaler.state_dict() if scaler else None,
            "record": self._record.state(),
            "best": self.patience.weights,
            "loss_sum": float(self._loss_sum),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave; before the fit."""
        self.position = state["position"]
        self.trained.restore(state)
        self._record.restore(state["record"])
        if self._rank == 0:
            self.patience.weights = state["best"]
        self._loss_sum.fill_(state["loss_sum"])
        self._restored = state

    def carry_over(self) -> None:
        """After a fit: the next one, of other layers, goes on with this one's optimizer."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        optimizer = self.trainer.optimizers[0].state_dict()
        self._restored = {"optimizer": optimizer, "scaler": scaler.state_dict() if scaler else None}

    # Training.

    def keep_still(self, layers: list[torch.nn.Module]) -> None:
        """From the next step on, these layers and no others stay in evaluation mode."""
        self.network.train()  # Lightning leaves every layer in the mode that it finds
        self._still = layers

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._build_optimizer(self.network)

    def on_fit_start(self) -> None:
        self.trained.to(self.device)
        self._loss_sum = self._loss_sum.to(self.device)
        if self._restored:
            (optimizer,) = self.trainer.optimizers
            optimizer.load_state_dict(parts.own_parts(self._restored["optimizer"], optimizer))
            if self._restored["scaler"]:
                self.trainer.precision_plugin.scaler.load_state_dict(self._restored["scaler"])
            self._restored = None

    def on_train_epoch_start(self) -> None:
        self._record.start_clock()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        self._record.phases.begin("transfer")
        batch.arrive()
        self._record.phases.begin("compute")
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """`loss` is what is left to go backwards through, `step_loss` the mean over the whole of the rank's batch."""
        _seed(self.device, key_of(self._seed, self.position, self._rank) % _SEED_RANGE)  # so dropout repeats on resume
        optimizer = self.trainer.optimizers[0]
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = self._lr_at(self.position) * group["lr_scale"]
        for layer in self._still:
            layer.training = False
        images_BCHW = self._floats(batch.images_BCHW)
        images_BCHW, *mixed = self._mixer(images_BCHW, batch.labels_B, batch.keys_B, self.position)
        whole = (images_BCHW, batch.labels_B, *(each for each in mixed if each is not None))
        pieces = zip(*(each.chunk(self._num_pieces) for each in whole), strict=True)
        step_loss = torch.zeros((), device=self.device)
        for number, (images_BCHW, *targets_B) in enumerate(pieces, 1):
            loss = self._loss(self.network(images_BCHW), *targets_B) / self._num_pieces
            step_loss += loss.detach()
            if number < self._num_pieces:
                self.trainer.strategy.backward(loss, optimizer)  # DDP reduces what the last piece completes
        return {"loss": loss, "step_loss": step_loss}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: Lightning would do it after the first pieces have left their gradients."""

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By norm. Under mixed precision Lightning refuses to for fused optimizers, which unscale in their step."""
        if gradient_clip_val is None:
            return
        plain = self.trainer.optimizers[0]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler and getattr(plain, "_step_supports_amp_scaling", False):
            scaler.unscale_(plain)
        parameters = [parameter for group in plain.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _floats(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        floats_BCHW = objective.normalize(images_BCHW, self.mean_C, self.std_C)
        return floats_BCHW if self._channels_last else floats_BCHW.contiguous()

    def on_train_batch_end(self, outputs: dict[str, torch.Tensor], batch: Batch, batch_idx: int) -> None:
        self.trained.update()
        loss = outputs["step_loss"]
        self._ledger.record(self.position, batch.keys_B, loss)
        self._loss_sum += loss.double()
        self.position += 1
        stop = self._is_stop_asked()
        if not stop and not self._record.is_log_point(self.position):
            return
        mean_loss = self._meet(batch.keys_B)
        if self._record.is_log_point(self.position):
            spent = self._of_all_ranks(self._record.take_spent())
            self._record.log_step(self.position, mean_loss, self._lr_at(self.position - 1), spent)
            self._loss_sum = torch.zeros_like(self._loss_sum)
        if self.position % self._steps_per_epoch:  # an epoch's last checkpoint comes after its validation
            self._save(self.state, Moment.LAST if stop else Moment.STEP)
            if stop:
                raise StopRequestedError
        self._stopping = stop

    def on_train_epoch_end(self) -> None:
        verdict = self._record.end_epoch(self.position, self._lr_at(self.position - 1))
        if verdict:
            self._tell(verdict)
        if self._guard:
            row = self._record.history[-1]
            self._guard.end_epoch(row["epoch"], row["train_loss"], self._validation.predicted_K)
        self.patience.end_epoch(self._record.history, self.trained.take)
        stop = self._is_stop_asked() or self._stopping
        is_last = stop or self.is_over or self.position == self._num_steps
        self._save(self.state, Moment.LAST if is_last else Moment.EPOCH)
        self.trainer.should_stop = self.is_over
        if stop and not self.is_over:
            raise StopRequestedError

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be trained any more, before the last epoch."""
        return self.patience.is_over(self._record.history)

    def exported_weights(self) -> dict[str, torch.Tensor] | None:
        """Those of the best epoch where patience keeps them, else what was validated last; on the CPU, None but on
        rank 0. All ranks ask."""
        return self.patience.weights if self.patience.keeps_best else self.trained.take()

    def _meet(self, keys_B: np.ndarray) -> float:
        """The mean loss over all ranks since the last log point; every rank's ledger is on its disk then.

        Raises TrainingError when a loss, or what the last step made of the weights, is not finite.
        """
        mine = self._ledger.flush()
        self._loss_sum = self.trainer.strategy.reduce(self._loss_sum, reduce_op="mean")
        mean_loss = float(self._loss_sum) / self._record.steps_since_log(self.position)
        finite.check_loss(mean_loss, mine, self._lr_at)
        finite.check_weights(self.network, self.position - 1, keys_B, self._lr_at)
        return mean_loss

    def _of_all_ranks(self, spent: Spent) -> list[Spent]:
        if self.trainer.world_size == 1:  # a group of one may be there: Ray Train makes it
            return [spent]
        seconds_RS = self.all_gather(torch.tensor(spent.values(), dtype=torch.float64, device=self.device))
        return [Spent(*seconds_S) for seconds_S in seconds_RS.tolist()]

    # Validation.

    def on_validation_epoch_start(self) -> None:
        self._record.stop_clock()
        self._validation.begin(self.device)
        if torch.distributed.is_initialized():
            for buffer in self.trained.evaluated.buffers():
                torch.distributed.broadcast(buffer, src=0)  # running statistics differ by rank: those of rank 0 count

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_BK = self.trained.answering(self._floats(batch.images_BCHW))
        self._validation.add(logits_BK, batch.labels_B, batch.mask_B)

    def on_validation_epoch_end(self) -> None:
        self._record.log_validation(self.position, self._validation.end(self.trainer.strategy))


def _seed(device: torch.device, seed: int) -> None:
    """What torch draws from on the CPU and on the device. torch.manual_seed takes 2 ms to note down, with a traceback,
    what the kinds of device that are not there will have to be seeded with."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
