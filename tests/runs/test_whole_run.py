"""What whole runs read, write, keep and learn, without the flow, which adds nothing to it."""

import json
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch

from afcore.activations.sets import list_sets
from afcore.activations.validation_states import ValidationStates
from afcore.config import Config, parse_config
from afcore.results.report import RunReport
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from afcore.tasks.answers import Answers


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    return parse_config(tiny_config, source="test")


def trained(config: Config, fresh: bool = False) -> RunReport:
    return complete_run(config, fresh=fresh)[1]


def test_modes_read_and_write_as_they_should(config: Config) -> None:
    by_mode = {mode: trained(config.replace(mode=mode)) for mode in ("full", "freeze")}
    assert list_sets(Storage(config.store)) == []
    for report in by_mode.values():
        assert {epoch.read_from for epoch in report.epochs} == {"tokens"}
    assert by_mode["full"].decisions == []
    assert {e.boundary_end for e in by_mode["full"].epochs} == {0}
    assert by_mode["freeze"].epochs[-1].boundary_end > 0
    off = trained(config.replace(**{"cache.mode": "off"}))
    assert list_sets(Storage(config.store)) == []
    assert off.decisions == by_mode["freeze"].decisions


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_caching_changes_what_is_computed_but_not_what_is_learnt(
    config: Config, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, put = [], ValidationStates.put

    def note(held: ValidationStates, number: int, hidden: torch.Tensor) -> None:
        evaluated.append(number)
        put(held, number, hidden)

    monkeypatch.setattr(ValidationStates, "put", note)
    static = {
        "freezing.policy": "static",
        "freezing.depth": 2,
        "cache.dtype": dtype,
        "training.epochs": 2,
    }
    freeze = trained(config.replace(mode="freeze", **static))
    cached = trained(config.replace(**static))
    assert {e.read_from for e in freeze.epochs} == {"tokens"}
    assert {e.read_from for e in cached.epochs} == {"activations@2"}
    losses = [[epoch.train_loss for epoch in run.epochs] for run in (freeze, cached)]
    np.testing.assert_allclose(losses[1], losses[0], atol=tolerance)
    scored = [[epoch.validation["loss"] for epoch in run.epochs] for run in (freeze, cached)]
    np.testing.assert_allclose(scored[1], scored[0], atol=tolerance)
    assert evaluated, "what the prefix puts out for the validation split is held"
    assert len(evaluated) == len(set(evaluated)), "and computed in the first of two epochs alone"


def test_runs_with_the_same_prefix_share_its_set(config: Config) -> None:
    static = {"freezing.policy": "static", "training.epochs": 2}
    first = trained(config.replace(**static))
    other = trained(config.replace(**static | {"training.learning_rate": 5e-4}))
    assert first.totals.activation_bytes_written > 0
    assert other.totals.activation_bytes_written == 0
    assert {e.read_from for e in other.epochs} == {"activations@2"}
    alone = trained(config.replace(**static | {"cache.share": False}))
    assert alone.totals.activation_bytes_written == first.totals.activation_bytes_written
    assert alone.notes == []


def test_what_the_limit_kept_from_being_written_is_in_the_notes(config: Config) -> None:
    report = trained(config.replace(**{"cache.max_bytes": 1000}))
    assert report.totals.activation_bytes_written == 0
    assert {epoch.read_from for epoch in report.epochs} == {"tokens"}
    grown = {e.boundary_end for e in report.epochs[:-1] if e.boundary_end}
    assert grown
    assert [note.partition(" not written: ")[0] for note in report.notes] == [
        f"activations@{boundary}" for boundary in sorted(grown)
    ]


def test_a_linear_schedule_freezes_on_time(config: Config) -> None:
    report = trained(config.replace(**{"freezing.policy": "linear", "freezing.depth": 3}))
    after = [decision.boundary_after for decision in report.decisions]
    assert after == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_checkpoints_but_the_last_and_the_best_are_collected(config: Config) -> None:
    run, report = complete_run(config.replace(mode="full", **{"training.epochs": 4}))
    named = set()
    for epoch in {report.totals.best_epoch, 4}:
        record = json.loads(run.storage.get(run.epoch_key(epoch, "checkpoint")))
        named |= {f"{run.parts_folder}/{name}.safetensors" for name in record["parts"].values()}
    assert set(run.storage.list(run.parts_folder)) == named


def test_an_epoch_whose_loss_is_no_number_is_recorded_and_not_published(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(mode="freeze", **{"training.epochs": 2})
    scores, is_first = Answers.scores, iter([True])

    def first_infinite(answers: Answers) -> dict[str, float]:
        return scores(answers) | ({"loss": math.inf} if next(is_first, False) else {})

    monkeypatch.setattr(Answers, "scores", first_infinite)
    report = trained(config)
    losses = [epoch.validation["loss"] for epoch in report.epochs]
    assert [math.isfinite(loss) for loss in losses] == [False, True]
    assert report.totals.best_epoch == 2
    again = trained(config)
    assert again.totals == report.totals
    assert again.epochs[1] == report.epochs[1]


def test_a_damaged_set_does_not_fail_the_run(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    config = config.replace(**{"freezing.policy": "static", "training.epochs": 2})
    whole = trained(config)
    storage = Storage(config.store)
    damaged = {
        "shards": "computing it again",
        "index": "building the set again",
        "manifest.json": "building the set again",
    }
    for part, message in damaged.items():
        keys = [k for k in storage.list("activations") if k.endswith(("c/0/0", "manifest.json"))]
        storage.put(next(key for key in keys if part in key), b"torn")
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="afcore"):
            again = trained(config, fresh=True)
        assert message in caplog.text, part
        assert again.totals.test == whole.totals.test
        assert [found.verify() for found in list_sets(storage)] == [[]]
