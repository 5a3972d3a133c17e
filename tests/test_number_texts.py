"""A number is read alike from every place in which a user may write it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from afcore.config import Config, load_config, parse_config
from afcore.errors import ConfigError
from pipelines.finetune import finetune
from pipelines.given_config import given_config

NUMBERS = [("5e-4", 0.0005), ("5.0e-4", 0.0005), ("1E1", 10.0), ("3", 3.0), (".5", 0.5)]
BASE = "model: {name: m}\ndata: {train: t.csv}\n"


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_a_number_is_read_alike_everywhere(tmp_path: Path, text: str, number: float) -> None:
    file = tmp_path / "my.yaml"
    lines = f"training: {{learning_rate: {text}, steps: [[0.0, {text}]]}}\n"
    lines += f"freezing: {{policy: frozen_start, tolerance: {text}}}\n" if number < 1 else ""
    lines += f"search: {{vary: {{training.learning_rate: [{text}, 7]}}}}\n"
    file.write_text(BASE + lines)
    from_file = load_config(str(file))
    assert from_file.training.learning_rate == from_file.training.steps[0][1] == number
    assert from_file.search is not None
    assert from_file.search.vary == {"training.learning_rate": [number, 7]}

    setting = f"training.learning_rate={text}"
    assert load_config(str(file), [setting]).training == from_file.training
    assert given_config(from_file, None, [setting]).training == from_file.training

    tree = yaml.safe_load(file.read_text())
    for value in (text, number):
        tree["training"] = {"learning_rate": value, "steps": [[0.0, value]]}
        as_json = json.loads(json.dumps(tree))
        assert refusals(as_json) == []  # as Prefect's server does
        assert Config.model_validate(as_json) == from_file


@pytest.mark.parametrize("text", ["much", "5e", "", "1e-3 s", "--1"])
def test_what_is_no_number_is_refused_everywhere(text: str) -> None:
    tree: dict[str, Any] = yaml.safe_load(BASE) | {"training": {"learning_rate": text}}
    assert len(refusals(tree)) == 1
    with pytest.raises(ConfigError, match=r"training\.learning_rate"):
        parse_config(tree, source="test")


def refusals(config: dict[str, Any]) -> list[Any]:
    schema = parameter_schema(finetune).model_dump_for_openapi()
    return validate({"config": config}, schema)
