"""What a finished run leaves in its folder: weights.safetensors, and result.json that vouches for it."""

import safetensors.torch

from pipeline.artifacts import file_sha256
from pipeline.training.folder import Result
from pipeline.training.module import Classifier
from pipeline.training.record import Record
from pipeline.training.task import Place, Task
from pipeline.training.thresholds import choose_thresholds


def leave(task: Task, place: Place, classifier: Classifier, record: Record, attempt: int) -> None:
    """Rank 0 writes the weights, then the result that vouches for them, each by rename; all ranks come here."""
    weights = classifier.exported_weights()
    if weights is None:
        return
    partial = task.run.weights.with_name(".weights.partial")
    safetensors.torch.save_file(weights, partial)
    partial.replace(task.run.weights)
    exported = classifier.patience.exported(record.history)
    num_images = classifier.position * task.loading.global_batch_size
    result = Result(
        fingerprint=task.fingerprint,
        num_steps=classifier.position,
        num_epochs=len(record.history),
        exported_epoch=exported["epoch"],
        ending=classifier.patience.ending(record.history, task.training.epochs),
        world_size=place.world_size,
        attempts=attempt,
        num_parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        train_seconds=record.train_seconds,
        images_per_second=num_images / max(record.train_seconds, 1e-9),
        validation={
            name.removeprefix("validation_"): value
            for name, value in exported.items()
            if name.startswith("validation_")
        },
        history=record.history,
        weights_sha256=file_sha256(task.run.weights),
        thresholds=choose_thresholds(task, place, weights),
    )
    partial = task.run.result.with_name(".result.partial")
    result.write(partial)
    partial.replace(task.run.result)
