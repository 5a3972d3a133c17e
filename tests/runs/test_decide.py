"""What a run's planner asks the store for, and what it takes off a deadline and a budget."""

from typing import Any

import pytest

from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.policy import FreezePolicy
from afcore.planning.choose_workers import Standing
from afcore.planning.profile import Profile, WorkerProfile
from afcore.runs import decide
from afcore.runs.cache import RunCache
from afcore.runs.decide import lacks_profile, possible_traces
from afcore.runs.epoch import decide_first_epoch
from afcore.runs.run import Run, identify_run
from afcore.storage.objects import Storage
from afcore.training.trained import StepLog, TrainedEpoch
from tests.planning.profiles import profile as make_profile

GIVEN, WALL, WORKED = 1e6, 100.0, 30.0
LINK = WorkerProfile(link_latency_seconds=0.0, link_bytes_per_second=1e9)


@pytest.mark.parametrize(
    ("limit", "workers", "others_worked"),
    [("deadline_seconds", 1, 0.0), ("budget_usd", 2, WORKED)],
)
def test_what_is_left_is_worked_out_once(
    tiny_config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    workers: int,
    others_worked: float,
) -> None:
    tiny_config |= {
        "mode": "performance",
        "workers": {"max": 2, limit: GIVEN},
        "cache": {"mode": "auto"},
        "prices": {"gpu_hour_usd": 3600.0},  # a dollar a second
    }
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    run = Run(storage, identify_run(config, storage))
    profile = make_profile(store_write=1e6, prefix_block_token=0.1).model_copy(
        update={"workers": LINK}
    )
    storage.put(f"{run.folder}/profile.json", profile.model_dump_json().encode())
    planner = RunCache(run, run.trainee(run.pretrained(), run.data().train)).planner
    asked: list[Run] = []
    monkeypatch.setattr(decide, "wall_seconds", lambda run: asked.append(run) or WALL)
    planner.check_limits()
    assert len(asked) == 1
    at = Standing(epoch=2, num_epochs=3, boundary=2, builders=2)
    choice = planner.choose(at, worked_seconds=WORKED)
    assert len(asked) == 2
    assert choice is not None
    building = choice.forecast.materialize_seconds
    assert building > 0
    assert choice.workers is not None
    left = GIVEN - WALL - others_worked - workers * building
    assert getattr(choice.workers, limit) == pytest.approx(left, abs=1e-6)


@pytest.mark.parametrize(
    ("limit", "given"), [("deadline_seconds", 0.001), ("budget_usd", 0.000001)]
)
def test_without_a_forecast_no_limit_is_refused_beforehand(
    tiny_config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    given: float,
) -> None:
    tiny_config |= {"mode": "performance", "workers": {"max": 2, limit: given}}
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    run = Run(storage, identify_run(config, storage))
    profile = make_profile().model_copy(update={"workers": LINK})
    storage.put(f"{run.folder}/profile.json", profile.model_dump_json().encode())
    planner = RunCache(run, run.trainee(run.pretrained(), run.data().train)).planner
    monkeypatch.setattr(decide, "wall_seconds", lambda run: 0.0)
    with pytest.raises(ConfigError, match=f"workers.{limit}"):
        planner.check_limits()
    monkeypatch.setattr(GradientNorm, "possible_traces", FreezePolicy.possible_traces)
    with caplog.at_level("INFO", logger="afcore.runs.decide"):
        planner.check_limits()
    assert f"whether workers.{limit} can be kept is not known beforehand" in caplog.text
    assert "no forecast for freezing.policy 'gradient_norm'" in caplog.text


def test_a_worker_launches_none_though_the_profile_is_gone(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who launches workers measures again, and the worker decides nothing until then."""
    tiny_config |= {"mode": "performance", "workers": {"max": 2}, "cache": {"mode": "auto"}}
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    run = Run(storage, identify_run(config, storage))
    measured: list[Run] = []

    def measure(run: Run, *_: object, **__: object) -> Profile:
        measured.append(run)
        return make_profile().model_copy(update={"workers": LINK})

    monkeypatch.setattr(decide, "measure_run", measure)
    first = decide_first_epoch(run)
    assert (len(measured), lacks_profile(run)) == (1, False)
    assert decide_first_epoch(run) == first
    assert len(measured) == 1

    storage.delete(f"{run.folder}/profile.json")
    cache = RunCache(run, run.trainee(run.pretrained(), run.data().train))
    trained = TrainedEpoch(steps=[StepLog(1, 0.0, 0.0, 0.0, 0)], num_passes=1)
    following = cache.next_epoch(2, run.record.weights, None, trained, 1)
    assert len(measured) == 1
    assert (following.choice, following.num_workers) == (None, 1), "as many as there are"
    assert not following.build
    assert "profile.json is gone" in caplog.text

    assert decide_first_epoch(run) == first
    assert (len(measured), lacks_profile(run)) == (2, False)


@pytest.mark.parametrize(
    ("changes", "cases"),
    [
        ({"mode": "full"}, {"nothing freezes": 4}),
        (
            {"mode": "full", "training.stop": "settled"},
            {"stops after 2 epochs": 2, "nothing freezes": 4},
        ),
        ({}, {"nothing freezes": 4, "all freezes at once": 4}),
        (
            {"freezing.policy": "frozen_start"},
            {"stops after 2 epochs": 2, "all epochs": 4, "thaws after epoch 1": 4},
        ),
        (
            {"freezing.policy": "frozen_start", "training.stop": "never"},
            {"all epochs": 4, "thaws after epoch 1": 4},
        ),
    ],
)
def test_a_plan_knows_that_training_may_stop(
    tiny_config: dict[str, Any], changes: dict[str, Any], cases: dict[str, int]
) -> None:
    config = parse_config(tiny_config, source="test").replace(**{"training.epochs": 4, **changes})
    found = possible_traces(config, 4)
    assert found is not None
    assert {case: len(trace) for case, trace in found.items()} == cases
