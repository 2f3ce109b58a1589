"""What a GPU changes: where batches lie, what runs beside what, and the last bits. Skipped where there is none."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import projects
import pytest
import safetensors.torch
import shard_sets
import torch
from made_apart import batches_of, open_apart
from small_runs import KilledError, Sink, task

from pipeline.loading.assembly import Pages
from pipeline.loading.device import Copies
from pipeline.loading.read import SplitReader
from pipeline.training import ledger
from pipeline.training.batch_sizes import measure
from pipeline.training.fit import train_rank
from pipeline.training.folder import Result
from pipeline.training.task import Place
from pipeline.training.trial import Trial

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


def train(what, sink=None, device="cuda:0"):
    train_rank(what, Place(0, 1, device), (sink or Sink()).open)


def weights(what):
    return safetensors.torch.load_file(what.run.weights)


def samples(what):
    return [(entry.step, entry.keys) for entry in ledger.read(what.run.ledger)]


def losses(what):
    return [entry.loss for entry in ledger.read(what.run.ledger)]


def test_a_run_takes_the_samples_of_one_on_a_cpu_and_learns_as_well(index_path, tmp_path):
    still = {"model": {"drop_rate": 0.0}}  # each kind of device draws its own dropout
    on_gpu, on_cpu = (task(index_path, tmp_path / name, **still) for name in ("gpu", "cpu"))
    train(on_gpu)
    train(on_cpu, device="cpu")
    assert samples(on_gpu) == samples(on_cpu)
    assert losses(on_gpu)[0] == pytest.approx(losses(on_cpu)[0], rel=1e-3)
    result = Result.read(on_gpu.run.result, made_by="train")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize("stop_at", [1, 7, 10])
def test_killed_and_resumed_it_ends_with_the_same_bits(index_path, tmp_path, stop_at):
    exact = {"training": {"deterministic": True}}
    undisturbed, what = (task(index_path, tmp_path / name, **exact) for name in ("undisturbed", "killed"))
    train(undisturbed)
    with pytest.raises(KilledError):
        train(what, Sink(stop_at))
    train(what)
    assert samples(what) == samples(undisturbed)
    assert losses(what) == losses(undisturbed)
    mine, theirs = weights(what), weights(undisturbed)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_with_the_fastest_kernels_the_step_that_is_done_again_comes_out_as_before(index_path, tmp_path):
    """Their sums differ in the last bits, so the steps after it may go another way; that one starts from the same."""
    undisturbed, what = (task(index_path, tmp_path / name) for name in ("undisturbed", "killed"))
    train(undisturbed)
    with pytest.raises(KilledError):
        train(what, Sink(7))
    before = {entry.step: entry.loss for entry in ledger.read(what.run.ledger)}
    train(what)
    assert samples(what) == samples(undisturbed)
    assert losses(what)[6] == pytest.approx(before[6], rel=1e-2)
    assert np.isfinite(losses(what)).all()


@pytest.mark.parametrize(
    "more",
    [
        {"training": {"precision": "bf16"}},
        {"training": {"precision": "fp16"}},
        {"training": {"precision": "bf16", "accumulate_steps": 2, "channels_last": False}},
        {"training": {"precision": "bf16", "progressive_px": [24, 32, 32], "patience_epochs": 2}},
        {"optimizer": {"name": "muon"}, "augment": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
        {"optimizer": {"name": "lamb"}, "training": {"balance": "class_weights"}},
        {"optimizer": {"name": "sgd"}, "transfer": {"mode": "probe"}},
        {"optimizer": {"name": "sgd"}, "transfer": {"mode": "gradual"}},
    ],
    ids=lambda more: " ".join(f"{key}={value}" for values in more.values() for key, value in values.items()),
)
def test_every_way_of_training_ends_with_finite_weights(index_path, tmp_path, more):
    what = task(index_path, tmp_path, **{name: values for name, values in more.items() if name != "transfer"})
    if "transfer" in more:
        what = replace(what, transfer=what.transfer.model_copy(update=more["transfer"]))
    with pytest.raises(KilledError):
        train(what, Sink(7))
    train(what)
    assert len(losses(what)) == 3 * STEPS_PER_EPOCH
    assert all(torch.isfinite(value).all() for value in weights(what).values())


def test_a_compiled_network_learns(index_path, tmp_path):
    what = task(index_path, tmp_path, epochs=1, training={"precision": "bf16", "compile": True})
    train(what)
    assert len(losses(what)) == STEPS_PER_EPOCH


@pytest.mark.parametrize("where", ["here", "apart"])
def test_batches_are_on_the_gpu_what_the_loader_made_though_memory_is_used_again(tmp_path, where):
    """Both streams are kept busy, so that copies and their use come long after they were asked for."""
    index_path = shard_sets.write(tmp_path, {"train": [256]}, side_px=64)
    device = torch.device("cuda:0")
    copies = Copies(device)
    streams = copies._stream, torch.cuda.current_stream()
    busy = {stream: torch.randn(4096, 4096, device=device) for stream in streams}
    torch.cuda.synchronize()
    on_gpu = []
    with contextlib.ExitStack() as stack:
        if where == "apart":
            make = stack.enter_context(contextlib.closing(open_apart(batches_of, index_path, device=device))).batches
        else:
            make = stack.enter_context(batches_of(index_path, Pages(pinned=True)))
        for batch in make(0):
            assert batch.images_BCHW.is_pinned()
            for stream, matrix in busy.items():
                with torch.cuda.stream(stream):
                    for _ in range(5):
                        matrix.copy_(torch.mm(matrix, matrix).clamp_(-1, 1))
            copy = copies.start(batch)
            del batch
            copy.arrive()
            on_gpu.append((copy.images_BCHW.double().sum((1, 2, 3)), copy.labels_B.clone(), copy.keys_B))
            del copy
    with batches_of(index_path, Pages()) as make:
        expected = list(make(0))
    assert len(on_gpu) == len(expected) == 64
    for (sums_B, labels_B, keys_B), batch in zip(on_gpu, expected, strict=True):
        assert np.array_equal(keys_B, batch.keys_B)
        assert torch.equal(labels_B.cpu(), batch.labels_B)
        assert torch.equal(sums_B.cpu(), batch.images_BCHW.double().sum((1, 2, 3)))


def test_a_batch_that_does_not_fit_ends_the_search_and_not_the_process(index_path, tmp_path):
    what = task(index_path, tmp_path, model={"input_px": 224})
    trial = Trial(what, SplitReader(index_path, "train"))
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        found = list(measure(trial, [2**power for power in range(3, 14)], free_bytes=10**12))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= len(found) < 11
    assert all(one.peak_bytes < other.peak_bytes for one, other in itertools.pairwise(found))


def test_the_commands_run_on_it(tmp_path):
    project = projects.write(tmp_path / "project", projects.SMALL, {"cluster": {"num_workers": 0}})
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}

    def run(*arguments):
        command = [sys.executable, "-m", "pipeline", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    for stage in ("scan", "shard", "train", "evaluate"):
        run(stage)
    assert json.loads((project / "data/report/metrics.json").read_text())["top1"] > 0.5
    for command in (("plan",), ("find-lr",), ("tune-batch", "--largest", "64")):
        assert run(*command)
