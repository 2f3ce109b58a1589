"""How long a step stands still for a checkpoint, beside how long writing one takes; one JSON line.

The state is that of a backbone with AdamW and an average: four times its weights.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make_state(backbone: str) -> dict:
    import timm
    import torch

    weights = timm.create_model(backbone, num_classes=1000).state_dict()
    moments = {name: (torch.rand_like(value), torch.rand_like(value)) for name, value in weights.items() if value.ndim}
    return {"position": 1, "network": weights, "average": dict(weights), "optimizer": moments}


def main(backbone: str, repeats: int) -> dict:
    from pipeline.training import checkpoint
    from pipeline.training.saving import Saver

    state = make_state(backbone)
    tensors = [
        *state["network"].values(),
        *state["average"].values(),
        *(t for two in state["optimizer"].values() for t in two),
    ]
    written, stalled = [], []
    with tempfile.TemporaryDirectory() as temporary:
        saver = Saver(Path(temporary) / "thread", fingerprint="f", every_seconds=0.0, keep=1, say=print)
        for _ in range(repeats):
            started = time.perf_counter()
            checkpoint.save(Path(temporary) / "step", 1, state, keep=1)
            written.append(time.perf_counter() - started)
            started = time.perf_counter()
            saver.save(lambda: state, must=True)
            stalled.append(time.perf_counter() - started)
            saver.finish()
    return {
        "backbone": backbone,
        "state_megabytes": round(sum(tensor.nbytes for tensor in tensors) / 1e6),
        "written_seconds": round(statistics.median(written), 3),
        "first_stall_seconds": round(stalled[0], 3),
        "stall_seconds": round(statistics.median(stalled[1:]), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.backbone, max(2, arguments.repeats))))
