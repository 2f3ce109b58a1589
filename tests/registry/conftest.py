"""A tiny exported model, and what the other stages would have left beside it."""

import pytest
import timm
import torch

from pipeline.registry import export
from pipeline.tracking import store
from pipeline.tracking.address import resolve


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A sqlite store for all tests of a module: making one costs two seconds."""
    return resolve(None, tmp_path_factory.mktemp("a store"))


@pytest.fixture(scope="module")
def client(uri):
    return store.connect(uri)


@pytest.fixture(scope="session")
def write_export():
    """Writes test_resnet with seeded weights; gives the weights' sha256."""

    def write(folder, classes=("o", "x"), seed=0, backbone="test_resnet", mirror=False, **kwargs):
        torch.manual_seed(seed)
        model = timm.create_model(backbone, num_classes=len(classes), **kwargs)
        return export.write(
            folder,
            model,
            backbone=backbone,
            classes=list(classes),
            input_px=64,
            num_channels=3,
            mean=[0.4, 0.5, 0.6],
            std=[0.2, 0.25, 0.3],
            mirror=mirror,
        )

    return write


@pytest.fixture(scope="session")
def exported(write_export, tmp_path_factory):
    """A folder; read it, never write there."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    write_export(folder)
    return folder
