import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import AugMix, InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from pipeline.loading import policy
from pipeline.loading.keyed import uniforms
from pipeline.loading.operations import OPERATIONS, change
from pipeline.loading.policy import Chain, apply, erase, plan, plan_erasing

SIDE = 64
AMOUNTS = [
    ("identity", 0), ("shear_x", 0.3), ("shear_y", 0.3), ("translate_x", 9.7), ("translate_x", -9.7),
    ("translate_y", 5), ("rotate", 30), ("rotate", -17), ("brightness", 0.4), ("brightness", -0.5), ("color", 0.9),
    ("color", -0.7), ("contrast", 0.5), ("contrast", -0.5), ("sharpness", 0.9), ("sharpness", -0.9), ("posterize", 3),
    ("posterize", 8), ("solarize", 100.0), ("autocontrast", 0), ("equalize", 0),
]  # fmt: skip


def theirs(name):
    return {"autocontrast": "AutoContrast"}.get(name, name.title().replace("_", ""))


@pytest.fixture(scope="module")
def photo():
    random = np.random.default_rng(0)
    forms = cv2.resize(random.integers(0, 256, (9, 9, 3), dtype=np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(forms * 0.7 + 20 + random.normal(0, 6, forms.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "amount"), AMOUNTS)
def test_an_operation_does_what_torchvision_s_does(photo, name, amount):
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    wanted = _apply_op(tensor, theirs(name), amount, InterpolationMode.NEAREST, None).permute(1, 2, 0).numpy()
    before = photo.copy()
    assert np.abs(change(photo, name, amount).astype(int) - wanted).max() <= 1
    assert np.array_equal(photo, before)


def test_every_operation_is_compared():
    assert {name for name, _ in AMOUNTS} == OPERATIONS.keys()


@pytest.mark.parametrize(
    ("peer", "amount", "num_bins", "names"),
    [
        (RandAugment(), policy._amount, 31, OPERATIONS.keys()),
        (TrivialAugmentWide(), policy._wide_amount, 31, OPERATIONS.keys()),
        (AugMix(), policy._mixed_amount, 10, OPERATIONS.keys() - {"identity"}),
    ],
)
def test_amounts_are_torchvision_s(peer, amount, num_bins, names):
    space = (
        peer._augmentation_space(num_bins) if isinstance(peer, TrivialAugmentWide)
        else peer._augmentation_space(num_bins, (SIDE, SIDE))
    )  # fmt: skip
    assert space.keys() == {theirs(name) for name in names}
    for name in names:
        magnitudes, is_signed = space[theirs(name)]
        assert is_signed == (name in policy._GEOMETRY or name in policy._STRENGTHS)
        if magnitudes.ndim:
            ours = [amount(name, level / (num_bins - 1), SIDE) for level in range(num_bins)]
            # round() of halves: torch's and Python's both go to the even number
            assert ours == pytest.approx(magnitudes.tolist(), abs=1e-4)


def test_randaugment_draws_every_operation_and_both_signs_equally_often():
    plans = [plan("randaugment", 2, 9, SIDE, draws) for draws in uniforms(0, np.arange(7000), policy.NUM_DRAWS)]
    assert {(len(chains), chains[0].share, len(chains[0].operations)) for chains in plans} == {(1, 1.0, 2)}
    drawn = [operation for chains in plans for operation in chains[0].operations]
    counts = [sum(name == each for name, _ in drawn) for each in OPERATIONS]
    assert min(counts) > 850
    assert max(counts) < 1150
    assert {amount for name, amount in drawn if name == "rotate"} == {9.0, -9.0}
    assert np.mean([amount > 0 for name, amount in drawn if name == "rotate"]) == pytest.approx(0.5, abs=0.06)
    pairs = [tuple(name for name, _ in chains[0].operations) for chains in plans]
    assert len(set(pairs)) == 14 * 14  # the second is drawn on its own


def test_trivialaugment_draws_every_strength():
    plans = [plan("trivialaugment", 2, 9, SIDE, draws) for draws in uniforms(0, np.arange(7000), policy.NUM_DRAWS)]
    degrees = {round(abs(chain.operations[0][1]), 3) for (chain,) in plans if chain.operations[0][0] == "rotate"}
    assert degrees == {round(135 * level / 30, 3) for level in range(31)}


def test_augmix_mixes_three_chains_of_one_to_three():
    plans = [plan("augmix", 2, 9, SIDE, draws) for draws in uniforms(0, np.arange(3000), policy.NUM_DRAWS)]
    assert {len(chains) for chains in plans} == {3}
    depths = [len(chain.operations) for chains in plans for chain in chains]
    assert np.bincount(depths)[1:] == pytest.approx([3000] * 3, rel=0.05)
    changed = [sum(chain.share for chain in chains) for chains in plans]
    assert np.quantile(changed, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.03)  # Beta(1, 1)
    first = [chains[0].share / part for chains, part in zip(plans, changed, strict=True)]
    # One of three parts of Dirichlet(1, 1, 1) is Beta(1, 2).
    assert np.quantile(first, [0.25, 0.5, 0.75]) == pytest.approx(1 - np.sqrt([0.75, 0.5, 0.25]), abs=0.03)


def test_chains_are_mixed_by_their_shares(photo):
    chains = (Chain(0.25, (("brightness", -0.5),)), Chain(0.25, (("solarize", 0.0), ("solarize", 0.0))))
    wanted = 0.75 * photo + 0.25 * np.floor(photo * 0.5)
    assert np.abs(apply(photo, chains) - wanted).max() <= 0.51
    assert np.array_equal(apply(photo, (Chain(1.0, (("solarize", 0.0),)),)), 255 - photo)


@given(st.integers(8, 300), st.integers(0, 2**63))
def test_what_is_erased_lies_inside_and_is_as_large_as_said(side_px, key):
    box = plan_erasing(1.0, side_px, uniforms(key, np.array([1]), policy.NUM_ERASE_DRAWS)[0])
    if box is None:
        return
    top, left, height, width = box
    assert 0 <= top <= side_px - height
    assert 0 <= left <= side_px - width
    slack = (height + width) / side_px**2  # of rounding each side
    assert 0.02 - slack <= height * width / side_px**2 <= 1 / 3 + slack


def test_erasing_happens_as_often_as_asked_and_paints_the_mean(photo):
    boxes = [plan_erasing(0.3, SIDE, draws) for draws in uniforms(0, np.arange(4000), policy.NUM_ERASE_DRAWS)]
    assert np.mean([box is not None for box in boxes]) == pytest.approx(0.3, abs=0.03)
    image_HWC = photo.copy()
    erase(image_HWC, (10, 20, 5, 7))
    assert image_HWC[12, 22].tolist() == np.rint(photo.mean(axis=(0, 1))).tolist()
    outside = np.ones(photo.shape[:2], bool)
    outside[10:15, 20:27] = False
    assert np.array_equal(image_HWC[outside], photo[outside])
    assert (image_HWC[~outside] == image_HWC[12, 22]).all()


def test_nothing_asked_for_is_nothing_done():
    draws = np.zeros(policy.NUM_DRAWS)
    assert plan("none", 2, 9, SIDE, draws) == ()
    assert plan_erasing(0.0, SIDE, np.zeros(policy.NUM_ERASE_DRAWS)) is None
