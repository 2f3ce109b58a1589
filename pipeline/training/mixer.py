"""Mixup and cutmix as a run applies them: what a pair draws follows from the seed, the position and its first sample,
and from nothing else; so a resumed run and one on other ranks mix alike."""

from typing import NamedTuple

import numpy as np
import torch

from pipeline.loading.keyed import key_of, uniforms
from pipeline.modeling import mixing
from pipeline.modeling.mixing import Mixing
from pipeline.training.task import Task


class Mixed(NamedTuple):
    images_BCHW: torch.Tensor
    others_B: torch.Tensor | None = None
    """Labels of the partners; None where nothing was mixed."""
    shares_B: torch.Tensor | None = None
    """Of the images' own labels."""


def build_mixer(task: Task, steps_per_epoch: int) -> "Mixer":
    """As the run's augment section says."""
    kind = Mixing(task.augment.mixup_alpha, task.augment.cutmix_alpha)
    num_epochs = task.training.epochs - task.augment.mix_off_epochs
    return Mixer(kind, seed=task.training.seed, num_steps=num_epochs * steps_per_epoch)


class Mixer:
    def __init__(self, kind: Mixing, *, seed: int, num_steps: int):
        """Mixes in the first `num_steps` steps of the run."""
        self._kind, self._seed = kind, seed
        self._num_steps = num_steps if kind.mixup_alpha or kind.cutmix_alpha else 0

    def __call__(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor, keys_B: np.ndarray, position: int) -> Mixed:
        """Normalised images and their labels, mixed if the step at `position` is one that mixes."""
        if position >= self._num_steps:
            return Mixed(images_BCHW)
        draws_PD = uniforms(key_of(self._seed, "mix", position), keys_B[::2], mixing.NUM_DRAWS)
        mix = mixing.plan(self._kind, draws_PD, *images_BCHW.shape[2:])
        shares_B = mixing.on_device(np.repeat(mix.shares_P, 2), images_BCHW.device)
        return Mixed(mixing.mix_images(images_BCHW, mix), mixing.of_neighbours(labels_B), shares_B)
