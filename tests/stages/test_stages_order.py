import json
import re

import pytest
import shard_sets
import yaml

from pipeline import params
from pipeline.errors import ParamsError
from pipeline.loading.order import order as order_of
from pipeline.loading.read import SplitReader
from pipeline.stages import layout
from pipeline.stages.order import order

BATCH = 8


@pytest.fixture
def project(tmp_path, repository, monkeypatch):
    content = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    content["loading"] |= {"global_batch_size": BATCH, "lanes": 2, "shuffle_window_samples": 9, "sampling": "uniform"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    shard_sets.write(tmp_path / "data" / "shards", {"train": [13, 9, 20], "validation": [7, 4]}, first_key=100)
    monkeypatch.chdir(tmp_path)
    return params.read(layout.PARAMS)


@pytest.fixture
def printed(project, capsys):
    def lines(split="train", epoch=0, world_size=1, rank=0, from_step=0, num_steps=None):
        order(split, epoch, world_size, rank, from_step, num_steps)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_the_plan_is_that_of_training(project, printed):
    reader = SplitReader(layout.INDEX, "train")
    loading = project["loading"]
    steps = order_of(
        reader.shard_sizes, seed=project["training"].seed, epoch=3, digest=reader.index.digest,
        global_batch_size=BATCH, lanes=loading.lanes, window=loading.shuffle_window_samples,
    )  # fmt: skip
    lines = printed(epoch=3, world_size=4, rank=1, from_step=2)
    assert [line["step"] for line in lines] == list(range(2, steps.num_steps))
    assert [line["position"] for line in lines] == [3 * steps.num_steps + line["step"] for line in lines]
    for line in lines:
        # Keys of these sets are numbers from 100 on.
        assert line["keys"] == (steps.rank_step(line["step"], 1, 4) + 100).tolist()


def test_a_balanced_plan_has_as_much_of_each_class(project, printed):
    content = yaml.safe_load(layout.PARAMS.read_text())
    content["loading"] |= {"lanes": 1, "shuffle_window_samples": None, "sampling": "balanced"}
    layout.PARAMS.write_text(yaml.safe_dump(content))
    lines = printed(epoch=3, world_size=2, rank=1, from_step=2)
    assert [line["position"] for line in lines] == [17, 18, 19]
    # Odd keys are of one class, and every step draws the two classes in turn.
    assert [sum(key % 2 for key in line["keys"]) for line in lines] == [2, 2, 2]


def test_a_part_of_the_split_is_planned_alone_and_validation_stays_whole(project, printed):
    content = yaml.safe_load(layout.PARAMS.read_text())
    content["loading"]["subset_fraction"] = 0.5
    layout.PARAMS.write_text(yaml.safe_dump(content))
    assert len({key for line in printed() for key in line["keys"]}) == 16  # two steps of 8, from about 21 samples
    assert sum(len(line["keys"]) for line in printed("validation")) == 11


def test_ranks_together_print_the_whole_step(printed):
    whole = printed(epoch=1, num_steps=3)
    assert len(whole) == 3
    ranks = [printed(epoch=1, world_size=4, rank=rank, num_steps=3) for rank in range(4)]
    for at, line in enumerate(whole):
        assert [key for rank in ranks for key in rank[at]["keys"]] == line["keys"]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_evaluation_split_is_printed_once_over_all_ranks(printed, world_size):
    lines = [line for rank in range(world_size) for line in printed("validation", world_size=world_size, rank=rank)]
    assert sorted(key for line in lines for key in line["keys"]) == list(range(142, 153))
    assert {line["position"] for line in lines} == {None}
    assert len(printed("validation", world_size=world_size, from_step=1)) == len(lines) // world_size - 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"world_size": 3}, "loading.global_batch_size=8 is not divisible by --world-size 3; give a divisor of it."),
        ({"world_size": 2, "rank": 2}, "--rank 2 is not in a world of 2; ranks are counted from 0."),
        ({"from_step": 5}, "--from-step 5 is past the epoch's end; its 5 steps are counted from 0."),
    ],
)
def test_what_is_not_in_the_plan_is_refused(printed, asked, message):
    with pytest.raises(ParamsError, match=f"^{re.escape(message)}$"):
        printed(**asked)
