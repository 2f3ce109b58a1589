"""How a step is computed: in pieces, in other precisions, compiled, in another layout. The samples stay the same."""

from types import SimpleNamespace

import pytest
import safetensors.torch
import shard_sets
import torch
from small_runs import KilledError, Sink, task

from pipeline.errors import ModelError
from pipeline.training import ledger
from pipeline.training.fit import train_rank
from pipeline.training.module import Classifier
from pipeline.training.task import Place

PLAIN = {"model": {"backbone": "test_vit", "drop_rate": 0.0}, "optimizer": {"name": "sgd", "lr": 0.05}}
"""No batch statistics, and an update that does not blow up the last bits as AdamW's first ones do."""


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


def train(what, sink=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), (sink or Sink()).open)
    return what


def losses(what):
    return [entry.loss for entry in ledger.read(what.run.ledger)]


def keys(what):
    return [entry.keys for entry in ledger.read(what.run.ledger)]


def weights(what):
    return safetensors.torch.load_file(what.run.weights)


@pytest.fixture(scope="module")
def whole(index_path, tmp_path_factory):
    """Steps that go through the network in one piece."""
    return train(task(index_path, tmp_path_factory.mktemp("whole"), **PLAIN))


def test_pieces_of_a_step_add_up_to_it(index_path, whole, tmp_path):
    pieces = train(task(index_path, tmp_path, **PLAIN, training={"accumulate_steps": 4}))
    assert keys(pieces) == keys(whole)
    assert losses(pieces) == pytest.approx(losses(whole), abs=1e-4)


def _rank(rank, what, rendezvous):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    train_rank(what, Place(rank, 2, "cpu"), Sink().open)
    torch.distributed.destroy_process_group()


def test_pieces_on_two_ranks_are_reduced_once_and_add_up_too(index_path, whole, tmp_path):
    what = task(index_path, tmp_path, **PLAIN, training={"accumulate_steps": 2})
    torch.multiprocessing.spawn(_rank, (what, tmp_path / "rendezvous"), nprocs=2)
    assert [sorted(each) for each in keys(what)] == [sorted(each) for each in keys(whole)]
    assert losses(what) == pytest.approx(losses(whole), abs=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"accumulate_steps": 2},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": False},
    ],
    ids=str,
)
def test_killed_and_resumed_it_ends_with_the_same_bits(index_path, tmp_path, how):
    one = train(task(index_path, tmp_path / "one", training=how))
    other = task(index_path, tmp_path / "other", training=how)
    with pytest.raises(KilledError):
        train(other, Sink(7))
    train(other)
    assert losses(other) == losses(one)
    assert losses(one)[-1] < losses(one)[0]
    theirs = weights(one)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(other).items())


def test_layout_and_precision_are_those_asked_for(index_path, tmp_path, monkeypatch):
    seen = {}

    def look(module, images):
        if images[0].shape[1] == 3:  # the first layer's; later ones are as they come out of it
            seen["layout"] = images[0].is_contiguous(memory_format=torch.channels_last)
        seen["dtype"] = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None

    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, images: look(module, images) if isinstance(module, torch.nn.Conv2d) else None
    )
    with hook:
        train(task(index_path, tmp_path / "one", epochs=1, training={"channels_last": False, "precision": "bf16"}))
        assert seen == {"layout": False, "dtype": torch.bfloat16}
        train(task(index_path, tmp_path / "other", epochs=1))
        assert seen == {"layout": True, "dtype": None}


@pytest.mark.parametrize("is_fused", [True, False])
def test_scaled_gradients_are_clipped_at_their_own_size(is_fused):
    """As on a GPU under fp16; Lightning itself unscales for an optimizer that does not in its step."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=is_fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((weight * torch.tensor([3.0, 0.0, 4.0, 0.0])).sum()).backward()
    if not is_fused:
        scaler.unscale_(optimizer)
    plugin = SimpleNamespace(scaler=scaler)
    module = SimpleNamespace(trainer=SimpleNamespace(optimizers=[optimizer], precision_plugin=plugin))
    Classifier.configure_gradient_clipping(module, optimizer, 1.0)
    scaler.step(optimizer)
    assert weight.detach().tolist() == pytest.approx([0.4, 1.0, 0.2, 1.0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own compiler says so
def test_a_compiled_network_learns_the_same(index_path, whole, tmp_path):
    compiled = train(task(index_path, tmp_path, **PLAIN, training={"compile": True}))
    assert losses(compiled) == pytest.approx(losses(whole), abs=1e-3)
    assert weights(compiled).keys() == weights(whole).keys()


def test_a_network_that_cannot_be_compiled_is_an_error_with_the_way_out(index_path, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch._dynamo.exc.InternalTorchDynamoError("no compiler in /usr/bin")

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    with pytest.raises(ModelError, match=r"compile: .* cannot compile .* \(no compiler in /usr/bin\); set it to"):
        train(task(index_path, tmp_path, training={"compile": True}))
