"""What timm makes of an exported model in a process that does not know this project."""

import json
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

_CODE = """
import json, sys, timm, timm.data, torch, safetensors.torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
expected = safetensors.torch.load_file(sys.argv[2])
with torch.inference_mode():
    assert torch.equal(model(expected["images"]), expected["logits"])
assert "pipeline" not in sys.modules
config = timm.data.resolve_model_data_config(model)
print(json.dumps(config | {"label_names": model.pretrained_cfg["label_names"]}))
"""


def answers_alike(folder: Path, model: torch.nn.Module, scratch: Path) -> dict:
    """What timm says of the export in `folder`, whose logits are those of `model`, bit for bit."""
    images_BCHW = torch.rand(2, 3, 64, 64)
    safetensors.torch.save_file({"images": images_BCHW, "logits": model(images_BCHW)}, scratch / "expected")
    command = [sys.executable, "-I", "-c", _CODE, str(folder), str(scratch / "expected")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
