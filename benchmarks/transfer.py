"""What one's own weights are worth: test top-1 with few images of new classes, beside training from scratch.

Of a folder with CIFAR-10's splits, `train/<class>/` and `test/<class>/`, all classes but the last two pretrain a small
convoynet. Then, for each seed, images of the last two classes are drawn, and the same recipe learns them twice: from
those weights and from none. At last `convoy scout` ranks the pretrained network and fresh ones on them. One JSON line.

    python benchmarks/transfer.py --images FOLDER [--seeds 3] [--images-per-class 50]
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from learning import run_stage, write_params  # noqa: E402 - the folder of this file

NUM_NEW_CLASSES = 2
RECIPE = {
    "split": {"validation_fraction": 0.0, "test_fraction": 0.0, "near_duplicates_together": False},
    "shards": {"short_side_px": None},
    "augment": {"crop_scale": [1.0, 1.0], "horizontal_flip": True, "shift_fraction": 0.125, "color_jitter": 0.0},
    "model": {"backbone": "convoynet", "options": {"widths": [32, 64, 128]}, "input_px": 64},
    "optimizer": {"name": "adamw", "lr": 0.003},
    "training": {"precision": "bf16", "ema_decay": 0.0},
    "cluster": {"num_workers": 0},
}
PRETRAINING_BATCH, BATCH = 128, 25
SCOUTED = ("convoynet", "resnet18")


def main() -> None:
    arguments = _arguments()
    if not arguments.images:
        print(json.dumps({"benchmark": "transfer", "not_run": "needs --images: a folder with CIFAR-10's splits"}))
        return
    classes = sorted(path.name for path in (arguments.images / "train").iterdir())
    old, new = classes[:-NUM_NEW_CLASSES], classes[-NUM_NEW_CLASSES:]
    results: dict[str, list[float]] = {"from_scratch": [], "transferred": []}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        project = prepare(arguments.images, folder / "old", old, arguments.pretraining_images_per_class, 0)
        pretrained, file = learn(project, None, PRETRAINING_BATCH, arguments.pretraining_epochs, 0)
        for seed in range(arguments.seeds):
            project = prepare(arguments.images, folder / f"seed-{seed}", new, arguments.images_per_class, seed)
            for kind, start in (("from_scratch", None), ("transferred", file)):
                results[kind].append(learn(project, start, BATCH, arguments.epochs, seed)[0])
        scouted = scout(project, file)
    means = {kind: statistics.mean(values) for kind, values in results.items()}
    said = {
        "benchmark": "transfer",
        "cores": len(os.sched_getaffinity(0)),
        "new_classes": new,
        "images_per_class": arguments.images_per_class,
        "pretrained_top1": round(pretrained, 4),
        "test_top1": results,
        "mean": means,
        "points_won": 100 * (means["transferred"] - means["from_scratch"]),
        "scouted": scouted,
    }
    print(json.dumps(said))


def prepare(source: Path, project: Path, classes: list[str], num_training: int, seed: int) -> Path:
    """A project with shards of so many training images of each class, drawn by the seed, and of all test images."""
    for split in ("train", "test"):
        for name in classes:
            found = sorted((source / split / name).iterdir())
            if split == "train":
                found = random.Random(f"{seed} {name}").sample(found, min(num_training, len(found)))
            (project / "images" / split / name).mkdir(parents=True)
            for path in found:
                shutil.copyfile(path, project / "images" / split / name / path.name)
    write_params(project, RECIPE, {"data": {"source": str(project / "images")}})
    for stage in ("scan", "shard"):
        run_stage(project, stage)
    return project


def learn(project: Path, start: Path | None, batch: int, epochs: int, seed: int) -> tuple[float, Path]:
    """Top-1 on the test split of a run in this process, and the file of its weights."""
    from pipeline import params
    from pipeline.modeling import weights
    from pipeline.training.fit import train_rank
    from pipeline.training.folder import RunFolder
    from pipeline.training.task import Place, Task

    changes = {"loading": {"global_batch_size": batch}, "training": {"epochs": epochs, "seed": seed}}
    write_params(project, RECIPE, changes)
    read = params.read(project / "params.yaml")
    names = ("loading", "augment", "model", "optimizer", "schedule", "training")
    task = Task(
        run=RunFolder(project / "runs" / f"{seed}-{start is not None}"),
        index_path=project / "data" / "shards" / "index.json",
        fingerprint="benchmark",
        start=weights.look_at(str(start), RECIPE["model"]["backbone"]) if start else None,
        **{name: read[name] for name in names},
    )
    train_rank(task, Place(0, 1, "cpu"), lambda path, position: Silence())
    return test_top1(task), task.run.weights


class Silence:
    """A spool that keeps nothing."""

    def append(self, step: int, metrics: dict[str, float], epoch: int | None = None) -> None:
        pass


def test_top1(task) -> float:
    import safetensors.torch
    import torch

    from pipeline.artifacts import Index
    from pipeline.loading.batches import evaluation_batches
    from pipeline.modeling import objective
    from pipeline.training.network import build_network

    index = Index.read(task.index_path, made_by="shard")
    network = build_network(task, index, is_fresh=False)
    network.load_state_dict(safetensors.torch.load_file(task.run.weights))
    mean_C, std_C = torch.tensor(index.mean), torch.tensor(index.std)
    sums = torch.zeros(3, dtype=torch.float64)
    batches = evaluation_batches(task.index_path, "test", input_px=task.model.input_px, batch_size=250, num_workers=2)
    with torch.inference_mode():
        for batch in batches:
            logits_BK = network.eval()(objective.normalize(batch.images_BCHW, mean_C, std_C))
            sums += objective.evaluation_sums(logits_BK, batch.labels_B, batch.mask_B)
    return float(sums[1] / sums[2])


def scout(project: Path, file: Path) -> list[dict]:
    """What `convoy scout` says of the pretrained network and of fresh ones, the best first."""
    command = [sys.executable, "-m", "pipeline", "scout", *SCOUTED, f"{SCOUTED[0]}={file}", "--json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout)["found"]
    return [row | {"weights": Path(row["weights"]).name} for row in rows]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--images-per-class", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretraining-images-per-class", type=int, default=5000)
    parser.add_argument("--pretraining-epochs", type=int, default=8)
    parser.add_argument("--work", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
