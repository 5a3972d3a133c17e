"""The model in MLflow answers long texts as the test of its training did, however it is loaded."""

import csv
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from afcore.config import parse_config
from afcore.model.processors import processor_of
from afcore.predict import predict_file
from afcore.runs.identify import identify_run
from afcore.runs.publish import described
from afcore.runs.run import begin_run
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import write_csv
from tests.tasks.test_each_task import KINDS, make_rows, tree_of

LENGTHS = (5, 30, 40, 62, 600)
"""Words of the texts: below the length of training, between it and the model's own, and beyond."""


def long_rows() -> list[dict[str, str]]:
    words = ["parser", "random", "mean", "of", "the", "value", "list", "object", "name", "file"]
    rows = make_rows(len(LENGTHS), seed=7)
    for row, length in zip(rows, LENGTHS, strict=True):
        row["text"] = " ".join(words[(i * i) % 10] for i in range(length))
        row["second"] = " ".join(words[(i * i + 3) % 10] for i in range(length // 2 + 1))
    return rows


@pytest.mark.parametrize("kind", ["one text", "a pair", "a number"])
def test_long_texts_are_cut_as_in_the_test(
    kind: str,
    tiny_config: dict[str, Any],
    tiny_generators: Path,
    tmp_path: Path,
    empty_tracking_store: Path,
) -> None:
    tree = tree_of(kind, tiny_config, tiny_generators) | {"mode": "full"}
    train = str(write_csv(tmp_path / "train.csv", make_rows(96, 0)))
    tree["data"] = {"train": train, "max_length": 32, **KINDS[kind]["data"]}
    config = parse_config(tree, source="test")
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage))
    model = described(run, run.pretrained().model.eval())
    with torch.no_grad():  # so that a text which is cut elsewhere gets another answer
        for name, weight in model.named_parameters():
            weight.normal_(std=2.0 if name.startswith("classifier") else 0.3)
    processor = processor_of(config)
    rows = long_rows()
    given = write_csv(tmp_path / "given.csv", rows)
    folder, output = tmp_path / "folder", tmp_path / "answered.csv"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    predict_file(str(folder), str(given), output=str(output), probabilities=True)
    with output.open(newline="") as file:
        expected = list(csv.DictReader(file))

    shutil.copy(empty_tracking_store, tmp_path / "served.db")
    tracker = Tracker(f"sqlite:///{tmp_path}/served.db", "x")
    uri = tracker.log_model(tracker.begin("t", "n"), model, processor, run.task)
    texts: Any = [row["text"] for row in rows]
    if kind == "a pair":
        texts = [{"text": row["text"], "text_pair": row["second"]} for row in rows]
    served = mlflow.transformers.load_model(uri)
    of_folder = transformers.pipeline("text-classification", str(folder), truncation=True)
    for pipeline in (served, of_folder):
        found = [pipeline(text, top_k=None) for text in texts]
        np.testing.assert_allclose(*_scores(found, expected), atol=1e-5)
    if kind == "a pair":
        return  # MLflow's signature for such pipelines is one text
    pyfunc = mlflow.pyfunc.load_model(uri)
    best = pd.concat([pyfunc.predict([text]) for text in texts])
    first = [max(one, key=lambda answer: answer["score"]) for one in found]
    assert list(best["label"]) == [answer["label"] for answer in first]
    np.testing.assert_allclose(best["score"], [answer["score"] for answer in first], atol=1e-6)


def _scores(
    found: list[list[dict[str, Any]]], expected: list[dict[str, str]]
) -> tuple[list[list[float]], list[list[float]]]:
    names = sorted(name for name in expected[0] if name.startswith("probability_"))
    if not names:  # a number
        return [[one[0]["score"]] for one in found], [[float(r["prediction"])] for r in expected]
    by_label = [
        {answer["label"].replace(" ", "_"): answer["score"] for answer in one} for one in found
    ]
    return (
        [[one[name.removeprefix("probability_")] for name in names] for one in by_label],
        [[float(row[name]) for name in names] for row in expected],
    )
