"""The report of images with other channels than RGB: mistakes as the eye can see them, figures of a dozen channels."""

import base64
import dataclasses
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.evaluation.gallery import surest_mistakes
from pipeline.evaluation.report import render
from pipeline.imaging.arrays import encode_array
from pipeline.imaging.channels import as_rgb


def test_the_first_three_channels_are_shown(predictions):
    columns_HWC = np.linspace(200, 3000, 5 * 60).reshape(1, 60, 5).repeat(40, axis=0).astype(np.uint16)
    pixels_NK = np.array([[200, 0], [0, 200]])
    table = predictions(pixels_NK, np.array([1, 1])).add_column(1, "path", pa.array(["a.npy", "b.npy"]))
    (mistake,) = surest_mistakes(table, ["a", "b"], 5, lambda keys: dict.fromkeys(keys, encode_array(columns_HWC)))
    data = base64.b64decode(mistake.data_uri.removeprefix("data:image/jpeg;base64,"))
    shown_HWC = np.asarray(Image.open(io.BytesIO(data)))
    assert (mistake.height, mistake.width) == shown_HWC.shape[:2] == (40, 60)
    assert np.abs(shown_HWC.astype(int) - as_rgb(columns_HWC)).mean() < 3


def test_the_page_tells_the_figures_of_a_dozen_channels_and_how_many_more_there_are(evaluated):
    case = evaluated(np.array([[200, 0], [0, 200]]), np.array([0, 1]))
    changes = {"num_channels": 200, "mean": [0.125] * 200, "std": [0.5] * 200}
    text = render(dataclasses.replace(case, index=case.index.model_copy(update=changes)))
    assert text.count("0.125 ± 0.500") == 12
    assert "0.125 ± 0.500 and 188 more" in text
