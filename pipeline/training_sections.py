"""The sections of params.yaml that say what is trained and how: the network, its start, its steps.

As in `sections`: every key is required, and the docstring under a field gives its unit and its special values.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.sections import Fraction, PositiveInt, Section

Sides = Annotated[tuple[PositiveInt, ...], Field(min_length=1), BeforeValidator(tuple)]
"""A list in params.yaml."""


class Model(Section):
    backbone: str
    """`convoynet`, `lenet5`, `alexnet`, or any timm classifier, by name."""
    options: dict[str, Any]
    """How the backbone is built: convoynet's options (docs/models.md), or arguments of a timm model, by their names."""
    weights: str
    """`none`, `pretrained` (fetched by timm), `models:/name@alias`, `models:/name/3`, `runs:/id/model`, or the path of
    a .safetensors file or of an exported model's folder. A run is named after their sha256, not after this text."""
    input_px: PositiveInt
    """Side of the square that the model sees."""
    drop_rate: Fraction
    """Dropout before the head."""
    mirror: bool
    """An answer is the mean of the logits for the image and for its mirror image, in validation, testing and the
    exported model: surer, at twice the work of an answer. Not for images that mean something else in a mirror."""

    not_in_fingerprint = frozenset({"weights"})


class Transfer(Section):
    mode: Literal["full", "probe", "gradual"]
    """What is trained: everything, the classifier alone (a linear probe), or the classifier first and then one stage of
    the network more at a time, the deepest first."""
    unfreeze_every_epochs: PositiveInt
    """`gradual`: epochs until the next stage."""
    lr_decay: Annotated[float, Field(gt=0.0, le=1.0)]
    """The learning rate of a layer as a factor on that of the next deeper one; 1 for the same everywhere."""
    freeze_normalisation: bool
    """Normalisation layers keep their weights and statistics; those of layers that are not trained always do."""


class Optimizer(Section):
    name: Literal["adamw", "sgd", "lamb", "muon"]
    lr: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    """Not applied to biases and normalisation layers."""
    momentum: Fraction
    """SGD and Muon (Nesterov); AdamW and LAMB take it as beta1."""


class Schedule(Section):
    name: Literal["cosine", "linear", "step", "one_cycle", "constant"]
    """How the learning rate falls after its warm-up; `step` divides it by ten at a half and at three quarters."""
    warmup_fraction: Fraction
    """Part of all steps in which the learning rate climbs linearly (`one_cycle`: by half a cosine)."""
    final_lr_fraction: Fraction
    """Learning rate of the last step as a fraction of optimizer.lr; not for `step` and `constant`."""


class Training(Section):
    epochs: PositiveInt
    patience_epochs: PositiveInt | None
    """Training ends when validation top-1, or mAP, has not risen for so many epochs, and leaves the best epoch's
    weights; null trains all epochs and leaves the last one's."""
    progressive_px: Sides | None
    """Sides of the training images, rising to model.input_px at most, each for an equal part of the epochs: [32, 48,
    64]. Evaluation keeps model.input_px. Null for that everywhere."""
    seed: int
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the arithmetic; weights are float32. fp16 scales its loss, and is bf16 on a CPU."""
    channels_last: bool
    """Pixels and kernels lie channel by channel: faster for convolutions on most hardware."""
    compile: bool
    """The network through torch.compile, which takes a minute and a C++ compiler before the first step."""
    strategy: Literal["ddp", "fsdp2"]
    """What ranks hold: `ddp` the whole network each, `fsdp2` a part each of weights, gradients, average and optimizer
    state, for networks that one GPU's memory is too small for."""
    accumulate_steps: PositiveInt
    """Pieces in which a step's samples go through the network, for less memory. The global batch stays; batch
    normalisation sees a piece at a time."""
    loss: Literal["cross_entropy", "bce", "focal"]
    """`bce` asks of each class on its own, `focal` (gamma 2) counts what is nearly right for less."""
    balance: Literal["none", "class_weights", "logit_adjustment"]
    """Against classes of unlike size: weigh rare ones up, or add the log of each class's share to its logit."""
    label_smoothing: Fraction
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Exponential moving average of the weights, warmed up over the first steps; 0 for none. Evaluated and exported
    instead of the raw weights."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None
    """Largest norm of the gradient; null for no clipping."""
    checkpoint_every_seconds: Annotated[float, Field(gt=0.0)]
    """Between checkpoints at most. One is made at an epoch's end, too, unless a younger one is still being written."""
    deterministic: bool
    """On a GPU, kernels that give the same bits each time, so that a run that was killed there ends as if it had not
    been; slower for some networks. An operation that has none warns. Without it cuDNN takes the fastest it finds. A
    CPU's always do."""
    keep_checkpoints: PositiveInt
    ledger: Literal["digest", "full"]
    """What a step leaves in the ledger: a digest of its sample keys, or the keys too."""

    not_in_fingerprint = frozenset(
        {"strategy", "checkpoint_every_seconds", "deterministic", "keep_checkpoints", "ledger"}
    )
