"""The model that a user holds in hand: ``run --output``, then ``predict``, transformers, MLflow."""

import csv
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import transformers
from huggingface_hub import ModelCard

from tests.conftest import write_config
from tests.e2e.command import autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
LABELS = ["argparse", "random", "statistics"]


def predictions(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["prediction"] for row in csv.DictReader(file)]


def predicted(model: Path, config: dict[str, Any], here: Path) -> list[str]:
    assert autofreeze("predict", model, config["data"]["test"], "--output", here / "p.csv") == 0
    return predictions(here / "p.csv")


def test_the_folder_the_pipeline_mlflow_and_predict_agree_with_the_test_score(
    tiny_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, report = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "report.json"
    model = tmp_path / "out" / "model"
    command = ["run", config, "--set", "training.epochs=2", "--report", report]
    assert autofreeze(*command, "--output", model) == 0
    capsys.readouterr()
    result = json.loads(report.read_text())
    score = result["totals"]["test"]["accuracy"]
    found = predicted(model, tiny_config, tmp_path)
    with Path(tiny_config["data"]["test"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(label == row["label"] for label, row in zip(found, rows, strict=True))
    assert right / len(rows) == pytest.approx(score, abs=1e-7)
    out = " ".join(capsys.readouterr().out.split())
    assert f"accuracy {100 * score:.2f} % ({len(rows)} rows with a label)" in out

    texts = [row["text"] for row in rows] + ["word " * 600]
    pipeline = transformers.pipeline("text-classification", str(model), truncation=True)
    answers = [answer["label"] for answer in pipeline(texts)]
    assert answers[:-1] == found
    mlflow.set_tracking_uri(tiny_config["tracking"]["uri"])
    run = mlflow.MlflowClient().get_run(result["mlflow_run_id"])
    uri = run.data.tags["autofreeze.model_uri"]
    assert list(mlflow.pyfunc.load_model(uri).predict(texts)["label"]) == answers
    cutting = mlflow.transformers.load_model(uri, truncation=True)
    assert [answer["label"] for answer in cutting(texts)] == answers
    _check_folder(model, result)

    (model / "README.md").write_text("changed by hand")
    again = tmp_path / "again"
    for folder in (again, model):
        assert autofreeze(*command, "--output", folder) == 0
        assert "finished before" in " ".join(capsys.readouterr().out.split())
    assert predicted(again, tiny_config, tmp_path) == found
    names = {path.name for path in model.iterdir()}
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        name: (model / name).read_bytes() for name in names
    }


def _check_folder(model: Path, result: dict[str, Any]) -> None:
    assert {"model.safetensors", "tokenizer.json", "config.json", "README.md"} <= {
        path.name for path in model.iterdir()
    }
    assert len({path.stat().st_mode for path in model.iterdir()}) == 1, "all can be read alike"
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    assert [classifier.config.id2label[i] for i in range(3)] == LABELS
    assert classifier.config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert transformers.AutoTokenizer.from_pretrained(model).model_max_length == 32
    card = ModelCard.load(model / "README.md")
    scores = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert scores == result["totals"]["test"]
    for said in (classifier.config.autofreeze["data"], "`gradient_norm`", result["happened"]):
        assert said in card.text
    assert str(model.parent) not in card.content


def test_a_model_of_the_trainer_comes_from_mlflow(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config, report = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "report.json"
    changes = ["--set", "training.epochs=1", "--set", "mode=hf_trainer"]
    assert autofreeze("run", config, *changes, "--report", report, "--output", tmp_path / "m") == 0
    found = predicted(tmp_path / "m", tiny_config, tmp_path)
    with Path(tiny_config["data"]["test"]).open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    score = json.loads(report.read_text())["totals"]["test"]["accuracy"]
    assert sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels) == pytest.approx(
        score, abs=1e-7
    )


@pytest.mark.parametrize("output", ["{model}", "{folder}", "s3://bucket/model"])
def test_an_output_that_cannot_be_is_refused_before_training(
    output: str, tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    given = output.format(model=tiny_config["model"]["name"], folder=tmp_path)
    assert autofreeze("run", config, "--output", given) == 2
    err = capfd.readouterr().err
    assert f"Error: --output {given}" in err
    assert not Path(tiny_config["store"]).exists()
