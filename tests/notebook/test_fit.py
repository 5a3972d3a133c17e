"""``afcore.fit``: the core alone, the same records as the flow, and what a notebook shows."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import afcore
from afcore.config import parse_config
from afcore.errors import ConfigError, DataError, IntegrityError
from afcore.notebook.progress_bar import ProgressBar
from afcore.runs.whole_run import Onlooker, complete_run
from tests.conftest import stdlib_rows, write_config

ROOT = Path(afcore.__file__).parent.parent
WITHOUT = """
import importlib, json, pkgutil, sys
from importlib.machinery import ModuleSpec

asked = []
class Refused:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in ("prefect", "mlflow") else None
    def create_module(self, spec):
        asked.append(spec.name)
        raise ImportError(f"{spec.name} was imported")
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Refused())
import afcore
light = not {"torch", "transformers", "datasets"} & sys.modules.keys()
given = json.loads(sys.argv[1])
first, again = afcore.fit(**given), afcore.fit(**given, progress=False)
modules = [module.name for module in pkgutil.walk_packages(afcore.__path__, "afcore.")]
for module in modules:
    importlib.import_module(module)
print(json.dumps({
    "light": light,
    "modules": len(modules),
    "asked": asked,
    "report": first.report.model_dump(mode="json", by_alias=True),
    "again": again.report.model_dump(mode="json", by_alias=True),
    "predicted": first.predict(["Return a random number."]),
}))
"""


@pytest.fixture
def settings(tiny_bert: Path, tmp_path: Path) -> dict[str, Any]:
    """A training of a second, on rows in memory."""
    rows = stdlib_rows()
    return {
        "model": str(tiny_bert),
        "train": [row for i, row in enumerate(rows) if i % 4],
        "test": rows[::4],
        "max_length": 32,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "freezing": {"policy": "static", "depth": 2},
        "store": str(tmp_path / "store"),
    }


@pytest.mark.slow
def test_without_prefect_and_mlflow_and_at_once_the_second_time(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["light"]
    assert found["modules"] >= 25, "all of the core is imported"
    assert found["asked"] == []
    assert found["report"]["mlflow_run_id"] is None
    assert found["again"] == found["report"]
    assert found["report"]["totals"]["test"]["accuracy"] > 0
    assert found["predicted"][0] in {"argparse", "random", "statistics"}
    assert "epoch 1/2" in done.stderr
    assert "done: 100%" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_the_result_holds_scores_epochs_a_model_and_pictures(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    result = afcore.fit(**settings, output=tmp_path / "model", progress=False)

    test = settings["test"]
    predicted = result.predict(test)
    right = sum(label == row["label"] for label, row in zip(predicted, test, strict=True))
    assert right / len(test) == pytest.approx(result.scores["accuracy"])
    assert result.predict([row["text"] for row in test]) == predicted
    texts = [row["text"] for row in test]
    for rows in (pd.Series(texts, index=range(5, 5 + len(texts))), np.array(texts), iter(texts)):
        assert result.predict(rows) == predicted
    for wrong in (3, {"a text", "another"}, None):
        with pytest.raises(DataError, match=r"^rows: got \w+\. Give a list of texts, a datasets"):
            result.predict(wrong)
    with pytest.raises(DataError, match=r"no column 'text', only words\. Rename the one"):
        result.predict([{"words": "a text"}])
    with pytest.raises(ConfigError, match=f"^folder {tmp_path}: "):
        result.save(tmp_path)
    with pytest.raises(ConfigError, match=f"^output {tmp_path}: "):
        afcore.fit(**settings, output=tmp_path, progress=False)
    with pytest.raises(DataError, match=r"row 0, counted from 0, has 2 values; .* on text"):
        result.predict([("a text", "another")])
    assert result.boundaries == [2, 2, 2]
    assert [row["epoch"] for row in result.epochs] == [1, 2]
    assert result.epochs[-1]["validation_loss"] == result.report.epochs[-1].validation["loss"]
    assert result.seconds >= sum(row["seconds"] for row in result.epochs) > 0
    assert not result.model.training
    assert result.tokenizer.model_max_length == 32
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert result.save(tmp_path / "again") == tmp_path / "again"
    same = {
        name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")
    }
    assert same["model"] == same["again"]

    axes = result.figure().axes
    assert [one.get_ylabel() for one in axes] == ["validation accuracy, %", "frozen blocks"]
    scores = axes[0].lines[0].get_ydata()
    assert list(scores) == [100 * row["validation_accuracy"] for row in result.epochs]
    assert result._repr_png_().startswith(b"\x89PNG")
    page = result._repr_html_()
    assert page.count("<tr>") == 3
    assert "data:image/png;base64," in page
    assert f"accuracy {100 * result.scores['accuracy']:.2f} %" in repr(result)


def test_what_is_gone_is_said_in_the_words_of_the_call(settings: dict[str, Any]) -> None:
    result = afcore.fit(**settings, progress=False)
    parts = list(Path(settings["store"]).rglob("*.safetensors"))
    assert parts
    for part in parts:
        part.unlink()
    with pytest.raises(IntegrityError, match=r"Train anew with fresh=True") as raised:
        result.predict(["a text"])
    assert "--fresh" not in str(raised.value)


class InterruptAt(Onlooker):
    def __init__(self, step: int) -> None:
        self.left = step

    def stepped(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [3, 16])
def test_interrupted_it_goes_on_where_it_was(
    settings: dict[str, Any], text_files: dict[str, Path], tmp_path: Path, step: int
) -> None:
    """Within epoch 1 and within epoch 2, of 11 steps each."""
    tree = {key: settings[key] for key in ("freezing", "store")} | {
        "model": {"name": settings["model"]},
        "data": {"train": str(text_files["train"]), "max_length": 32, "limit": 90},
        "training": {
            key: settings[key] for key in ("epochs", "batch_size", "learning_rate", "precision")
        },
    }
    config = parse_config(tree, "test")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped in epoch \d after step \d"):
        complete_run(config, onlooker=InterruptAt(step))
    assert signal.getsignal(signal.SIGINT) is before
    steps = InterruptAt(0)
    _, report = complete_run(config, onlooker=steps)
    assert -steps.left == sum(epoch.num_steps for epoch in report.epochs) - step
    assert any(epoch.resumed for epoch in report.epochs)

    whole = config.replace(store=str(tmp_path / "other"))
    _, uninterrupted = complete_run(whole)
    assert [e.validation for e in report.epochs] == [e.validation for e in uninterrupted.epochs]
    assert report.run_id == uninterrupted.run_id


def test_the_bar_counts_what_was_found_and_ends_where_training_ended(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = afcore.fit(**settings)
    shown = capsys.readouterr().err
    steps = sum(epoch.num_steps for epoch in result.report.epochs)
    assert f"{steps}/{steps} [" in shown
    assert "validation accuracy" in shown
    assert "boundary 2 of 4" in shown


def test_modes_for_comparison_are_sent_where_they_belong(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="autofreeze compare --modes hf_trainer"):
        afcore.fit(**settings, mode="hf_trainer", progress=False)


def test_the_example_of_the_readme_runs(
    tiny_bert: Path,
    text_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (example,) = [block for block in blocks if "afcore.fit(" in block]
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    for name, split in (("reviews.csv", "train"), ("reviews-test.csv", "test")):
        assert name in example
        (tmp_path / name).write_bytes(text_files[split].read_bytes())
    for large, small in (
        ("bert-base-uncased", str(tiny_bert)),
        ("epochs=4", "epochs=1, max_length=32"),
    ):
        assert large in example
        example = example.replace(large, small)

    exec(compile(example, "README.md", "exec"), {})

    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "course.png").stat().st_size > 1000
    assert (tmp_path / "model" / "config.json").exists()
    assert (tmp_path / ".autofreeze" / "store" / "runs").is_dir()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_command_finds_the_run_and_logs_it(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    from tests.e2e.command import autofreeze

    config = write_config(tmp_path / "c.yaml", tiny_config)
    result = afcore.fit(config=config, progress=False)
    report = tmp_path / "report.json"
    assert autofreeze("run", config, "--report", report) == 0
    logged = json.loads(report.read_text())
    ours = result.report.model_dump(mode="json", by_alias=True)
    assert (logged["run_id"], logged["epochs"]) == (ours["run_id"], ours["epochs"])
    assert logged["totals"]["test"] == ours["totals"]["test"]
    client = mlflow.MlflowClient(tiny_config["tracking"]["uri"])
    run = client.get_run(logged["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == pytest.approx(result.scores["accuracy"])
    assert afcore.fit(config=config, progress=False).report.mlflow_run_id == run.info.run_id


def test_a_progress_bar_is_an_onlooker() -> None:
    """So a method that is renamed there is renamed here."""
    methods = {name for name in vars(Onlooker) if not name.startswith("_")}
    assert methods <= vars(ProgressBar).keys()


def test_rows_of_a_file_and_in_memory_are_one_run(
    settings: dict[str, Any], text_files: dict[str, Path]
) -> None:
    with text_files["train"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    one = afcore.fit(**settings | {"train": rows}, progress=False)
    clock = one.report.epochs[-1].finished
    other = afcore.fit(**settings | {"train": str(text_files["train"])}, progress=False)
    assert other.report.run_id == one.report.run_id
    assert other.report.epochs[-1].finished == clock
