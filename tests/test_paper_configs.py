"""The paper's ten tasks: each file trains to its end, on rows of its columns and a tiny model."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines
from afcore.config import load_config
from afcore.data.hub import HubName
from afcore.runs.whole_run import complete_run

FOLDER = Path(pipelines.__file__).parent / "configs" / "paper"
WORDS = ["parser", "random", "mean", "value", "list", "object", "name", "file"]


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(count))


def labelled(*columns: str) -> Callable[[random.Random], dict[str, Any]]:
    """Rows of texts, with a label that the first of them tells."""

    def row(draw: random.Random) -> dict[str, Any]:
        texts = {column: words(draw, 9) for column in columns}
        return {**texts, "label": int("parser" in texts[columns[0]])}

    return row


def question(draw: random.Random) -> dict[str, Any]:
    context = words(draw, 30)
    start = context.index(" ") + 1
    text = context[start:].split(" ")[0]
    answers = {"text": [text], "answer_start": [start]}
    if draw.random() < 0.3:
        answers = {"text": [], "answer_start": []}
    return {
        "id": str(draw.random()),
        "title": f"article {draw.randrange(6)}",
        "question": words(draw, 4),
        "context": context,
        "answers": answers,
    }


def choice(draw: random.Random) -> dict[str, Any]:
    endings = {f"ending{number}": words(draw, 4) for number in range(4)}
    return {"sent1": words(draw, 6), "sent2": "the", **endings, "label": draw.randrange(4)}


def summary(draw: random.Random) -> dict[str, Any]:
    text = words(draw, 30)
    return {"article": text, "highlights": text[:20], "id": str(draw.random())}


ROWS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "ag_news": labelled("text"),
    "sogou": labelled("content", "title"),
    "yelp_full": labelled("text"),
    "imdb": labelled("text"),
    "squad_v2": question,
    "swag": choice,
    "cnn_dailymail": summary,
    "mrpc": labelled("sentence1", "sentence2"),
    "rte": labelled("sentence1", "sentence2"),
    "qnli": labelled("question", "sentence"),
}


def test_there_are_ten() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ROWS)
    assert len(ROWS) == 10


@pytest.mark.parametrize("name", ROWS)
def test_it_starts_trains_and_ends(
    name: str, tiny_bert: Path, tiny_generators: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    for split, count in (("train", 24), ("test", 8), ("validation", 8)):
        rows = [ROWS[name](draw) for _ in range(count)]
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny_generators / "bart" if name == "cnn_dailymail" else tiny_bert
    changed = {
        "model.name": model,
        "data.train": tmp_path / "train.jsonl",
        "data.test": tmp_path / "test.jsonl",
        "data.max_length": 48,
        "training.precision": "fp32",
        "store": tmp_path / "store",
    }
    if name == "cnn_dailymail":
        changed["data.validation"] = tmp_path / "validation.jsonl"
        changed["task_settings.max_target_length"] = 24  # of the 64 positions of the tiny model
    config = load_config(
        str(FOLDER / f"{name}.yaml"), [f"{key}={value}" for key, value in changed.items()]
    )
    assert config.training.batch_size == 6
    assert config.freezing.policy == "gradient_norm"
    _, report = complete_run(config)
    assert [epoch.epoch for epoch in report.epochs] == [1, 2, 3, 4]
    assert report.decisions
    assert report.totals.test is not None
    assert report.score in report.totals.test


def test_the_data_are_named_as_on_the_hub() -> None:
    named = {}
    for name in ROWS:
        data = load_config(str(FOLDER / f"{name}.yaml")).data
        named[name] = [HubName.parse(str(source)) for source in (data.train, data.test)]
    assert named["mrpc"] == [
        HubName("nyu-mll/glue", "mrpc"),
        HubName("nyu-mll/glue", "mrpc", split="validation"),
    ]
    assert named["cnn_dailymail"][0] == HubName("abisee/cnn_dailymail", "3.0.0")
    validation = {name: load_config(str(FOLDER / f"{name}.yaml")).data.validation for name in ROWS}
    # Of the other sets, the hub has no validation split, or it is what they are tested on.
    assert validation == {
        name: "abisee/cnn_dailymail[3.0.0]" if name == "cnn_dailymail" else 0.1 for name in ROWS
    }
    assert all(one.name.count("/") == 1 for both in named.values() for one in both)


def test_what_two_of_them_set_beside() -> None:
    summaries = load_config(str(FOLDER / "cnn_dailymail.yaml"))
    assert summaries.task_settings == {"max_target_length": 128}
    assert load_config(str(FOLDER / "squad_v2.yaml")).data.group == "title"
