"""What a finished run leaves in its folder: weights.safetensors, and result.json that vouches for it."""

import safetensors.torch
import torch

from pipeline.artifacts import file_sha256
from pipeline.training.folder import Result
from pipeline.training.module import Classifier
from pipeline.training.record import Record
from pipeline.training.task import Place, Task


def leave(task: Task, place: Place, classifier: Classifier, record: Record, attempt: int) -> None:
    """Writes the weights, then the result that vouches for them, each by rename."""
    network = classifier.evaluated_network
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in network.state_dict().items()
    }
    partial = task.run.weights.with_name(".weights.partial")
    safetensors.torch.save_file(tensors, partial)
    partial.replace(task.run.weights)
    figures = record.result()
    num_images = classifier.position * task.loading.global_batch_size
    result = Result(
        fingerprint=task.fingerprint,
        num_steps=classifier.position,
        num_epochs=task.training.epochs,
        world_size=place.world_size,
        attempts=attempt,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        train_seconds=figures["train_seconds"],
        images_per_second=num_images / max(figures["train_seconds"], 1e-9),
        validation=figures["validation"],
        history=figures["history"],
        weights_sha256=file_sha256(task.run.weights),
    )
    partial = task.run.result.with_name(".result.partial")
    result.write(partial)
    partial.replace(task.run.result)
