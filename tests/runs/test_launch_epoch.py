"""On how many workers an epoch is begun."""

import pytest

from afcore.config import parse_config
from afcore.errors import AutoFreezeError
from afcore.runs import launch_epoch
from afcore.runs.launch_epoch import workers_left


def test_a_plan_below_the_least_is_kept() -> None:
    # What was planned stands, though workers.min was raised since.
    assert workers_left(config(min=2), 1, 1) == 1


@pytest.mark.parametrize(
    ("planned", "tries", "devices", "expected"),
    [(8, 1, 8, 8), (8, 2, 8, 8), (8, 3, 8, 4), (8, 2, 5, 4), (4, 2, 3, 2), (1, 3, 8, 1)],
)
def test_a_retry_takes_what_is_left(
    planned: int, tries: int, devices: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_epoch, "num_devices", lambda: devices)
    assert workers_left(config(min=1), planned, tries) == expected


def test_fewer_than_the_least_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_epoch, "num_devices", lambda: 3)
    with pytest.raises(AutoFreezeError, match=r"3 workers are left, and workers.min is 4"):
        workers_left(config(min=4), 8, 2)


def config(**workers: int):  # type: ignore[no-untyped-def]
    tree = {
        "model": {"name": "m"},
        "data": {"train": "t"},
        "training": {"batch_size": 16},
        "workers": {"max": 8, **workers},
    }
    return parse_config(tree, source="test")
