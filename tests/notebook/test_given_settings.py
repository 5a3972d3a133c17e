import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from afcore.config import AdapterConfig, Range
from afcore.errors import ConfigError, DataError
from afcore.freezing.gradient_norm import GradientNorm
from afcore.notebook.given_settings import resolve_settings

BASE: dict[str, Any] = {"model": "some-model", "train": "train.csv"}


def test_keys_by_their_last_part_dotted_and_as_sections_are_the_same() -> None:
    short = {"epochs": 2, "seed": 3, "tolerance": 2.0, "mode": "freeze", "max": 2}
    dotted = {
        "training.epochs": 2,
        "training.seed": 3,
        "freezing.tolerance": 2.0,
        "mode": "freeze",
        "workers.max": 2,
    }
    nested = {
        "training": {"epochs": 2, "seed": 3},
        "freezing": {"tolerance": 2.0},
        "mode": "freeze",
        "workers": {"max": 2},
    }
    configs = [resolve_settings(None, BASE | given, "fit")[0] for given in (short, dotted, nested)]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].training.epochs == 2
    assert configs[0].model.name == "some-model"


def test_a_file_or_a_dict_is_changed_by_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: {name: a}\ndata: {train: t.csv}\ntraining: {epochs: 3}\n"
        "freezing: {policy: guarded, patience: 3}\n"
    )
    config, held = resolve_settings(path, {"policy": "gradient_norm", "model": "b"}, "fit")
    assert (config.model.name, config.training.epochs) == ("b", 3)
    assert isinstance(config.freezing, GradientNorm)
    assert held == {}
    again, _ = resolve_settings({"model": "a", "data": {"train": "t.csv"}}, {"epochs": 3}, "fit")
    assert (again.model.name, again.training.epochs) == ("a", 3)
    same, _ = resolve_settings(again, {"learning_rate": 1e-3}, "fit")
    assert same == again.replace(**{"training.learning_rate": 1e-3})


def test_a_section_changes_keys_of_a_dict_as_of_a_file(tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "model": {"name": "a", "allow_new_weights": True},
        "data": {"train": "t.csv", "max_length": 64},
        "training": {"epochs": 3, "seed": 7},
        "freezing": {"policy": "guarded", "patience": 3},
    }
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(base))
    given: dict[str, Any] = {
        "model": "b",
        "data": {"test": "u.csv"},
        "training": {"learning_rate": 1e-3, "seed": 8},
        "freezing": {"policy": "gradient_norm"},
    }
    config, _ = resolve_settings(base, given, "fit")
    assert (config.model.name, config.model.allow_new_weights) == ("b", True)
    assert (config.data.train, config.data.test, config.data.max_length) == ("t.csv", "u.csv", 64)
    assert (config.training.epochs, config.training.seed) == (3, 8)
    assert config.training.learning_rate == 1e-3
    assert config.freezing == GradientNorm()
    assert config == resolve_settings(path, given, "fit")[0]


def test_rows_that_a_file_takes_the_place_of_are_not_held() -> None:
    rows = [{"text": "a", "label": "x"}]
    config, held = resolve_settings({**BASE, "train": rows}, {"train": "u.csv"}, "fit")
    assert (config.data.train, held) == ("u.csv", {})
    config, held = resolve_settings(BASE, {"train": rows}, "fit")
    assert (config.data.train, list(held)) == ("memory:train", ["train"])


def test_keys_with_dots_in_a_section_are_its_values() -> None:
    rate = {"low": 1e-5, "high": 1e-4, "log": True}
    search = {"vary": {"training.learning_rate": rate, "mode": ["full", "cached"]}, "trials": 5}
    config, _ = resolve_settings({**BASE, "search": search}, {}, "fit")
    assert config.search is not None
    assert config.search.vary == {
        "training.learning_rate": Range(low=1e-5, high=1e-4, log=True),
        "mode": ["full", "cached"],
    }
    assert config.search.trials == 5


@pytest.mark.parametrize("base", [None, {"training": {"epochs": 3}}])
def test_an_empty_section_says_that_there_is_one(base: dict[str, Any] | None) -> None:
    given = BASE | {"adapter": {}, "training": {}}
    config, _ = resolve_settings(base, given, "fit")
    assert config.adapter == AdapterConfig()
    assert config.search is None
    assert config.training.epochs == (4 if base is None else 3)
    assert resolve_settings(base, BASE, "fit")[0].adapter is None


def test_rows_are_held_and_the_configuration_says_so() -> None:
    columns = {"text": ["a", "b"], "label": ["x", "y"]}
    given = BASE | {"train": columns, "validation": [{"text": "c", "label": "x"}]}
    config, held = resolve_settings(None, given, "fit")
    assert config.data.train == "memory:train"
    assert config.data.validation == "memory:validation"
    assert config.data.test is None
    assert sorted(held) == ["train", "validation"]
    assert held["train"].table(["label"]).columns == {"label": ["x", "y"]}
    assert resolve_settings(None, BASE | {"validation": 0.2}, "fit")[1] == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 2}, r"^fit: unknown key 'epoch'; did you mean 'epochs' \(training.epochs\)\?$"),
        ({"zzzzz": 2}, "^fit: unknown key 'zzzzz'; see docs/configuration.md"),
        ({"training.epoch": 2}, "^fit: unknown key 'training.epoch'; did you mean"),
        ({"epochs": -1}, r"^fit: training.epochs: got -1; input should be greater than 0"),
        ({"model": {}}, "^fit: missing key 'model'; it has no default"),
        ({"training": {"epochs": 0}, "batch_size": 0}, "training.epochs: .*; training.batch_size"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(given: dict[str, Any], said: str) -> None:
    base = {key: value for key, value in BASE.items() if key not in given}
    with pytest.raises(ConfigError, match=said):
        resolve_settings(None, base | given, "fit")


def test_a_part_that_several_keys_end_in_needs_the_whole_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "afcore.notebook.given_settings._SHORT_PATHS", {"training.same", "cache.same", "model.name"}
    )
    with pytest.raises(ConfigError, match=r"'same' may be cache\.same or training\.same\."):
        resolve_settings(None, {"same": 1}, "fit")


def test_a_path_is_a_name(tmp_path: Path) -> None:
    given = {"model": tmp_path, "train": tmp_path / "a.csv"}
    config, held = resolve_settings(None, given, "fit")
    assert (config.model.name, config.data.train) == (str(tmp_path), str(tmp_path / "a.csv"))
    assert held == {}
    assert resolve_settings(None, BASE | {"model": {"name": tmp_path}}, "fit")[0].model.name


@pytest.mark.parametrize("path", ["model", "model.name"])
def test_a_model_in_memory_is_refused_in_one_line(path: str) -> None:
    base = {"train": "train.csv"}
    with pytest.raises(ConfigError) as caught:
        resolve_settings(None, base | {path: nn.Sequential(*[nn.Linear(2, 2)] * 99)}, "fit")
    said = str(caught.value)
    assert said.startswith(f"fit: {path} is a Sequential in memory, and a model is opened by its")
    assert len(said.splitlines()) == 1
    assert len(said) < 200


def test_a_long_value_is_shown_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_settings(None, BASE | {"epochs": nn.Sequential(*[nn.ReLU()] * 99)}, "fit")
    assert str(caught.value).startswith("fit: training.epochs: got Sequential( (0): ReLU() (1):")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_rows_that_are_none_are_no_list_of_files() -> None:
    _, held = resolve_settings(None, BASE | {"train": []}, "fit")
    assert len(held["train"].table(["text"])) == 0


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(DataError, match="data 'train': got set"):
        resolve_settings(None, BASE | {"train": {"a", "b"}}, "fit")
