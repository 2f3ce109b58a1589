"""Row 34: pickles, shell URLs, keys that climb, a hostile checkpoint, script in a tag, a job without a token: nothing
of it runs, which a canary file would show."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import data_project
import numpy as np
import pytest
import ray_head
import torch
import train_commands
from image_folders import fill, jpeg
from PIL import Image
from train_commands import Fault

from pipeline.errors import ConvoyError, ModelError
from pipeline.modeling import backbone, weights
from pipeline.stages import browse, layout

SCRIPT = "<script>alert(1)</script>"


class Bomb:
    """Makes the canary where it is unpickled."""

    def __init__(self, canary: Path):
        self._canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self._canary),)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def bomb(canary) -> bytes:
    data = pickle.dumps(Bomb(canary))
    pickle.loads(data)
    assert canary.is_dir(), "this canary could not sing"
    canary.rmdir()
    return data


def array_of(bomb: bytes) -> bytes:
    """An array of objects as numpy writes it: its content is a pickle."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": (8, 8, 4)})
    return out.getvalue() + bomb


def test_members_that_are_no_images_are_never_opened_and_no_key_leaves_the_folder(tmp_path, bomb):
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a.tar", "w") as tar:
        for number in range(40):
            stem = ("../../../climbed", "/tmp/absolute", "plain")[number % 3] + str(number)
            members = {
                "jpg": jpeg(number), "cls": str(number % 2).encode(), "pyd": bomb, "pickle": bomb, "pth": bomb,
                "__init__.py": f"import os; os.mkdir({str(tmp_path / 'canary')!r})".encode(),
            }  # fmt: skip
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{stem}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    before = set(tmp_path.rglob("*"))
    found = data_project.run(tmp_path, "set")
    assert len(found.samples) == 40
    assert found.ignored["unknown_extension"] == 4 * 40
    assert all(sample["key"].isdecimal() for sample in found.samples.values())
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "data") for path in made)


def test_an_array_that_is_a_pickle_is_a_reject(tmp_path, bomb):
    pixels = io.BytesIO()
    np.save(pixels, np.zeros((8, 8, 4), np.uint8))
    arrays = {f"{label}/{number}.npy": pixels.getvalue() for label in "ab" for number in range(3)}
    fill(tmp_path / "photos", {**arrays, "a/bomb.npy": array_of(bomb)})
    found = data_project.run(tmp_path)
    assert found.rejects.keys() == {"a/bomb.npy"}


@pytest.mark.parametrize(
    "shell", ["pipe:mkdir canary", "pipe://mkdir canary", "|mkdir canary", "file:pipe:mkdir canary"]
)
def test_no_address_is_a_command(tmp_path, canary, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (shell, f"{shell}.tar"):
        with pytest.raises(ConvoyError):
            data_project.stages(tmp_path, source)
    table = "".join(f'"{path}",{label}\n' for path, label in ((shell, "a"), (shell, "b")))
    (tmp_path / "table.csv").write_text(f"image,label\n{table}")
    with pytest.raises(ConvoyError):
        data_project.stages(tmp_path, "table.csv", max_rejected_fraction=0.0)
    with pytest.raises(ModelError, match="only safetensors are read, because a pickle can run code"):
        weights.look_at(shell, "test_resnet")
    with pytest.raises(ModelError, match="is not a model of timm"):
        backbone.check(shell, 64)


def test_no_option_of_a_backbone_loads_a_pickle(tmp_path, canary, bomb):
    (tmp_path / "weights.pth").write_bytes(bomb)
    torch.save({"bomb": Bomb(canary)}, tmp_path / "zipped.pth")
    for name in ("weights.pth", "zipped.pth"):
        path = str(tmp_path / name)
        for options in ({"checkpoint_path": path}, {"pretrained": True, "pretrained_cfg": {"file": path}}):
            with pytest.raises(ModelError):
                backbone.check("test_resnet", 64, options)
        with pytest.raises(ModelError, match="only safetensors are read"):
            weights.look_at(path, "test_resnet")


def test_a_checkpoint_that_somebody_else_put_there_is_refused(project, canary):
    folder = project()
    assert train_commands.train(folder, Fault("kill", step=7)).exit_code == -9
    checkpoints = train_commands.the_run(folder) / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    state = newest / "state.pt"
    torch.save(torch.load(state, weights_only=True) | {"bomb": Bomb(canary)}, state)
    commit = json.loads((newest / "commit.json").read_text())
    facts = {"bytes": state.stat().st_size, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
    (newest / "commit.json").write_text(json.dumps(commit | facts))
    refused = train_commands.train(folder)
    assert refused.exit_code == 1, refused.said
    assert "state.pt holds more than tensors and plain values, and was not loaded" in refused.said
    assert "Traceback" not in refused.said


def test_script_in_a_tag_is_shown_as_text(tmp_path, repository):
    """In the tags of a picture, in a class's name and in a column that the samples carry."""
    tags = Image.Exif()
    tags[0x010E] = tags[0x9286] = SCRIPT
    out = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(out, "JPEG", exif=tags, comment=SCRIPT)
    assert SCRIPT.encode() in out.getvalue()
    pictures = {f"{number}.jpg": jpeg(number, 40, 40) for number in range(20)}
    fill(tmp_path / "photos", {**pictures, "tagged.jpg": out.getvalue()})
    rows = [
        f"photos/{name},{('a', SCRIPT)[number % 2]},{SCRIPT}" for number, name in enumerate([*pictures, "tagged.jpg"])
    ]
    (tmp_path / "table.csv").write_text("\n".join(["image,label,place", *rows]) + "\n")
    shutil.copyfile(repository / "params.yaml", tmp_path / "params.yaml")
    found = data_project.run(tmp_path, "table.csv", metadata_columns=["place"], short_side_px=32)
    assert SCRIPT in found.index.classes
    assert not any(SCRIPT.encode() in sample["image"] for sample in found.samples.values())
    browse.browse("train", num_per_class=30, num_epochs=0)
    page = layout.CONTACT_SHEET.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert not re.findall(r"<script\b", page)


@pytest.mark.long_fault
def test_a_job_without_a_token_is_not_taken(tmp_path, canary):
    environment = os.environ | {"HOME": str(tmp_path)}
    with ray_head.started("infra/ray/head.sh", environment) as (address, _):
        entry = json.dumps({"entrypoint": f"mkdir {canary}"}).encode()
        for token in ({}, {"Authorization": "Bearer wrong"}):
            request = urllib.request.Request(
                f"{address}/api/jobs/", entry, {"Content-Type": "application/json", **token}, method="POST"
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert refused.value.code in (401, 403)
            refused.value.close()
