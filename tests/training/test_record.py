from functools import partial

import pytest

from pipeline.loading.assembly import Work
from pipeline.training import record
from pipeline.training.bottleneck import Spent, judge
from pipeline.training.phases import Phases
from pipeline.training.record import Record


class Lines(list):
    def append(self, step, metrics, epoch=None):
        super().append((step, metrics, epoch))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    return now


def a_record(sink, clock, **sizes):
    phases = Phases(lambda: clock[0], lambda start, end: end - start)
    judge_it = partial(judge, workers_per_rank=1, num_cores=2)
    return Record(sink, global_batch_size=8, phases=phases, judge=judge_it, **sizes)


def run_epoch(book, clock, first, losses, steps_per_epoch):
    book.start_clock()
    since = []
    for step, loss in enumerate(losses, start=first + 1):
        clock[0] += 2.0
        since.append(loss)
        if book.is_log_point(step):
            book.log_step(step, sum(since) / len(since), 0.1, [book.take_spent()])
            since = []


def test_log_points_depend_on_the_position_alone_and_end_each_epoch(clock):
    book = a_record(None, clock, steps_per_epoch=25)
    points = [position for position in range(1, 51) if book.is_log_point(position)]
    assert points == [*range(2, 25, 2), 25, *(25 + p for p in range(2, 25, 2)), 50]
    rare = a_record(None, clock, steps_per_epoch=100_000)
    assert [p for p in range(1, 151) if rare.is_log_point(p)] == [50, 100, 150]


def test_an_epochs_row_weighs_every_step_alike(clock):
    lines = Lines()
    book = a_record(lines, clock, steps_per_epoch=25)
    losses = [float(n) for n in range(25)]
    run_epoch(book, clock, 0, losses, 25)
    book.stop_clock()
    clock[0] += 1000.0  # validation
    book.log_validation(25, {"loss": 0.5, "top1": 0.75})
    book.end_epoch(25, 0.1)
    row = book.history[0]
    assert row["train_loss"] == pytest.approx(12.0)
    assert row["images_per_second"] == pytest.approx(8 / 2.0)
    assert (row["epoch"], row["step"], row["validation_loss"], row["validation_top1"]) == (1, 25, 0.5, 0.75)
    assert book.train_seconds == pytest.approx(50.0)
    assert (25, {"val/loss": 0.5, "val/top1": 0.75, "val/epochs_without_gain": 0}, 1) in lines
    assert lines[0][1]["train/images_per_second"] == pytest.approx(4.0)


def test_waiting_is_a_fraction_of_the_time_since_the_last_log(clock):
    lines = Lines()
    book = a_record(lines, clock, steps_per_epoch=2)
    book.start_clock()
    book.phases.begin("wait")
    clock[0] += 1.0
    book.phases.begin("compute")
    clock[0] += 3.0
    book.worked(Work(0.5, 2.0, 1.0))
    book.log_step(1, 0.0, 0.1, [book.take_spent(), Spent(wait=0.0, compute=4.0)])
    assert lines[0][1]["loader/wait_fraction"] == pytest.approx(0.125)
    assert lines[0][1]["loader/worst_rank_wait_fraction"] == pytest.approx(0.25)
    assert lines[0][1]["loader/compute_fraction"] == pytest.approx(0.875)
    assert lines[0][1]["loader/decode_seconds"] == pytest.approx(2.0 / 2)
    clock[0] += 4.0
    book.log_step(2, 0.0, 0.1, [book.take_spent()] * 2)
    assert lines[1][1]["loader/wait_fraction"] == 0.0
    assert lines[1][1]["loader/read_seconds"] == 0.0


def test_a_resumed_record_goes_on_as_if_nothing_had_happened(clock):
    losses = [float(n % 7) for n in range(50)]
    whole = a_record(None, clock, steps_per_epoch=25)
    run_epoch(whole, clock, 0, losses[:25], 25)
    whole.end_epoch(25, 0.1)
    first = a_record(None, clock, steps_per_epoch=25)
    run_epoch(first, clock, 0, losses[:10], 25)
    saved = first.state()
    run_epoch(first, clock, 10, losses[10:14], 25)  # lost with the process
    second = a_record(None, clock, steps_per_epoch=25)
    second.restore(saved)
    run_epoch(second, clock, 10, losses[10:25], 25)
    second.end_epoch(25, 0.1)
    assert (second.train_seconds, second.history) == (whole.train_seconds, whole.history)


def test_without_validation_the_row_has_no_such_figures(clock):
    book = a_record(None, clock, steps_per_epoch=1)
    run_epoch(book, clock, 0, [1.0], 1)
    book.end_epoch(1, 0.1)
    assert "validation_top1" not in book.history[0]


def test_an_epochs_verdict_is_said_when_it_is_news_and_kept_each_time(clock):
    lines = Lines()
    book = a_record(lines, clock, steps_per_epoch=1)

    def epoch(number, waited):
        book.start_clock()
        book.phases.begin("wait")
        clock[0] += waited
        book.phases.begin("compute")
        clock[0] += 1.0 - waited
        book.log_step(number, 0.0, 0.1, [book.take_spent()])
        return book.end_epoch(number, 0.1)

    assert epoch(1, 0.5).startswith("loader-bound 50%: raise loading.workers_per_rank or lower shards.short_side_px")
    assert epoch(2, 0.6) is None, "the same again"
    assert epoch(3, 0.65) is None, "and again"
    assert epoch(4, 0.75).startswith("loader-bound 75%: "), "much worse than was said"
    assert epoch(5, 0.08) == "compute-bound 92%: the loader keeps up"
    assert epoch(6, 0.0) is None
    assert epoch(7, 0.3).startswith("loader-bound 30%: ")
    assert epoch(8, 0.15) is None
    assert epoch(9, 0.36).startswith("loader-bound 36%: "), "much worse than it was meanwhile"
    verdicts = [metrics for _, metrics, _ in lines if any("bound" in name for name in metrics)]
    assert verdicts == [
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.5)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.6)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.65)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.75)},
        {"loader/epoch_compute_bound_fraction": pytest.approx(0.92)},
        {"loader/epoch_compute_bound_fraction": pytest.approx(1.0)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.3)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.15)},
        {"loader/epoch_loader_bound_fraction": pytest.approx(0.36)},
    ]
