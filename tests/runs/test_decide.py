"""What a run's planner asks the store for, and what it takes off a deadline and a budget."""

from typing import Any

import pytest

from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.freezing.frozen_start import FrozenStart
from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.policy import FreezePolicy
from afcore.planning.choose_workers import Standing
from afcore.planning.forecast import EpochSetup, Forecast, Work, forecast_epoch
from afcore.planning.profile import Profile, WorkerProfile
from afcore.runs import decide
from afcore.runs.cache import RunCache
from afcore.runs.decide import RunPlanner, lacks_profile, possible_traces
from afcore.runs.epoch import decide_first_epoch
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
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
            {"freezing.policy": "frozen_start", "training.epochs": 6},
            {"stops after 4 epochs": 4, "rises": 6, "thaws after epoch 1": 6},
        ),
        (
            {"freezing.policy": "frozen_start", "training.stop": "never"},
            {"rises": 4, "thaws after epoch 1": 4},
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


def test_a_policy_may_know_that_it_stops_later(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"to the end": [[2]] * 4, "settles after 3 epochs": [[2]] * 3}
    monkeypatch.setattr(FrozenStart, "possible_traces", lambda *_: own)
    tiny_config |= {"mode": "cached", "freezing": {"policy": "frozen_start"}}
    tiny_config["training"] |= {"epochs": 4}
    monkeypatch.setattr(FrozenStart, "cycle_epochs", 2)
    assert possible_traces(parse_config(tiny_config, source="test"), 4) == own


def planner_of(tiny_config: dict[str, Any], profile: Profile) -> tuple[RunPlanner, Work]:
    tiny_config |= {"mode": "performance", "workers": {"max": 2}, "cache": {"mode": "auto"}}
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    run = Run(storage, identify_run(config, storage))
    storage.put(f"{run.folder}/profile.json", profile.model_dump_json().encode())
    planner = RunCache(run, run.trainee(run.pretrained(), run.data().train)).planner
    return planner, planner.work(2)


def trained_as(predicted: Forecast, work: Work) -> TrainedEpoch:
    steps = [StepLog(step, 0.0, 0.0, 0.0, 0) for step in range(1, work.num_steps + 1)]
    return TrainedEpoch(
        prefix_seconds=predicted.prefix_seconds,
        suffix_seconds=predicted.suffix_seconds + predicted.allreduce_seconds,
        train_seconds=predicted.train_seconds,
        num_passes=work.num_steps,
        steps=steps,
    )


def on(count: int) -> EpochSetup:
    return EpochSetup(boundaries=[0], read_boundary=0, num_workers=count)


def test_the_scale_that_several_workers_showed_holds_for_one(tiny_config: dict[str, Any]) -> None:
    slow = WorkerProfile(link_latency_seconds=0.0, link_bytes_per_second=500.0)
    profile = make_profile().model_copy(update={"workers": slow})
    planner, work = planner_of(tiny_config, profile)
    real = profile.scaled(2.0)  # the machine computes at half the speed; the link is as measured
    together = forecast_epoch(real, work, on(2))
    assert together.allreduce_seconds > 0.1 * together.train_seconds
    scale = planner.scale(2, 0, trained_as(together, work), num_workers=2)
    assert scale == pytest.approx(2.0)
    for count in (1, 2):
        predicted = forecast_epoch(profile.scaled(scale), work, on(count)).train_seconds
        assert predicted == pytest.approx(forecast_epoch(real, work, on(count)).train_seconds)


def test_a_link_that_turns_out_fast_leaves_some_time_to_computing(
    tiny_config: dict[str, Any],
) -> None:
    slow = WorkerProfile(link_latency_seconds=0.0, link_bytes_per_second=1.0)
    planner, work = planner_of(tiny_config, make_profile().model_copy(update={"workers": slow}))
    real = forecast_epoch(make_profile().model_copy(update={"workers": LINK}), work, on(2))
    scale = planner.scale(2, 0, trained_as(real, work), num_workers=2)
    assert scale == pytest.approx(0.5, rel=0.01)


def test_an_epoch_that_was_tried_again_on_fewer_workers_is_measured_on_those(
    tiny_config: dict[str, Any],
) -> None:
    profile = make_profile().model_copy(update={"workers": LINK})
    planner, work = planner_of(tiny_config, profile)
    half = work.num_steps // 2
    alone, together = (trained_as(forecast_epoch(profile, work, on(n)), work) for n in (1, 2))
    share = half / work.num_steps
    earlier = TrainedEpoch(
        prefix_seconds=share * together.prefix_seconds,
        suffix_seconds=share * together.suffix_seconds,
        num_passes=half,
        steps=together.steps[:half],
    )
    whole = TrainedEpoch(
        prefix_seconds=earlier.prefix_seconds + (1 - share) * alone.prefix_seconds,
        suffix_seconds=earlier.suffix_seconds + (1 - share) * alone.suffix_seconds,
        num_passes=work.num_steps,
        steps=together.steps,
    )
    assert planner.scale(2, 0, whole) < 0.9
    assert planner.scale(2, 0, whole.since(earlier)) == pytest.approx(1.0)
