"""One rank of a run, from its folder's newest checkpoint to its result. It does not know who started it."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch

from pipeline.errors import CheckpointError
from pipeline.heap import UNLIMITED, keep_freed
from pipeline.loading.ahead import check_cache
from pipeline.loading.order import num_steps_per_epoch
from pipeline.loading.read import SplitReader
from pipeline.modeling import schedule, transfer
from pipeline.training import checkpoint
from pipeline.training.bottleneck import judge
from pipeline.training.collapse import CollapseGuard
from pipeline.training.failures import translating
from pipeline.training.feed import Epochs, TrainingFeed, ValidationFeed, open_epochs
from pipeline.training.leave import leave
from pipeline.training.ledger import Ledger, next_attempt
from pipeline.training.mixer import build_mixer
from pipeline.training.module import Classifier
from pipeline.training.network import build_loss, build_network, build_optimizer, freeze
from pipeline.training.patience import Patience
from pipeline.training.phases import phases_on
from pipeline.training.record import Record, Sink
from pipeline.training.saving import Saver, committing, save_of
from pipeline.training.stopping import StopRequestedError, StopSign
from pipeline.training.task import Place, Task
from pipeline.training.trained import Trained
from pipeline.training.validation import MultiLabelValidation, SingleLabelValidation
from pipeline.training.world import strategy
from pipeline.training.writer import sole_writer

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""params.yaml's words in Lightning's."""


def train_rank(task: Task, place: Place, open_sink: Callable[[Path, int], Sink]) -> None:
    """Trains this rank's part until the run is done; rank 0 then leaves weights.safetensors and result.json.

    `open_sink` opens rank 0's spool, cut back to a position. Returns early, without a result, when it was asked to
    stop. Raises PeerLostError when another rank went away in the middle of a step, OutOfMemoryError, and ConvoyError
    for what the user can mend.
    """
    _silence_lightning()
    if place.device == "cpu":  # each step asks for what the last one freed
        keep_freed(UNLIMITED)
    writer = sole_writer(task.run.writer, task.handover_seconds) if place.rank == 0 else contextlib.nullcontext()
    with writer, contextlib.suppress(StopRequestedError), translating(place):
        _train(task, place, open_sink)


def _train(task: Task, place: Place, open_sink: Callable[[Path, int], Sink]) -> None:
    loading = task.loading
    with (
        contextlib.closing(
            SplitReader(task.index_path, "train", loading.cache_bytes, loading.subset_fraction)
        ) as reader,
        contextlib.closing(SplitReader(task.index_path, "validation", loading.cache_bytes)) as validation,
    ):
        if reader.shelf.is_remote:
            steps = task.plan(reader.index.digest).epoch(0, reader)
            check_cache(steps, reader.shards, loading.cache_bytes, place.world_size)
        batch, lanes = task.loading.global_batch_size, task.loading.lanes
        steps_per_epoch = num_steps_per_epoch(reader.num_samples, batch, lanes)
        attempt, state = _agree_on_start(task, place)
        position = state["position"] if state else 0
        sink = open_sink(task.run.spool, position) if place.rank == 0 else None
        record = Record(
            sink,
            global_batch_size=batch,
            steps_per_epoch=steps_per_epoch,
            phases=phases_on(place.device),
            judge=partial(judge, workers_per_rank=task.loading.workers_per_rank, num_cores=torch.get_num_threads()),
        )
        with_keys = task.training.ledger == "full"
        with (
            contextlib.closing(Ledger(task.run.ledger, attempt, place.rank, with_keys)) as ledger,
            contextlib.closing(StopSign(task.run.stop, place.rank, place.world_size)) as sign,
            _saving(task, place) as saver,
            open_epochs(task, place, reader) as epochs,
        ):
            fresh = state is None
            classifier = _build_classifier(task, place, reader, record, ledger, sign, saver, steps_per_epoch, fresh)
            if state:
                classifier.restore(state)
            _fit(classifier, epochs, validation, record, steps_per_epoch, task, place)
    leave(task, place, classifier, record, attempt)


def _agree_on_start(task: Task, place: Place) -> tuple[int, dict[str, Any] | None]:
    """The attempt's number and the checkpoint to go on from: rank 0 decides, the others follow."""
    state = None
    decision: list[int | None] = [None, None]
    if place.rank == 0 and not task.run.stop.exists():
        task.run.checkpoints.mkdir(parents=True, exist_ok=True)
        state = checkpoint.restore(task.run.checkpoints, say=task.run.say)
        decision = [next_attempt(task.run.ledger), state["position"] if state else None]
    if place.world_size > 1:
        torch.distributed.broadcast_object_list(decision, src=0)
    attempt, position = decision
    if attempt is None:
        raise StopRequestedError
    if place.rank > 0 and position is not None:
        state = checkpoint.load(task.run.checkpoints, position)
    if state and state["fingerprint"] != task.fingerprint:
        raise CheckpointError(
            f"{task.run.checkpoints} holds the run {state['fingerprint']}, not {task.fingerprint}; its folder was "
            "renamed or copied. Move it away to train from the start."
        )
    return attempt, state


def _build_classifier(
    task: Task,
    place: Place,
    reader: SplitReader,
    record: Record,
    ledger: Ledger,
    sign: StopSign,
    saver: Saver | None,
    steps_per_epoch: int,
    fresh: bool,
) -> Classifier:
    def is_stop_asked() -> bool:
        if saver:
            saver.check()  # once a step, so that a full disk is told at the next
        return sign.is_up()

    num_steps = task.training.epochs * steps_per_epoch
    index = reader.index
    network = build_network(task, index, is_fresh=fresh)
    trained = Trained(
        network,
        ema_decay=task.training.ema_decay,
        compiled=task.training.compile,
        mirror=task.model.mirror,
        rank=place.rank,
    )
    return Classifier(
        trained,
        build_optimizer=lambda network: build_optimizer(task, network),
        lr_at=lambda step: task.optimizer.lr * schedule.lr_factor(step, num_steps, **task.schedule.model_dump()),
        validation=MultiLabelValidation() if index.multi_label else SingleLabelValidation(len(index.classes)),
        mean=index.mean,
        std=index.std,
        loss=build_loss(task, reader),
        mixer=build_mixer(task, steps_per_epoch),
        num_pieces=task.training.accumulate_steps,
        channels_last=task.training.channels_last,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        seed=task.training.seed,
        rank=place.rank,
        ledger=ledger,
        record=record,
        is_stop_asked=is_stop_asked,
        tell=_teller(task, place),
        guard=_guard(task, reader) if place.rank == 0 else None,
        patience=Patience(task.training.patience_epochs),
        save=save_of(saver, task, place),
    )


def _guard(task: Task, reader: SplitReader) -> CollapseGuard:
    is_balanced = task.loading.sampling == "balanced"
    counts = [1] * len(reader.index.classes) if is_balanced else reader.class_counts
    in_nats = task.training.loss == "cross_entropy" and task.training.balance == "none"
    return CollapseGuard(reader.index.classes, counts, task.optimizer.lr, loss_in_nats=in_nats, say=task.run.say)


def _saving(task: Task, place: Place) -> contextlib.AbstractContextManager[Saver | None]:
    """Rank 0's saver for as long as it trains; the others have none."""
    if place.rank > 0:
        return contextlib.nullcontext()
    return committing(
        Saver(
            task.run.checkpoints,
            fingerprint=task.fingerprint,
            every_seconds=task.training.checkpoint_every_seconds,
            keep=task.training.keep_checkpoints,
            say=task.run.say,
        )
    )


def _fit(
    classifier: Classifier,
    epochs: Epochs,
    validation: SplitReader,
    record: Record,
    steps_per_epoch: int,
    task: Task,
    place: Place,
) -> None:
    """The epochs that are left: none when patience is out, or for a run that was killed before its result.

    Layers that are frozen or thawed begin another fit: DDP looks once at what takes a gradient.
    """
    network, when = classifier.network, task.transfer.model_dump(include={"mode", "unfreeze_every_epochs"})
    while (epoch := classifier.position // steps_per_epoch) < task.training.epochs and not classifier.is_over:
        num_epochs = transfer.num_epochs_alike(
            epoch, task.training.epochs, num_groups=lambda: len(transfer.groups(network)), **when
        )
        classifier.keep_still(freeze(task, network, epoch))
        if task.is_split(place):
            classifier.trained.split(place)  # once: only gradual transfer fits twice, which params refuse with it
        trainer = _trainer(task, place, num_epochs)
        trainer.fit(
            classifier,
            TrainingFeed(
                task,
                place,
                epochs,
                record,
                classes=validation.index.classes,
                steps_per_epoch=steps_per_epoch,
                position=lambda: classifier.position,
                tell=_teller(task, place),
            ),
            ValidationFeed(task, place, validation) if validation.num_samples else None,
        )
        classifier.carry_over()
        transfer.clear_gradients(network)


def _trainer(task: Task, place: Place, num_epochs: int) -> lightning.Trainer:
    is_exact = task.training.deterministic and place.device != "cpu"
    if is_exact:
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing is read that was not written
    return lightning.Trainer(
        strategy=strategy(place, task.is_split(place)),
        accelerator="cpu" if place.device == "cpu" else "gpu",
        devices=1,
        num_nodes=place.world_size,
        max_epochs=num_epochs,
        precision=PRECISIONS[task.training.precision],
        deterministic="warn" if is_exact else False,
        benchmark=not is_exact,  # of cuDNN's ways to convolve, the fastest for these shapes; a CPU has none
        gradient_clip_val=task.training.clip_norm,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _teller(task: Task, place: Place) -> Callable[[str], None]:
    """Rank 0 speaks for all."""
    return task.run.say if place.rank == 0 else lambda text: None


def _silence_lightning() -> None:
    """Lightning's advice is about loaders and loggers that are not used here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
