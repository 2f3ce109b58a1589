import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError, ModelError
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.predict import join, predict
from pipeline.loading.assembly import Batch

RNG = np.random.default_rng(0)


def logits_of(pixels_NK):
    return (np.asarray(pixels_NK) / 255 - 0.5) / 0.1


def flat(figures: dict, prefix: str = "") -> dict:
    """Nested figures as one level, for a comparison with a tolerance."""
    pairs = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            pairs |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, str):
            pairs[prefix + name] = value
    return pairs


@given(
    num_samples=st.integers(1, 40),
    num_classes=st.integers(2, 7),
    sizes=st.lists(st.integers(1, 9), max_size=12),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_any_cut_into_batches_and_any_padding_give_the_same_figures(
    predictions, num_samples, num_classes, sizes, padding, seed
):
    rng = np.random.default_rng(seed)
    pixels_NK, labels_N = rng.integers(0, 256, (num_samples, num_classes)), rng.integers(0, num_classes, num_samples)
    keys_N = rng.permutation(1000)[:num_samples].astype(np.uint64)
    whole = predictions(pixels_NK, labels_N, keys_N=keys_N)
    cut = predictions(pixels_NK, labels_N, keys_N=keys_N, sizes=sizes, padding=padding)
    assert whole.num_rows == cut.num_rows == num_samples
    for name in whole.column_names:
        one, other = (np.array(table[name].to_pylist(), float) for table in (whole, cut))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    names = [str(k) for k in range(num_classes)]
    one, other = (
        measure(table, names, split="test", index_digest="", weights_sha256="").model_dump() for table in (whole, cut)
    )
    assert flat(one) == pytest.approx(flat(other), abs=1e-12, rel=0)


def test_columns_agree_with_softmax_by_hand(predictions):
    pixels_NK, labels_N = RNG.integers(0, 256, (50, 6)), RNG.integers(0, 6, 50)
    table = predictions(pixels_NK, labels_N, top_k=3)
    odds_NK = np.exp(logits_of(pixels_NK))
    probability_NK = odds_NK / odds_NK.sum(axis=1, keepdims=True)
    order_NK = np.argsort(-probability_NK, axis=1, kind="stable")
    rows = np.arange(50)
    close = {"rtol": 2e-6, "atol": 1e-7}  # the model's input is float32
    np.testing.assert_array_equal(table["predicted"], order_NK[:, 0])
    np.testing.assert_array_equal(table["correct"], order_NK[:, 0] == labels_N)
    np.testing.assert_allclose(table["probability"], probability_NK.max(axis=1), **close)
    np.testing.assert_allclose(table["label_probability"], probability_NK[rows, labels_N], **close)
    np.testing.assert_allclose(table["loss"], -np.log(probability_NK[rows, labels_N]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        table["rank"], [list(o).index(y) + 1 for o, y in zip(order_NK, labels_N, strict=True)]
    )
    np.testing.assert_array_equal(table["top_labels"].to_pylist(), order_NK[:, :3])
    top_N3 = np.take_along_axis(probability_NK, order_NK[:, :3], axis=1)
    np.testing.assert_allclose(table["top_probabilities"].to_pylist(), top_N3, **close)


def test_types_and_class_names_are_in_the_file(predictions):
    table = predictions(np.zeros((2, 2), int), np.array([0, 1]), classes=["naïve", "<b>"])
    assert [str(field.type) for field in table.schema] == [
        "uint64", "int32", "int32", "bool", "double", "double", "double", "int32",
        "list<item: int32>", "list<item: double>",
    ]  # fmt: skip
    assert json.loads(table.schema.metadata[b"classes"]) == ["naïve", "<b>"]


def test_rows_come_sorted_by_key(predictions):
    table = predictions(np.eye(3) * 255, np.array([0, 1, 2]), keys_N=np.array([30, 10, 20], np.uint64))
    assert table["key"].to_pylist() == [10, 20, 30]
    assert table["label"].to_pylist() == [1, 2, 0]


def test_equal_logits_go_to_the_lower_label(predictions):
    table = predictions(np.full((3, 3), 7), np.array([0, 1, 2]))
    assert table["predicted"].to_pylist() == [0, 0, 0]
    assert table["rank"].to_pylist() == [1, 2, 3]


def test_top_k_beyond_the_classes_keeps_all_of_them(predictions):
    assert len(predictions(np.eye(3) * 255, np.array([0, 1, 2]), top_k=9)["top_labels"][0].as_py()) == 3


def test_temperature_softens_and_changes_no_answer(predictions):
    pixels_NK, labels_N = RNG.integers(0, 256, (20, 4)), RNG.integers(0, 4, 20)
    plain, soft = (predictions(pixels_NK, labels_N, temperature=t) for t in (1.0, 2.0))
    assert plain["predicted"].equals(soft["predicted"])
    odds_NK = np.exp(logits_of(pixels_NK) / 2)
    expected_N = (odds_NK / odds_NK.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(soft["probability"], expected_N, rtol=2e-6)


def test_each_channel_has_its_own_mean_and_std(predictions):
    import torch

    class FirstPixels(torch.nn.Module):
        def forward(self, images_BCHW):
            assert images_BCHW.dtype == torch.float32
            return images_BCHW[:, :, 0, 0]

    class One:
        images_BCHW = torch.tensor([[[[200]], [[100]], [[50]]]], dtype=torch.uint8)
        labels_B, mask_B, keys_B = torch.tensor([0]), torch.tensor([True]), np.array([1], np.uint64)

    mean, std = [0.7, 0.2, 0.4], [0.1, 0.3, 0.9]
    table = predict(FirstPixels(), [One()], classes="abc", mean=mean, std=std, temperature=1.0, top_k=3, device="cpu")
    logits_K = (np.array([200, 100, 50]) / 255 - mean) / std
    np.testing.assert_allclose(table["loss"][0].as_py(), np.log(np.exp(logits_K).sum()) - logits_K[0], rtol=1e-5)


def test_an_answer_that_is_no_number_is_refused_by_key():
    import torch

    class Broken(torch.nn.Module):
        def forward(self, images_BCHW):
            return torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("nan"), 0.0]])

    class Three:
        images_BCHW = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
        labels_B, mask_B = torch.tensor([0, 0, 1]), torch.tensor([True, True, False])
        keys_B = np.array([5, 77, 78], np.uint64)

    with pytest.raises(ModelError, match=r"answer for sample 77 is not a number.*lower optimizer.lr"):
        predict(Broken(), [Three()], classes="ab", mean=[0], std=[1], temperature=1.0, top_k=2, device="cpu")


def test_join_puts_path_second_and_slices_last(predictions):
    table = predictions(np.eye(2) * 255, np.array([0, 1]))
    samples = pa.table({"key": table["key"], "path": ["a", "b"], "width": [1, 1], "slice_camera": ["x", None]})
    joined = join(table, samples)
    assert joined.column_names[:2] == ["key", "path"]
    assert joined.column_names[-1] == "slice_camera"
    assert "width" not in joined.column_names
    assert joined["slice_camera"].to_pylist() == ["x", None]


@pytest.mark.parametrize("keys", [[0, 1, 2], [0], [0, 3], [0, 0]])
def test_join_refuses_other_samples(predictions, keys):
    table = predictions(np.eye(2) * 255, np.array([0, 1]))
    samples = pa.table({"key": pa.array(keys, pa.uint64()), "path": ["p"] * len(keys)})
    with pytest.raises(ArtifactError, match=r"2 predictions do not match the . samples of the tars.*convoy verify"):
        join(table, samples)


def test_sixteen_bits_are_scaled_by_their_own_largest_value(predictions):
    pixels_NK, labels_N = RNG.integers(0, 256, (20, 4)), RNG.integers(0, 4, 20)
    deep = Batch(
        torch.from_numpy((pixels_NK * 257).astype(np.uint16)[:, None, None, :]),
        torch.from_numpy(labels_N),
        torch.ones(20, dtype=torch.bool),
        np.arange(20, dtype=np.uint64),
    )
    table = predict(
        torch.nn.Flatten(), [deep], classes="abcd", mean=[0.5], std=[0.1], temperature=1.0, top_k=4, device="cpu"
    )
    expected = predictions(pixels_NK, labels_N, classes=list("abcd"), top_k=4)
    np.testing.assert_allclose(table["loss"], expected["loss"], rtol=1e-5)
