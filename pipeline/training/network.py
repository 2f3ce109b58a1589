"""What a task trains, and the loss and optimizer that train it: the same for a run and for a trial of a few steps."""

import torch

from pipeline.artifacts import Index
from pipeline.loading.read import SplitReader
from pipeline.modeling import backbone, objective, optimizer, transfer, weights
from pipeline.training.task import Task


def build_network(task: Task, index: Index, *, is_fresh: bool) -> torch.nn.Module:
    """The network with the task's starting weights, or, for a checkpoint that will fill it, with random ones."""
    torch.manual_seed(task.training.seed)
    network = backbone.build(
        task.model.backbone,
        num_classes=len(index.classes),
        num_channels=index.num_channels,
        input_px=task.model.input_px,
        drop_rate=task.model.drop_rate,
        options=task.model.options,
    )
    if is_fresh and task.start:
        weights.load(network, task.start, index.classes)
    return network.to(memory_format=torch.channels_last) if task.training.channels_last else network


def build_optimizer(task: Task, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Its groups' `lr_scale` is for whoever sets their rates."""
    return optimizer.build(
        network,
        **task.optimizer.model_dump(),
        lr_scales=transfer.lr_scales(network, task.transfer.lr_decay),
        is_thawing=task.transfer.mode == "gradual",
    )


def build_loss(task: Task, reader: SplitReader) -> objective.Loss:
    """For the training split that `reader` reads."""
    return objective.build_loss(
        task.training.loss,
        label_smoothing=task.training.label_smoothing,
        balance=task.training.balance,
        class_counts=reader.class_counts,
        num_samples=reader.num_samples,
        multi_label=reader.index.multi_label,
    )


def freeze(task: Task, network: torch.nn.Module, epoch: int) -> list[torch.nn.Module]:
    """Freezes what is not trained in this epoch; the layers to keep in evaluation mode."""
    return transfer.freeze(network, epoch=epoch, **task.transfer.model_dump(exclude={"lr_decay"}))
