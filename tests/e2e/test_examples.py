"""The examples that come with the package, by `autofreeze run`, on few rows and tiny models."""

import re
from pathlib import Path
from typing import Any

import pytest

import pipelines
from tests.e2e.command import autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
FOLDER = Path(pipelines.__file__).parent / "configs"

# Of each example: the tiny model in the place of its own, a title of its table, a key of its
# columns, and what is said of the data.
EXAMPLES = {
    "causal_language_modeling": ("gpt2", "Perplexity", "data.text", "the next token, "),
    "choices": ("bert", "Accuracy", "data.choices", "one of 4 choices, "),
    "digits": ("vit", "Accuracy", "data.image", "10 classes$"),
    "question_answering": ("bert", "F1 of words", "data.text_pair", "answers in a context, "),
    "quickstart": ("bert", "Accuracy", "data.label", "8 classes, "),
    "summarization": ("bart", "ROUGE-L", "data.text", "a summary for each, "),
    "token_classification": ("bert", "F1 of entities", "data.label", "labels of words, "),
}
# For these, the docstrings of all installed packages are read first; for others a few.
_READ_LONG = ("causal_language_modeling", "quickstart", "summarization")
NAMES = [
    pytest.param(name, marks=[pytest.mark.faults] if name in _READ_LONG else [])
    for name in EXAMPLES
]


@pytest.fixture(autouse=True)
def _few_rows(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("faults") is None:
        request.getfixturevalue("few_built_in_rows")


@pytest.fixture
def models(tiny_bert: Path, tiny_vit: Path, tiny_generators: Path) -> dict[str, Path]:
    generators = {name: tiny_generators / name for name in ("gpt2", "bart")}
    return {"bert": tiny_bert, "vit": tiny_vit, **generators}


def run(name: str, models: dict[str, Path], tracking: str, folder: Path, *overrides: str) -> int:
    changed: dict[str, Any] = {
        "model.name": models[EXAMPLES[name][0]],
        "data.max_length": 48,
        "data.limit": 60,
        "data.test_limit": 12,
        "training.epochs": 2,
        "training.precision": "fp32",
        "store": folder / "store",
        "tracking.uri": tracking,
    }
    options = [f"{key}={value}" for key, value in changed.items()] + list(overrides)
    settings = (part for option in options for part in ("--set", option))
    return autofreeze("run", FOLDER / f"{name}.yaml", *settings)


def test_all_examples_are_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*EXAMPLES, "prefect"}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_says_what_happens(
    name: str,
    models: dict[str, Path],
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, title, _, data = EXAMPLES[name]
    caplog.set_level("INFO", "afcore")
    assert run(name, models, tiny_config["tracking"]["uri"], tmp_path) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert f"{title}, time and cost" in out
    said = " ".join(out.split())
    ended = r"(all 2 epochs were trained|stopped after epoch 1 of 2.*)\."
    assert re.search(rf"cached: .*; {ended}", said)
    assert f"MLflow, experiment '{name.replace('_', '-')}'" in said
    prepared = [line for line in caplog.messages if line.startswith("data: ")]
    assert len(prepared) == 1
    assert re.search(data, prepared[0])
    assert "to train on" in prepared[0]
    steps = [line for line in caplog.messages if re.match(r"epoch \d+/\d+  step", line)]
    shown = [int(re.match(r"epoch (\d)/2  step ", line)[1]) for line in steps]
    assert shown == sorted(shown)
    assert {1, 2} == set(shown)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column_is_one_message(
    name: str,
    models: dict[str, Path],
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key = EXAMPLES[name][2]
    uri = tiny_config["tracking"]["uri"]
    assert run(name, models, uri, tmp_path, f"{key}=nowhere") == 2
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, err
    assert "has no column 'nowhere', only " in errors[0]
    assert errors[0].endswith(f"Name the column with {key}.")
