"""Steps on N workers, measured and fitted."""

from typing import Any

import pytest

from afcore.config import parse_config
from afcore.launch.launcher import close_launchers
from afcore.measuring.worker_speed import Points, fit_workers
from afcore.planning.forecast import EpochSetup, Work, forecast_epoch
from afcore.planning.profile import WorkerProfile
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.runs.run_profile import measure_workers
from afcore.storage.objects import Storage
from tests.planning.profiles import profile as make_profile

PROFILE = make_profile()


@pytest.mark.parametrize(("count", "passes"), [(2, 1), (8, 1), (2, 3)])
def test_what_made_the_steps_is_found_again(count: int, passes: int) -> None:
    known = WorkerProfile(
        link_latency_seconds=0.2,
        link_bytes_per_second=500.0,
        startup_seconds=1.5,
        contention={count: 1.25},
    )
    profile = PROFILE.model_copy(update={"workers": known})
    points: Points = []
    for boundary in (0, 2, PROFILE.compute.num_blocks - 1):
        for padded in (800, 1600):
            setup = EpochSetup(boundaries=[boundary], num_workers=count, accumulation=passes)
            step = forecast_epoch(profile, Work(1, padded), setup)
            points.append((boundary, padded, passes, step.train_seconds))
    found = fit_workers(PROFILE, points, count, 1.5)
    assert found.contention == pytest.approx(known.contention, rel=1e-3)
    assert found.startup_seconds == 1.5
    for parameters in PROFILE.compute.num_parameters:
        expected = known.allreduce_seconds(parameters, count)
        assert found.allreduce_seconds(parameters, count) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_two_workers_of_this_machine(tiny_config: dict[str, Any]) -> None:
    config = parse_config(tiny_config | {"workers": {"max": 2}}, source="test")
    storage = Storage(config.store)
    run = Run(storage, identify_run(config, storage))
    try:
        found = measure_workers(run, PROFILE)
    finally:
        close_launchers()
    assert list(found.contention) == [2]
    assert found.startup_here_seconds is not None
    assert 0 < found.startup_here_seconds < found.startup_seconds < 60
    # Steps of a model so small are waiting more than computing: either may explain all of them.
    assert found.slowdown(2) + found.link_latency_seconds > 0
    assert found.link_bytes_per_second < 1e15
    assert not storage.list("probes")
