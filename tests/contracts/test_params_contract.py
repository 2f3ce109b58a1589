"""params.yaml and its models say the same, and each thing that can be wrong with it has a message with a way out."""

import ast
import inspect
from pathlib import Path

import pytest
import yaml

from pipeline import params, sections, training_sections
from pipeline.errors import ParamsError

SAY_ENOUGH = {
    "batch_size", "epochs", "experiment", "horizontal_flip", "jpeg_quality", "keep_checkpoints",
    "label_smoothing", "lr", "model_name", "name", "samples_per_shard", "seed", "vertical_flip",
}  # fmt: skip
"""Fields whose name and type leave no question open; every other field has a docstring."""


@pytest.fixture
def content(repository):
    """params.yaml, with fixed values where a message names them: people change the file."""
    content = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    content["loading"] |= {
        "global_batch_size": 64, "lanes": 1, "shuffle_window_samples": None, "subset_fraction": 1.0,
        "sampling": "uniform",
    }  # fmt: skip
    content["split"] |= {"validation_fraction": 0.1, "test_fraction": 0.1}
    content["cluster"]["num_workers"] = 1
    return content


@pytest.fixture
def message(tmp_path):
    """What ParamsError says of a file with this content."""

    def say(content) -> str:
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(ParamsError) as caught:
            params.read(path)
        return str(caught.value).replace(str(path), "params.yaml")

    return say


def test_the_file_and_the_models_have_the_same_keys_in_the_same_order(content):
    assert list(content) == list(params.Params.model_fields)
    for name, section in params.Params.model_fields.items():
        assert list(content[name]) == list(section.annotation.model_fields), name


def test_a_value_read_is_the_value_written(repository):
    path = repository / "params.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {name: section.model_dump(mode="json") for name, section in params.read(path).items()} == written


def test_only_the_sections_asked_for_come_back(repository):
    assert list(params.read(repository / "params.yaml", ["shards", "data"])) == ["shards", "data"]


def test_sections_cannot_be_changed(repository):
    data = params.read(repository / "params.yaml")["data"]
    with pytest.raises(ValueError, match="frozen"):
        data.source = "elsewhere"


def test_every_field_has_a_docstring_or_a_name_that_says_enough():
    without = set()
    source = inspect.getsource(sections) + inspect.getsource(training_sections)
    for section in ast.parse(source).body:
        if not isinstance(section, ast.ClassDef) or section.name == "Section":
            continue
        for field, following in zip(section.body, [*section.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not (
                isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            ):
                without.add(field.target.id)
    assert without == SAY_ENOUGH


def test_what_is_left_out_of_the_fingerprint_are_fields(content):
    for name, section in params.Params.model_fields.items():
        assert section.annotation.not_in_fingerprint <= section.annotation.model_fields.keys(), name
    loading = params.Loading(**content["loading"])
    assert params.for_fingerprint(loading) == {
        "loading": {
            "global_batch_size": 64,
            "lanes": 1,
            "shuffle_window_samples": None,
            "subset_fraction": 1.0,
            "sampling": "uniform",
        }
    }


def test_missing_file(tmp_path):
    with pytest.raises(ParamsError, match=r"params.yaml does not exist; run in the repository's root"):
        params.read(tmp_path / "params.yaml")


def test_not_yaml(message, tmp_path):
    assert message("data: [").startswith("params.yaml, line 1, column 8 is not YAML: ")
    assert message("data:\n  source: a\n   image: b").startswith("params.yaml, line 3, column 9 is not YAML: mapping")
    (tmp_path / "params.yaml").write_bytes(b"data: \xff\xfe")
    with pytest.raises(ParamsError, match="is not YAML: 'utf-8' codec can't decode"):
        params.read(tmp_path / "params.yaml")


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- data", "list"), ("demo", "str")])
def test_not_sections(message, text, kind):
    assert message(text).startswith("params.yaml must hold sections (data, demo, split, ")
    assert message(text).endswith(f"), not {kind}.")


def test_wrong_key(message, content):
    content["shards"]["short_side"] = 256
    assert message(content) == (
        "params.yaml has 1 problem:\n  shards.short_side is not a key; did you mean short_side_px? the valid ones are "
        "short_side_px, jpeg_quality, samples_per_shard, destination, num_workers."
    )


def test_wrong_section(message, content):
    content["shard"] = {}
    assert "  shard is not a key; did you mean shards? the valid ones are data, demo, split, " in message(content)


@pytest.mark.parametrize(("text", "value"), [("3e-3", 3e-3), ("1E2", 100.0), ("-2.5e+1", -25.0), ("1e", "1e")])
def test_a_number_with_an_exponent_needs_no_point(text, value):
    assert params.load(text) == value


def test_missing_key(message, content):
    del content["demo"]["seed"]
    assert message(content) == (
        "params.yaml has 1 problem:\n  demo.seed is missing; this section has images_per_class, seed."
    )


def test_missing_section(message, content):
    del content["audit"]
    assert "  audit is missing; the sections are data, demo, split, " in message(content)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("training", "epochs", "ten", "training.epochs='ten': input should be a valid integer."),
        ("training", "epochs", 2.0, "training.epochs=2.0: input should be a valid integer."),
        ("training", "epochs", True, "training.epochs=True: input should be a valid integer."),
        ("training", "epochs", 0, "training.epochs=0: input should be greater than or equal to 1."),
        ("optimizer", "lr", "fast", "optimizer.lr='fast': input should be a valid number."),
        ("optimizer", "name", "adam", "optimizer.name='adam': input should be 'adamw', 'sgd', 'lamb' or 'muon'."),
        ("augment", "horizontal_flip", "yes", "augment.horizontal_flip='yes': input should be a valid boolean."),
        ("audit", "max_rejected_fraction", 1.5, "audit.max_rejected_fraction=1.5: input should be less than or equal"),
        (
            "audit",
            "policies",
            {"leakage": "stop"},
            "audit.policies.leakage='stop': input should be 'ignore', 'warn' or",
        ),
        ("audit", "policies", {"leaks": "warn"}, "audit.policies.leaks.[key]='leaks': input should be 'duplicates', "),
        ("augment", "crop_scale", [0.1, 0.5, 1.0], "augment.crop_scale="),
    ],
)
def test_wrong_value(message, content, section, key, value, said):
    content[section][key] = value
    assert f"  {said}" in message(content)


def test_every_problem_is_named_at_once(message, content):
    content["data"]["sorce"] = content["data"].pop("source")
    content["training"]["epochs"] = None
    said = message(content)
    assert said.startswith("params.yaml has 3 problems:")
    assert all(name in said for name in ("data.source is missing", "data.sorce is not a key", "training.epochs=None"))
    assert "data.sorce is not a key; did you mean source?" in said


def test_a_batch_that_its_lanes_do_not_divide(message, content):
    content["loading"]["lanes"] = 3
    assert message(content) == (
        "params.yaml has 1 problem:\n  loading.global_batch_size=64 is not divisible by loading.lanes=3; "
        "use lanes: 1 or a divisor."
    )


@pytest.mark.parametrize("change", [{"lanes": 2}, {"shuffle_window_samples": 500}])
def test_balanced_sampling_that_is_to_go_shard_by_shard(message, content, change):
    content["loading"] |= {"sampling": "balanced"} | change
    lanes, window = change.get("lanes", 1), change.get("shuffle_window_samples")
    assert message(content) == (
        f"params.yaml has 1 problem:\n  loading.lanes={lanes} and loading.shuffle_window_samples={window} order the "
        "samples by shard, and loading.sampling=balanced draws them from all shards; use lanes: 1 and "
        "shuffle_window_samples: null."
    )


def test_rare_classes_that_would_count_twice(message, content):
    content["loading"]["sampling"], content["training"]["balance"] = "balanced", "class_weights"
    assert message(content) == (
        "params.yaml has 1 problem:\n  loading.sampling=balanced and training.balance=class_weights would make up for "
        "rare classes twice; use sampling: uniform or balance: none."
    )


@pytest.mark.parametrize(("num_ranks", "near"), [(3, "63 or 66"), (100, "100")])
def test_a_batch_that_its_ranks_do_not_divide(message, content, num_ranks, near):
    content["cluster"]["num_workers"] = num_ranks
    assert message(content) == (
        f"params.yaml has 1 problem:\n  loading.global_batch_size=64 is not divisible by the {num_ranks} ranks "
        f"asked for in cluster.num_workers; use {near}."
    )


@pytest.mark.parametrize("bounds", [[3, 4], [1, 3], [3, 3]])
def test_a_batch_that_the_least_or_the_most_ranks_do_not_divide(message, content, bounds):
    content["cluster"]["num_workers"] = bounds
    assert "global_batch_size=64 is not divisible by the 3 ranks asked for in cluster.num_workers" in message(content)


@pytest.mark.parametrize("ranks", [-1, "2", 1.0, True, None, [0, 2], [4, 2], [1, 2, 3], [1, True], [1.0, 2], []])
def test_what_is_no_number_of_ranks(message, content, ranks):
    content["cluster"]["num_workers"] = ranks
    assert message(content) == (
        f"params.yaml has 1 problem:\n  cluster.num_workers: {ranks!r} is no number of ranks: one, 0 or more, or "
        "[least, most] from 1 up, as [2, 8]."
    )


def test_worlds_are_those_that_share_a_step_evenly(content):
    def worlds(ranks, **loading):
        content["cluster"]["num_workers"] = ranks
        content["loading"] |= loading
        read = params.parse(yaml.safe_dump(content), Path("params.yaml"))
        return params.worlds(read["cluster"], read["loading"], read["augment"], read["training"])

    assert worlds(0) == worlds(1) == [1]
    assert worlds(4) == [4]
    assert worlds([1, 8]) == [8, 4, 2, 1]
    assert worlds([2, 6], global_batch_size=60) == [6, 5, 4, 3, 2]
    content["augment"]["mixup_alpha"] = 0.2
    assert worlds([2, 6]) == [6, 5, 3, 2], "15 images for each of 4 ranks make no pairs"
    content["training"]["accumulate_steps"] = 5
    assert worlds([2, 6]) == [6, 3, 2], "nor can 12 be given in 5 pieces"


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0)])
def test_pairs_that_the_ranks_cannot_make(message, content, alphas):
    content["augment"]["mixup_alpha"], content["augment"]["cutmix_alpha"] = alphas
    content["loading"]["global_batch_size"], content["cluster"]["num_workers"] = 66, 2
    assert message(content) == (
        f"params.yaml has 1 problem:\n  augment.mixup_alpha={alphas[0]} and augment.cutmix_alpha={alphas[1]} mix "
        "images in pairs, and each of the 2 ranks has 33 of loading.global_batch_size=66; use a multiple of 4, or "
        "0 for both."
    )


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_fractions_that_leave_nothing_to_train_on(message, content, validation, test):
    content["split"] |= {"validation_fraction": validation, "test_fraction": test}
    assert f"validation_fraction={validation} and split.test_fraction={test} leave nothing to train on" in message(
        content
    )
    assert message(content).endswith("their sum must be under 1.")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("tracking", "uri", "postgresql://me:canary@db/mlflow"),
        ("tracking", "uri", "https://canary@host"),
        ("data", "source", "s3://:canary@bucket/photos"),
        ("shards", "destination", "s3://me:canary@bucket/photos"),
    ],
)
def test_credentials_stay_in_the_environment_and_are_not_repeated(content, message, section, key, value):
    content[section][key] = value
    said = message(content)
    assert said.endswith(
        f"{section}.{key}: credentials in an address would go to git, dvc.lock and MLflow; keep them in the "
        "environment: MLFLOW_TRACKING_URI with tracking.uri: null, or the variables that the store knows."
    )
    assert "canary" not in said


@pytest.mark.parametrize("uri", ["postgresql://mlflow@db/mlflow", "http://127.0.0.1:5000", "sqlite:///a@b.db"])
def test_an_address_without_a_secret_is_taken(content, tmp_path, uri):
    content["tracking"]["uri"] = uri
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert params.read(tmp_path / "params.yaml")["tracking"].uri == uri


@pytest.mark.parametrize("destination", ["photos", "/data/photos", "s3://", "s3://me@b/c", "https://host/photos?key=1"])
def test_a_destination_is_an_address_without_secrets(content, message, destination):
    content["shards"]["destination"] = destination
    assert message(content).endswith(
        "shards.destination: it must be an address such as s3://bucket/photos, without user, password and query."
    )


@pytest.mark.parametrize(
    ("folds", "fold", "words"),
    [
        (None, 0, "split: fold=0 needs folds: how many there are; or set fold to null."),
        (5, None, "split: fold=None must be one of 0 to 4, since folds=5."),
        (5, 5, "split: fold=5 must be one of 0 to 4, since folds=5."),
        (1, 0, "split.folds=1: input should be greater than or equal to 2."),
    ],
)
def test_a_fold_is_one_of_the_folds(content, message, folds, fold, words):
    content["split"] |= {"folds": folds, "fold": fold}
    assert words in message(content)


@pytest.mark.parametrize("name", ["crop_scale", "crop_ratio"])
@pytest.mark.parametrize("value", [[1.0, 0.2], [0.0, 1.0]])
def test_a_range_the_wrong_way_round(content, message, name, value):
    content["augment"][name] = value
    said = message(content)
    assert f"augment.{name}: {value} must be the least and the most, both over 0, in this order." in said


def test_mirror_images_that_training_never_shows(content, message):
    content["model"]["mirror"], content["augment"]["horizontal_flip"] = True, False
    assert message(content) == (
        "params.yaml has 1 problem:\n  model.mirror=true asks the network of mirror images, and "
        "augment.horizontal_flip=false shows it none; set both, or neither."
    )


@pytest.mark.parametrize("mode", ["probe", "gradual"])
def test_frozen_layers_need_weights_to_start_from(content, message, mode):
    content["model"]["weights"] = "none"
    content["transfer"]["mode"] = mode
    assert message(content) == (
        f"params.yaml has 1 problem:\n  transfer.mode={mode} would leave layers at the random values of "
        "model.weights=none; name weights to start from, or use transfer.mode: full."
    )


def test_a_batch_that_its_pieces_do_not_divide(message, content):
    content["training"]["accumulate_steps"], content["cluster"]["num_workers"] = 3, 2
    assert (
        "training.accumulate_steps=3 does not divide the 32 samples that each of 2 ranks has of "
        "loading.global_batch_size=64; use a divisor" in message(content)
    )


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ([64, 32], "training.progressive_px=[64, 32] must rise, to model.input_px=64 at most"),
        ([32, 48, 96], "training.progressive_px=[32, 48, 96] must rise, to model.input_px=64 at most"),
        ([32, 40, 48, 56, 64], "lists 5 sides for training.epochs=4; each needs an epoch of its own"),
        ([], "tuple should have at least 1 item"),
    ],
)
def test_sides_that_do_not_grow_to_the_models(content, message, sides, said):
    content["model"]["input_px"] = 64
    content["training"] |= {"epochs": 4, "progressive_px": sides}
    assert said in message(content)


@pytest.mark.parametrize("sides", [[32], [32, 64], [32, 48, 64]])
def test_sides_come_back_as_they_were_written(content, tmp_path, sides):
    content["model"]["input_px"] = 64
    content["training"] |= {"epochs": 4, "progressive_px": sides}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    training = params.read(tmp_path / "params.yaml")["training"]
    assert training.model_dump(mode="json")["progressive_px"] == sides


@pytest.mark.parametrize(
    ("section", "key", "value", "remedy"),
    [
        ("training", "compile", True, "false"),
        ("training", "precision", "fp16", "bf16 or fp32"),
        ("transfer", "mode", "gradual", "full or probe"),
    ],
)
def test_what_does_not_go_with_fsdp2(content, message, section, key, value, remedy):
    content["model"]["weights"] = "pretrained"
    content["training"]["strategy"] = "fsdp2"
    content[section][key] = value
    said = message(content)
    assert f"{section}.{key}={value} does not go with training.strategy=fsdp2" in said
    assert f"use {remedy}, or training.strategy: ddp" in said
