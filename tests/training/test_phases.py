import pytest

from pipeline.training.phases import PHASES, Phases, phases_on


class Device:
    """What marks and times between them are made of: the host's clock goes on alone, the device's follows its queue."""

    def __init__(self):
        self.now = 0.0

    def phases(self):
        return Phases(lambda: self.now, lambda start, end: end - start)


def test_phases_tile_the_time_between_start_and_stop():
    device = Device()
    phases = device.phases()
    phases.begin("wait")  # nothing is measured yet
    device.now += 100
    phases.start()
    for _ in range(3):
        device.now += 5  # compute
        phases.begin("wait")
        device.now += 2
        phases.begin("transfer")
        device.now += 1
        phases.begin("compute")
    phases.stop()
    device.now += 100  # validation
    phases.begin("transfer")
    device.now += 100
    phases.start()
    device.now += 4
    assert dict(zip(PHASES, phases.take(), strict=True)) == {"wait": 6, "transfer": 3, "compute": 19}
    device.now += 1
    phases.begin("wait")
    device.now += 2
    assert phases.take() == [2, 0, 1], "since the last time"


def test_a_rank_that_has_not_begun_has_spent_nothing():
    assert Device().phases().take() == [0.0, 0.0, 0.0]


def test_marks_do_not_pile_up():
    phases = Device().phases()
    phases.start()
    for _ in range(100):
        phases.begin("wait")
        phases.begin("compute")
        phases.take()
    assert len(phases._marks) == 1


def test_on_a_cpu_the_hosts_clock_is_the_devices():
    phases = phases_on("cpu")
    phases.start()
    phases.begin("wait")
    wait, transfer, compute = phases.take()
    assert wait >= 0.0
    assert compute >= 0.0
    assert transfer == 0.0


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a GPU")
def test_on_a_gpu_the_host_running_ahead_is_not_waiting():
    import torch

    phases = phases_on("cuda:0")
    matrix = torch.randn(4096, 4096, device="cuda")
    phases.start()
    for _ in range(20):
        phases.begin("wait")
        phases.begin("compute")
        matrix = (matrix @ matrix).clamp(-1, 1)
    wait, _, compute = phases.take()
    assert wait < 0.2 * compute
