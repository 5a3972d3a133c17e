"""Trials that cost less than what is published."""

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from afcore.config import Config, load_config, parse_config
from afcore.errors import ConfigError
from afcore.runs.identify import identify_run
from afcore.runs.run import open_run
from afcore.search import study_forecast
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.search_report import SearchReport
from afcore.search.space import check_space, trial_config, winner_config
from afcore.search.study_forecast import forecast_study
from afcore.storage.objects import Storage
from tests.conftest import write_config

RATES = [1e-3, 3e-3]
KEY = "training.learning_rate"


def tree_of(tiny_config: dict[str, Any], **search: Any) -> dict[str, Any]:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 2}
    tree["search"] = {"vary": {KEY: RATES}, "sampler": "grid", **search}
    return tree


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Config:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    proxy = {"training.epochs": 1, "freezing.depth": 2}
    return parse_config(tree_of(tiny_config, storage=storage, proxy=proxy), source="test")


def test_trials_have_what_the_proxy_says_and_the_winner_has_not(config: Config) -> None:
    conductor, storage = StudyConductor(prepare_study(config)), Storage(config.store)
    for _ in range(2):
        with conductor.next_trial() as handle:
            assert handle is not None
            row = conductor.train(handle)
        assert [epoch.read_from for epoch in row.epochs] == ["activations@2"]
        trained = open_run(config.store, row.members[0].run_id).record
        assert trained.run_id == identify_run(trial_config(config, row.values), storage).run_id
    report = conductor.report()
    best = report.best_row
    assert best is not None
    assert report.proxy == {"training.epochs": 1, "freezing.depth": 2}
    assert conductor.winner() == config.replace(**{KEY: best.values[KEY], "search": None})
    without = prepare_study(config.replace(**{"search.proxy": {}}))
    assert without.study_id != conductor.prepared.study_id


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ({"training.epoch": 1}, r"search.proxy.*training.epoch"),
        ({"training.epochs": 0}, r"search.proxy.*training.epochs"),
        ({KEY: 1e-3}, f"search.proxy: {KEY} is varied, too"),
        ({"store": "elsewhere"}, r"search.proxy: store changes nothing of what is trained"),
        ({"data.fold": "1/3"}, r"search.proxy: data.fold: for folds, give search.folds"),
        ({"mode": "hf_trainer"}, r"search.proxy: mode hf_trainer is for comparison"),
    ],
)
def test_a_proxy_that_no_trial_can_have(
    config: Config, proxy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(config.replace(**{"search.proxy": proxy}))


def test_a_proxy_deeper_than_the_model(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"search.proxy: freezing.depth: .*99"):
        prepare_study(config.replace(**{"search.proxy": {"freezing.depth": 99}}))


def test_a_value_that_only_trials_could_have(config: Config) -> None:
    """It would be refused once all trials have been trained."""
    mixed = {"search.vary": {"training.batch_size": [8, 9]}, "workers.max": 2}
    mixed["search.proxy"] = {"workers.max": 1}
    with pytest.raises(ConfigError, match=r"workers.max 2 does not divide training.batch_size 9"):
        check_space(config.replace(**mixed))
    assert trial_config(config.replace(**mixed), {}).workers.max == 1
    assert winner_config(config.replace(**mixed), {}).workers.max == 2


def test_the_training_of_the_winner_is_predicted(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_forecast, "_BUDGET_SECONDS", 0.5)
    found = forecast_study(config)
    assert [row.epochs for row in found.longest] == [1, 1]
    assert [row.epochs for row in found.winners] == [2]
    assert found.winners[0].set_bytes > 0  # at a boundary of which trials have none
    refused = config.replace(**{"search.proxy": {"data.limit": 20}})
    with pytest.raises(ConfigError, match=r"search.proxy: a study over data.*got data.limit"):
        forecast_study(refused)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_winner_is_trained_as_configured_and_its_trial_predicts_the_folds(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    tree = tree_of(tiny_config, storage=f"sqlite:///{tmp_path}/optuna.db", folds=2)
    path = write_config(tmp_path / "config.yaml", tree)
    command = ["search", str(path), "--report", "search.json"]
    proxy = ("--proxy", "training.epochs=1", "--proxy", "data.limit=48")
    done = CliRunner().invoke(app, [*command, *proxy])
    assert done.exit_code == 0, done.output
    report = SearchReport.model_validate_json((tmp_path / "search.json").read_text())
    said = " ".join(done.output.split())
    assert (
        "trials were trained with training.epochs=1, data.limit=48; trained as configured, the best"
    ) in said
    assert report.winner is not None
    assert [len(row.epochs) for row in report.trials] == [2, 2]  # one of each fold
    assert len(report.winner["epochs"]) == 2
    assert load_config("config.best.yaml").training.epochs == 2
    with (tmp_path / "config.out_of_fold.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 48
