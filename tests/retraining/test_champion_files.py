"""Folders with the files of champions: each of one version, and which of them stay."""

import json
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.model_settings import MODEL_MARK
from afcore.retraining.champion_files import champion_folder, forget_others, start_folder
from afcore.tracking.registry import ModelVersion


class Registry:
    """Has a folder for each version, that says of which run it is."""

    def download(self, version: ModelVersion, folder: Path) -> Path:
        if not folder.exists():
            folder.mkdir(parents=True)
            settings = {MODEL_MARK: {}, "run": version.mlflow_run_id}
            (folder / "config.json").write_text(json.dumps(settings))
        return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree = {"model": {"name": "-"}, "data": {"train": "-"}, "store": str(tmp_path)}
    return parse_config(tree, source="test")


def version(number: int, run: str = "a-run") -> ModelVersion:
    return ModelVersion("nightly", str(number), run)


def test_a_version_of_a_registry_that_was_made_anew_is_another_model(config: Config) -> None:
    registry: Any = Registry()
    first = champion_folder(config, registry, version(1, "a-run"))
    again = champion_folder(config, registry, version(1, "b-run"))
    runs = [json.loads((one / "config.json").read_text())["run"] for one in (first, again)]
    assert runs == ["a-run", "b-run"]
    start = start_folder(config, registry, version(1, "b-run"))
    assert json.loads((start / "config.json").read_text()) == {"run": "b-run"}


def test_only_the_folders_of_one_version_stay(config: Config) -> None:
    registry: Any = Registry()
    folders = {}
    for number in (1, 2, 20):
        start = start_folder(config, registry, version(number))
        folders[number] = {start, champion_folder(config, registry, version(number))}
    other = champion_folder(config, registry, ModelVersion("weekly", "1", "a-run"))
    forget_others(config, version(2))
    assert set(other.parent.iterdir()) == {*folders[2], other}
