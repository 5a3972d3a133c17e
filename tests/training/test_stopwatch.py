import time

import pytest
import torch

from afcore.training import stopwatch
from afcore.training.stopwatch import Stopwatch


class FakeEvent:
    """An event of a device that is 10 s late and reads no clock before it is waited for."""

    waits = 0
    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        self.milliseconds = 1000 * (FakeEvent.clock + 10)

    def synchronize(self) -> None:
        FakeEvent.waits += 1

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.milliseconds - self.milliseconds


def test_laps_add_up_by_name_and_time_between_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 100.0, 110.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    watch.lap("read")
    watch.lap("compute")
    watch.start()
    watch.lap("read")
    assert watch.seconds() == {"read": 12.0, "compute": 3.0}


def test_on_cuda_laps_wait_for_the_device_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(stopwatch, "_MOST_WAITING", 8)
    monkeypatch.setattr(FakeEvent, "waits", 0)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(10):
        FakeEvent.clock += 1
        watch.lap("read")
        FakeEvent.clock += 2
        watch.lap("compute")
    assert FakeEvent.waits == 2
    assert watch.seconds() == {"read": 10.0, "compute": 20.0}
    assert FakeEvent.waits == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_a_gpu_a_lap_is_the_devices_time() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    watch = Stopwatch(device)
    for _ in range(20):
        matrix = matrix @ matrix / 4096
    watch.lap("compute")
    began = time.perf_counter()
    seconds = watch.seconds()["compute"]
    assert seconds > time.perf_counter() - began > 0
