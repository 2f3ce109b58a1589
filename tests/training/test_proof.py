"""The ledger against its plan: what a run wrote agrees, and each way in which it could not is found and named."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shard_sets
import torch

from pipeline import params
from pipeline.errors import ArtifactError
from pipeline.loading.read import SplitReader
from pipeline.training import checkpoint
from pipeline.training.folder import RunFolder
from pipeline.training.ledger import Ledger, samples_digest
from pipeline.training.plan import Plan
from pipeline.training.proof import check

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23]})
    with contextlib.closing(SplitReader(path, "train")) as reader:
        yield reader


def keys_of(plan, reader, step):
    steps = plan.epoch(step // STEPS_PER_EPOCH, reader)
    return reader.locate(steps.step(step % STEPS_PER_EPOCH))[1]["key"]


def write_steps(run, plan, reader, attempt, steps, *, world_size=2, with_keys=True):
    for rank in range(world_size):
        with contextlib.closing(Ledger(run.ledger, attempt, rank, with_keys)) as book:
            for step in steps:
                keys = keys_of(plan, reader, step)
                size = len(keys) // world_size
                book.record(step, keys[rank * size : (rank + 1) * size], torch.tensor(0.5))


@pytest.fixture(params=["uniform", "balanced"])
def run(reader, tmp_path, request) -> RunFolder:
    """Two epochs by two ranks, killed once in step 6 after a checkpoint at 5, and then by one rank."""
    run = RunFolder(tmp_path)
    lanes = {"uniform": 2, "balanced": 1}[request.param]
    loading = params.Loading(
        global_batch_size=8,
        lanes=lanes,
        shuffle_window_samples=None,
        subset_fraction=1.0,
        sampling=request.param,
        workers_per_rank=0,
        cache_bytes=None,
        decoded_cache_bytes=0,
    )
    plan = Plan(index_digest=reader.index.digest, seed=0, num_epochs=2, loading=loading)
    plan.write(run.plan)
    write_steps(run, plan, reader, 1, range(7))
    write_steps(run, plan, reader, 2, range(5, 10), world_size=1)
    checkpoint.save(run.checkpoints, 10, {"position": 10}, keep=1)
    return run


def change(run: RunFolder, attempt: int, step: int, fields: dict | None) -> None:
    """Changes rank 0's line of a step, or takes it away."""
    path: Path = run.ledger / f"attempt-{attempt:04d}-rank-00000.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line | (fields or {}) if line["step"] == step else line for line in lines]
    lines = [line for line in lines if line["step"] != step or fields is not None]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_killed_and_resumed_run_agrees(run, reader):
    proof = check(run, reader.index_path)
    assert (proof.num_steps, proof.num_steps_planned, proof.num_samples, proof.num_attempts) == (10, 10, 80, 2)
    assert proof.with_keys


def test_what_is_past_the_newest_whole_checkpoint_is_not_committed(run, reader):
    change(run, 2, 9, None)
    shutil.rmtree(run.checkpoints)
    for position in (8, 10):
        checkpoint.save(run.checkpoints, position, {"position": position}, keep=9)
    (run.checkpoints / "step-000000010" / "state.pt").write_bytes(b"")
    assert check(run, reader.index_path).num_steps == 8


def test_a_missing_step_is_named(run, reader):
    change(run, 2, 7, None)
    with pytest.raises(ArtifactError, match=r"step 7 \(step 2 of epoch 2\) is not in the ledger"):
        check(run, reader.index_path)


def test_a_missing_rank_is_named(run, reader):
    (run.ledger / "attempt-0001-rank-00001.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"step 0 \(step 0 of epoch 1\) was trained on 4 samples; the plan has 8\."):
        check(run, reader.index_path)


def test_another_sample_is_named(run, reader):
    plan = Plan.read(run.plan, made_by="train")
    keys = keys_of(plan, reader, 6).copy()
    lost, keys[3] = int(keys[3]), int(keys_of(plan, reader, 7)[0])
    change(run, 2, 6, {"digest": samples_digest(keys), "keys": keys.tolist()})
    with pytest.raises(
        ArtifactError, match=rf"step 6 \(.*\) was trained on other samples .*: \[{keys[3]}\] instead of \[{lost}\]"
    ):
        check(run, reader.index_path)


def test_a_sample_twice_is_found_in_digests_alone(run, reader):
    keys = keys_of(Plan.read(run.plan, made_by="train"), reader, 6).copy()
    keys[1] = keys[0]
    change(run, 2, 6, {"digest": samples_digest(keys)})
    path = run.ledger / "attempt-0002-rank-00000.jsonl"
    lines = [{k: v for k, v in json.loads(line).items() if k != "keys"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        ArtifactError, match=r"step 6 .* than the plan's; train with training\.ledger: full to see which"
    ):
        check(run, reader.index_path)


def test_keys_that_their_digest_does_not_stand_for(run, reader):
    keys = keys_of(Plan.read(run.plan, made_by="train"), reader, 6)
    change(run, 2, 6, {"keys": np.r_[keys[:1], keys[:-1]].tolist()})
    with pytest.raises(ArtifactError, match=r"step 6 .* lists other keys than its digest stands for"):
        check(run, reader.index_path)


def test_other_shards_are_refused(run, reader):
    plan = Plan.read(run.plan, made_by="train")
    plan.model_copy(update={"index_digest": "0" * 64}).write(run.plan)
    with pytest.raises(ArtifactError, match=r"was trained on the shards 000000000000, and .* lists .*dvc checkout"):
        check(run, reader.index_path)
