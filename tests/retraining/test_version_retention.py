"""Versions that go from MLflow's registry, and those that must not."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from afcore.config import Config, parse_config
from afcore.retraining.looking import retrain_lease
from afcore.retraining.version_retention import collect_versions, note_kept_versions
from afcore.storage.objects import Storage
from afcore.tracking.registry import ModelRegistry
from pipelines.cli import app


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["retrain"] = {"model": "nightly", "keep_versions": 2}
    return parse_config(tiny_config, source="test")


@pytest.fixture
def client(config: Config, tmp_path: Path) -> mlflow.MlflowClient:
    """Six versions of two models each; of the first model, some have aliases."""
    client = mlflow.MlflowClient(config.tracking.uri)
    for name in ("nightly", "weekly"):
        client.create_registered_model(name)
        for _ in range(6):
            client.create_model_version(name, tmp_path.as_uri())
    client.set_registered_model_alias("nightly", "champion", "1")
    client.set_registered_model_alias("nightly", "shadow", "3")
    return client


def versions(client: mlflow.MlflowClient, name: str) -> list[int]:
    return sorted(int(one.version) for one in client.search_model_versions(f"name = '{name}'"))


def test_the_champion_aliased_and_the_newest_versions_stay(
    config: Config, client: mlflow.MlflowClient
) -> None:
    storage = Storage(config.store)
    note_kept_versions(storage, config)
    note_kept_versions(storage, config.replace(**{"retrain.model": "weekly"}))
    told = CliRunner().invoke(app, ["runs", "gc", "--store", config.store, "--dry-run"])
    assert told.exit_code == 0
    assert "models:/nightly/4: has no alias, and is not among the last 2 versions" in told.output
    assert versions(client, "nightly") == versions(client, "weekly") == [1, 2, 3, 4, 5, 6]
    done = CliRunner().invoke(app, ["runs", "gc", "--store", config.store])
    assert done.exit_code == 0
    assert versions(client, "nightly") == [1, 3, 5, 6]
    assert versions(client, "weekly") == [5, 6]
    assert client.get_model_version_by_alias("nightly", "champion").version == 1
    assert collect_versions(config.store) == []


def test_all_stay_where_nothing_says_how_many(config: Config, client: mlflow.MlflowClient) -> None:
    storage = Storage(config.store)
    note_kept_versions(storage, config)
    note_kept_versions(storage, config.replace(**{"retrain.keep_versions": None}))
    assert collect_versions(config.store) == []
    assert versions(client, "nightly") == [1, 2, 3, 4, 5, 6]


def test_versions_of_a_model_that_is_retrained_stay(
    config: Config, client: mlflow.MlflowClient
) -> None:
    storage = Storage(config.store)
    note_kept_versions(storage, config)
    with retrain_lease(storage, "nightly"):
        assert collect_versions(config.store) == []
    assert len(collect_versions(config.store)) == 2
    assert versions(client, "nightly") == [1, 3, 5, 6]


def test_an_mlflow_that_is_away_ends_nothing(
    config: Config, client: mlflow.MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    away = {"tracking.uri": "http://127.0.0.1:9", "retrain.model": "away"}
    storage = Storage(config.store)
    note_kept_versions(storage, config.replace(**away))
    note_kept_versions(storage, config)
    assert [one.folder for one in collect_versions(config.store)] == [
        "models:/nightly/4",
        "models:/nightly/2",
    ]
    assert "versions of 'away' are left alone" in caplog.text


def test_a_model_that_was_never_registered_is_no_warning(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    note_kept_versions(Storage(config.store), config)
    assert collect_versions(config.store) == []
    assert "are left alone" not in caplog.text


def test_a_name_may_have_an_apostrophe(config: Config, tmp_path: Path) -> None:
    name, client = "Ada's model", mlflow.MlflowClient(config.tracking.uri)
    client.create_registered_model(name)
    client.create_model_version(name, tmp_path.as_uri())
    registry = ModelRegistry(config.tracking.uri, config.tracking.experiment)
    assert [one.version for one in registry.versions(name)] == ["1"]


def test_versions_are_listed_to_the_last_page(
    config: Config, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(config.tracking.uri, config.tracking.experiment)
    search = registry._client.search_model_versions
    monkeypatch.setattr(
        registry._client, "search_model_versions", lambda *a, **k: search(*a, max_results=4, **k)
    )
    assert [one.version for one in registry.versions("nightly")] == list("654321")
    assert registry.versions("unknown") == []


@pytest.mark.parametrize("name", ["it's nightly", 'the "nightly"'])
def test_versions_of_a_model_whose_name_has_quotes(
    name: str, config: Config, tmp_path: Path
) -> None:
    registry = ModelRegistry(config.tracking.uri, config.tracking.experiment)
    client = mlflow.MlflowClient(config.tracking.uri)
    run_id = registry.begin("t", "n")
    client.create_registered_model(name)
    client.create_model_version(name, tmp_path.as_uri(), run_id)
    assert registry.register(name, run_id, {}, "").version == "1"
    assert [one.version for one in registry.versions(name)] == ["1"]
