"""Image bytes to answers: the rules of imaging, the export's figures, and errors that cost one image only."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode
from pipeline.imaging.resizing import evaluation_view
from pipeline.registry import classify, export
from pipeline.registry.classify import Classifier


def jpeg(seed, height=90, width=70):
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def by_hand(folder, data):
    """The probabilities, computed one image at a time from the parts."""
    loaded = export.load(folder)
    pixels = evaluation_view(decode(data), loaded.input_px).astype(np.float32) / 255
    normal_HWC = (pixels - np.float32(loaded.mean)) / np.float32(loaded.std)
    with torch.inference_mode():
        logits_K = loaded.model(torch.from_numpy(normal_HWC).permute(2, 0, 1)[None])[0].double().numpy()
    return np.exp(logits_K) / np.exp(logits_K).sum()


def test_answers_are_those_of_the_parts_in_order(exported, monkeypatch):
    monkeypatch.setattr(classify, "IMAGES_PER_BATCH", 2)
    images = [jpeg(seed) for seed in range(5)]
    answers = list(Classifier(exported).classify(images))
    for data, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(list(answer.probabilities.values()), by_hand(exported, data), atol=1e-5)
        assert list(answer.probabilities) == ["o", "x"]
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.label]
    assert len({answer.probability for answer in answers}) == 5


def test_with_mirror_both_ways_round_are_answered_alike(write_export, tmp_path):
    write_export(tmp_path / "once", backbone="test_vit")
    write_export(tmp_path / "twice", backbone="test_vit", mirror=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images = [_png(pixels), _png(pixels[:, ::-1])]
    one, other = (each.probabilities["o"] for each in Classifier(tmp_path / "twice").classify(images))
    assert one == pytest.approx(other, abs=1e-6)
    seen = [by_hand(tmp_path / "once", image)[0] for image in images]
    assert abs(seen[0] - seen[1]) > 1e-4
    assert np.log(one / (1 - one)) == pytest.approx(np.mean([np.log(p / (1 - p)) for p in seen]), abs=1e-4)


def _png(pixels_HWC):
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_a_bad_image_costs_only_itself(exported, monkeypatch, num_images):
    monkeypatch.setattr(classify, "IMAGES_PER_BATCH", 2)
    bad = [b"", ImageError("unreadable", "The file cannot be read."), jpeg(0)[:50]]
    images = [jpeg(seed) for seed in range(num_images)]
    answers = list(Classifier(exported).classify([*bad, *images]))
    assert [isinstance(answer, ImageError) for answer in answers] == [True] * 3 + [False] * num_images
    assert answers[1].reason == "unreadable"
