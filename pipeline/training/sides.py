"""Progressive resizing: the side that training images have in an epoch, a function of the epoch and nothing else.

Small images first: their steps cost less, and what they teach carries over to larger ones. Validation, testing and the
exported model keep model.input_px. Source: Howard 2018 (DAWNBench), Touvron et al. 2019 (training below the test size).
"""

from pipeline import params


def side_px(epoch: int, model: params.Model, training: params.Training) -> int:
    """Of training images in this epoch, counted from 0. The listed sides have equal parts of the epochs, the first ones
    an epoch more where those cannot be equal."""
    sides = training.progressive_px
    return model.input_px if sides is None else sides[epoch * len(sides) // training.epochs]


def largest_px(model: params.Model, training: params.Training) -> int:
    """What a step at most has to hold."""
    return model.input_px if training.progressive_px is None else training.progressive_px[-1]


def areas(first_epoch: int, model: params.Model, training: params.Training) -> list[float]:
    """Of the training images in each epoch from `first_epoch` on, as parts of those of the largest."""
    largest = largest_px(model, training)
    return [(side_px(epoch, model, training) / largest) ** 2 for epoch in range(first_epoch, training.epochs)]
