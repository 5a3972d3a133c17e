"""One value of a deployment's configuration is another one, or a file takes its place."""

from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.errors import ConfigError
from pipelines.given_config import given_config


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    return parse_config(tiny_config, source="test")


def test_one_value_is_changed_and_the_rest_stays(config: Config) -> None:
    found = given_config(config, None, ["training.learning_rate=5e-4", "cache.mode=off"])
    assert found.training.learning_rate == 0.0005
    assert found.cache.mode == "off"
    assert found == config.replace(**{"training.learning_rate": 0.0005, "cache.mode": "off"})
    assert given_config(config) is config


def test_a_file_takes_its_place_with_the_store_and_server_of_the_deployment(
    config: Config, tmp_path: Path
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("model: {name: other}\ndata: {train: rows.csv}\ntracking: {experiment: mine}\n")
    found = given_config(config, str(file), ["training.seed=7"])
    assert (found.model.name, found.training.seed, found.mode) == ("other", 7, "cached")
    assert (found.store, found.tracking.uri) == (config.store, config.tracking.uri)
    assert found.tracking.experiment == "mine"
    file.write_text(file.read_text() + f"store: {tmp_path}/own\n")
    assert given_config(config, str(file)).store == f"{tmp_path}/own"


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("missing.yaml", None, "missing.yaml"),
        (None, ["training.epoch=3"], "training.epoch"),
        (
            None,
            ["training.epochs"],
            r"^overrides 'training.epochs' is not of the form key.path=val",
        ),
        (None, ["training.epochs={"], "^overrides 'training.epochs={': the value is not YAML"),
    ],
)
def test_what_is_not_allowed_is_one_message(
    config: Config, path: str | None, overrides: list[str] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        given_config(config, path, overrides)
