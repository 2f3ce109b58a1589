"""Weights to start from: which file, which head, and what is refused."""

import itertools
import json

import pytest
import safetensors.torch
import timm
import torch
from timm.models import _registry

from pipeline.artifacts import file_sha256
from pipeline.errors import ModelError
from pipeline.modeling import backbone, weights

CLASSES = ["a", "b", "c"]


def build(name="test_resnet", num_classes=3, seed=0, **options):
    torch.manual_seed(seed)
    return backbone.build(name, num_classes=num_classes, input_px=32, options=options).eval()


def save(folder, model, config=None):
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(model.state_dict(), folder / weights.FILE)
    if config is not None:
        (folder / weights.CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def exported(folder, model, name="test_resnet", classes=CLASSES):
    save(folder, model)
    sha256 = file_sha256(folder / weights.FILE)
    return save(folder, model, {"convoy": {"backbone": name, "classes": classes, "weights_sha256": sha256}})


def started(path, classes, name="test_resnet"):
    model = build(name, num_classes=len(classes), seed=1)
    weights.load(model, weights.look_at(str(path), name), classes)
    return model


def logits_of(model):
    with torch.inference_mode():
        return model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_head_for_the_same_classes_is_kept_in_their_new_order(tmp_path, name, order):
    source = build(name)
    made = started(exported(tmp_path, source, name), [CLASSES[label] for label in order], name)
    torch.testing.assert_close(logits_of(made), logits_of(source)[:, list(order)])


@pytest.mark.parametrize("classes", [["a", "b", "d"], ["a", "b"], ["a", "b", "c", "d"]])
def test_other_classes_get_a_new_head_on_the_old_body(tmp_path, classes):
    source = build()
    made, fresh = started(exported(tmp_path, source), classes), build(num_classes=len(classes), seed=1)
    assert torch.equal(made.fc.weight, fresh.fc.weight)
    for name, value in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(made.state_dict()[name], value)


def test_a_head_of_which_nothing_says_the_classes_is_new(tmp_path):
    source = build()
    made = started(save(tmp_path, source) / weights.FILE, CLASSES)
    assert torch.equal(made.conv1[0].weight, source.conv1[0].weight)
    assert torch.equal(made.fc.weight, build(seed=1).fc.weight)


def test_a_folder_as_timm_writes_it_is_taken_with_its_labels(tmp_path):
    source = build()
    timm.models.save_for_hf(source, tmp_path, model_config={"label_names": CLASSES}, safe_serialization=True)
    assert torch.equal(logits_of(started(tmp_path, CLASSES)), logits_of(source))


def test_the_digest_is_of_bytes_and_classes_and_not_of_the_place(tmp_path):
    places = [exported(tmp_path / name, build(seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    places.append(exported(tmp_path / "d", build(), classes=CLASSES[::-1]))
    digests = [weights.look_at(str(place), "test_resnet").digest for place in places]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("name", ["nowhere.safetensors", "model.pt", "."])
def test_what_is_no_safetensors_file_is_refused(tmp_path, name):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"only safetensors are read, because a pickle can run code"):
        weights.look_at(str(tmp_path / name), "test_resnet")


@pytest.mark.parametrize("config", [{"architecture": "test_vit"}, {"convoy": {"backbone": "test_vit"}}])
def test_a_folder_of_another_backbone_is_refused(tmp_path, config):
    with pytest.raises(ModelError, match=r"holds a test_vit; model\.backbone=test_resnet\.r160_in1k cannot take its"):
        weights.look_at(str(save(tmp_path, build(), config)), "test_resnet.r160_in1k")


def test_a_config_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is not JSON .*copy the model's folder again"):
        weights.look_at(str(save(tmp_path, build(), "{")), "test_resnet")


def test_weights_that_are_not_their_configs_are_refused(tmp_path):
    save(exported(tmp_path, build()), build(seed=1))
    with pytest.raises(ModelError, match=r"is damaged: its sha256 is .*config\.json says .*copy it again"):
        weights.look_at(str(tmp_path), "test_resnet")


def test_a_file_that_changed_after_it_was_looked_at_is_refused(tmp_path):
    start = weights.look_at(str(exported(tmp_path, build())), "test_resnet")
    save(tmp_path, build(seed=1))
    with pytest.raises(ModelError, match=r"has changed since the run was named after it; run `convoy train` again"):
        weights.load(build(), start, CLASSES)


@pytest.mark.parametrize("other", [("test_vit", {}), ("test_resnet", {"channels": [32, 48, 48, 64]})])
def test_weights_that_do_not_fit_are_refused_before_anything_is_built(tmp_path, other):
    start = weights.look_at(str(save(tmp_path, build(other[0], **other[1])) / weights.FILE), "test_resnet")
    with (
        torch.device("meta"),
        pytest.raises(ModelError, match=r"does not fit model\.backbone and model\.options: \d+ "),
    ):
        weights.check(backbone.build("test_resnet", num_classes=1, input_px=32), start)


def test_a_file_that_is_cut_is_refused(tmp_path):
    (tmp_path / weights.FILE).write_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match="is no whole safetensors file"):
        weights.check(build(), weights.look_at(str(tmp_path), "test_resnet"))


def test_pretrained_weights_become_a_file_named_by_its_sha256(tmp_path, monkeypatch):
    source = timm.create_model("test_resnet")
    safetensors.torch.save_file(source.state_dict(), tmp_path / "theirs.safetensors")
    theirs = _registry._model_pretrained_cfgs["test_resnet"]
    known = type(theirs)(**(theirs.to_dict() | {"file": str(tmp_path / "theirs.safetensors"), "custom_load": False}))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, "test_resnet", known)
    found = [backbone.fetch_pretrained("test_resnet", 32, {}, tmp_path / "weights") for _ in range(2)]
    assert found[0] == found[1] == tmp_path / "weights" / f"{file_sha256(found[0])}.safetensors"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [found[0].name]
    made = started(found[0], CLASSES)
    assert torch.equal(made.conv1[0].weight, source.conv1[0].weight)


def test_pretrained_weights_are_told_apart_by_the_size_only_where_it_shapes_them():
    def names(name):
        return {backbone.pretrained_name(name, *asked) for asked in [(32, {}), (64, {}), (32, {"drop_path_rate": 0.1})]}

    assert (len(names("test_resnet")), len(names("test_vit"))) == (2, 3)
    assert not names("test_resnet") & names("test_vit")


def test_pretrained_weights_without_a_network_say_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"pretrained weights of test_resnet could not be fetched .* model\.weights"):
        backbone.fetch_pretrained("test_resnet", 32, {}, tmp_path)


@pytest.mark.parametrize(("name", "input_px"), [("convoynet", 64), ("lenet5", 32)])
def test_pretrained_weights_that_nobody_has_are_refused(name, input_px, tmp_path):
    with pytest.raises(ModelError, match=rf"there are no pretrained weights of {name}; use model\.weights: none, or"):
        backbone.fetch_pretrained(name, input_px, {}, tmp_path)
