"""Exports of models for any number of channels: timm reads them, and they answer images of their own kind alone."""

import io
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiffs import tiff

from pipeline.errors import ImageError
from pipeline.imaging.arrays import encode_array
from pipeline.imaging.decode import decode
from pipeline.registry import export, package
from pipeline.registry.classify import Classifier


@pytest.fixture(scope="module", params=[(5, "uint8"), (4, "uint16"), (1, "uint16")], ids=str)
def exported(request, tmp_path_factory):
    """(folder, number of channels, type)"""
    num_channels, pixel_dtype = request.param
    folder = tmp_path_factory.mktemp("exported") / "model"
    torch.manual_seed(0)
    export.write(
        folder,
        timm.create_model("test_resnet", num_classes=2, in_chans=num_channels),
        backbone="test_resnet",
        classes=["o", "x"],
        input_px=32,
        num_channels=num_channels,
        pixel_dtype=pixel_dtype,
        mean=[0.4] * num_channels,
        std=[0.2] * num_channels,
    )
    return folder, num_channels, pixel_dtype


def noise(num_channels, pixel_dtype, side_px=32):
    top = np.iinfo(pixel_dtype).max
    return np.random.default_rng(0).integers(0, top, (side_px, side_px, num_channels), pixel_dtype, endpoint=True)


def test_timm_alone_reads_it(exported):
    folder, num_channels, pixel_dtype = exported
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = json.loads((folder / "config.json").read_bytes())["pretrained_cfg"]
    assert config["input_size"] == [num_channels, 32, 32]
    normal_CHW = (noise(num_channels, pixel_dtype) / np.iinfo(pixel_dtype).max - 0.4) / 0.2
    with torch.inference_mode():
        logits_BK = model(torch.from_numpy(normal_CHW).permute(2, 0, 1)[None].float())
    (answer,) = Classifier(folder).classify([encode_array(noise(num_channels, pixel_dtype))])
    np.testing.assert_allclose(list(answer.probabilities.values()), logits_BK.softmax(1)[0].numpy(), atol=1e-5)


def test_the_same_pixels_in_other_files_get_the_same_answer(exported):
    folder, num_channels, pixel_dtype = exported
    image_HWC, out = noise(num_channels, pixel_dtype, side_px=50), io.BytesIO()
    np.save(out, np.asfortranarray(image_HWC).astype(image_HWC.dtype.newbyteorder(">")))
    # A TIFF of one channel is a grey picture.
    files = [encode_array(image_HWC), out.getvalue(), *([tiff(image_HWC)] if num_channels > 1 else [])]
    first, *others = Classifier(folder).classify(files)
    assert all(each == first for each in others)


def test_images_of_other_channels_cost_only_themselves(exported):
    folder, num_channels, pixel_dtype = exported
    out = io.BytesIO()
    Image.new("RGB", (40, 40)).save(out, "PNG")
    other_type = "uint16" if pixel_dtype == "uint8" else "uint8"
    good = encode_array(noise(num_channels, pixel_dtype))
    others = [out.getvalue(), encode_array(noise(7, pixel_dtype)), encode_array(noise(num_channels, other_type))]
    *refused, answer = Classifier(folder).classify([*others, good])
    assert all(isinstance(each, ImageError) and each.reason == "other_channels" for each in refused)
    assert "has 3 channels of uint8, the model was trained on" in str(refused[0])
    assert answer.label in ("o", "x")


def test_the_example_request_is_one_that_the_model_answers(exported):
    folder, num_channels, _ = exported
    example = package._example(export.read_facts(folder))
    assert decode(example).shape == (32, 32, num_channels)
    (answer,) = Classifier(folder).classify([example])
    assert answer.label in ("o", "x")
