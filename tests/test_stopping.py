"""An epoch that is stopped within: what was done is committed, and it goes on exactly there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.errors import StoppedError
from afcore.freezing.frozen_start import FrozenStart
from afcore.results.report import EpochReport
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, PartialRecord, plan_of, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.storage.objects import Storage


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """Dropout, statistics over intervals of unequal length, a set that is read from epoch 2 on."""
    tiny_config["training"] |= {"epochs": 2}
    return parse_config(tiny_config, source="test")


def after(steps: int) -> Callable[[], bool]:
    """Asks to stop after so many steps."""
    left = iter([False] * (steps - 1))
    return lambda: next(left, True)


def train(config: Config, store: Path, stops: list[int]) -> tuple[Run, list[int]]:
    """Train two epochs, stopped after so many steps each time; where it was stopped."""
    config = config.replace(store=str(store))
    storage = Storage(config.store)
    record, stopped = identify_run(config, storage), []
    for steps in [*stops, 0]:
        with run_lease(storage, record.run_id) as lease:
            run = begin_run(storage, record)
            try:
                for epoch in (1, 2):
                    stop = after(steps) if steps else (lambda: False)
                    run_epoch(run, epoch, lease.number, stop=stop)
            except StoppedError:
                partial = [record_of(run, epoch, PartialRecord) for epoch in (1, 2)]
                (found,) = [one for one in partial if one is not None]
                stopped.append(found.step)
    return run, stopped


def outcome(run: Run) -> list[Any]:
    records = [record_of(run, epoch, CheckpointRecord) for epoch in (1, 2)]
    kept = [record for record in records if record is not None]
    assert len(kept) == 2
    return [
        [record.parts for record in kept],
        [[step.loss for step in record.trained.steps] for record in kept],
        [repr([one.decision for one in record.trained.intervals]) for record in kept],
        [[one.statistics for one in record.trained.intervals] for record in kept],
        [plan_of(run, epoch) for epoch in (1, 2)],
    ]


@pytest.mark.parametrize(
    "freezing",
    [
        {"policy": "gradient_norm"},
        # In epoch 2 only the last block trains.
        {"policy": "gradient_norm", "percentile": 100},
        {"policy": "guarded", "patience": 1},
        # The head is solved before the first step, and not again.
        {"policy": "frozen_start", "depth": 2},
    ],
)
def test_stopped_and_started_again_it_ends_with_the_same_numbers(
    config: Config, tmp_path: Path, freezing: dict[str, Any]
) -> None:
    config = config.replace(**{f"freezing.{key}": value for key, value in freezing.items()})
    whole, none = train(config, tmp_path / "whole", [])
    assert none == []
    num_steps = [len(losses) for losses in outcome(whole)[1]]
    parts, stopped = train(config, tmp_path / "parts", [1, 3, num_steps[0] - 5, 2])
    assert stopped == [1, 4, num_steps[0] - 1, num_steps[0] + 2]
    assert outcome(parts) == outcome(whole)
    assert not parts.storage.exists(parts.epoch_key(1, "partial"))
    assert not parts.storage.exists(parts.epoch_key(2, "partial"))


def test_what_was_trained_before_a_stop_is_not_counted_as_lost(
    config: Config, tmp_path: Path
) -> None:
    run, stopped = train(config, tmp_path / "store", [3, 4])
    assert stopped == [3, 7]
    record, report = record_of(run, 1, CheckpointRecord), record_of(run, 1, EpochReport)
    assert record is not None
    assert report is not None
    assert sorted(record.seconds) == [1, 2, 3]
    assert min(record.seconds.values()) > 0
    built_after = report.materialize_seconds - record.build_seconds
    assert sum(record.seconds.values()) == pytest.approx(report.seconds - built_after)


def test_what_settles_within_a_cycle_ends_with_the_cycle(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what a cycle ends with can be published."""
    monkeypatch.setattr(
        FrozenStart, "decide", lambda _self, state, _: (replace(state, settled=True), None)
    )
    monkeypatch.setattr(FrozenStart, "cycle_epochs", 2)
    changes = {"training.epochs": 4, "freezing": {"policy": "frozen_start", "depth": 2}}
    run, _ = train(config.replace(**changes), tmp_path / "run", [])
    first, second = (record_of(run, epoch, CheckpointRecord) for epoch in (1, 2))
    assert first is not None
    assert second is not None
    assert first.freeze.settled
    assert (first.candidate, first.next is None) == (False, False)
    assert (second.candidate, second.next) == (True, None)
