"""Test top-1 of a recipe, and of a plain ResNet-18 recipe given the same minutes of training; one JSON line.

The images are a folder with CIFAR-10's splits, `train/<class>/` and `test/<class>/`. Both go through the stages scan,
shard, train and evaluate in a folder of their own. The peer is timm's ResNet-18 at the images' own size with SGD,
cosine and the usual shifts and flips, asked of mirror images, too; how many epochs it gets follows from one that is
measured.

    python benchmarks/learning.py --images FOLDER [--recipe quick] [--epochs N] [--set KEY=VALUE] [--no-peer] [--seed 0]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = {"split": {"validation_fraction": 0.02, "test_fraction": 0.0}, "cluster": {"num_workers": 0}}
PEER = {
    "loading": {"global_batch_size": 128},
    "augment": {"crop_scale": [1.0, 1.0], "horizontal_flip": True, "shift_fraction": 0.125, "color_jitter": 0.0},
    "model": {"backbone": "resnet18", "options": {}, "input_px": 32, "mirror": True},
    "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0005, "momentum": 0.9},
    "schedule": {"name": "cosine", "warmup_fraction": 0.05, "final_lr_fraction": 0.0},
    "training": {"precision": "bf16", "label_smoothing": 0.1, "ema_decay": 0.0, "clip_norm": None},
}


def main() -> None:
    arguments = _arguments()
    source = str(arguments.images.absolute()) if arguments.images else "demo"
    given = SOURCE if arguments.images else {}
    given |= {"data": {"source": source}, "shards": {"short_side_px": None}, "training": {"seed": arguments.seed}}
    recipe = yaml.safe_load((REPOSITORY / "recipes" / f"{arguments.recipe}.yaml").read_text(encoding="utf-8"))
    if arguments.epochs:
        recipe["training"]["epochs"] = arguments.epochs
    for each in arguments.set:
        key, _, value = each.partition("=")
        section, _, name = key.partition(".")
        recipe[section][name] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        project = Path(name)
        write_params(project, given, recipe)
        run_stage(project, "scan")
        run_stage(project, "shard")
        ours = learn(project)
        results = {arguments.recipe: ours}
        if not arguments.no_peer:
            write_params(project, given, PEER, {"training": {"epochs": 1}})
            seconds = learn(project)["train_seconds"]
            epochs = max(1, round(ours["train_seconds"] / seconds))
            write_params(project, given, PEER, {"training": {"epochs": epochs}})
            results["resnet18"] = learn(project)
    print(json.dumps({"benchmark": "learning", "cores": len(os.sched_getaffinity(0)), "results": results}))


def write_params(project: Path, *changes: dict[str, dict]) -> None:
    """params.yaml of this repository with the changes, the later ones winning."""
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    for change in changes:
        for section, values in change.items():
            content[section] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def learn(project: Path) -> dict[str, float]:
    """What the train and the evaluate stage say of the project's params."""
    for name in ("runs", "data/model", "data/report"):
        shutil.rmtree(project / name, ignore_errors=True)
    before = cpu_seconds()
    run_stage(project, "train")
    spent = cpu_seconds() - before
    run_stage(project, "evaluate")
    run = json.loads((project / "data" / "run.json").read_text())
    metrics = json.loads((project / "data" / "report" / "metrics.json").read_text())
    return {
        "test_top1": round(metrics["top1"], 4),
        "epochs": run["num_epochs"],
        "train_seconds": round(run["train_seconds"], 1),
        "stage_cpu_seconds": round(spent, 1),
        "images_per_second": round(run["images_per_second"]),
    }


def cpu_seconds() -> float:
    """Of all stages that ended so far; other work on the machine moves it less than the clock."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_stage(project: Path, stage: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-m", "pipeline", stage], cwd=project, env=environment, check=True, stdout=sys.stderr
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="without it, the demo's images are learnt")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, over the recipe's")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
