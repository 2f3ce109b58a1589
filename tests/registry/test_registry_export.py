"""The exported folder: the same logits without this project, the same bytes again, and every damage found."""

import json
import shutil

import pytest
import timm
import timm.data
import timm_alone
import torch

from pipeline.errors import ArtifactError, ModelError
from pipeline.registry import export

CLASSES = ["o", "x", "naïve <b>"]


def build(name, num_classes=3, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=num_classes, **kwargs).eval()
    # batch norm with statistics of its own, or a forgotten buffer would not show
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.dtype.is_floating_point:
                buffer.add_(torch.rand_like(buffer))
    return model


def write(folder, model, classes=CLASSES, **kwargs):
    figures = {"backbone": "test_resnet", "input_px": 64, "num_channels": 3, "mean": [0.4, 0.5, 0.6]}
    return export.write(folder, model, classes=classes, **(figures | {"std": [0.2, 0.25, 0.3]} | kwargs))


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("test_resnet", {"drop_rate": 0.3}), ("test_vit", {"img_size": 64}), ("test_convnext", {}), ("test_mambaout", {})],
)
def test_what_is_loaded_gives_the_same_logits(tmp_path, name, kwargs):
    model = build(name, **kwargs)
    sha256 = write(tmp_path, model, backbone=name)
    loaded = export.load(tmp_path)
    images_BCHW = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.model(images_BCHW), model(images_BCHW))
    assert not loaded.model.training
    assert (loaded.classes, loaded.input_px, loaded.num_channels) == (CLASSES, 64, 3)
    assert (loaded.mean, loaded.std, loaded.temperature) == ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 1.0)
    assert (loaded.backbone, loaded.sha256) == (name, sha256)


def test_with_mirror_an_answer_is_of_both_views_and_timm_alone_looks_at_one(tmp_path):
    model = build("test_vit", img_size=64)
    write(tmp_path / "plain", model)
    write(tmp_path / "model", model, mirror=True)
    loaded = export.load(tmp_path / "model")
    images_BCHW = torch.rand(2, 3, 64, 64)
    mirrored_BCHW = torch.from_numpy(images_BCHW.numpy()[:, :, :, ::-1].copy())
    with torch.inference_mode():
        one_BK, other_BK, mean_BK = model(images_BCHW), model(mirrored_BCHW), loaded.model(images_BCHW)
        torch.testing.assert_close(loaded.model(mirrored_BCHW), mean_BK)
    assert not torch.allclose(one_BK, other_BK)
    torch.testing.assert_close(mean_BK, (one_BK + other_BK) / 2)
    assert loaded.mirror
    assert loaded.sha256 != export.load(tmp_path / "plain").sha256  # it answers otherwise: another model
    assert not any(module.training for module in loaded.model.modules())
    assert not export.load(tmp_path / "plain").mirror
    timm_alone.answers_alike(tmp_path / "model", model, tmp_path)


@pytest.mark.parametrize("written", [True, False])
def test_a_mirror_that_was_changed_by_hand_is_refused(tmp_path, written):
    write(tmp_path, build("test_resnet"), mirror=written)
    config = json.loads((tmp_path / export.CONFIG).read_text())
    config["convoy"]["mirror"] = not written
    (tmp_path / export.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"config.json says mirror: .* set model.mirror in params.yaml instead"):
        export.verify(tmp_path)


def test_an_export_of_before_there_were_mirrors_is_read(copied):
    config = json.loads((copied / export.CONFIG).read_text())
    del config["convoy"]["mirror"]
    (copied / export.CONFIG).write_text(json.dumps(config))
    assert not export.load(copied).mirror


def test_timm_alone_reads_it(tmp_path):
    model = build("test_vit", img_size=64)
    write(tmp_path / "model", model)
    config = timm_alone.answers_alike(tmp_path / "model", model, tmp_path)
    assert config["label_names"] == CLASSES
    assert (config["input_size"], config["crop_pct"], config["crop_mode"]) == ([3, 64, 64], 1.0, "center")
    assert (config["mean"], config["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
    assert config["interpolation"] == "bilinear"


def test_the_same_model_gives_the_same_bytes_in_any_memory_format(tmp_path):
    digests = {
        write(tmp_path / "a", build("test_resnet")),
        write(tmp_path / "b", build("test_resnet")),
        write(tmp_path / "c", build("test_resnet").to(memory_format=torch.channels_last)),
    }
    assert len(digests) == 1
    for name in (export.WEIGHTS, export.CONFIG):
        assert len({(tmp_path / folder / name).read_bytes() for folder in "abc"}) == 1


def test_a_reloaded_model_exports_to_the_same_bytes(tmp_path):
    write(tmp_path / "a", build("test_resnet"))
    write(tmp_path / "b", export.load(tmp_path / "a").model)
    for name in (export.WEIGHTS, export.CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_pickle_and_no_path_of_this_machine_is_left(copied):
    assert sorted(path.name for path in copied.iterdir()) == [export.CONFIG, export.WEIGHTS]
    assert str(copied.parent) not in (copied / export.CONFIG).read_text()


def test_a_head_of_another_size_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"The model has 2 outputs and the data 3 classes; train it again"):
        write(tmp_path, build("test_resnet", num_classes=2))


@pytest.mark.parametrize("name", [export.WEIGHTS, export.CONFIG])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} does not exist; run `convoy train` first"):
        export.load(copied)


def test_one_flipped_bit_of_the_weights_is_found(copied):
    content = bytearray((copied / export.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copied / export.WEIGHTS).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged: its sha256 is .* run `dvc checkout`"):
        export.load(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"convoy": {"classes": 5}}', '{"convoy": 1}'])
def test_a_config_that_is_not_ours_is_named(copied, content):
    (copied / export.CONFIG).write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json is not the config of a model that Convoy exported"):
        export.load(copied)


def test_another_format_version_is_refused(copied):
    config = json.loads((copied / export.CONFIG).read_text())
    config["convoy"]["format_version"] = 2
    (copied / export.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="not the config of a model that Convoy exported"):
        export.load(copied)


@pytest.mark.parametrize(
    "change", [{"architecture": "test_vit"}, {"architecture": "no_such"}, {"num_classes": 7, "model_args": {}}]
)
def test_a_config_that_does_not_fit_the_weights_is_named(copied, change):
    config = json.loads((copied / export.CONFIG).read_text()) | change
    (copied / export.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="do not fit each other"):
        export.load(copied)
