"""Trials that begin alike train their first epochs once, and end as if each had been alone."""

from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run, begin_run, find_run, run_lease
from afcore.runs.whole_run import complete_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.search_report import SearchReport
from afcore.search.space import trial_config
from afcore.search.study import study_folder
from afcore.storage.objects import Storage

CASES = {
    # (settings, lengths, sources of the epochs; None: as the boundary came to move)
    "wsd": (
        {"training.schedule": "wsd", "training.decay_ratio": 0.5, "freezing.policy": "static"},
        [2, 4],
        [["trained"] * 2, ["copied"] + ["trained"] * 3],
    ),
    "numbers as texts": (
        {"training.schedule": "wsd", "training.decay_ratio": 0.5, "freezing.policy": "static"},
        ["2", "4"],
        [["trained"] * 2, ["copied"] + ["trained"] * 3],
    ),
    "cycles": (
        {"freezing.policy": "frozen_start", "freezing.tolerance": 0},
        [4, 5],
        [["trained"] * 4, ["copied"] * 4 + ["trained"]],
    ),
    "statistics": (
        {"training.schedule": "constant", "freezing.policy": "gradient_norm"},
        [1, 2, 3],
        None,
    ),
    "depends on the length": (
        {"training.schedule": "constant", "freezing.policy": "linear"},
        [1, 2],
        [["trained"], ["trained"] * 2],
    ),
}


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Config:
    tree = {**tiny_config, "freezing": {}}
    tree["training"] = {**tree["training"], "learning_rate": 3e-3}
    tree["search"] = {"sampler": "grid", "storage": f"sqlite:///{tmp_path}/optuna.db"}
    return parse_config(tree, source="test")


def conduct(config: Config) -> SearchReport:
    conductor = StudyConductor(prepare_study(config))
    while True:
        with conductor.next_trial() as handle:
            if handle is None:
                report = conductor.report()
                conductor.clean_up()
                return report
            conductor.train(handle)


def opened(config: Config) -> Run:
    storage = Storage(config.store)
    run = find_run(storage, identify_run(config, storage).run_id)
    assert run is not None
    return run


@pytest.mark.parametrize("case", list(CASES))
def test_first_epochs_are_trained_once(config: Config, tmp_path: Path, case: str) -> None:
    settings, lengths, sources = CASES[case]
    config = config.replace(**settings)
    report = conduct(config.replace(**{"search.vary": {"training.epochs": lengths}}))
    assert [row.why for row in report.trials] == [None] * len(lengths)
    assert [row.values["training.epochs"] for row in report.trials] == lengths
    if sources is None:
        sources = _sources_of_trials_one_longer(trial_config(config, report.trials[-1].values))
    assert [[e.source for e in row.epochs] for row in report.trials] == sources
    assert list(Storage(config.store).list("searches")) == []
    _check_as_if_alone(trial_config(config, report.trials[-1].values), tmp_path)


def _sources_of_trials_one_longer(longest: Config) -> list[list[str]]:
    """Where the boundary grew in what was a trial's last epoch, nobody knows how it goes on."""
    sources: list[list[str]] = [["trained"]]
    for epoch in range(1, longest.training.num_epochs):
        record = record_of(opened(longest), epoch, CheckpointRecord)
        assert record is not None
        stood_still = record.boundary_start == record.freeze.boundary
        last = "copied" if stood_still else "trained"
        sources.append(["copied"] * (epoch - 1) + [last, "trained"])
    return sources


def _check_as_if_alone(shared: Config, tmp_path: Path) -> None:
    alone = shared.replace(store=str(tmp_path / "alone"))
    _, finished = complete_run(alone)
    ours, theirs = opened(shared), opened(alone)
    for epoch in range(1, len(finished.epochs) + 1):
        one, other = (record_of(run, epoch, CheckpointRecord) for run in (ours, theirs))
        assert one is not None
        assert other is not None
        assert one.parts == other.parts
        assert (one.freeze, one.candidate) == (other.freeze, other.candidate)
        assert one.trained.validation == other.trained.validation
    _, ours_finished = complete_run(shared)  # tests it: its best epoch's parts are there
    assert ours_finished.totals.test == finished.totals.test


def test_a_copied_run_goes_on_where_it_was_stopped(config: Config) -> None:
    settings, lengths, _ = CASES["wsd"]
    config = config.replace(**settings)
    vary = {"search.vary": {"training.epochs": lengths}}
    conductor = StudyConductor(prepare_study(config.replace(**vary)))
    with conductor.next_trial() as handle:
        assert handle is not None
        conductor.train(handle)
        common = conductor._common_epochs(handle)
    assert common is not None
    longer = config.model_copy(update={"search": None}).replace(**{"training.epochs": 4})
    storage = Storage(longer.store)
    record = identify_run(longer, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        assert common.adopt(run, lease.number) == 1
        assert common.adopt(run, lease.number) == 0
        run_epoch(run, 2, lease.number)
        assert common.adopt(run, lease.number) == 0


RANGE = {"low": 1e-3, "high": 3e-3, "log": True}
KEPT = {
    # (schedule, search, what is varied, epochs that are kept after each trial)
    "until the last that begins so": (
        "wsd",
        {"sampler": "grid"},
        {"training.learning_rate": [1e-3, 3e-3], "training.epochs": [2, 4]},
        [1, 0, 1, 0],
    ),
    "no two begin alike": ("linear", {"sampler": "grid"}, {"training.epochs": [1, 2]}, [0, 0]),
    "any may come": ("wsd", {"sampler": "tpe", "trials": 1}, {"training.epochs": [2, 4]}, [1]),
    "of any, none begins alike": (
        "linear",
        {"sampler": "tpe", "trials": 1},
        {"training.epochs": [1, 2]},
        [0],
    ),
    "a range without steps": (
        "wsd",
        {"sampler": "tpe", "trials": 2},
        {"training.learning_rate": RANGE, "training.epochs": [2, 4]},
        [0, 0],
    ),
}


@pytest.mark.parametrize("case", list(KEPT))
def test_epochs_are_kept_while_a_trial_to_come_begins_with_them(config: Config, case: str) -> None:
    schedule, search, vary, expected = KEPT[case]
    settings = {**CASES["wsd"][0], "training.schedule": schedule, "search.vary": vary}
    settings |= {f"search.{key}": value for key, value in search.items()}
    conductor, kept = StudyConductor(prepare_study(config.replace(**settings))), []
    storage, folder = Storage(config.store), study_folder(conductor.prepared.study_id)
    while True:
        with conductor.next_trial() as handle:
            if handle is None:
                break
            assert conductor.train(handle).state == "finished"
        kept.append(len(storage.list(f"{folder}/beginnings")))
        assert bool(storage.list(f"{folder}/parts")) == bool(kept[-1])
    assert kept == expected


def test_epochs_whose_parts_are_gone_are_trained(config: Config, tmp_path: Path) -> None:
    settings, lengths, _ = CASES["wsd"]
    config = config.replace(**settings)
    vary = {"search.vary": {"training.epochs": lengths}}
    conductor = StudyConductor(prepare_study(config.replace(**vary)))
    folder = study_folder(conductor.prepared.study_id)
    for _ in lengths:
        with conductor.next_trial() as handle:
            assert handle is not None
            row = conductor.train(handle)
        Storage(config.store).delete_folder(f"{folder}/parts")  # by who was killed meanwhile
    assert [epoch.source for epoch in row.epochs] == ["trained"] * 4
    _check_as_if_alone(trial_config(config, row.values), tmp_path)
